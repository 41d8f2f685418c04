"""Which choices are open: arithmetic over the points of a grid of actions.

A point is *allowed* if a step on it is worth while, and *open* if it is allowed and was not evaluated yet.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from kdnas_env.errors import KDNASError
from kdnas_env.wrappers.common import env_attribute

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_COUNTLESS = 2**62
"""Stands for any larger number of points, since a grid may outgrow 64 bits; no search evaluates as many."""


@dataclass(frozen=True, eq=False)
class ActionGrid:
    """The points of a ``MultiDiscrete(nvec)`` space, numbered in mixed radix with the last dimension fastest.

    Attributes:
        nvec: Choices per dimension.
        allowed: Numbers of the allowed points, sorted int64, or None for all.
    """

    nvec: tuple[int, ...]
    allowed: Ints | None = None

    @classmethod
    def of(cls, env: gym.Env[Any, Any]) -> ActionGrid:
        """Read the grid of an environment, and from its ``valid_action_indices``, if any, what is allowed.

        Raises:
            KDNASError: If the actions are not a one-dimensional ``MultiDiscrete`` that starts at 0, or the allowed
                points are not numbers of its points.
        """
        space = env.action_space
        if not isinstance(space, spaces.MultiDiscrete) or space.nvec.ndim != 1 or np.any(space.start):
            raise KDNASError(
                f"the action space is {space}; expected a one-dimensional MultiDiscrete that starts at 0. Apply the "
                "wrapper before those that change the action"
            )
        grid = cls(tuple(space.nvec.tolist()))
        listed = env_attribute(env, "valid_action_indices")
        return grid if listed is None else cls(grid.nvec, _checked_points(listed, grid.points))

    @property
    def points(self) -> int:
        """Points of the grid, allowed or not; a Python integer, however large."""
        return math.prod(self.nvec)

    @property
    def size(self) -> int:
        """Allowed points."""
        return self.points if self.allowed is None else len(self.allowed)

    def number(self, action: Sequence[int] | Ints) -> int:
        """Return the number of an action; of the first dimensions only, the number among their combinations."""
        number = 0
        for count, choice in zip(self.nvec, action, strict=False):
            number = number * count + int(choice)
        return number

    def action(self, number: int) -> Ints:
        """Return the action of a number, int64 of shape ``(dims,)``."""
        choices = []
        for count in reversed(self.nvec):
            number, choice = divmod(number, count)
            choices.append(choice)
        return np.array(choices[::-1], dtype=np.int64)

    def allows(self, number: int) -> bool:
        """Whether a point is allowed."""
        if self.allowed is None:
            return True
        place = bisect_left(self.allowed, number)
        return place < len(self.allowed) and int(self.allowed[place]) == number

    def draw(self, rng: np.random.Generator) -> Ints:
        """Draw an allowed point uniformly, int64 of shape ``(dims,)``."""
        if self.allowed is None:
            return rng.integers(self.nvec)
        return self.action(int(rng.choice(self.allowed)))


def choice_counts(grid: ActionGrid) -> Ints:
    """Count the allowed points that have each choice, int64 of shape ``(sum(nvec),)``, dimension by dimension."""
    if grid.allowed is None:
        counts = [np.full(count, min(grid.points // count, _COUNTLESS)) for count in grid.nvec]
    else:
        columns = np.unravel_index(grid.allowed, grid.nvec)
        counts = [np.bincount(column, minlength=n) for column, n in zip(columns, grid.nvec, strict=True)]
    return np.concatenate(counts).astype(np.int64)


def choice_positions(grid: ActionGrid, action: Sequence[int] | Ints) -> Ints:
    """Return where the choices of an action stand in :func:`choice_counts`, int64 of shape ``(dims,)``."""
    return np.cumsum((0, *grid.nvec[:-1])) + np.asarray(action, dtype=np.int64)


def open_completions(grid: ActionGrid, prefix: Sequence[int], evaluated: Sequence[int] = ()) -> Bools:
    """Say which choices of the next dimension lead to an open point.

    The points behind a choice are neighbours in number, so that two look-ups in a sorted list count them.

    Args:
        grid: The grid.
        prefix: Choices of the first dimensions.
        evaluated: Sorted numbers of the allowed points that are not open any more.

    Returns:
        Bool of shape ``(nvec[len(prefix)],)``.
    """
    count, *later = grid.nvec[len(prefix) :]
    stride = math.prod(later)
    first = grid.number(prefix) * count * stride
    edges = [first + stride * choice for choice in range(count + 1)]
    allowed = [stride] * count if grid.allowed is None else _between(grid.allowed, edges)
    closed = _between(evaluated, edges)
    return np.array([some > gone for some, gone in zip(allowed, closed, strict=True)], dtype=np.bool_)


def neighbour(grid: ActionGrid, point: Ints, move: int, cyclic: Collection[int] = ()) -> Ints | None:
    """Return the allowed point that a move leads to, or None if there is none.

    Args:
        grid: The grid.
        point: Where the move starts, int64 of shape ``(dims,)``.
        move: ``2 * dimension`` for one choice down, ``2 * dimension + 1`` for one up.
        cyclic: Dimensions whose last choice is followed by the first.
    """
    axis, up = divmod(move, 2)
    choice = int(point[axis]) + (1 if up else -1)
    if axis in cyclic:
        choice %= grid.nvec[axis]
    if choice == point[axis] or not 0 <= choice < grid.nvec[axis]:
        return None
    moved = point.copy()
    moved[axis] = choice
    return moved if grid.allows(grid.number(moved)) else None


def _between(points: Sequence[int] | Ints, edges: Sequence[int]) -> list[int]:
    places = [bisect_left(points, edge) for edge in edges]
    return [end - start for start, end in pairwise(places)]


def _checked_points(listed: Any, points: int) -> Ints:
    numbers = np.unique(np.asarray(listed))
    if not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise KDNASError(f"valid_action_indices is {listed!r}; expected the numbers of one or more points, or None")
    if numbers[0] < 0 or numbers[-1] >= points:
        raise KDNASError(
            f"valid_action_indices range from {numbers[0]} to {numbers[-1]}, but the action space has {points} points, "
            "numbered from 0"
        )
    return numbers.astype(np.int64)
