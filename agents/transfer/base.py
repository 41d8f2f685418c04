"""Base classes of agents that search with experience from other tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import gymnasium as gym
import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent
from kdnas_env.agents.base import ConfigT
from kdnas_env.agents.environment import Environment
from kdnas_env.agents.transfer.experience import SHIPPED, Experience
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.errors import KDNASError
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.support.progress import Progress


class Stored(Protocol):
    """A learnt object that fits only spaces with certain numbers of choices."""

    @property
    def nvec(self) -> Iterable[Any]:
        """Choices per dimension."""


StoredT = TypeVar("StoredT", bound=Stored)


class TaskAgent(AskTellAgent[ConfigT]):
    """An agent that reads the description of the task, if the environment has one (``task_features``, as tables do)."""

    setting: ClassVar[str]
    """Name of the setting that names the file written by training across tasks."""

    @classmethod
    @abstractmethod
    def train_across(
        cls, env: gym.Env[Any, Any], names: Sequence[str], path: Path, *, steps: int, seed: int, progress: Progress
    ) -> float:
        """Learn from tasks, or resume an interrupted training.

        Args:
            env: ``kdnas/Tasks-v0``, with a budget for all candidates of its space.
            names: Names of the tasks.
            path: File to write.
            steps: Steps of training, if the agent trains by steps.
            seed: Seed of all randomness.
            progress: Receives the progress.

        Returns:
            The loss at the end.

        Raises:
            KDNASError: If a task has no student that keeps its limits.
        """

    def start(
        self, env: Environment, *, budget: int | None = None, round_size: int | None = None, seed: int = 0
    ) -> None:
        """Start a new search of an environment, and read its description of the task."""
        super().start(env, budget=budget, round_size=round_size, seed=seed)
        described = env_attribute(env, "task_features")
        if described is not None:
            self._task = np.asarray(described, dtype=np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with the description of the task."""
        return {**super().state_dict(), "task": self._task}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self._task = np.asarray(state["task"], dtype=np.float32)

    def _start(self) -> None:
        super()._start()
        self._task = np.zeros(len(FEATURES), dtype=np.float32)

    def _if_fits_space(self, stored: StoredT | None, file: str | None) -> StoredT | None:
        """Return a learnt object if it fits the space, else None.

        Args:
            stored: The learnt object, or None.
            file: The file that the user named; None for that of the package.

        Raises:
            KDNASError: If the user named a file whose object fits other numbers of choices.
        """
        own = self.grid.nvec.tolist()
        if stored is None or [*map(int, stored.nvec)] == own:
            return stored
        if file is not None:
            raise KDNASError(
                f"{self.setting} {file!r} was trained on spaces of {[*map(int, stored.nvec)]} choices, but this space "
                f"has {own}; train another one with kdnas bench train"
            )
        return None


class ExperiencedAgent(TaskAgent[Any]):
    """An agent that uses :class:`kdnas_env.agents.transfer.experience.Experience`, if there is any for the space."""

    setting = "experience"

    @classmethod
    def train_across(
        cls, env: gym.Env[Any, Any], names: Sequence[str], path: Path, *, steps: int, seed: int, progress: Progress
    ) -> float:
        """Evaluate every candidate of the tasks, and write the rewards to a file; ``steps`` has no effect.

        Returns:
            The mean squared error of the expected targets of each task, predicted from the other tasks.
        """
        experience = Experience.gather(env, names, seed, progress)
        experience.save(path)
        return experience.held_out_error()

    def _start(self) -> None:
        super()._start()
        self._experience = self._if_fits_space(self._stored_experience, self.config.experience)

    @cached_property
    def _stored_experience(self) -> Experience | None:
        """The experience in the configured file, or in the package; read once. None if the package has none.

        Raises:
            RunError: If the file does not contain experience.
            KDNASError: If its tasks are described by another number of features.
        """
        path = self.config.experience
        if path is None and not SHIPPED.exists():
            return None
        experience = Experience.load(SHIPPED if path is None else path)
        if experience.tasks.shape[1] != len(FEATURES):
            raise KDNASError(
                f"experience {path!r} describes tasks by {experience.tasks.shape[1]} features, but tasks now have "
                f"{len(FEATURES)}; gather it again with kdnas bench train"
            )
        return experience
