"""A grid environment that does not use kdnas, and helpers of the wrapper tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import kdnas_env  # noqa: F401  (registers the environments)


class GridEnv(gym.Env[np.ndarray, np.ndarray]):
    """A reward for each point of a grid.

    Args:
        nvec: Choices per dimension.
        valid: Numbers of the points that may be proposed, or None.
        reward: The reward of an action; by default the sum of its choices.
        budget: Steps of an episode.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        nvec: Iterable[int],
        valid: Sequence[int] | None = None,
        reward: Callable[[list[int]], float] = lambda action: float(sum(action)),
        budget: int = 1000,
    ) -> None:
        self.action_space = spaces.MultiDiscrete(list(nvec))
        self.observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.valid_action_indices = valid
        self.reward = reward
        self.budget = budget
        self.actions: list[list[int]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions = []
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert isinstance(action, np.ndarray)
        assert action.dtype == np.int64
        assert action in self.action_space
        self.actions.append(action.tolist())
        progress = np.full(1, len(self.actions) / self.budget, dtype=np.float32)
        return progress, self.reward(action.tolist()), len(self.actions) >= self.budget, False, {}


def grid_points(nvec: Iterable[int]) -> list[tuple[int, ...]]:
    """Every point of a grid; its place in the list is its number."""
    return list(itertools.product(*map(range, nvec)))


def planted(**options: Any) -> gym.Env[Any, Any]:
    """Return a planted environment without wrappers, which would disturb a checker."""
    return gym.make("kdnas/Planted-v0", **options).unwrapped


HEADS_AND_WIDTHS = {"num_attention_heads": [3, 4, 5], "hidden_size": [240, 256, 300], "hidden_act": ["gelu", "relu"]}
"""A space where not every head count divides every width."""
