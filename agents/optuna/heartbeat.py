"""Signs of life of the processes that share a study, so that points of those that died are tried again.

Optuna's own heartbeats are for databases only, and for trials that run inside of ``optimize``.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from threading import Event, Lock, Thread

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from kdnas_env.agents.optuna.config import WORKER

_ALIVE = "kdnas:alive:"
"""Beginning of the user attribute of a study that says when a process gave a sign, in seconds since the epoch."""

_INTERVAL = 30.0
"""Most seconds between two signs."""

_SIGNS = 5
"""Signs that are missed before a process is taken for dead, at least."""


class SignsOfLife:
    """Gives signs of life while this process has trials to finish, and knows which of the others give none.

    Args:
        study: The shared study.
        worker: Name of this process in it.
        stale_after: Seconds without a sign after which a process is taken for dead. The clocks of machines that share a
            study have to agree within a fraction of them.
    """

    def __init__(self, study: Study, worker: str, stale_after: float) -> None:
        self._study = study
        self._worker = worker
        self._stale_after = stale_after
        self._interval = min(_INTERVAL, stale_after / _SIGNS)
        self._trials = 0
        self._lock = Lock()
        self._stop: Event | None = None  # of the thread that gives signs; None: there is none

    def begin(self) -> None:
        """Give signs from now on, since there is one trial more to finish."""
        with self._lock:
            self._trials += 1
            if self._stop is None:
                self._stop = Event()
                self.give()
                # It holds no reference, so that it ends with whoever searches.
                Thread(target=_give_signs, args=(weakref.ref(self), self._stop, self._interval), daemon=True).start()

    def end(self) -> None:
        """Give no more signs, unless there are other trials to finish."""
        with self._lock:
            self._trials -= 1
            if self._trials <= 0 and self._stop is not None:
                self._stop.set()
                self._stop = None

    def give(self) -> None:
        """Give a sign."""
        self._study._storage.set_study_user_attr(self._study._study_id, f"{_ALIVE}{self._worker}", time.time())

    def stale(self, running: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of some trials whose process has given no sign for too long; beginning a trial is one, too."""
        others = [
            trial
            for trial in running
            if trial.state is TrialState.RUNNING and trial.user_attrs.get(WORKER) != self._worker
        ]
        signs, now = self._study.user_attrs if others else {}, time.time()
        return [trial for trial in others if now - _last_sign(trial, signs) > self._stale_after]


def _last_sign(trial: FrozenTrial, signs: dict[str, float]) -> float:
    began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    return max(began, signs.get(f"{_ALIVE}{trial.user_attrs.get(WORKER)}", 0.0))


def _give_signs(giver: weakref.ref[SignsOfLife], stop: Event, interval: float) -> None:
    while not stop.wait(interval):
        alive = giver()
        if alive is None:
            return
        with suppress(Exception):  # a storage may be out of reach for a while; if it stays so, the search tells
            alive.give()
        del alive
