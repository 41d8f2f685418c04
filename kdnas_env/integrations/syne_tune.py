"""A task of a race as a Syne Tune black box; needs the extra ``syne-tune``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from syne_tune.blackbox_repository.blackbox import Blackbox
from syne_tune.config_space import choice, ordinal, randint

from kdnas_env.core.grid_space import Action
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import KDNASError
from kdnas_env.integrations.oracle import TaskOracle, action_of, values_of

EPOCHS = "epochs"
"""Name of the fidelity."""

REWARD, ELAPSED = "metric_reward", "metric_elapsed_time"
OBJECTIVES = (REWARD, "metric_loss", "metric_latency_ratio", "metric_cost", ELAPSED)
"""Reward, to be maximised; unexplained variance; latency ratio to the teacher; relative violation of limits; simulated
seconds since the start of the evaluation."""


class TaskBlackbox(Blackbox):  # type: ignore[misc]  # Syne Tune has no types
    """A task of a race, for Syne Tune's schedulers and its simulator.

    A configuration has a value for each dimension: ordinal if the choices are numbers, else categorical. The fidelity
    is the epoch, from 1 to that of the task. Students that cannot be built or fail have the lowest reward.

    Args:
        task: A task, such as ``rotten-tomatoes`` or ``imdb:speedup=8,seed=mean``.
        seed: Default seed of queries. If the task samples the table's seeds, it determines the seed that is drawn for
            each student; the environment is reset with it.

    Raises:
        KDNASError: If the task is unknown, or has no epoch.
    """

    def __init__(self, task: Task | str = "rotten-tomatoes", *, seed: int = 0) -> None:
        self._oracle = TaskOracle(task, seed)
        self._seed = self._asked = seed
        self._epochs = self._oracle.fidelity.epochs
        if not self._epochs:
            raise KDNASError(f"task {self._oracle.task} has 0 epochs; expected 1 or more, which are the fidelities")
        space = self._oracle.space
        dimensions = zip(space.choices.items(), space.ordered, strict=True)
        super().__init__(
            {name: _domain(choices, is_ordered=is_ordered) for (name, choices), is_ordered in dimensions},
            {EPOCHS: randint(1, self._epochs)},
            [*OBJECTIVES],
        )

    @property
    def fidelity_values(self) -> npt.NDArray[np.int64]:
        """Epochs, int64 ``(epochs,)``."""
        return np.arange(1, self._epochs + 1)

    @property
    def optimum(self) -> dict[str, Any]:
        """Configuration of the student with the highest true reward that keeps the limits."""
        return self.configuration(self._oracle.optimum)

    @property
    def optimal_reward(self) -> float:
        """True reward of the optimum: by the mean over the table's seeds, after the last epoch."""
        return self._oracle.optimal_reward

    def true_reward(self, configuration: Mapping[str, Any]) -> float:
        """Return a student's reward without noise; the floor if it fails or breaks a limit."""
        return self._oracle.true_reward(self.action(configuration))

    def action(self, configuration: Mapping[str, Any]) -> Action:
        """Return the action for a configuration, int64 ``(dims,)``.

        Raises:
            KDNASError: If a value is missing, or is not one of its choices.
        """
        return action_of(configuration, self._oracle.space.choices)

    def configuration(self, action: Action) -> dict[str, Any]:
        """Return the configuration for an action."""
        return values_of(action, self._oracle.space.choices)

    def all_configurations(self) -> list[dict[str, Any]]:
        """Return the configurations of all students that can be built.

        Raises:
            KDNASError: If the space is too large to list.
        """
        space = self._oracle.space
        return [self.configuration(space.from_index(index)) for index in space.valid_indices.tolist()]

    def hyperparameter_objectives_values(self, predict_curves: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return configurations and objectives of all students, for one seed; see the base class for their shapes.

        Raises:
            KDNASError: If the space is too large to list.
        """
        configurations = pd.DataFrame(self.all_configurations())
        curves = np.stack([self._curve(configuration) for configuration in configurations.to_dict("records")])
        if predict_curves:
            return configurations, pd.DataFrame(curves.reshape(len(curves), -1))
        by_epoch = [configurations.assign(**{EPOCHS: epoch}) for epoch in self.fidelity_values.tolist()]
        objectives = curves.transpose(1, 0, 2).reshape(-1, len(OBJECTIVES))
        return pd.concat(by_epoch, ignore_index=True), pd.DataFrame(objectives, columns=[*OBJECTIVES])

    def _objective_function(
        self, configuration: dict[str, Any], fidelity: dict[str, Any] | None = None, seed: int | None = None
    ) -> dict[str, float] | npt.NDArray[np.float64]:
        wanted = self._seed if seed is None else int(seed)
        if wanted != self._asked:
            self._oracle.reseed(wanted)
            self._asked = wanted
        if fidelity is None:
            return self._curve(configuration)
        epoch = fidelity[EPOCHS]
        if epoch not in self.fidelity_values:
            raise KDNASError(f"{EPOCHS} is {epoch!r}; expected 1 to {self._epochs}")
        return dict(zip(OBJECTIVES, self._objectives(self.action(configuration), int(epoch)), strict=True))

    def _curve(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """Return the objectives by epoch, float64 ``(epochs, objectives)``."""
        action = self.action(configuration)
        return np.array([self._objectives(action, epoch) for epoch in self.fidelity_values.tolist()])

    def _objectives(self, action: Action, epochs: int) -> tuple[float, ...]:
        """Return ``OBJECTIVES`` for the student of an action after a number of epochs."""
        verdict = self._oracle.ask(action, epochs)
        reward = verdict.reward
        return reward.reward, reward.loss, reward.latency_ratio, reward.cost, verdict.evaluation.wall_seconds


def _domain(choices: tuple[Any, ...], *, is_ordered: bool) -> Any:
    """Return the domain of a dimension; the value itself if there is only one choice."""
    if len(choices) == 1:
        return choices[0]
    return ordinal([*choices], kind="nn") if is_ordered else choice([*choices])
