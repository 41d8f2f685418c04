"""Replaying a recorded search in the environment of its task."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget


def recorded_budget(search: Trajectory) -> Budget:
    """Return the budget of a search."""
    return Budget(search.budget if search.unit == "seconds" else int(search.budget), search.unit)


def replay_env(search: Trajectory, task: Task) -> gym.Env[Any, Any]:
    """Make an environment that answers a search's proposals as in the record; reset it with the seed of the search.

    Raises:
        KDNASError: If the table is unknown, or lacks what the task requires.
    """
    budget = recorded_budget(search)
    # With several workers, a budget of seconds limits the clock, not the total time of the workers.
    timed = budget.unit == "seconds" and search.workers > 1
    return task.make_env(replace(budget, amount=sys.float_info.max) if timed else budget)


def replay_order(search: Trajectory) -> npt.NDArray[np.int64]:
    """Return the rows of a search in the order in which their evaluations began, int64 ``(n,)``."""
    if search.workers == 1:
        return np.arange(len(search))
    # Among evaluations with the same start, the one with fewer epochs, cut short by the budget, comes last.
    return np.lexsort((-search.epochs, search.start))
