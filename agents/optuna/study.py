"""A study of Optuna whose trials are points of a grid: in memory, or in a storage that other processes may share."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from kdnas_env.agents.optuna import DISMISSED, STATUS, WORKER, Identity, OptunaConfig
from kdnas_env.agents.optuna.samplers import Left, TrialSampler, make_pruner, quiet, sampler_maker
from kdnas_env.agents.optuna.storages import (
    RecentTrials,
    SignsOfLife,
    StudyOf,
    check_content,
    check_searched,
    open_storage,
)
from kdnas_env.core.grid import Grid, Ints, Seen
from kdnas_env.errors import RunError

_NAME = "kdnas"
_GENERATIONS = 4
"""Generations of evolving samplers that are shown to them at least; they look at the present one and the one before."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: Final state of the trial.
        values: Objective values, if any.
        attributes: User attributes.
        constraints: Violation of each constraint; 0 if it is satisfied.
    """

    state: TrialState
    values: Sequence[float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: OptunaConfig, reward: float, usable: bool, info: Mapping[str, Any]) -> Outcome:
        """Return how the trial of an evaluation ends.

        Args:
            config: Hyper-parameters of the agent.
            reward: The reward.
            usable: Whether the evaluation gave a student that keeps all limits.
            info: What the environment said.
        """
        attributes: dict[str, Any] = {STATUS: str(info.get("status", "ok"))}
        if math.isfinite(reward):
            attributes["reward"] = reward
        if "config" in info:
            attributes["config"] = str(info["config"])
        constraints = info.get("costs", {}) if config.limits == "constraints" else {}
        return cls(*_earned(config, reward, usable, info), attributes, constraints)


class GridStudy:
    """An Optuna study over the points of a grid, with one parameter per dimension.

    Attributes:
        study: The study.
        worker: Name of this process in a study that others may share; None: the study is in memory.
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
        self._signs = None if worker is None else SignsOfLife(study, worker, config.stale_after)
        self._grid = grid
        self._sampler = sampler
        self._recent = RecentTrials(max(config.replay_size, _GENERATIONS * config.population), study.directions)
        self._distributions = {
            name: _distribution(count, config.choices == "ordinal")
            for name, count in zip(names, grid.nvec.tolist(), strict=True)
        }
        self._seen = 0  # trials there were at the last look
        self._running: list[int] = []  # numbers of those that had not ended
        self._earned: dict[tuple[int, ...], FrozenTrial] = {}  # the first trial of those that have a value, by point
        self._evaluated: list[int] = []  # points that :meth:`others` has not returned yet

    @classmethod
    @quiet()
    def open(cls, grid: Grid, config: OptunaConfig, identity: Identity, seed_of: Callable[[int], int]) -> GridStudy:
        """Open or create the study of a search.

        Args:
            grid: The grid.
            config: Hyper-parameters of the agent.
            identity: What is known of the study.
            seed_of: Gives each trial's number a seed in ``[0, 2**32)``.

        Raises:
            RunError: If the storage cannot be opened, or the study searches something else or is gone.
            KDNASError: If the sampler cannot search the grid.
            DependencyError: If a package is missing.
        """
        names = identity.names
        if names is None or len({*names}) != len(grid.nvec):
            names = tuple(f"dim_{axis}" for axis in range(len(grid.nvec)))
        space = dict(zip(names, grid.nvec.tolist(), strict=True))
        sampler = TrialSampler(sampler_maker(config.sampler, config.sampler_options, space, seed_of))
        storage = open_storage(config.storage)
        in_memory = config.storage is None
        # Hyperband deals trials out to brackets by the name, which must not be another one each time.
        name = _NAME if in_memory else identity.study_name or config.study_name or f"{_NAME}-{uuid.uuid4()}"
        pruner = make_pruner(config.pruner, config.pruner_options)
        try:
            # Not made if it exists, which would write to a journal before it is known whether it may be joined.
            study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        except KeyError:
            if identity.study_name and not in_memory:
                raise RunError(
                    f"the saved search has the study {name!r}, which is not in the storage {config.storage!r}"
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
        book = cls(grid, names, config, study, sampler, worker)
        if identity.content is not None:
            book.join(identity.content)
        return book

    @quiet()
    def join(self, content: Any) -> None:
        """Join the study with a search of some content; see :func:`check_content`."""
        check_content(self.study, content)

    @property
    def shared(self) -> bool:
        """Whether other processes may work on the study."""
        return self.worker is not None

    def action(self, parameters: Mapping[str, int]) -> Ints:
        """Return the action that parameters stand for, int64 of shape ``(dims,)``."""
        return np.array([parameters[name] for name in self._distributions], dtype=np.int64)

    def number(self, parameters: Mapping[str, int]) -> int:
        """Return the number of the grid point that parameters stand for."""
        return self._grid.numbers(self.action(parameters)[None])[0]

    @quiet()
    def others(self, but: int | None = None) -> tuple[list[int], set[int]]:
        """Look at what processes that share the study do.

        Args:
            but: Number of a trial that is left out while it is running.

        Returns:
            Points that were evaluated since the last call, and points at which trials are running.
        """
        for trial in self._signs.stale(self._look()) if self._signs is not None else ():
            self._end(trial, Outcome(TrialState.FAIL, attributes={DISMISSED: "abandoned"}))
        running = self._look()
        evaluated, self._evaluated = self._evaluated, []
        return evaluated, {self.number(trial.params) for trial in running if trial.number != but and self._takes(trial)}

    def own(self, but: Collection[int]) -> list[FrozenTrial]:
        """Return the trials of this process in a shared study that were not dismissed, oldest first.

        Args:
            but: Numbers of points whose trials are left out.
        """
        return [
            trial
            for trial in (self.study.get_trials(deepcopy=False) if self.shared else ())
            if trial.user_attrs.get(WORKER) == self.worker
            and DISMISSED not in trial.user_attrs
            and not (self._takes(trial) and self.number(trial.params) in but)
        ]

    @quiet()
    def begin(self) -> Trial:
        """Begin a trial, whose point is not decided yet."""
        self._sampler.recent = self._lately()
        if self._signs is not None:
            self._signs.begin()
        trial = self.study.ask()
        if self.worker is not None:
            trial.set_user_attr(WORKER, self.worker)
        return trial

    @quiet()
    def reopen(self, number: int) -> Trial | None:
        """Go on with the trial of a number; None if it has ended."""
        self._sampler.recent = self._lately()
        trial = self.study.get_trials(deepcopy=False)[number]
        if trial.state.is_finished():
            return None
        if self._signs is not None:
            self._signs.begin()
        return Trial(self.study, trial._trial_id)

    @quiet()
    def decide(self, trial: Trial, action: Ints | None, taken: Seen) -> Ints:
        """Decide the point of a trial, as far as it is open, and return its action.

        Args:
            trial: The trial.
            action: What it shall be; None: what the sampler says.
            taken: Numbers of points that may not be proposed any more.
        """
        self._sampler.left = Left(self._grid, taken)
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
        """Report an epoch of a running trial; return whether the pruner wants it stopped, unless it is the last."""
        if epoch not in self.reported(trial):
            trial.report(1.0 - loss, epoch)
        if last:
            return False
        return self.study.pruner.prune(StudyOf(self.study, self._lately()), trial._get_latest_trial())

    def reported(self, trial: Trial) -> Collection[int]:
        """Return the epochs of a trial that were reported."""
        return self.study._storage.get_trial(trial._trial_id).intermediate_values.keys()

    @quiet()
    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """End a trial that was begun or reopened here, unless somebody else has ended it."""
        self._end(trial, outcome)
        if self._signs is not None:
            self._signs.end()

    def dismiss(self, trial: Trial, reason: str, *, with_value: bool) -> None:
        """End a trial whose point is not to be evaluated, with what the point earned if that is wanted and known."""
        known = None
        if with_value:
            self._look()
            known = self._earned.get(self._point(trial.params))
        outcome = Outcome(TrialState.FAIL, attributes={DISMISSED: reason})
        if known is not None:
            outcome = replace(outcome, state=TrialState.COMPLETE, values=known.values, constraints=known.constraints)
        self.finish(trial, outcome)

    @quiet()
    def add(self, action: Ints, outcome: Outcome) -> None:
        """Add an evaluation that had no trial."""
        owner = {} if self.worker is None else {WORKER: self.worker}
        trial = create_trial(
            state=outcome.state,
            values=outcome.values,
            params=self._parameters(action),
            distributions=self._distributions,
            user_attrs={**outcome.attributes, **owner},
            constraints={**outcome.constraints},
        )
        self.study.add_trial(trial)

    def to_state(self) -> dict[str, Any]:
        """Return the study as values that JSON can hold: all of one in memory, of another the name."""
        state: dict[str, Any] = {
            "name": self.study.study_name,
            "names": [*self._distributions],
            "worker": self.worker,
        }
        if not self.shared:
            state["trials"] = [_to_dict(trial) for trial in self.study.get_trials()]
            state["attributes"] = {**self.study._storage.get_study_system_attrs(self.study._study_id)}
        return state

    @quiet()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Fill a new study in memory with the state of :meth:`to_state`; one in a storage has it."""
        if self.shared:
            return
        storage, study = self.study._storage, self.study._study_id
        for name, value in state["attributes"].items():
            storage.set_study_system_attr(study, name, value)
        for data in state["trials"]:
            storage.create_new_trial(study, _from_dict(data, self._distributions))

    def _end(self, trial: Trial | FrozenTrial, outcome: Outcome) -> None:
        try:
            for name, value in outcome.attributes.items():
                self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
            for name, value in outcome.constraints.items():
                Trial(self.study, trial._trial_id).set_constraint(name, value)
        except UpdateFinishedTrialError:
            return
        self.study.tell(trial.number, outcome.values, outcome.state, skip_if_finished=True)

    def _parameters(self, action: Ints) -> dict[str, int]:
        return dict(zip(self._distributions, action.tolist(), strict=True))

    def _point(self, parameters: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(parameters[name] for name in self._distributions)

    def _look(self) -> list[FrozenTrial]:
        """Note the trials that have ended since the last look, and return those that are running or waiting.

        Those that had ended before are not looked at again, so that it takes no longer the more there are.
        """
        trials = self.study.get_trials(deepcopy=False)
        looked_at = [trials[number] for number in (*self._running, *range(self._seen, len(trials)))]
        running = [trial for trial in looked_at if not trial.state.is_finished()]
        for trial in looked_at:
            if trial.state.is_finished():
                self._note(trial)
        self._seen, self._running = len(trials), [trial.number for trial in running]
        return running

    def _lately(self) -> Callable[[], list[FrozenTrial]]:
        """Return what gives the recent trials and those that are running now, once somebody looks at them."""
        running = self._look()
        return cache(lambda: self._recent.with_running(running))

    def _note(self, trial: FrozenTrial) -> None:
        self._recent.add(trial)
        if trial.state is TrialState.COMPLETE and trial.params.keys() == self._distributions.keys():
            first = self._earned.setdefault(self._point(trial.params), trial)
            if trial.number < first.number:
                self._earned[self._point(trial.params)] = trial
        if self.shared and self._takes(trial):
            self._evaluated.append(self.number(trial.params))

    def _takes(self, trial: FrozenTrial) -> bool:
        """Return whether a trial is evaluated at its point, or was, or will be."""
        if trial.state is TrialState.WAITING or not self._distributions.keys() <= trial.params.keys():
            return False
        return trial.state is not TrialState.FAIL or STATUS in trial.user_attrs


def _earned(
    config: OptunaConfig, reward: float, usable: bool, info: Mapping[str, Any]
) -> tuple[TrialState, list[float] | None]:
    """Return the state and the values of the trial of an evaluation."""
    if usable:
        values = config.values_of(info) if config.objectives else [reward]
        if all(map(math.isfinite, values)):
            return TrialState.COMPLETE, values
    elif info.get("status") == "stopped" and not config.objectives:
        return TrialState.PRUNED, None
    # A broken limit is not a failure: the reward, or the constraints, measure the violation.
    elif info.get("cost", 0) > 0 and config.objectives and config.limits == "constraints":
        return TrialState.COMPLETE, config.values_of(info)
    elif config.failures == "reward" or (info.get("cost", 0) > 0 and not config.objectives):
        return (TrialState.COMPLETE, [reward]) if math.isfinite(reward) else (TrialState.FAIL, None)
    return TrialState.FAIL, None


def _distribution(count: int, ordinal: bool) -> BaseDistribution:
    return IntDistribution(0, count - 1) if ordinal else CategoricalDistribution(range(count))


def _to_dict(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state.name,
        "values": trial.values,
        "begun": _written(trial.datetime_start),
        "ended": _written(trial.datetime_complete),
        "params": trial.params,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": [*trial.intermediate_values.items()],
    }


def _from_dict(data: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState[data["state"]],
        value=None,
        values=data["values"],
        datetime_start=_read(data["begun"]),
        datetime_complete=_read(data["ended"]),
        params=data["params"],
        distributions={name: distributions[name] for name in data["params"]},
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
        intermediate_values=dict(data["intermediate_values"]),
    )


def _written(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _read(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
