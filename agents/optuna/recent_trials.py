"""The part of a long study that samplers and pruners see, so that a proposal takes no longer than those before it."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

_BESTS = 50
"""Best trials that are kept beside the youngest; of a long study TPE takes the 25 best as good ones."""


class StudyOf(Study):
    """A study as it would be if it had some of its trials only; what is written to it is written to the study.

    Args:
        study: The study.
        trials: Gives the trials, in the order of their numbers; it is called when somebody looks at them.
    """

    def __init__(self, study: Study, trials: Callable[[], Sequence[FrozenTrial]]) -> None:
        vars(self).update(vars(study))
        self._some = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._some() if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class RecentTrials:
    """The youngest ended trials of a study, and the best, or with several objectives those that none beats.

    Args:
        size: The youngest that are kept; of the best there are fewer.
        directions: Directions of the objectives.
    """

    def __init__(self, size: int, directions: Sequence[StudyDirection]) -> None:
        self._signs = [1.0 if direction is StudyDirection.MAXIMIZE else -1.0 for direction in directions]
        self._youngest: deque[FrozenTrial] = deque(maxlen=size)
        self._bests: list[FrozenTrial] = []
        self._most = min(size, _BESTS) if len(self._signs) == 1 else size

    def add(self, trial: FrozenTrial) -> None:
        """Take in a trial that has ended; samplers learn from those that were completed or pruned only."""
        if trial.state is TrialState.COMPLETE and not any(violation > 0 for violation in trial.constraints.values()):
            self._rank(trial)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._youngest.append(trial)

    def with_running(self, running: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials, and those that are running, in the order of their numbers."""
        kept = {trial.number: trial for trial in chain(self._bests, self._youngest, running)}
        return [kept[number] for number in sorted(kept)]

    def _rank(self, trial: FrozenTrial) -> None:
        if len(self._signs) == 1:
            self._bests.append(trial)
            if len(self._bests) > 2 * self._most:
                self._bests = sorted(self._bests, key=lambda best: -self._scores(best)[0])[: self._most]
        elif not any(self._beats(best, trial) for best in self._bests):
            left = [best for best in self._bests if not self._beats(trial, best)]
            self._bests = [*left, trial][-self._most :]

    def _beats(self, first: FrozenTrial, other: FrozenTrial) -> bool:
        pairs = [*zip(self._scores(first), self._scores(other), strict=True)]
        return all(ours >= theirs for ours, theirs in pairs) and any(ours > theirs for ours, theirs in pairs)

    def _scores(self, trial: FrozenTrial) -> list[float]:
        return [sign * value for sign, value in zip(self._signs, trial.values, strict=True)]
