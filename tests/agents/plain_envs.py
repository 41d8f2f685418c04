"""Environments that know nothing of kdnas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class PlainEnv(gym.Env[np.ndarray, np.ndarray]):
    """A bowl over a ``MultiDiscrete`` space: the reward falls with the squared distance from a corner-near point.

    Args:
        nvec: Choices per dimension.
        answer: Called with the number of the step and the action before each step; it may raise, or return a reward
            and an info that take the place of the bowl's.
        ends_after: Steps after which the episode is truncated; None: never.
    """

    def __init__(
        self,
        nvec: Sequence[int],
        answer: Callable[[int, list[int]], tuple[float, dict[str, Any]] | None] = lambda step, action: None,
        ends_after: int | None = None,
    ) -> None:
        self.action_space = spaces.MultiDiscrete(nvec)
        self.observation_space = spaces.Box(0.0, 1.0, (1,))
        self.answer = answer
        self.ends_after = ends_after
        self.seeds: list[int | None] = []
        self.actions: list[list[int]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        answer = self.answer(len(self.actions), action.tolist())
        self.actions.append(action.tolist())
        reward, info = (self.reward(action), {}) if answer is None else answer
        ended = self.ends_after is not None and len(self.actions) >= self.ends_after
        return np.zeros(1, dtype=np.float32), reward, False, ended, info

    def reward(self, action: np.ndarray) -> float:
        return -float(np.sum(((action + 0.5) / self.action_space.nvec - 0.8) ** 2))
