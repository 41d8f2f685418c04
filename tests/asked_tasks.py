"""Tasks and actions for which all interfaces to a task must give the same rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget

TASKS = (
    "rotten-tomatoes",
    "imdb:seed=mean,alpha=-0.2,device=onnxruntime",
    "rotten-tomatoes:speedup=8,keep=0.6,size_mb=30",
    "rotten-tomatoes:speedup=8,constraints=cost,epochs=1,seed=1",
)
"""With noise, another reward, limits that lower the reward, and limits that only report a cost."""


def points(count: int = 60) -> list[np.ndarray]:
    """Return actions of the tables' space; a third are students that cannot be built."""
    return [np.array(action) for action in np.random.default_rng(0).integers([4, 5, 2, 8, 3], size=(count, 5))]


def env_rewards(task: str, seed: int, actions: Sequence[np.ndarray]) -> list[float]:
    """Return the rewards of the environment of a task for some actions, one after the other."""
    env = Task.parse(task).make_env(Budget(len(actions)))
    env.reset(seed=seed)
    return [float(env.step(action)[1]) for action in actions]
