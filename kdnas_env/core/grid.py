"""The grid of actions that an agent searches."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, compress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kdnas_env.core.wide_dimensions import steps_near
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.untrusted import as_array, is_whole, shown

T = TypeVar("T")

LISTABLE = 1_000_000
"""Draws from grids of at most this many points use a list of the points; draws from larger grids use rejection, unless
the allowed points are listed anyway."""

REACH = 2
"""Default of the largest step to a neighbouring choice; see :meth:`Grid.neighbours`."""

_MOST = int(np.iinfo(np.int64).max)
_RECENT = 256
"""The list of remaining points is rebuilt after this many points were seen."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The points of a ``MultiDiscrete(nvec)`` space, numbered in mixed radix with the last dimension fastest.

    Attributes:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        allowed: Numbers of the points that may be proposed, sorted int64, or None for all.
    """

    nvec: Ints
    allowed: Ints | None = None

    @classmethod
    def of(cls, nvec: npt.ArrayLike, allowed: npt.ArrayLike | None = None) -> Grid:
        """Check and build a grid.

        Raises:
            KDNASError: If ``nvec`` is not a vector of positive whole numbers, or an allowed point is not on the grid.
        """
        counts = as_array(nvec)
        if counts.ndim != 1 or not counts.size or not is_whole(counts) or counts.min() < 1 or counts.max() > _MOST:
            raise KDNASError(
                f"nvec is {shown(nvec)}; expected the number of choices of each dimension, each at least 1"
            )
        grid = cls(counts.astype(np.int64))
        if allowed is None:
            return grid
        listed = as_array(allowed)
        if not listed.size or not is_whole(listed):
            raise KDNASError(
                f"valid_action_indices is {shown(allowed)}; expected the numbers of one or more points, or None"
            )
        points = np.unique(listed)
        if points[0] < 0 or points[-1] >= grid.points:
            raise KDNASError(
                f"valid_action_indices range from {points[0]} to {points[-1]}, but the grid has {grid.points} points, "
                "numbered from 0"
            )
        return cls(grid.nvec, points.astype(np.int64))

    @property
    def points(self) -> int:
        """Points of the grid, allowed or not; a Python integer, however large."""
        return math.prod(self._counts)

    @property
    def size(self) -> int:
        """Points that may be proposed."""
        return self.points if self.allowed is None else len(self.allowed)

    @property
    def listable(self) -> bool:
        """Whether the points that may be proposed can be listed."""
        return self.allowed is not None or self.points <= LISTABLE

    @cached_property
    def strides(self) -> Ints:
        """Difference in number between neighbouring choices, int64 ``(dims,)``; for grids of at most 2 ** 63 points."""
        return np.array([math.prod(self.nvec[axis + 1 :].tolist()) for axis in range(len(self.nvec))], dtype=np.int64)

    def number(self, action: Iterable[int]) -> int:
        """Return the number of an action; for the first dimensions only, the number among their combinations."""
        number = 0
        for count, choice in zip(self._counts, action, strict=False):
            number = number * count + int(choice)
        return number

    def numbers(self, actions: Ints) -> list[int]:
        """Return the number of each action, as Python integers, because a grid may exceed 64 bits."""
        if self.points > _MOST:
            return [self.number(action) for action in actions.tolist()]
        numbers: list[int] = self.flat(actions).tolist()
        return numbers

    def flat(self, actions: Ints) -> Ints:
        """Return the number of each action, int64 of shape ``(n,)``; for grids of at most 2 ** 63 points.

        Raises:
            ValueError: If an action is not on the grid.
        """
        numbers: Ints = np.ravel_multi_index(tuple(actions.T), self._counts)
        return numbers

    def action(self, number: int) -> Ints:
        """Return the action of a point number, int64 of shape ``(dims,)``."""
        choices = []
        for count in reversed(self._counts):
            number, choice = divmod(number, count)
            choices.append(choice)
        return np.array(choices[::-1], dtype=np.int64)

    def actions(self, numbers: Ints) -> Ints:
        """Return the actions of point numbers, int64 ``(n, dims)``; for grids of at most 2 ** 63 points."""
        return numbers[:, None] // self.strides % self.nvec

    def allows(self, number: int) -> bool:
        """Return whether a point may be proposed."""
        if self.allowed is None:
            return True
        place = bisect_left(self.allowed, number)
        return place < len(self.allowed) and int(self.allowed[place]) == number

    def check(self, actions: Any) -> Ints:
        """Return actions as int64 of shape ``(n, dims)``.

        Raises:
            KDNASError: If the shape or dtype is wrong, or an index is out of range.
        """
        array = as_array(actions)
        if array.ndim != 2 or array.shape[1] != len(self.nvec) or not is_whole(array):
            raise KDNASError(
                f"actions are {array.dtype} of shape {array.shape}; expected integers of shape (n, {len(self.nvec)})"
            )
        outside = ((array < 0) | (array >= self.nvec)).any(axis=1)
        if outside.any():
            raise KDNASError(
                f"action {array[outside][0].tolist()} is out of range; expected indices from 0 to "
                f"{(self.nvec - 1).tolist()}"
            )
        return array.astype(np.int64)

    def remaining(self, seen: Collection[int]) -> Ints:
        """Return the numbers of the allowed points that are not in ``seen``, sorted int64; for listable grids."""
        return np.delete(*self._left(seen))

    def draw(self, rng: np.random.Generator, n: int, seen: Collection[int]) -> Ints:
        """Draw points uniformly, without replacement, that are not in ``seen``.

        Returns:
            int64 of shape ``(m, dims)``; m is less than n only if fewer points remain.
        """
        # Rejection becomes slow once half of the grid was seen; then the list is not longer than the seen points.
        if self.listable or 2 * (len(seen) + n) > self.points:
            left, gone = self._left(seen)
            size = len(left) - len(gone)
            ranks = rng.choice(size, size=min(n, size), replace=False)
            # The place in the list is the rank among the remaining points plus the number of removed points before it.
            return self.actions(left[ranks + np.searchsorted(gone - np.arange(len(gone)), ranks, side="right")])
        drawn: dict[int, Ints] = {}
        while len(drawn) < n:
            batch = rng.integers(self.nvec, size=(n - len(drawn), len(self.nvec)))
            drawn.update(
                (number, action)
                for number, action in zip(self.numbers(batch), batch, strict=True)
                if number not in seen and number not in drawn
            )
        return np.array([*drawn.values()], dtype=np.int64).reshape(n, len(self.nvec))

    def fresh(self, actions: Ints, seen: Collection[int]) -> Ints:
        """Return the allowed actions that are not in ``seen``, each once, in order; int64 ``(m, dims)``."""
        first: dict[int, Ints] = {}
        for number, action in compress(
            zip(self.numbers(actions), actions, strict=True), self.are_left(actions, seen).tolist()
        ):
            first.setdefault(number, action)
        return np.array([*first.values()], dtype=np.int64).reshape(len(first), len(self.nvec))

    def are_left(self, actions: Ints, seen: Collection[int]) -> npt.NDArray[np.bool_]:
        """Return which of the actions are allowed and not in ``seen``, bool of shape ``(n,)``."""
        numbers = self.numbers(actions)
        left = np.array([number not in seen for number in numbers], dtype=np.bool_)
        if self.allowed is not None:
            left &= _located(self.allowed, np.array(numbers, dtype=np.int64))[1]
        return left

    def neighbours(self, action: Ints, reach: int | None = None) -> Ints:
        """Return the points that differ from an action in one dimension, int64 of shape ``(n, dims)``.

        Args:
            action: int64 of shape ``(dims,)``.
            reach: Largest step; None: any. In a wide dimension (:mod:`kdnas_env.core.wide_dimensions`) the steps are
                1, 8, 64, 512 and so on, for any reach.
        """
        axes, steps = self._moves(reach)
        places = action[axes] + steps
        inside = (places >= 0) & (places < self.nvec[axes])
        neighbours = np.tile(action, (int(inside.sum()), 1))
        neighbours[np.arange(len(neighbours)), axes[inside]] = places[inside]
        return neighbours

    def neighbour_numbers(self, numbers: Ints, reach: int | None = None) -> Ints:
        """Return the :meth:`neighbours` of many points; for grids of at most 2 ** 63 points.

        Args:
            numbers: Numbers of points, int64 of shape ``(n,)``.
            reach: As in :meth:`neighbours`.

        Returns:
            Numbers of points, int64 of shape ``(n, most)``; -1 where a move would leave the grid.
        """
        axes, steps = self._moves(reach)
        places = self.actions(numbers)[:, axes] + steps
        inside = (places >= 0) & (places < self.nvec[axes])
        return np.where(inside, numbers[:, None] + steps * self.strides[axes], -1)

    def _moves(self, reach: int | None) -> tuple[Ints, Ints]:
        """Return the dimension and the step of each move, both int64 of shape ``(most,)``."""
        steps = [steps_near(count, reach) for count in self._counts]
        return np.repeat(np.arange(len(steps)), [len(row) for row in steps]), np.concatenate(steps)

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        return tuple(self.nvec.tolist())

    def listed(self) -> Ints:
        """Return the numbers of the allowed points, sorted int64 ``(size,)``; for listable grids."""
        return np.arange(self.points, dtype=np.int64) if self.allowed is None else self.allowed

    def _left(self, seen: Collection[int]) -> tuple[Ints, Ints]:
        """Return allowed points, sorted, and the places of the seen points among them, sorted."""
        left, gone = seen.left(self) if isinstance(seen, Seen) else (self.listed(), seen)
        return left, _places(left, gone)


class Seen(Set[int]):
    """Numbers of the grid points that must not be proposed again: an insertion-ordered set without removal.

    The time of a look-up, of an addition and of a draw from the remaining points does not grow with the set: a set that
    is made by :meth:`union` shares its base, and a list of the remaining points is kept.

    Args:
        numbers: Numbers of points.
        base: A set that this one extends. It is not copied: numbers added to it later belong to this set too.
    """

    def __init__(self, numbers: Iterable[int] = (), base: Seen | None = None) -> None:
        self._base = base
        self._added: dict[int, None] = {}  # in the order of addition
        self._left: Ints | None = None
        self._recent: set[int] = set()
        self.update(numbers)

    def __contains__(self, number: object) -> bool:
        return number in self._added or (self._base is not None and number in self._base)

    def __iter__(self) -> Iterator[int]:
        return chain(() if self._base is None else self._base, self._added)

    def __reversed__(self) -> Iterator[int]:
        return chain(reversed(self._added), () if self._base is None else reversed(self._base))

    def __len__(self) -> int:
        return len(self._added) + (0 if self._base is None else len(self._base))

    @classmethod
    def _from_iterable(cls, numbers: Iterable[T]) -> set[T]:
        return set(numbers)

    def add(self, number: int) -> None:
        """Add a number."""
        if number not in self:
            self._added[number] = None
            if self._left is not None:
                self._recent.add(number)

    def update(self, numbers: Iterable[int]) -> None:
        """Add numbers."""
        for number in numbers:
            self.add(number)

    def union(self, numbers: Iterable[int]) -> Seen:
        """Return a set with more numbers; additions to it do not change this one."""
        return Seen(numbers, self)

    def left(self, grid: Grid) -> tuple[Ints, set[int]]:
        """Return numbers of allowed points, sorted: all that were not seen, and some that were.

        Args:
            grid: A listable grid; the same in all calls.

        Returns:
            The numbers, and a set that contains all seen numbers among them, and possibly others.
        """
        if self._base is not None:
            left, recent = self._base.left(grid)
            return left, recent.union(self._added)
        if self._left is None:
            self._left, self._recent = grid.listed(), {*self._added}
        if len(self._recent) > _RECENT:
            self._left, self._recent = np.delete(self._left, _places(self._left, self._recent)), set()
        return self._left, self._recent


def _places(points: Ints, numbers: Collection[int]) -> Ints:
    """Return the places of numbers in a sorted array, sorted; numbers that are not in it are left out."""
    places, there = _located(points, np.unique(np.fromiter(numbers, dtype=np.int64, count=len(numbers))))
    return places[there]


def _located(points: Ints, numbers: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return the insertion places of numbers in a sorted array, and which of the numbers are in it."""
    places = np.searchsorted(points, numbers)
    there = places < len(points)
    there[there] = points[places[there]] == numbers[there]
    return places, there
