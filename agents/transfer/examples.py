"""Examples of tasks: all candidates of a task with their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.agents.environment import action_counts, is_usable
from kdnas_env.agents.predicting import Scale
from kdnas_env.core.grid import Grid
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.support.progress import SILENT, Progress


@dataclass(frozen=True, eq=False)
class TaskExamples:
    """All candidates of one task with their rewards, for one seed of its noise.

    Attributes:
        task: Description of the task, float32 ``(task_features,)``.
        actions: All valid candidates, int64 ``(n, dims)``.
        targets: Standardised rewards, float32 ``(n,)``; failures and broken limits get the lower bound of
            :class:`kdnas_env.agents.predicting.Scale`.
        scale: Reward difference of one unit of the targets.
    """

    task: npt.NDArray[np.float32]
    actions: Ints
    targets: npt.NDArray[np.float32]
    scale: float


def examples_of(
    env: gym.Env[Any, Any], names: Sequence[str], seeds: Sequence[int], progress: Progress = SILENT
) -> list[TaskExamples]:
    """Evaluate every valid candidate of some tasks.

    Args:
        env: ``kdnas/Tasks-v0``, or a similar environment, with a budget for all candidates of its space.
        names: Names of the tasks.
        seeds: Seeds of the episodes; each gives one set of examples, which differ if the rewards are noisy.
        progress: Receives the number of finished tasks.

    Raises:
        KDNASError: If the environment does not describe its tasks, its space is too large to list, or no student of a
            task keeps its limits.
    """
    progress.begin("evaluating the training tasks")
    examples = []
    for done, name in enumerate(names):
        progress.advance(done, len(names))
        for seed in seeds:
            env.reset(seed=seed, options={"task": name})
            task, indices = env_attribute(env, "task_features"), env_attribute(env, "valid_action_indices")
            if task is None or indices is None:
                raise KDNASError(
                    "the environment has no task_features, or its space is too large to list; train on kdnas/Tasks-v0"
                )
            actions = Grid(action_counts(env)).actions(indices)
            rewards, usable = np.empty(len(actions)), np.empty(len(actions), dtype=np.bool_)
            for place, action in enumerate(actions):
                _, reward, _, _, info = env.step(action)
                rewards[place] = float(reward)
                usable[place] = is_usable(info)
            if not usable.any():
                raise KDNASError(f"no student of task {name!r} keeps its limits; leave the task out")
            scale = Scale.of(rewards, usable)
            examples.append(
                TaskExamples(
                    np.array(task, dtype=np.float32),
                    actions,
                    scale.standardise(rewards, usable).astype(np.float32),
                    scale.deviation,
                )
            )
    return examples
