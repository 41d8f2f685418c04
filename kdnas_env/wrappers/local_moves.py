"""Local search moves: one dimension changes by one choice per step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.core.grid import Grid
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Bools, Ints
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.wrappers.common import (
    Step,
    action_grid,
    checked_choice,
    extended_observation,
    extended_space,
)


class LocalMoves(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Move from candidate to candidate, changing one dimension by one choice.

    ## Description

    A step changes the current candidate in one dimension and evaluates it. An agent therefore learns which changes
    improve a candidate. A candidate that is reached again is a duplicate, with the cost of the wrapped environment. If
    allowed candidates are not connected by single moves, some of them cannot be reached.

    ## Action Space

    `Discrete(2 * dims)`: action `2 * i` takes the choice before the current one in dimension `i`, action `2 * i + 1`
    the one after. In `cyclic` dimensions the last choice is followed by the first. An action outside the space raises
    `SpaceError`.

    A move that would leave the grid, or reach a candidate that `valid_action_indices` of the wrapped environment does
    not list, is forbidden: the current candidate stays the same and is evaluated.

    ## Observation Space

    A `Dict` of the wrapped observation's keys (an observation that is not a `Dict` is under `observation`) and:

    | Key       | Space                 | Meaning                         |
    |-----------|-----------------------|---------------------------------|
    | `current` | `MultiDiscrete(nvec)` | the current candidate's choices |

    ## Rewards

    The wrapped environment's reward of the candidate that the move reaches.

    ## Starting State

    A candidate drawn uniformly from the allowed ones, with the environment's `np_random`, which the seed of `reset`
    determines. It is not evaluated unless the agent returns to it.

    ## Episode End

    As in the wrapped environment.

    ## Information

    As in the wrapped environment, with two more keys:

    | Key           | Type       | Meaning                                     |
    |---------------|------------|---------------------------------------------|
    | `action_mask` | int8 array | `(2 * dims,)`, 1: the move is allowed       |
    | `moved`       | bool       | the step moved, rather than being forbidden |

    If no move is allowed, the mask allows all moves, none of which changes the candidate. `action_masks()` returns the
    same mask as bool, as `MaskablePPO` of sb3-contrib expects it.

    ## Arguments

    | Name     | Default | Meaning                                                                                     |
    |----------|---------|---------------------------------------------------------------------------------------------|
    | `cyclic` | `None`  | dimensions whose choices go round; None: those of the `search_space` that are names, if any |

    Raises:
        KDNASError: If the actions are not a one-dimensional `MultiDiscrete` from 0, or `cyclic` names no dimension.
    """

    def __init__(self, env: gym.Env[Any, Any], *, cyclic: Sequence[int] | None = None) -> None:
        RecordConstructorArgs.__init__(self, cyclic=None if cyclic is None else list(cyclic))
        gym.Wrapper.__init__(self, env)
        self._grid = action_grid(env)
        dims = len(self._grid.nvec)
        self.cyclic = frozenset(_unordered(env) if cyclic is None else cyclic)
        unknown = sorted(self.cyclic - set(range(dims)))
        if unknown:
            raise KDNASError(f"cyclic has the dimension(s) {unknown}; expected numbers from 0 to {dims - 1}")
        self._current: Ints | None = None
        self.action_space = spaces.Discrete(2 * dims)
        self.observation_space = extended_space(
            env.observation_space, {"current": spaces.MultiDiscrete(self._grid.nvec)}
        )

    @property
    def valid_action_indices(self) -> None:
        """None: the list of the wrapped environment is not one of these actions."""
        return None

    @property
    def current(self) -> Ints:
        """The current candidate, int64 of shape ``(dims,)``.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if self._current is None:
            raise ResetNeeded("there is no current candidate: call reset() before the first step")
        return self._current.copy()

    def action_masks(self) -> Bools:
        """Return which moves are allowed, bool of shape ``(2 * dims,)``; never none."""
        mask = np.array([self._target(move) is not None for move in range(2 * len(self._grid.nvec))])
        return mask if mask.any() else ~mask

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment and draw the first candidate."""
        observation, info = self.env.reset(seed=seed, options=options)
        grid, rng = self._grid, self.np_random
        self._current = rng.integers(grid.nvec) if grid.allowed is None else grid.action(int(rng.choice(grid.allowed)))
        return self._extended(observation, info, moved=False)

    def step(self, action: Any) -> Step:
        """Move and evaluate.

        Raises:
            SpaceError: If the action is outside the action space.
            ResetNeeded: If no episode is running.
        """
        target = self._target(checked_choice(action, 2 * len(self._grid.nvec)))
        point = self.current if target is None else target
        observation, reward, terminated, truncated, info = self.env.step(point.copy())
        self._current = point
        observation, info = self._extended(observation, info, moved=target is not None)
        return observation, reward, terminated, truncated, info

    def _target(self, move: int) -> Ints | None:
        return neighbour(self._grid, self.current, move, self.cyclic)

    def _extended(
        self, observation: Any, info: dict[str, Any], *, moved: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        mask = self.action_masks().astype(np.int8)
        return (
            extended_observation(observation, {"current": self.current}),
            {**info, "action_mask": mask, "moved": moved},
        )


def _unordered(env: gym.Env[Any, Any]) -> list[int]:
    ordered = getattr(env_attribute(env, "search_space"), "ordered", ())
    return [place for place, is_ordered in enumerate(ordered) if not is_ordered]


def neighbour(grid: Grid, point: Ints, move: int, cyclic: Collection[int] = ()) -> Ints | None:
    """Return the allowed point that a move leads to, or None if there is none.

    Args:
        grid: The grid.
        point: The current point, int64 of shape ``(dims,)``.
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
