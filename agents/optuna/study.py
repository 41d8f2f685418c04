"""An Optuna study whose trials are points of a grid, in memory or in a storage that several processes share."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from kdnas_env.agents.optuna import DISMISSED, STATUS, WORKER, Identity, OptunaConfig
from kdnas_env.agents.optuna.samplers import RecentTrials, StudyView, TrialSampler, make_pruner, sampler_maker
from kdnas_env.agents.optuna.storage import (
    Heartbeat,
    check_content,
    check_searched,
    open_storage,
    quiet,
    trial_from_dict,
    trial_to_dict,
)
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.errors import RunError
from kdnas_env.support.arrays import Ints

Ending = Literal["COMPLETE", "PRUNED", "FAIL"]
"""Final state of a trial, by its name in ``optuna.trial.TrialState``."""

_NAME = "kdnas"
_GENERATIONS = 4
"""Minimum number of generations that genetic samplers see; they use the current one and the one before."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: Final state of the trial.
        values: Objective values, if any.
        attributes: User attributes.
        constraints: Violation of each constraint; above 0 if it is broken.
    """

    state: Ending
    values: Sequence[float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)


class GridStudy:
    """An Optuna study over the points of a grid, with one parameter per dimension.

    Attributes:
        study: The study.
        worker: Name of this process in a shared study; None if the study is in memory.
    """

    def __init__(
        self,
        grid: Grid,
        names: Sequence[str],
        config: OptunaConfig,
        study: Study,
        sampler: TrialSampler,
        worker: str | None,
    ) -> None:
        self.study = study
        self.worker = worker
        self._heartbeat = None if worker is None else Heartbeat(study, worker, config.stale_after)
        self._config = config
        self._grid = grid
        self._sampler = sampler
        self._recent = RecentTrials(max(config.replay_size, _GENERATIONS * config.population), study.directions)
        self._distributions = {
            name: _distribution(count, config.choices == "ordinal")
            for name, count in zip(names, grid.nvec.tolist(), strict=True)
        }
        self._trial_count = 0  # number of trials at the last read
        self._running: list[int] = []  # numbers of the trials that were unfinished at the last read
        self._completed: dict[tuple[int, ...], FrozenTrial] = {}  # the first completed trial of each point
        self._evaluated: list[int] = []  # flat indices that :meth:`read_others` has not returned yet

    @classmethod
    @quiet()
    def open(cls, grid: Grid, config: OptunaConfig, identity: Identity, seed_of: Callable[[int], int]) -> GridStudy:
        """Open or create the study of a search.

        Args:
            grid: The grid.
            config: Hyper-parameters of the agent.
            identity: Properties of the study that are already known.
            seed_of: Maps a trial's number to a seed in ``[0, 2**32)``.

        Raises:
            RunError: If the storage cannot be opened, or the study is missing or belongs to another search.
            KDNASError: If the sampler cannot search the grid.
            DependencyError: If a package is not installed.
        """
        names = identity.names
        if names is None or len({*names}) != len(grid.nvec):
            names = tuple(f"dim_{axis}" for axis in range(len(grid.nvec)))
        space = dict(zip(names, grid.nvec.tolist(), strict=True))
        sampler = TrialSampler(sampler_maker(config.sampler, config.sampler_options, names, grid, seed_of))
        storage = open_storage(config.storage)
        in_memory = config.storage is None
        # The pruner hyperband assigns trials to brackets by the study's name, so the name must not change.
        name = _NAME if in_memory else identity.study_name or config.study_name or f"{_NAME}-{uuid.uuid4()}"
        pruner = make_pruner(config.pruner, config.pruner_options)
        try:
            # Loaded first, because creating a study writes to a journal even if this search may not join it.
            study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        except KeyError:
            if identity.study_name and not in_memory:
                raise RunError(
                    f"the saved search has the study {name!r}, which is not in the storage {config.storage!r}; use the "
                    "storage of that search, or start a new search"
                ) from None
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                sampler=sampler,
                pruner=pruner,
                directions=config.directions,
                load_if_exists=True,
            )
        check_searched(study, config, space)
        worker = None if in_memory else identity.worker or config.worker or str(uuid.uuid4())
        grid_study = cls(grid, names, config, study, sampler, worker)
        if identity.content is not None:
            grid_study.join(identity.content)
        return grid_study

    @quiet()
    def join(self, content: Any) -> None:
        """Check that the study has the same content as a search; see :func:`check_content`."""
        check_content(self.study, content)

    @property
    def shared(self) -> bool:
        """Whether other processes can work on the study."""
        return self.worker is not None

    def action(self, parameters: Mapping[str, int]) -> Ints:
        """Return the action of a trial's parameters, int64 of shape ``(dims,)``."""
        return np.array([parameters[name] for name in self._distributions], dtype=np.int64)

    def number(self, parameters: Mapping[str, int]) -> int:
        """Return the flat index of a trial's parameters."""
        return self._grid.numbers(self.action(parameters)[None])[0]

    @quiet()
    def read_others(self, exclude: int | None = None) -> tuple[list[int], set[int]]:
        """Read the trials of all processes that share the study, and end those of dead processes.

        Args:
            exclude: Number of a running trial to ignore.

        Returns:
            Flat indices of the points evaluated since the last call, and of the points with running trials.
        """
        for trial in self._heartbeat.stale(self._read_trials()) if self._heartbeat is not None else ():
            self._end(trial, Outcome("FAIL", attributes={DISMISSED: "abandoned"}))
        running = self._read_trials()
        evaluated, self._evaluated = self._evaluated, []
        return evaluated, {
            self.number(trial.params) for trial in running if trial.number != exclude and self._occupies(trial)
        }

    def own(self, exclude: Collection[int]) -> list[FrozenTrial]:
        """Return the trials of this process in a shared study that were not dismissed, oldest first.

        Args:
            exclude: Flat indices of points whose trials are omitted.
        """
        return [
            trial
            for trial in (self.study.get_trials(deepcopy=False) if self.shared else ())
            if trial.user_attrs.get(WORKER) == self.worker
            and DISMISSED not in trial.user_attrs
            and not (self._occupies(trial) and self.number(trial.params) in exclude)
        ]

    @quiet()
    def begin(self) -> Trial:
        """Begin a trial without a point; :meth:`decide` sets the point."""
        self._sampler.recent = self._recent_trials()
        if self._heartbeat is not None:
            self._heartbeat.trial_begins()
        trial = self.study.ask()
        if self.worker is not None:
            trial.set_user_attr(WORKER, self.worker)
        return trial

    @quiet()
    def reopen(self, number: int) -> Trial | None:
        """Continue the trial with a number; return None if it has ended."""
        self._sampler.recent = self._recent_trials()
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.state.is_finished():
            return None
        if self._heartbeat is not None:
            self._heartbeat.trial_begins()
        return Trial(self.study, trial._trial_id)

    @quiet()
    def decide(self, trial: Trial, action: Ints | None, taken: Seen) -> Ints:
        """Set the point of a trial, except for parameters that are already set, and return its action.

        Args:
            trial: The trial.
            action: The point, int64 of shape ``(dims,)``; None to sample it.
            taken: Flat indices of the points that are evaluated or pending.
        """
        self._sampler.taken = taken
        self._sampler.fixed = None if action is None else self._parameters(action)
        try:
            for name, distribution in self._distributions.items():
                if isinstance(distribution, IntDistribution):
                    trial.suggest_int(name, distribution.low, distribution.high)
                elif isinstance(distribution, CategoricalDistribution):
                    trial.suggest_categorical(name, distribution.choices)
        finally:
            self._sampler.fixed = None
        return self.action(trial.params)

    @quiet()
    def report(self, trial: Trial, epoch: int, loss: float, *, last: bool) -> bool:
        """Report the loss of a running trial after an epoch.

        Returns:
            Whether the pruner stops the trial; never after the last epoch.
        """
        if epoch not in self.reported(trial):
            trial.report(1.0 - loss, epoch)
        if last:
            return False
        return self.study.pruner.prune(StudyView(self.study, self._recent_trials()), trial._get_latest_trial())

    def reported(self, trial: Trial) -> Collection[int]:
        """Return the reported epochs of a trial."""
        return self.study._storage.get_trial(trial._trial_id).intermediate_values.keys()

    def outcome(self, reward: float, usable: bool, info: Mapping[str, Any]) -> Outcome:
        """Return the outcome of an evaluation.

        Args:
            reward: The reward.
            usable: Whether the evaluation succeeded and broke no limit.
            info: The environment's info.
        """
        attributes: dict[str, Any] = {STATUS: str(info.get("status", "ok"))}
        if math.isfinite(reward):
            attributes["reward"] = reward
        if "config" in info:
            attributes["config"] = str(info["config"])
        constraints = info.get("costs", {}) if self._config.limits == "constraints" else {}
        return Outcome(*_state_and_values(self._config, reward, usable, info), attributes, constraints)

    @quiet()
    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """End a trial that was begun or reopened by this object, unless another process has ended it."""
        self._end(trial, outcome)
        if self._heartbeat is not None:
            self._heartbeat.trial_ends()

    def dismiss(self, trial: Trial, reason: str, *, with_value: bool) -> None:
        """End a trial without an evaluation.

        Args:
            trial: The trial.
            reason: Why its point is not evaluated.
            with_value: Whether to end it with the value of an earlier trial of the point, if there is one.
        """
        known = None
        if with_value:
            self._read_trials()
            known = self._completed.get(self._point(trial.params))
        outcome = Outcome("FAIL", attributes={DISMISSED: reason})
        if known is not None:
            outcome = replace(outcome, state="COMPLETE", values=known.values, constraints=known.constraints)
        self.finish(trial, outcome)

    @quiet()
    def add(self, action: Ints, outcome: Outcome) -> None:
        """Add an evaluation without a trial."""
        owner = {} if self.worker is None else {WORKER: self.worker}
        trial = create_trial(
            state=TrialState[outcome.state],
            values=outcome.values,
            params=self._parameters(action),
            distributions=self._distributions,
            user_attrs={**outcome.attributes, **owner},
            constraints={**outcome.constraints},
        )
        self.study.add_trial(trial)

    def to_state(self) -> dict[str, Any]:
        """Return the state as JSON values: the whole study if it is in memory, otherwise its name."""
        state: dict[str, Any] = {
            "name": self.study.study_name,
            "names": [*self._distributions],
            "worker": self.worker,
        }
        if not self.shared:
            state["trials"] = [trial_to_dict(trial) for trial in self.study.get_trials()]
            state["attributes"] = {**self.study._storage.get_study_system_attrs(self.study._study_id)}
        return state

    @quiet()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the trials of :meth:`to_state` in a new study in memory; a stored study already has them."""
        if self.shared:
            return
        storage, study = self.study._storage, self.study._study_id
        for name, value in state["attributes"].items():
            storage.set_study_system_attr(study, name, value)
        for data in state["trials"]:
            storage.create_new_trial(study, trial_from_dict(data, self._distributions))

    def _end(self, trial: Trial | FrozenTrial, outcome: Outcome) -> None:
        try:
            for name, value in outcome.attributes.items():
                self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
            for name, value in outcome.constraints.items():
                Trial(self.study, trial._trial_id).set_constraint(name, value)
        except UpdateFinishedTrialError:
            return
        self.study.tell(trial.number, outcome.values, TrialState[outcome.state], skip_if_finished=True)

    def _parameters(self, action: Ints) -> dict[str, int]:
        return dict(zip(self._distributions, action.tolist(), strict=True))

    def _point(self, parameters: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(parameters[name] for name in self._distributions)

    def _read_trials(self) -> list[FrozenTrial]:
        """Process the trials that ended since the last read, and return those that are running or waiting.

        Trials that had ended before are not processed again, so the time does not grow with their number.
        """
        trials = self.study.get_trials(deepcopy=False)
        changed = [trials[number] for number in (*self._running, *range(self._trial_count, len(trials)))]
        running = [trial for trial in changed if not trial.state.is_finished()]
        for trial in changed:
            if trial.state.is_finished():
                self._process(trial)
        self._trial_count, self._running = len(trials), [trial.number for trial in running]
        return running

    def _recent_trials(self) -> Callable[[], list[FrozenTrial]]:
        """Return a cached function that returns the recent trials and those that are running now."""
        running = self._read_trials()
        return cache(lambda: self._recent.with_running(running))

    def _process(self, trial: FrozenTrial) -> None:
        self._recent.add(trial)
        if trial.state is TrialState.COMPLETE and trial.params.keys() == self._distributions.keys():
            first = self._completed.setdefault(self._point(trial.params), trial)
            if trial.number < first.number:
                self._completed[self._point(trial.params)] = trial
        if self.shared and self._occupies(trial):
            self._evaluated.append(self.number(trial.params))

    def _occupies(self, trial: FrozenTrial) -> bool:
        """Return whether the point of a trial is evaluated or pending."""
        if trial.state is TrialState.WAITING or not self._distributions.keys() <= trial.params.keys():
            return False
        return trial.state is not TrialState.FAIL or STATUS in trial.user_attrs


def _distribution(count: int, ordinal: bool) -> BaseDistribution:
    return IntDistribution(0, count - 1) if ordinal else CategoricalDistribution(range(count))


def _state_and_values(
    config: OptunaConfig, reward: float, usable: bool, info: Mapping[str, Any]
) -> tuple[Ending, list[float] | None]:
    if usable:
        values = config.values_of(info) if config.objectives else [reward]
        if all(map(math.isfinite, values)):
            return "COMPLETE", values
    elif info.get("status") == "stopped" and not config.objectives:
        return "PRUNED", None
    # A broken limit is not a failure: the reward, or the constraints, measure the violation.
    elif info.get("cost", 0) > 0 and config.objectives and config.limits == "constraints":
        return "COMPLETE", config.values_of(info)
    elif config.failures == "reward" or (info.get("cost", 0) > 0 and not config.objectives):
        return ("COMPLETE", [reward]) if math.isfinite(reward) else ("FAIL", None)
    return "FAIL", None
