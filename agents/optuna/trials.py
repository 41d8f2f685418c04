"""Trials: how an evaluation ends a trial, trials as plain data, and the trials of a long study that samplers see."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from kdnas_env.agents.optuna.config import STATUS, OptunaConfig

_BEST_COUNT = 50
"""Number of best trials to keep in addition to the newest. TPE counts at most the 25 best trials as good ones."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        state: Final state of the trial.
        values: Objective values, if any.
        attributes: User attributes.
        constraints: Violation of each constraint; above 0 if it is broken.
    """

    state: TrialState
    values: Sequence[float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: OptunaConfig, reward: float, usable: bool, info: Mapping[str, Any]) -> Outcome:
        """Return the outcome of an evaluated trial.

        Args:
            config: Hyper-parameters of the agent.
            reward: The reward.
            usable: Whether the evaluation succeeded and broke no limit.
            info: The environment's info.
        """
        attributes: dict[str, Any] = {STATUS: str(info.get("status", "ok"))}
        if math.isfinite(reward):
            attributes["reward"] = reward
        if "config" in info:
            attributes["config"] = str(info["config"])
        constraints = info.get("costs", {}) if config.limits == "constraints" else {}
        return cls(*_state_and_values(config, reward, usable, info), attributes, constraints)


def _state_and_values(
    config: OptunaConfig, reward: float, usable: bool, info: Mapping[str, Any]
) -> tuple[TrialState, list[float] | None]:
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


def trial_to_dict(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as plain data, without its number and distributions."""
    return {
        "state": trial.state.name,
        "values": trial.values,
        "begun": _time_to_text(trial.datetime_start),
        "ended": _time_to_text(trial.datetime_complete),
        "params": trial.params,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": [*trial.intermediate_values.items()],
    }


def trial_from_dict(data: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """Restore a trial from :func:`trial_to_dict`.

    Args:
        data: The trial as plain data.
        distributions: Distribution of each parameter.
    """
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState[data["state"]],
        value=None,
        values=data["values"],
        datetime_start=_time_from_text(data["begun"]),
        datetime_complete=_time_from_text(data["ended"]),
        params=data["params"],
        distributions={name: distributions[name] for name in data["params"]},
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
        intermediate_values=dict(data["intermediate_values"]),
    )


def _time_to_text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _time_from_text(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


class StudyView(Study):
    """A study that shows only some of its trials; writing to it changes the study itself.

    Args:
        study: The study.
        trials: Returns the visible trials, ordered by number; called at each access.
    """

    def __init__(self, study: Study, trials: Callable[[], Sequence[FrozenTrial]]) -> None:
        vars(self).update(vars(study))
        self._visible = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._visible() if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class RecentTrials:
    """The newest finished trials of a study, plus the best ones (with several objectives, the Pareto front).

    Args:
        size: Number of newest trials to keep, and maximum number of best trials.
        directions: Directions of the objectives.
    """

    def __init__(self, size: int, directions: Sequence[StudyDirection]) -> None:
        self._signs = [1.0 if direction is StudyDirection.MAXIMIZE else -1.0 for direction in directions]
        self._newest: deque[FrozenTrial] = deque(maxlen=size)
        self._best: list[FrozenTrial] = []
        self._best_count = min(size, _BEST_COUNT) if len(self._signs) == 1 else size

    def add(self, trial: FrozenTrial) -> None:
        """Add a finished trial; failed ones are ignored, because samplers do not learn from them."""
        if trial.state is TrialState.COMPLETE and not any(violation > 0 for violation in trial.constraints.values()):
            self._add_best(trial)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._newest.append(trial)

    def with_running(self, running: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the kept trials and the given running trials, ordered by number."""
        kept = {trial.number: trial for trial in chain(self._best, self._newest, running)}
        return [kept[number] for number in sorted(kept)]

    def _add_best(self, trial: FrozenTrial) -> None:
        if len(self._signs) == 1:
            self._best.append(trial)
            if len(self._best) > 2 * self._best_count:
                self._best = sorted(self._best, key=lambda best: -self._scores(best)[0])[: self._best_count]
        elif not any(self._dominates(best, trial) for best in self._best):
            not_dominated = [best for best in self._best if not self._dominates(trial, best)]
            self._best = [*not_dominated, trial][-self._best_count :]

    def _dominates(self, first: FrozenTrial, second: FrozenTrial) -> bool:
        pairs = [*zip(self._scores(first), self._scores(second), strict=True)]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    def _scores(self, trial: FrozenTrial) -> list[float]:
        return [sign * value for sign, value in zip(self._signs, trial.values, strict=True)]
