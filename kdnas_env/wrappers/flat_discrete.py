"""One number per candidate, for agents that support only ``Discrete`` actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.support.arrays import Bools, Ints
from kdnas_env.wrappers.common import Step, action_grid, checked_choice


class FlatDiscrete(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Number the allowed actions, so that one `Discrete` action names a whole candidate.

    ## Description

    The points of `valid_action_indices`, or of the whole grid if the wrapped environment has no such list, are
    numbered in ascending order. Every action can be built, and DQN, tabular and bandit methods are applicable. The
    numbers do not show what candidates have in common; `SequentialChoice` does.

    ## Action Space

    `Discrete(n)`: the number of a point. `action(number)` and `reverse_action(action)` translate. An action outside
    the space raises `SpaceError`. A masked action goes to the wrapped environment, whose policy for duplicates applies.

    ## Observation Space, Rewards and Episode End

    As in the wrapped environment.

    ## Information

    As in the wrapped environment, with one more key:

    | Key           | Type       | Meaning                                     |
    |---------------|------------|---------------------------------------------|
    | `action_mask` | int8 array | `(n,)`, 1: not evaluated in the episode yet |

    Once all are evaluated, all are allowed again. `action_masks()` gives the same mask as bool, as `MaskablePPO` of
    sb3-contrib expects it.

    ## Arguments

    | Name                | Default   | Meaning                                          |
    |---------------------|-----------|--------------------------------------------------|
    | `exclude_evaluated` | `True`    | forbid points that were evaluated in the episode |
    | `max_actions`       | `100_000` | maximum number of points                         |

    Raises:
        KDNASError: If the actions are not a one-dimensional `MultiDiscrete` from 0, or there are too many.
    """

    def __init__(self, env: gym.Env[Any, Any], *, exclude_evaluated: bool = True, max_actions: int = 100_000) -> None:
        RecordConstructorArgs.__init__(self, exclude_evaluated=exclude_evaluated, max_actions=max_actions)
        gym.Wrapper.__init__(self, env)
        self._grid = action_grid(env)
        if self._grid.size > max_actions:
            raise KDNASError(
                f"the environment has {self._grid.size} actions to number, but max_actions is {max_actions}; narrow "
                "the space, raise max_actions, or choose dimension by dimension with SequentialChoice"
            )
        self.exclude_evaluated = exclude_evaluated
        self._open = np.ones(self._grid.size, dtype=np.bool_)
        self.action_space = spaces.Discrete(self._grid.size)

    @property
    def valid_action_indices(self) -> None:
        """None: the list of the wrapped environment is not one of these actions, which are all valid."""
        return None

    def action(self, number: int) -> Ints:
        """Return the wrapped action of a number, int64 of shape ``(dims,)``.

        Raises:
            SpaceError: If the number is outside the action space.
        """
        place = checked_choice(number, self._grid.size)
        return self._grid.action(place if self._grid.allowed is None else int(self._grid.allowed[place]))

    def reverse_action(self, action: npt.ArrayLike) -> int:
        """Return the number of a wrapped action.

        Raises:
            SpaceError: If the action is malformed, outside the wrapped action space, or not a numbered one.
        """
        choices = np.asarray(action)
        if not self.env.action_space.contains(choices):
            raise SpaceError(f"action {action!r} is not in the wrapped action space {self.env.action_space}")
        point = self._grid.number(choices)
        if not self._grid.allows(point):
            raise SpaceError(f"action {choices.tolist()} is not valid: valid_action_indices does not list it")
        return point if self._grid.allowed is None else int(np.searchsorted(self._grid.allowed, point))

    def action_masks(self) -> Bools:
        """Return which actions are allowed, bool of shape ``(n,)``; never none."""
        return self._open.copy() if self._open.any() else np.ones_like(self._open)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment; every action is open again."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._open[:] = True
        return observation, self._masked(info)

    def step(self, action: Any) -> Step:
        """Evaluate the candidate of a number.

        Raises:
            SpaceError: If the action is outside the action space.
        """
        candidate = self.action(action)
        observation, reward, terminated, truncated, info = self.env.step(candidate)
        if self.exclude_evaluated:
            self._open[int(action)] = False
        return observation, reward, terminated, truncated, self._masked(info)

    def _masked(self, info: dict[str, Any]) -> dict[str, Any]:
        return {**info, "action_mask": self.action_masks().astype(np.int8)}
