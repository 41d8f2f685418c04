"""Sequential decisions: a candidate is composed dimension by dimension."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.core.grid import Grid
from kdnas_env.support.arrays import Bools, Ints
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.wrappers.common import (
    Step,
    action_grid,
    checked_choice,
    extended_observation,
    extended_space,
    failure_reward,
)

_PENALTY = -1.0
"""Reward of a rejected candidate if the environment does not declare the reward of a failure."""


class SequentialChoice(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Choose one dimension per step, given the earlier choices.

    ## Description

    Each step sets one dimension, in action order; the last step completes the candidate, which the wrapped environment
    then evaluates. Masks depend on the earlier choices. Therefore they express constraints between dimensions, such as
    heads that must divide the width: an agent that obeys them proposes allowed points only.

    ## Action Space

    `Discrete(max(nvec))`: the choice for the next dimension. An action outside the space raises `SpaceError`. An action
    that the mask forbids *rejects* the candidate: the reward is `penalty`, nothing is evaluated or charged, and the
    choices start again with the first dimension.

    ## Observation Space

    A `Dict` of the wrapped observation's keys (an observation that is not a `Dict` is under `observation`) and:

    | Key         | Space                     | Meaning                                               |
    |-------------|---------------------------|-------------------------------------------------------|
    | `partial`   | `MultiDiscrete(nvec + 1)` | the choices so far as `choice + 1`; 0: not chosen yet |
    | `dimension` | `Discrete(dims)`          | the next dimension                                    |

    ## Rewards

    0 until the candidate is complete, then the reward of the wrapped environment, which must be a scalar. Use a
    discount of 1 (`gamma=1`), because the reward comes with the last choice.

    ## Episode End

    As in the wrapped environment. Also truncated after `max_rejections` rejected candidates, so that an agent that
    ignores the masks does not continue forever.

    ## Information

    The information of the wrapped environment; between candidates, that of the last one is repeated. In addition:

    | Key           | Type       | Meaning                                                                 |
    |---------------|------------|-------------------------------------------------------------------------|
    | `action_mask` | int8 array | `(max(nvec),)`, 1: the next action is allowed                           |
    | `complete`    | bool       | the step completed a candidate: reward and information are of this step |
    | `rejected`    | bool       | the step was forbidden, and the candidate is rejected                   |

    A choice is allowed if `valid_action_indices` of the wrapped environment (without such a list: all points) contains
    a point with this choice and the earlier ones that, with `exclude_evaluated`, was not evaluated in the episode.
    After all points were evaluated, all are allowed again. `action_masks()` returns the same mask as bool, as
    `MaskablePPO` of sb3-contrib expects it.

    ## Arguments

    | Name                | Default | Meaning                                                              |
    |---------------------|---------|----------------------------------------------------------------------|
    | `exclude_evaluated` | `True`  | forbid points that were evaluated in the episode                     |
    | `penalty`           | `None`  | reward of a rejected candidate; None: that of a failure, or -1        |
    | `max_rejections`    | `1000`  | rejected candidates at which the episode is truncated                |

    Raises:
        KDNASError: If the actions are not a one-dimensional `MultiDiscrete` from 0, or an argument is malformed.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        exclude_evaluated: bool = True,
        penalty: float | None = None,
        max_rejections: int = 1000,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, exclude_evaluated=exclude_evaluated, penalty=penalty, max_rejections=max_rejections
        )
        gym.Wrapper.__init__(self, env)
        check_whole("max_rejections", max_rejections, at_least=2)
        failure = failure_reward(env)
        default = _PENALTY if failure is None else failure
        self.penalty = default if penalty is None else check_number("penalty", penalty)
        self.exclude_evaluated = exclude_evaluated
        self.max_rejections = max_rejections
        self._grid = action_grid(env)
        self._most = int(self._grid.nvec.max())
        self._prefix: tuple[int, ...] = ()
        self._evaluated: list[int] = []
        self._rejections = 0
        self._answer: tuple[Any, dict[str, Any]] | None = None

        self.action_space = spaces.Discrete(self._most)
        self.observation_space = extended_space(
            env.observation_space,
            {
                "partial": spaces.MultiDiscrete(self._grid.nvec + 1),
                "dimension": spaces.Discrete(len(self._grid.nvec)),
            },
        )

    @property
    def valid_action_indices(self) -> None:
        """None: the list of the wrapped environment is not one of these actions."""
        return None

    def action_masks(self) -> Bools:
        """Return which actions are allowed next, bool of shape ``(max(nvec),)``; never none."""
        evaluated = self._evaluated if len(self._evaluated) < self._grid.size else ()
        mask = np.zeros(self._most, dtype=np.bool_)
        mask[: self._grid.nvec[len(self._prefix)]] = open_completions(self._grid, self._prefix, evaluated)
        return mask

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment; no dimension is chosen."""
        answer = self.env.reset(seed=seed, options=options)
        self._prefix, self._evaluated, self._rejections = (), [], 0
        self._answer = deepcopy(answer)
        return self._extended(*answer)

    def step(self, action: Any) -> Step:
        """Choose for the next dimension; the last choice completes the candidate, which is then evaluated.

        Raises:
            SpaceError: If the action is outside the action space.
            ResetNeeded: If no episode is running.
        """
        if self._answer is None:
            raise ResetNeeded("no episode is running: call reset() before the first step and after the end of one")
        choice = checked_choice(action, self._most)
        if not self.action_masks()[choice]:
            self._prefix = ()
            self._rejections += 1
            truncated = self._rejections >= self.max_rejections
            return self._wait(self.penalty, truncated=truncated, rejected=True)
        prefix = (*self._prefix, choice)
        if len(prefix) < len(self._grid.nvec):
            self._prefix = prefix
            return self._wait(0.0)
        return self._evaluate(prefix)

    def _evaluate(self, candidate: tuple[int, ...]) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(np.array(candidate, dtype=np.int64))
        self._prefix = ()
        if self.exclude_evaluated and len(self._evaluated) < self._grid.size:
            insort(self._evaluated, self._grid.number(candidate))
        self._answer = None if terminated or truncated else deepcopy((observation, info))
        observation, info = self._extended(observation, info, complete=True)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def _wait(self, reward: float, *, truncated: bool = False, rejected: bool = False) -> Step:
        assert self._answer is not None
        observation, info = self._extended(*deepcopy(self._answer), rejected=rejected)
        if truncated:
            self._answer = None
        return observation, reward, False, truncated, info

    def _extended(
        self, observation: Any, info: dict[str, Any], *, complete: bool = False, rejected: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        partial = np.zeros(len(self._grid.nvec), dtype=np.int64)
        partial[: len(self._prefix)] = np.array(self._prefix, dtype=np.int64) + 1
        mask = self.action_masks().astype(np.int8)
        return (
            extended_observation(observation, {"partial": partial, "dimension": np.int64(len(self._prefix))}),
            {**info, "action_mask": mask, "complete": complete, "rejected": rejected},
        )


def open_completions(grid: Grid, prefix: Sequence[int], evaluated: Sequence[int] = ()) -> Bools:
    """Return which choices of the next dimension lead to an open point: one that is allowed and was not evaluated.

    The points behind a choice have consecutive numbers, so two look-ups in a sorted list count them.

    Args:
        grid: The grid.
        prefix: Choices of the first dimensions.
        evaluated: Sorted numbers of the allowed points that are no longer open.

    Returns:
        Bool of shape ``(nvec[len(prefix)],)``.
    """
    count, *later = grid.nvec[len(prefix) :].tolist()
    stride = math.prod(later)
    first = grid.number(prefix) * count * stride
    edges = [first + stride * choice for choice in range(count + 1)]
    allowed = [stride] * count if grid.allowed is None else _between(grid.allowed, edges)
    closed = _between(evaluated, edges)
    return np.array([some > gone for some, gone in zip(allowed, closed, strict=True)], dtype=np.bool_)


def _between(points: Sequence[int] | Ints, edges: Sequence[int]) -> list[int]:
    places = [bisect_left(points, edge) for edge in edges]
    return [end - start for start, end in pairwise(places)]
