"""An environment that knows nothing of kdnas, to see what an agent does with any environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces


class BowlEnv(gym.Env[npt.NDArray[np.float32], npt.NDArray[np.int64]]):
    """A bowl over a ``MultiDiscrete`` space: the reward falls with the squared distance from a corner-near point.

    It is never full: only ``ends_after`` ends an episode. It has no budget, no list of valid actions and empty infos.

    Args:
        nvec: Choices per dimension.
        answer: Called with the number of the step and the action before each step; it may raise, or return a reward
            and an info that take the place of the bowl's.
        ends_after: Steps after which the episode is truncated; None: never.

    Attributes:
        seeds: What every ``reset`` was given.
        actions: Every action that was answered.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        nvec: Sequence[int],
        answer: Callable[[int, list[int]], tuple[float, dict[str, Any]] | None] = lambda step, action: None,
        ends_after: int | None = None,
    ) -> None:
        self.action_space: Any = spaces.MultiDiscrete(list(nvec))
        self.observation_space = spaces.Box(0.0, 1.0, (1,))
        self.answer = answer
        self.ends_after = ends_after
        self.seeds: list[int | None] = []
        self.actions: list[list[int]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; what was done before stays in ``actions``."""
        super().reset(seed=seed)
        self.seeds.append(seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer an action.

        Raises:
            ValueError: If it is not in the action space.
        """
        if action not in self.action_space:
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        answer = self.answer(len(self.actions), action.tolist())
        self.actions.append(action.tolist())
        reward, info = (self.reward(action), {}) if answer is None else answer
        ended = self.ends_after is not None and len(self.actions) >= self.ends_after
        return np.zeros(1, dtype=np.float32), reward, False, ended, info

    def reward(self, action: npt.ArrayLike) -> float:
        """Return the bowl's reward of an action."""
        return -float(np.sum(((np.asarray(action) + 0.5) / self.action_space.nvec - 0.8) ** 2))
