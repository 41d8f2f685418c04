"""A search space whose candidates are named points: architectures that this package cannot build itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdnas_env.core.grid import Grid
from kdnas_env.core.grid_space import Action, GridSpace
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
class PointSpace(GridSpace[Point]):
    """A grid on which only some points exist, such as the space of an external table.

    Attributes:
        choices: Dimension name to its choices, in action order.
        existing: Flat indices of the existing points, sorted, int64 ``(n,)``.

    Raises:
        SpaceError: If no point exists, a point is not on the grid, or the grid has more than 2 ** 63 points.
    """

    choices: Mapping[str, tuple[Any, ...]]
    existing: Action

    def __post_init__(self) -> None:
        if self.size > np.iinfo(np.int64).max:
            raise SpaceError(f"the space has {self.size} points; expected less than 2 ** 63; give it fewer choices")
        try:
            Grid.of(self.nvec, self.existing)
        except KDNASError as error:
            raise SpaceError(f"the points of the space are not on its grid: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the choices as plain data."""
        return {name: list(values) for name, values in self.choices.items()}

    @property
    def listable(self) -> bool:
        """True: the existing points are listed, however large the grid is."""
        return True

    @property
    def valid_indices(self) -> Action:
        """Flat indices of the existing points, sorted, int64 ``(n,)``."""
        return self.existing

    @cached_property
    def ordered(self) -> tuple[bool, ...]:
        """For each dimension, whether its choices are numbers, so that neighbouring choices are similar."""
        return tuple(all(map(is_number, values)) for values in self.choices.values())

    def config_at(self, places: Sequence[int]) -> Point:
        """Return the candidate of one valid index per dimension; :meth:`decode` checks them first."""
        return Point(
            tuple((name, values[place]) for (name, values), place in zip(self.choices.items(), places, strict=True))
        )

    def encode(self, config: Point) -> Action:
        """Return the action that names a candidate, int64 ``(dims,)``.

        Raises:
            SpaceError: If the candidate is not on the grid.
        """
        values = dict(config.values)
        if values.keys() != self.choices.keys() or any(values[name] not in self.choices[name] for name in values):
            raise SpaceError(f"{config} is not in the space, whose dimensions are {list(self.choices)}")
        return np.array([self.choices[name].index(values[name]) for name in self.choices], dtype=np.int64)

    def violation(self, config: Point) -> str | None:
        """Return why a candidate is not valid; None if it exists."""
        number = self.grid.number(self.encode(config))
        return None if number in self._existing else "it is not among the evaluated candidates"

    @cached_property
    def _existing(self) -> frozenset[int]:
        return frozenset(self.existing.tolist())
