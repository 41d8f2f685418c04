"""A search space whose points form a grid of choices, whatever a point stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kdnas_env.core.grid import Grid
from kdnas_env.errors import SpaceError
from kdnas_env.support.untrusted import as_array, is_whole

Action = npt.NDArray[np.int64]
Config = TypeVar("Config")


class GridSpace(ABC, Generic[Config]):
    """The numbering of the points of a space: actions and flat indices.

    An action is an int64 array of shape ``(dims,)``: one index into each dimension's choices. The flat index of an
    action is its number in mixed radix, with the last dimension fastest. Not every point must be valid: subclasses say
    which configuration an action names, and which configurations are valid.

    Attributes:
        choices: Dimension name to its choices, in action order.
    """

    choices: Mapping[str, tuple[Any, ...]]

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the searched dimensions, in action order."""
        return tuple(self.choices)

    @property
    def nvec(self) -> Action:
        """Number of choices per dimension, int64 of shape ``(dims,)``."""
        return np.array([len(values) for values in self.choices.values()], dtype=np.int64)

    @cached_property
    def grid(self) -> Grid:
        """All points, including invalid ones."""
        return Grid(self.nvec)

    @property
    def size(self) -> int:
        """Number of points, including invalid ones; a Python integer of any size."""
        return self.grid.points

    @property
    @abstractmethod
    def listable(self) -> bool:
        """Whether the valid points can be listed."""

    @property
    @abstractmethod
    def valid_indices(self) -> Action:
        """Flat indices of the valid points, sorted, int64 ``(n,)``; for listable spaces."""

    @property
    @abstractmethod
    def ordered(self) -> tuple[bool, ...]:
        """For each dimension, whether its choices are numbers, so that neighbouring choices are similar."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain data."""

    def decode(self, action: npt.ArrayLike) -> Config:
        """Return the configuration that an action names.

        Raises:
            SpaceError: If the action has the wrong shape, is not integral, or is out of range.
        """
        return self.config_at(self._checked_action(action).tolist())

    @abstractmethod
    def config_at(self, places: Sequence[int]) -> Config:
        """Return the configuration of one valid index per dimension; :meth:`decode` checks them first."""

    @abstractmethod
    def encode(self, config: Config) -> Action:
        """Return the first action that names a configuration, int64 ``(dims,)``.

        Raises:
            SpaceError: If the configuration is not a point of the grid.
        """

    @abstractmethod
    def violation(self, config: Config) -> str | None:
        """Return why a configuration is not valid; None if it is valid."""

    def is_valid(self, config: Config) -> bool:
        """Return whether a configuration is valid."""
        return self.violation(config) is None

    def index(self, action: npt.ArrayLike) -> int:
        """Return the flat index of an action.

        Raises:
            SpaceError: If the action has the wrong shape, is not integral, or is out of range.
        """
        return self.grid.number(self._checked_action(action).tolist())

    def indices(self, actions: Action) -> Action:
        """Return the flat indices of actions, int64 ``(n,)``; for spaces of at most 2 ** 63 points.

        Args:
            actions: int64 of shape ``(n, dims)``.

        Raises:
            SpaceError: If an action is out of range.
        """
        try:
            return self.grid.flat(actions)
        except ValueError:
            for action in actions:
                self._checked_action(action)
            raise

    def from_index(self, index: int) -> Action:
        """Return the action of a flat index, int64 ``(dims,)``.

        Raises:
            SpaceError: If the index is out of range.
        """
        if not 0 <= index < self.size:
            raise SpaceError(
                f"flat index {index} is out of range; the space has {self.size} points, so expected 0 to "
                f"{self.size - 1}"
            )
        return self.grid.action(index)

    def sample(self, rng: np.random.Generator) -> Action:
        """Draw a valid action uniformly, by rejection of invalid ones; int64 ``(dims,)``.

        Raises:
            SpaceError: If 10,000 draws were all invalid.
        """
        for _ in range(10_000):
            action = rng.integers(self.nvec)
            if self.is_valid(self.decode(action)):
                return action
        raise SpaceError("10,000 random points of the space were all invalid; widen the choices or the limits")

    def _checked_action(self, action: npt.ArrayLike) -> Action:
        array = as_array(action)
        if array.shape != (len(self.choices),):
            raise SpaceError(f"action has shape {array.shape}; expected ({len(self.choices)},) for {self.dimensions}")
        if not is_whole(array):
            raise SpaceError(f"action has dtype {array.dtype}; expected integers")
        outside = (array < 0) | (array >= self.nvec)
        if outside.any():
            axis = int(np.argmax(outside))
            raise SpaceError(
                f"action {array.tolist()} is out of range: {self.dimensions[axis]} is {array[axis]}, expected 0 to "
                f"{self.nvec[axis] - 1}"
            )
        return array.astype(np.int64)
