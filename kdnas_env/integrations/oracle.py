"""A task of a race, asked one student at a time: what all integrations answer with."""

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
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.task import Task
from kdnas_env.errors import KDNASError

FAILED = "failed"
"""Name of the constraint that a student breaks which cannot be built, or whose evaluation failed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a task says of a student.

    Attributes:
        evaluation: What was measured.
        reward: What it earns, as in the environment.
        constraints: By how much each limit is broken, relative to it, by name; 0 or less where it is kept, 0 where its
            quantity is not known. ``failed`` is 1 for a student that cannot be built or whose evaluation failed, else
            0.
    """

    evaluation: Evaluation
    reward: RewardComponents
    constraints: Mapping[str, float]


class TaskOracle:
    """Answers questions of a task with the evaluations and rewards of its environment.

    Args:
        task: The task, or its text, such as ``rotten-tomatoes:speedup=8``.
        seed: Seed of ``reset``: where the task samples the table's seeds, it draws one for every student.

    Attributes:
        task: The task.

    Raises:
        KDNASError: If there is no such table, or it has not what the task asks for.
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
        """Epochs of the evaluations, and the seed that was drawn."""
        return self._env.fidelity

    @cached_property
    def truth(self) -> Truth:
        """What is true of the task: the optimum, and the reward of every student without noise."""
        return Truth.of(self.task)

    @property
    def optimum(self) -> Action:
        """The action whose student has the highest true reward of those that keep the limits, int64 ``(dims,)``."""
        return self.space.from_index(int(self.truth.index[self.truth.reward.argmax()]))

    @property
    def optimal_reward(self) -> float:
        """The true reward of the optimum: by the mean over the table's seeds, after the last epoch."""
        return self.truth.best

    def true_reward(self, action: Action) -> float:
        """Return a student's reward without noise; the floor where it fails or breaks a limit."""
        return float(self.truth.rewards_of(self.space.index(action)))

    def reseed(self, seed: int) -> None:
        """Draw the seeds of the table anew, as a reset of the environment does."""
        self._env.reset(seed=seed)

    def ask(self, action: npt.ArrayLike, epochs: int | None = None) -> Verdict:
        """Return what the task says of the student of an action.

        Args:
            action: Index into each dimension's choices, integers of shape ``(dims,)``.
            epochs: Epochs of the evaluation; None: those of the task.

        Raises:
            KDNASError: If the action is none of the space, or there are fewer epochs.
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
    """Return the action of a student that another library names by values, int64 ``(dims,)``.

    Args:
        values: Its values, by name.
        offered: The values that the library is offered, by name, in the order of dimensions and choices.

    Raises:
        KDNASError: If a value is missing, or was not offered.
    """
    places = []
    for name, known in offered.items():
        if name not in values or values[name] not in known:
            raise KDNASError(f"{name} is {values.get(name)!r}; expected one of {[*known]}")
        places.append(known.index(values[name]))
    return np.array(places, dtype=np.int64)


def values_of(action: Action, offered: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the values by which another library names the student of an action; see :func:`action_of`."""
    return {name: known[place] for (name, known), place in zip(offered.items(), action.tolist(), strict=True)}
