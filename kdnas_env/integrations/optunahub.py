"""A task of a race as an OptunaHub benchmark; needs the extra ``optunahub``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optunahub
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.study import StudyDirection

from kdnas_env.core.grid_space import Action
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.integrations.oracle import TaskOracle, Verdict, action_of, values_of
from kdnas_env.tables.storage import table_names

DIRECTIONS = {
    "reward": StudyDirection.MAXIMIZE,
    "loss": StudyDirection.MINIMIZE,
    "latency_ratio": StudyDirection.MINIMIZE,
}
"""Objectives by name, with their directions; the names are those of ``RewardComponents``."""

INDEX = "_index"
"""Suffix of parameters that hold the index of a number among the choices of a dimension."""


class Problem(optunahub.benchmarks.BaseProblem):
    """A task of a race, for Optuna studies.

    A dimension with numeric choices is an integer parameter ``<dimension>_index``, the index of the number among the
    ascending choices; other dimensions are categorical. The constraints are those of
    :class:`~kdnas_env.integrations.oracle.Verdict`; violated ones are positive.

    Args:
        task: A task, such as ``rotten-tomatoes`` or ``imdb:speedup=8,seed=mean``.
        seed: If the task samples the table's seeds, it determines the seed that is drawn for each student; the
            environment is reset with it.
        metric_names: Names of the objectives, from ``DIRECTIONS``.

    Raises:
        KDNASError: If the task or an objective is unknown.
    """

    available_metric_names: Sequence[str] = tuple(DIRECTIONS)
    available_table_names: Sequence[str] = tuple(table_names())

    def __init__(
        self, task: Task | str = "rotten-tomatoes", *, seed: int = 0, metric_names: Sequence[str] = ("reward",)
    ) -> None:
        unknown = [name for name in metric_names if name not in DIRECTIONS]
        if unknown or not metric_names:
            raise KDNASError(f"metric_names is {[*metric_names]}; expected some of {[*DIRECTIONS]}")
        self._oracle = TaskOracle(task, seed)
        self._metric_names = tuple(metric_names)
        self._distributions: dict[str, BaseDistribution] = {}
        self._offered: dict[str, Sequence[Any]] = {}
        space = self._oracle.space
        for (name, choices), is_ordered in zip(space.choices.items(), space.ordered, strict=True):
            if is_ordered:
                self._distributions[name + INDEX] = IntDistribution(0, len(choices) - 1)
                self._offered[name + INDEX] = range(len(choices))
            else:
                self._distributions[name] = CategoricalDistribution(choices)
                self._offered[name] = choices

    @property
    def search_space(self) -> dict[str, BaseDistribution]:
        """A distribution for each dimension, in the order of actions."""
        return self._distributions.copy()

    @property
    def directions(self) -> list[StudyDirection]:
        """Directions of the objectives."""
        return [DIRECTIONS[name] for name in self._metric_names]

    @property
    def metric_names(self) -> list[str]:
        """Names of the objectives."""
        return [*self._metric_names]

    @property
    def optimal_params(self) -> dict[str, Any]:
        """Parameters of the student with the highest true reward that keeps the limits."""
        return self.params_of(self._oracle.optimum)

    @property
    def optimal_reward(self) -> float:
        """True reward of the optimum: by the mean over the table's seeds, after the last epoch."""
        return self._oracle.optimal_reward

    def true_reward(self, params: Mapping[str, Any]) -> float:
        """Return a student's reward without noise; the floor if it fails or breaks a limit."""
        return self._oracle.true_reward(self.action(params))

    def evaluate(self, params: dict[str, Any]) -> float | list[float]:
        """Return the objective, or a list if there are several."""
        components = self._ask(params).reward
        values = [float(getattr(components, name)) for name in self._metric_names]
        return values[0] if len(values) == 1 else values

    def evaluate_constraints(self, params: dict[str, Any]) -> dict[str, float]:
        """Return the constraints by name; violated ones are positive."""
        return {**self._ask(params).constraints}

    def reseed(self, seed: int = 0) -> None:
        """Draw the table's seeds again, if the task samples them."""
        self._oracle.reseed(seed)

    def action(self, params: Mapping[str, Any]) -> Action:
        """Return the action for parameters, int64 ``(dims,)``.

        Raises:
            KDNASError: If a parameter is missing, or is not one of its choices.
        """
        return action_of(params, self._offered)

    def params_of(self, action: Action) -> dict[str, Any]:
        """Return the parameters for an action."""
        return values_of(action, self._offered)

    def _ask(self, params: Mapping[str, Any]) -> Verdict:
        return self._oracle.ask(self.action(params))
