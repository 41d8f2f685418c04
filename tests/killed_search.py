"""The search of a process that a test kills: it searches a planted landscape, or resumes its search."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium

import kdnas_env


class Logged(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Logs every action before it is evaluated."""

    def __init__(self, env: Any, log: Path, pause: float) -> None:
        super().__init__(env)
        self.log, self.pause = log, pause

    def step(self, action: Any) -> Any:
        """Write, wait and step."""
        with self.log.open("a") as file:
            file.write(json.dumps(action.tolist()) + "\n")
        time.sleep(self.pause)
        return super().step(action)


def search(name: str, config: dict[str, Any], folder: Path, pause: float) -> None:
    """Start a search in a folder, or resume it."""
    state = folder / "state.npz"
    env = Logged(gymnasium.make("kdnas/Planted-v0", failures=0.1, budget=40), folder / "log", pause)
    agent = kdnas_env.make_agent(name, **config)
    if state.exists():
        agent.load(state)
        agent.resume(env, on_round=lambda ranking: agent.save(state))
    else:
        agent.search(env, seed=3, on_round=lambda ranking: agent.save(state))
