"""Reward for improving on the best candidate so far."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.support.checks import check_number
from kdnas_env.wrappers.common import Step, failure_reward, wrapped_identity


class ImprovementReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Reward the improvement of the best reward of the episode.

    ## Description

    The sum of the rewards of an episode is the best reward of the wrapped environment minus the start. An agent that
    maximises it maximises the best candidate of the search, not the mean of all candidates. This requires no discount:
    use `gamma=1`.

    Apply wrappers of the reward first and wrappers of the action last: `SequentialChoice(ImprovementReward(env))`.

    ## Action Space, Observation Space and Episode End

    As in the wrapped environment; rewards within the observation are those of the wrapped environment.

    ## Rewards

    `max(reward - best, 0)`, where `best` is the greatest reward before the step. Its initial value is `start`, or else
    the environment's reward of a failure (`reward_function.failure`). If the environment does not declare one, the
    reward of the first candidate is the start, and the first reward is 0.

    ## Information

    As in the wrapped environment, with two more keys, both 0 before the first step:

    | Key                | Type  | Meaning                                 |
    |--------------------|-------|-----------------------------------------|
    | `candidate_reward` | float | reward of the wrapped environment       |
    | `best_reward`      | float | the greatest so far, including the start|

    ## Arguments

    | Name    | Default | Meaning                                                         |
    |---------|---------|-----------------------------------------------------------------|
    | `start` | `None`  | initial best reward; None: the reward of a failure              |

    Raises:
        KDNASError: If `start` is not a finite number.
    """

    def __init__(self, env: gym.Env[Any, Any], *, start: float | None = None) -> None:
        RecordConstructorArgs.__init__(self, start=start)
        gym.Wrapper.__init__(self, env)
        self.start = failure_reward(env) if start is None else check_number("start", start)
        self._best = self.start

    @property
    def identity(self) -> dict[str, Any] | None:
        """Identity of the rewards: that of the wrapped environment, and this wrapper's settings."""
        return wrapped_identity(self, start=self.start)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment; the best reward is the start again."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._best = self.start
        return observation, self._explained(info, 0.0)

    def step(self, action: Any) -> Step:
        """Take a step; the reward is the improvement."""
        observation, answer, terminated, truncated, info = self.env.step(action)
        reward = float(answer)
        best = reward if self._best is None else self._best
        self._best = max(best, reward)
        return observation, self._best - best, terminated, truncated, self._explained(info, reward)

    def _explained(self, info: dict[str, Any], reward: float) -> dict[str, Any]:
        return {**info, "candidate_reward": reward, "best_reward": 0.0 if self._best is None else self._best}
