"""Masks for whole candidates chosen in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.core.grid import Grid
from kdnas_env.support.arrays import Bools, Ints
from kdnas_env.wrappers.common import Step, action_grid

_COUNTLESS = 2**62
"""Upper limit of counts, because a grid may exceed 64 bits; no search evaluates as many points."""


class ActionMasks(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Mask the choices of a `MultiDiscrete` action, dimension by dimension.

    ## Description

    A choice is allowed if at least one open candidate has it. Open candidates are listed in `valid_action_indices` of
    the wrapped environment (without such a list: all candidates) and, with `exclude_evaluated`, were not evaluated in
    the episode. Actions are not changed.

    A mask per dimension cannot express constraints between dimensions: two allowed choices may be forbidden together,
    such as 12 heads and a width that 12 does not divide. The mask never forbids an open candidate, but may allow a
    closed one, which then goes to the wrapped environment. `SequentialChoice` and `FlatDiscrete` have exact masks.

    ## Action Space, Observation Space, Rewards and Episode End

    As in the wrapped environment.

    ## Information

    As in the wrapped environment, with one more key:

    | Key           | Type       | Meaning                                                                 |
    |---------------|------------|-------------------------------------------------------------------------|
    | `action_mask` | int8 array | `(sum(nvec),)`, one dimension after the other; 1: the choice is allowed |

    A mask always allows at least one choice per dimension: after all candidates were evaluated, they are allowed again.
    `action_masks()` returns the same mask as bool, as `MaskablePPO` of sb3-contrib expects it; `sample_mask()` returns
    the tuple for `env.action_space.sample(mask=...)`.

    ## Arguments

    | Name                | Default | Meaning                                          |
    |---------------------|---------|--------------------------------------------------|
    | `exclude_evaluated` | `True`  | forbid points that were evaluated in the episode |

    Raises:
        KDNASError: If the actions are not a one-dimensional `MultiDiscrete` from 0.
    """

    def __init__(self, env: gym.Env[Any, Any], *, exclude_evaluated: bool = True) -> None:
        RecordConstructorArgs.__init__(self, exclude_evaluated=exclude_evaluated)
        gym.Wrapper.__init__(self, env)
        self.exclude_evaluated = exclude_evaluated
        self._grid = action_grid(env)
        self._allowed = choice_counts(self._grid)
        self._open = self._allowed.copy()
        self._evaluated: set[int] = set()

    def action_masks(self) -> Bools:
        """Return which choices are allowed, bool of shape ``(sum(nvec),)``; at least one in every dimension."""
        counts = self._open if len(self._evaluated) < self._grid.size else self._allowed
        return counts > 0

    def sample_mask(self) -> tuple[npt.NDArray[np.int8], ...]:
        """Return the mask for ``MultiDiscrete.sample``: an int8 array of shape ``(nvec[i],)`` per dimension."""
        return tuple(np.split(self.action_masks().astype(np.int8), np.cumsum(self._grid.nvec)[:-1]))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment; every candidate is open again."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._open = self._allowed.copy()
        self._evaluated = set()
        return observation, self._masked(info)

    def step(self, action: Any) -> Step:
        """Evaluate a candidate."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        number = self._grid.number(action)
        if self.exclude_evaluated and number not in self._evaluated and self._grid.allows(number):
            self._evaluated.add(number)
            self._open[choice_positions(self._grid, action)] -= 1
        return observation, reward, terminated, truncated, self._masked(info)

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "action_mask": self.action_masks().astype(np.int8)}


def choice_counts(grid: Grid) -> Ints:
    """Count the allowed points that have each choice, int64 of shape ``(sum(nvec),)``, dimension by dimension."""
    if grid.allowed is None:
        counts = [np.full(count, min(grid.points // count, _COUNTLESS)) for count in grid.nvec.tolist()]
    else:
        columns = grid.actions(grid.allowed).T
        counts = [np.bincount(column, minlength=n) for column, n in zip(columns, grid.nvec, strict=True)]
    return np.concatenate(counts).astype(np.int64)


def choice_positions(grid: Grid, action: Sequence[int] | Ints) -> Ints:
    """Return the positions of an action's choices in :func:`choice_counts`, int64 of shape ``(dims,)``."""
    return np.cumsum((0, *grid.nvec[:-1])) + np.asarray(action, dtype=np.int64)
