"""A recorded search, done again in the environment of its task."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task import Task


def recorded_budget(search: Trajectory) -> Budget:
    """Return what a search could spend."""
    return Budget(search.budget if search.unit == "seconds" else int(search.budget), search.unit)


def replay_env(search: Trajectory, task: Task) -> gym.Env[Any, Any]:
    """Make an environment that answers the proposals of a search as they were answered; reset it with its seed.

    Raises:
        KDNASError: If there is no such table, or it has not what the task asks for.
    """
    budget = recorded_budget(search)
    # The clock of several workers ends a search, not the sum of their work.
    timed = budget.unit == "seconds" and search.workers > 1
    return task.make_env(replace(budget, amount=sys.float_info.max) if timed else budget)


def replay_order(search: Trajectory) -> npt.NDArray[np.int64]:
    """Return the rows of a search in the order in which they began to be evaluated, int64 ``(n,)``."""
    if search.workers == 1:
        return np.arange(len(search))
    # Of those that begin at one second, what the budget has cut short is the last.
    return np.lexsort((-search.epochs, search.start))
