"""Experience: the rewards of all candidates on many tasks, from which rewards on a new task are predicted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from kdnas_env.agents.environment import action_counts
from kdnas_env.agents.transfer.examples import examples_of
from kdnas_env.agents.transfer.learnt_file import read_learnt, write_learnt
from kdnas_env.envs.task_features import Features
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.progress import Progress

SHIPPED = Path(__file__).parent / "data" / "experience.safetensors"
"""The experience of the package: the training tasks of ``kdnas/Tasks-v0``."""

BANDWIDTHS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Candidate bandwidths of the kernel: distances between the features of tasks within which tasks are similar."""

_KIND = "experience"


@dataclass(frozen=True, eq=False)
class Experience:
    """Rewards of the same candidates on several tasks.

    Attributes:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        actions: The candidates, int64 of shape ``(n, dims)``.
        tasks: Descriptions of the tasks, float32 of shape ``(tasks, features)``
            (:mod:`kdnas_env.envs.task_features`).
        targets: Rewards, standardised per task to mean 0 and deviation 1, float32 of shape ``(tasks, n)``; failures and
            candidates that break a limit have the lowest usable reward (:class:`kdnas_env.agents.predicting.Scale`).
        scales: Reward difference of one unit of the targets on each task, float32 of shape ``(tasks,)``.
        bandwidth: Distance between descriptions within which tasks are similar.
    """

    nvec: Ints
    actions: Ints
    tasks: Features
    targets: Features
    scales: Features
    bandwidth: float

    @classmethod
    def gather(cls, env: gym.Env[Any, Any], names: Sequence[str], seed: int, progress: Progress) -> Experience:
        """Evaluate every valid candidate of some tasks.

        Args:
            env: ``kdnas/Tasks-v0``, with a budget for all candidates of its space.
            names: Names of the tasks.
            seed: Seed of the episodes.
            progress: Receives the number of finished tasks.

        Raises:
            KDNASError: If the tasks have different valid candidates, or a task has no student that keeps its limits.
        """
        examples = examples_of(env, names, (seed,), progress)
        actions = examples[0].actions
        if any(not np.array_equal(example.actions, actions) for example in examples):
            raise KDNASError("the tasks have different valid candidates; name tasks of one space")
        tasks = np.stack([example.task for example in examples])
        targets = np.stack([example.targets for example in examples])
        scales = np.array([example.scale for example in examples], dtype=np.float32)
        errors = [_held_out_error(tasks, targets, bandwidth) for bandwidth in BANDWIDTHS]
        return cls(action_counts(env), actions, tasks, targets, scales, BANDWIDTHS[int(np.argmin(errors))])

    @classmethod
    def blank(cls, nvec: Ints, features: int) -> Experience:
        """Return experience of one candidate on one task, all zeros, for uses where only the shapes matter.

        Args:
            nvec: Choices per dimension, int64 of shape ``(dims,)``.
            features: Length of the description of a task.
        """
        action, task = np.zeros((1, len(nvec)), dtype=np.int64), np.zeros((1, features), dtype=np.float32)
        target = np.zeros((1, 1), dtype=np.float32)
        return cls(nvec, action, task, target, scales=target[0], bandwidth=1.0)

    def save(self, path: Path) -> None:
        """Write the experience to a file; the targets are stored in half precision.

        Raises:
            RunError: If the file cannot be written.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "nvec": self.nvec,
            "actions": self.actions.astype(np.int16),
            "tasks": self.tasks,
            "targets": self.targets.astype(np.float16),
            "scales": self.scales,
        }
        write_learnt(path, _KIND, self.bandwidth, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Experience:
        """Read experience written by :meth:`save`.

        Raises:
            RunError: If the file cannot be read, or has other content.
        """
        with read_learnt(path, _KIND) as (bandwidth, arrays):
            experience = cls(
                arrays["nvec"].astype(np.int64),
                arrays["actions"].astype(np.int64),
                arrays["tasks"].astype(np.float32),
                arrays["targets"].astype(np.float32),
                arrays["scales"].astype(np.float32),
                float(bandwidth),
            )
            if experience.targets.shape != (len(experience.tasks), len(experience.actions)):
                raise ValueError("its parts disagree in shape")
        return experience

    @property
    def mean_scale(self) -> float:
        """Reward difference of one unit of the targets, mean of the tasks."""
        return float(self.scales.mean())

    def expected(self, task: Features) -> Floats:
        """Return the expected targets of all candidates on a new task, float64 of shape ``(n,)``.

        This is the Nadaraya-Watson regression of targets on the descriptions of tasks, with a Gaussian kernel.

        Args:
            task: Description of the task, float32 of shape ``(features,)``.
        """
        expected: Floats = _similarity(self.tasks, task, self.bandwidth) @ self.targets.astype(np.float64)
        return expected

    def held_out_error(self) -> float:
        """Return the mean squared error of the expected targets of each task, predicted from the other tasks."""
        return _held_out_error(self.tasks, self.targets, self.bandwidth)


def _similarity(tasks: Features, task: Features, bandwidth: float) -> Floats:
    """Return weights of tasks that sum to 1, float64 of shape ``(tasks,)``."""
    squares = np.square(tasks.astype(np.float64) - task).sum(axis=1)
    # Relative to the nearest task, because all weights would be rounded to 0 if every task is far away.
    weights: Floats = np.exp(-0.5 * (squares - squares.min()) / bandwidth**2)
    weights /= weights.sum()
    return weights


def _held_out_error(tasks: Features, targets: Features, bandwidth: float) -> float:
    if len(tasks) < 2:
        return 0.0
    errors = []
    for place, own in enumerate(targets):
        others = np.arange(len(tasks)) != place
        expected = _similarity(tasks[others], tasks[place], bandwidth) @ targets[others]
        errors.append(float(np.square(expected - own).mean()))
    return float(np.mean(errors))
