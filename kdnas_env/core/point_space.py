"""A space whose candidates are points with names and values: architectures that this package cannot build itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.grid import Grid
from kdnas_env.core.space import Action
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.support.untrusted import is_number


@dataclass(frozen=True)
class Point:
    """A candidate of a :class:`PointSpace`.

    Attributes:
        values: The value of each dimension, in action order.
    """

    values: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values)


@dataclass(frozen=True, eq=False)
class PointSpace:
    """A finite grid of which a few points exist; with the names of a :class:`~kdnas_env.core.space.SearchSpace`.

    Attributes:
        choices: Dimension name to its choices, in action order.
        valid_indices: Flat indices of the points that exist, rising, int64 ``(n,)``.

    Raises:
        SpaceError: If there is no point, one is not on the grid, or the grid outgrows 64 bits.
    """

    choices: Mapping[str, tuple[Any, ...]]
    valid_indices: Action

    def __post_init__(self) -> None:
        if self.size > np.iinfo(np.int64).max:
            raise SpaceError(f"the space has {self.size} points; expected less than 2 ** 63")
        try:
            Grid.of(self.nvec, self.valid_indices)
        except KDNASError as error:
            raise SpaceError(f"the points of the space are none of its grid: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the choices as plain data."""
        return {name: list(values) for name, values in self.choices.items()}

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions, in action order."""
        return tuple(self.choices)

    @property
    def nvec(self) -> Action:
        """Number of choices per dimension, int64 ``(dims,)``."""
        return np.array([len(values) for values in self.choices.values()], dtype=np.int64)

    @cached_property
    def grid(self) -> Grid:
        """The grid, points that do not exist included."""
        return Grid(self.nvec)

    @property
    def size(self) -> int:
        """Points of the grid, those that do not exist included."""
        return self.grid.points

    @cached_property
    def ordered(self) -> tuple[bool, ...]:
        """By dimension, whether its choices are numbers, so that neighbouring choices are similar."""
        return tuple(all(map(is_number, values)) for values in self.choices.values())

    def decode(self, action: npt.ArrayLike) -> Point:
        """Return the candidate that an action names.

        Raises:
            SpaceError: If the action has the wrong shape, is not integral, or is out of range.
        """
        places = self._checked(action).tolist()
        return Point(
            tuple((name, values[place]) for (name, values), place in zip(self.choices.items(), places, strict=True))
        )

    def encode(self, config: Point) -> Action:
        """Return the action that names a candidate.

        Raises:
            SpaceError: If it is not on the grid.
        """
        values = dict(config.values)
        if values.keys() != self.choices.keys() or any(values[name] not in self.choices[name] for name in values):
            raise SpaceError(f"{config} is not in the space of {list(self.choices)}")
        return np.array([self.choices[name].index(values[name]) for name in self.choices], dtype=np.int64)

    def index(self, action: npt.ArrayLike) -> int:
        """Return the flat index of an action (mixed radix, last dimension fastest)."""
        return self.grid.number(self._checked(action).tolist())

    def indices(self, actions: Action) -> Action:
        """Return the flat indices of actions ``(n, dims)``, int64 ``(n,)``.

        Raises:
            SpaceError: If an action is out of range.
        """
        try:
            return self.grid.flat(actions)
        except ValueError as error:
            raise SpaceError(f"an action is out of range: {error}") from error

    def from_index(self, index: int) -> Action:
        """Return the action of a flat index.

        Raises:
            SpaceError: If the index is out of range.
        """
        if not 0 <= index < self.size:
            raise SpaceError(f"flat index {index} is out of range; the space has {self.size} points")
        return self.grid.action(index)

    def violation(self, config: Point) -> str | None:
        """Say why a candidate does not exist; None if it does."""
        place = self.grid.number(self.encode(config))
        return None if place in self._existing else "it is none of the candidates that were evaluated"

    @cached_property
    def _existing(self) -> frozenset[int]:
        return frozenset(self.valid_indices.tolist())

    def _checked(self, action: npt.ArrayLike) -> Action:
        try:
            (checked,) = self.grid.check(np.asarray(action)[None])
        except (KDNASError, ValueError) as error:
            raise SpaceError(f"{error}; the dimensions are {list(self.choices)}") from error
        return np.asarray(checked)
