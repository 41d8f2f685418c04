"""Reward as a weighted sum of several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_number
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.wrappers.common import Step, wrapped_identity


class LinearReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Turn a vector reward into its weighted sum.

    ## Description

    For environments with a vector reward and a `reward_space`: those wrapped in `MultiObjectiveReward`, and those of
    MO-Gymnasium. The wrapper of the same name in MO-Gymnasium uses the same keys in `info`.

    ## Action Space, Observation Space and Episode End

    As in the wrapped environment.

    ## Rewards

    The dot product of `weights` and the wrapped environment's reward.

    ## Information

    As in the wrapped environment, with two more keys:

    | Key              | Type          | Meaning                                                                     |
    |------------------|---------------|-----------------------------------------------------------------------------|
    | `vector_reward`  | array         | `(reward_dim,)`, reward of the wrapped environment; 0 before the first step |
    | `reward_weights` | float64 array | `(reward_dim,)`, the weights                                                |

    ## Arguments

    | Name      | Default | Meaning                       |
    |-----------|---------|-------------------------------|
    | `weights` |         | one number per component      |

    Raises:
        KDNASError: If the environment has no vector reward, or the weights do not fit it.
    """

    def __init__(self, env: gym.Env[Any, Any], weights: Sequence[float]) -> None:
        numbers = [check_number("a weight", weight) for weight in weights]
        RecordConstructorArgs.__init__(self, weights=numbers)
        gym.Wrapper.__init__(self, env)
        space = env_attribute(env, "reward_space")
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise KDNASError(
                f"the reward_space of the environment is {space}; expected a one-dimensional Box. Apply "
                "MultiObjectiveReward first"
            )
        if len(numbers) != space.shape[0]:
            raise KDNASError(f"weights has {len(numbers)} number(s); expected {space.shape[0]}, one per component")
        self.weights = tuple(numbers)
        self._nothing = np.zeros(space.shape, dtype=space.dtype)

    @property
    def identity(self) -> dict[str, Any] | None:
        """Identity of the rewards: that of the wrapped environment, and this wrapper's settings."""
        return wrapped_identity(self, weights=list(self.weights))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._explained(info, self._nothing)

    def step(self, action: Any) -> Step:
        """Take a step; the reward is a scalar."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        scalar = float(np.dot(np.asarray(reward, dtype=np.float64), self.weights))
        return observation, scalar, terminated, truncated, self._explained(info, reward)

    def _explained(self, info: dict[str, Any], reward: Any) -> dict[str, Any]:
        return {**info, "vector_reward": np.array(reward), "reward_weights": np.array(self.weights)}
