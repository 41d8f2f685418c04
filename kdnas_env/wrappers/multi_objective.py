"""Reward with several objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_number
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.wrappers.common import Step, wrapped_identity

DEFAULT_OBJECTIVES: Mapping[str, tuple[float, float]] = {"quality": (-1.0, 1.0), "latency_ratio": (1.0, 0.0)}
"""Quantity of the information to its worst and best value."""


class MultiObjectiveReward(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Reward with a vector of quantities instead of their trade-off.

    ## Description

    Each objective is a number of the wrapped environment's information, clipped to a worst and a best value. An
    objective whose worst value is greater than its best value is minimised: its sign is changed, so that more is always
    better. The default objectives:

    | Objective        | Range     | Meaning                                                             |
    |------------------|-----------|---------------------------------------------------------------------|
    | `quality`        | `[-1, 1]` | `1 - loss`; 1 is a perfect imitation, 0 predicts the teacher's mean |
    | `-latency_ratio` | `[-1, 0]` | minus student/teacher latency; -1: as slow as the teacher or slower |

    A failed evaluation (a `status` other than `ok`) and a rejected duplicate get the worst value in all objectives. A
    quantity that is not finite gets the worst value in its objective only.

    The interface is that of MO-Gymnasium: `reward_space` and `reward_dim`, which are also set on the base environment
    for the wrappers of MO-Gymnasium. `LinearReward` makes the reward a scalar again. Apply wrappers of the reward first
    and wrappers of the action last; `SequentialChoice` needs a scalar reward.

    Environment checkers accept scalar rewards only. `gymnasium.make` applies its checker below the wrappers, but an
    environment registered with a vector reward needs `disable_env_checker=True`; check it with `LinearReward`.

    ## Action Space, Observation Space and Episode End

    As in the wrapped environment.

    ## Rewards

    float32 array `(reward_dim,)` in `reward_space`, in the order of `reward_names`.

    ## Information

    As in the wrapped environment, with one more key:

    | Key             | Type  | Meaning                                                    |
    |-----------------|-------|------------------------------------------------------------|
    | `scalar_reward` | float | reward of the wrapped environment; 0 before the first step |

    ## Arguments

    | Name         | Default                                                 | Meaning                              |
    |--------------|---------------------------------------------------------|--------------------------------------|
    | `objectives` | `{"quality": (-1, 1), "latency_ratio": (1, 0)}` if None | quantity to its worst and best value |

    Attributes:
        reward_space: `Box` of the reward, float32 `(reward_dim,)`.
        reward_dim: Number of objectives.
        reward_names: Names of the objectives; those that are minimised begin with a minus.

    Raises:
        KDNASError: If an objective is malformed; in `step`, if the information lacks one.
    """

    def __init__(self, env: gym.Env[Any, Any], *, objectives: Mapping[str, Sequence[float]] | None = None) -> None:
        chosen = _checked_objectives(DEFAULT_OBJECTIVES if objectives is None else objectives)
        RecordConstructorArgs.__init__(
            self, objectives={objective.key: [objective.worst, objective.best] for objective in chosen}
        )
        gym.Wrapper.__init__(self, env)
        self._objectives = chosen
        self.reward_names = tuple(objective.name for objective in chosen)
        self.reward_dim = len(chosen)
        self.reward_space = spaces.Box(
            np.array([objective.low for objective in chosen], dtype=np.float32),
            np.array([objective.high for objective in chosen], dtype=np.float32),
        )
        for name in ("reward_space", "reward_dim"):
            setattr(env.unwrapped, name, getattr(self, name))

    @property
    def identity(self) -> dict[str, Any] | None:
        """Identity of the rewards: that of the wrapped environment, and this wrapper's settings."""
        return wrapped_identity(
            self, objectives={objective.key: [objective.worst, objective.best] for objective in self._objectives}
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "scalar_reward": 0.0}

    def step(self, action: Any) -> Step:
        """Take a step; the reward is a vector."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        repeated = info.get("duplicate", False) and env_attribute(self.env, "duplicates") == "reject"
        if info.get("status", "ok") != "ok" or repeated:
            vector = self.reward_space.low.copy()
        else:
            vector = np.array([objective.value(info) for objective in self._objectives], dtype=np.float32)
        return observation, vector, terminated, truncated, {**info, "scalar_reward": float(reward)}


@dataclass(frozen=True)
class _Objective:
    """A quantity with its worst and its best value; it is minimised if the worst value is greater."""

    key: str
    worst: float
    best: float

    @property
    def sign(self) -> int:
        return 1 if self.best > self.worst else -1

    @property
    def name(self) -> str:
        return self.key if self.sign > 0 else f"-{self.key}"

    @property
    def low(self) -> float:
        return self.sign * self.worst

    @property
    def high(self) -> float:
        return self.sign * self.best

    def value(self, info: Mapping[str, Any]) -> float:
        if self.key not in info:
            raise KDNASError(f"the information lacks the objective {self.key!r}; it has {sorted(info)}")
        number = self.sign * float(info[self.key])
        return min(max(number, self.low), self.high) if math.isfinite(number) else self.low


def _checked_objectives(objectives: Mapping[str, Sequence[float]]) -> list[_Objective]:
    if not isinstance(objectives, Mapping) or not objectives:
        raise KDNASError(f"objectives is {objectives!r}; expected a mapping of at least one name to (worst, best)")
    checked = []
    for key, bounds in objectives.items():
        if not isinstance(bounds, Sequence) or len(bounds) != 2:
            raise KDNASError(f"objective {key!r} has the bounds {bounds!r}; expected its worst and its best value")
        worst, best = (check_number(f"a bound of objective {key!r}", bound) for bound in bounds)
        if worst == best:
            raise KDNASError(f"objective {key!r} has {worst} as worst and best value; expected two different values")
        checked.append(_Objective(key, worst, best))
    return checked
