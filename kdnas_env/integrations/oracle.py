"""Evaluations of a task of a race, one student at a time; the common basis of all integrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.truth import Truth
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.core.grid_space import Action, GridSpace
from kdnas_env.core.reward import RewardComponents
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError

FAILED = "failed"
"""Name of the constraint that is violated if a student cannot be built or its evaluation failed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of a task for one student.

    Attributes:
        evaluation: The evaluation.
        reward: The reward, as in the environment.
        constraints: Relative violation of each limit, by name; 0 or less if it is kept, 0 if its quantity is unknown.
            ``failed`` is 1 for a student that cannot be built or whose evaluation failed, else 0.
    """

    evaluation: Evaluation
    reward: RewardComponents
    constraints: Mapping[str, float]


class TaskOracle:
    """Evaluates students of a task in the same way as its environment.

    Args:
        task: The task, or its specification as text, such as ``rotten-tomatoes:speedup=8``.
        seed: Seed of ``reset``; if the task samples the table's seeds, it determines the seed that is drawn for each
            student.

    Attributes:
        task: The task.

    Raises:
        KDNASError: If the table is unknown, or lacks what the task requires.
    """

    def __init__(self, task: Task | str, seed: int = 0) -> None:
        self.task = Task.parse(task) if isinstance(task, str) else task
        self._env = cast(KDNASEnv, self.task.make_env(Budget(1)).unwrapped)
        self.reseed(seed)

    @property
    def space(self) -> GridSpace[Any]:
        """The space of the task."""
        return self._env.search_space

    @property
    def fidelity(self) -> Fidelity:
        """Number of epochs of the evaluations, and the drawn seed."""
        return self._env.fidelity

    @cached_property
    def truth(self) -> Truth:
        """True values of the task: the optimum, and the reward of each student without noise."""
        return Truth.of(self.task)

    @property
    def optimum(self) -> Action:
        """The action of the student with the highest true reward that keeps the limits, int64 ``(dims,)``."""
        return self.space.from_index(int(self.truth.index[self.truth.reward.argmax()]))

    @property
    def optimal_reward(self) -> float:
        """The true reward of the optimum: by the mean over the table's seeds, after the last epoch."""
        return self.truth.best

    def true_reward(self, action: Action) -> float:
        """Return a student's reward without noise; the floor if it fails or breaks a limit."""
        return float(self.truth.rewards_of(self.space.index(action)))

    def reseed(self, seed: int) -> None:
        """Draw the table's seeds again, as a reset of the environment does."""
        self._env.reset(seed=seed)

    def ask(self, action: npt.ArrayLike, epochs: int | None = None) -> Verdict:
        """Return the result for the student of an action.

        Args:
            action: Index into each dimension's choices, integers of shape ``(dims,)``.
            epochs: Number of epochs; None for the task's.

        Raises:
            KDNASError: If the action is not in the space, or the task has fewer epochs.
        """
        fidelity = self.fidelity if epochs is None else Fidelity(epochs, seed=self.fidelity.seed)
        (evaluation,) = self._env.evaluate([self.space.decode(action)], fidelity)
        reward = self._env.reward_function(evaluation)
        margins = self._env.limits.margins(evaluation, reward.quality if evaluation.ok else None)
        if evaluation.status is Status.INVALID:
            margins = {}
        failed = float(evaluation.status is not Status.INFEASIBLE and (not evaluation.ok or evaluation.latency is None))
        constraints = {FAILED: failed, **{name: margins.get(name, 0.0) for name in self._env.limits.names}}
        return Verdict(evaluation, reward, constraints)


def action_of(values: Mapping[str, Any], offered: Mapping[str, Sequence[Any]]) -> Action:
    """Return the action for a student given by values of another library, int64 ``(dims,)``.

    Args:
        values: The values, by name.
        offered: The allowed values, by name, in the order of dimensions and choices.

    Raises:
        KDNASError: If a value is missing or not allowed.
    """
    places = []
    for name, known in offered.items():
        if name not in values or values[name] not in known:
            raise KDNASError(f"{name} is {values.get(name)!r}; expected one of {[*known]}")
        places.append(known.index(values[name]))
    return np.array(places, dtype=np.int64)


def values_of(action: Action, offered: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the values of another library for the student of an action; see :func:`action_of`."""
    return {name: known[place] for (name, known), place in zip(offered.items(), action.tolist(), strict=True)}
