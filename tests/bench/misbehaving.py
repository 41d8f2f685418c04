"""Agents that do not behave, offered under names of their own while a test runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Settings:
    """How long it goes well."""

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
    """Thinks for a while when all is over."""

    def search(self, env: Any, *, budget: int, seed: int) -> None:
        env.reset(seed=seed)
        for index in range(self.config.steps):
            env.step(np.array(np.unravel_index(index, tuple(env.action_space.nvec)), dtype=np.int64))
        began = time.process_time()
        while time.process_time() < began + 0.06:
            pass


class Resets(Raises):
    """Resets with a seed of its own, and wants a second budget."""

    def search(self, env: Any, *, budget: int, seed: int) -> None:
        for _ in range(2):
            env.reset(seed=seed + 99)
            for index in range(self.config.steps):
                env.step(np.array(np.unravel_index(index, tuple(env.action_space.nvec)), dtype=np.int64))
