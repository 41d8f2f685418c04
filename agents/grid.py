"""The grid of actions that an agent searches."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import KDNASError

Ints = npt.NDArray[np.int64]

LISTABLE = 1_000_000
"""Grids up to this many points are listed whole to draw from them; larger ones are drawn from by rejection, unless the
points that may be proposed are listed anyway."""


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
        counts = np.asarray(nvec)
        if counts.ndim != 1 or not counts.size or not np.issubdtype(counts.dtype, np.integer) or counts.min() < 1:
            raise KDNASError(f"nvec is {nvec!r}; expected the number of choices of each dimension, each at least 1")
        grid = cls(counts.astype(np.int64))
        if allowed is None:
            return grid
        points = np.unique(np.asarray(allowed))
        if not points.size or not np.issubdtype(points.dtype, np.integer):
            raise KDNASError(f"the allowed points are {allowed!r}; expected the numbers of one or more grid points")
        if points[0] < 0 or points[-1] >= grid.points:
            raise KDNASError(
                f"the allowed points range from {points[0]} to {points[-1]}, but the grid has {grid.points} points, "
                "numbered from 0"
            )
        return cls(grid.nvec, points.astype(np.int64))

    @property
    def points(self) -> int:
        """Points of the grid, allowed or not; a Python integer, however large."""
        return math.prod(self.nvec.tolist())

    @property
    def size(self) -> int:
        """Points that may be proposed."""
        return self.points if self.allowed is None else len(self.allowed)

    @property
    def listable(self) -> bool:
        """Whether the points that may be proposed can be listed."""
        return self.allowed is not None or self.points <= LISTABLE

    def numbers(self, actions: Ints) -> list[int]:
        """Return the number of each action, as Python integers, since a grid may outgrow 64 bits."""
        counts = self.nvec.tolist()
        numbers = []
        for action in actions.tolist():
            number = 0
            for count, value in zip(counts, action, strict=True):
                number = number * count + value
            numbers.append(number)
        return numbers

    def actions(self, numbers: Ints) -> Ints:
        """Return the actions of point numbers, int64 of shape ``(n, dims)``; for listable grids."""
        return np.stack(np.unravel_index(numbers, tuple(self.nvec)), axis=-1).astype(np.int64)

    def check(self, actions: Any) -> Ints:
        """Return actions as int64 of shape ``(n, dims)``.

        Raises:
            KDNASError: If the shape or dtype is wrong, or an index is out of range.
        """
        array = np.asarray(actions)
        if array.ndim != 2 or array.shape[1] != len(self.nvec) or not np.issubdtype(array.dtype, np.integer):
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
        """Return the numbers of the allowed points that are not in ``seen``, sorted; for listable grids."""
        points = np.arange(self.points, dtype=np.int64) if self.allowed is None else self.allowed
        if not seen:
            return points
        return points[~np.isin(points, np.fromiter(seen, dtype=np.int64, count=len(seen)))]

    def draw(self, rng: np.random.Generator, n: int, seen: Collection[int]) -> Ints:
        """Draw points uniformly, without replacement, that are not in ``seen``.

        Returns:
            int64 of shape ``(m, dims)``, where m is less than n only if no more points are left.
        """
        if self.listable:
            remaining = self.remaining(seen)
            return self.actions(rng.choice(remaining, size=min(n, len(remaining)), replace=False))
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
        """Return the actions that are allowed and not in ``seen``, each once, in order of first appearance."""
        first: dict[int, Ints] = {}
        for number, action in zip(self.numbers(actions), actions, strict=True):
            if number not in seen:
                first.setdefault(number, action)
        if self.allowed is not None:
            allowed = np.isin(np.array([*first], dtype=np.int64), self.allowed)
            first = dict(compress(first.items(), allowed))
        return np.array([*first.values()], dtype=np.int64).reshape(len(first), len(self.nvec))

    def neighbours(self, action: Ints) -> Ints:
        """Return the points that differ from an action in one dimension, int64 of shape ``(n, dims)``."""
        moved = []
        for axis, count in enumerate(self.nvec.tolist()):
            for value in range(count):
                if value != action[axis]:
                    neighbour = action.copy()
                    neighbour[axis] = value
                    moved.append(neighbour)
        return np.array(moved, dtype=np.int64).reshape(len(moved), len(self.nvec))
