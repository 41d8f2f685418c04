"""Misbehaving agents, registered only while a test runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Settings:
    """Number of evaluations before the agent misbehaves."""

    steps: int = 3


class Raises:
    """Evaluates some students, then raises."""

    Config = Settings

    def __init__(self, config: Settings) -> None:
        self.config = config

    def search(self, env: Any, *, budget: int, seed: int) -> None:
        env.reset(seed=seed)
        for _ in range(self.config.steps):
            env.step(np.zeros(len(env.action_space.nvec), dtype=np.int64))
        raise RuntimeError("nothing works")


class Ponders(Raises):
    """Uses the processor for a while after its last evaluation."""

    def search(self, env: Any, *, budget: int, seed: int) -> None:
        env.reset(seed=seed)
        for index in range(self.config.steps):
            env.step(np.array(np.unravel_index(index, tuple(env.action_space.nvec)), dtype=np.int64))
        began = time.process_time()
        while time.process_time() < began + 0.06:
            pass


class Resets(Raises):
    """Resets with its own seed, and again to get a second budget."""

    def search(self, env: Any, *, budget: int, seed: int) -> None:
        for _ in range(2):
            env.reset(seed=seed + 99)
            for index in range(self.config.steps):
                env.step(np.array(np.unravel_index(index, tuple(env.action_space.nvec)), dtype=np.int64))


class Repeats(Raises):
    """Proposes every student twice."""

    def start(self, env: Any, *, budget: int, round_size: int, seed: int) -> None:
        self._choices, self._asked = len(env.search_space.nvec), 0

    def ask(self, n: int) -> Any:
        number = self._asked // 2
        self._asked += 1
        return np.array([[number % 4, 0, number // 4 % 2, *[0] * (self._choices - 3)]], dtype=np.int64)

    def tell(self, actions: Any, rewards: Any, infos: Any = None) -> None:
        pass
