"""Storage of studies: checks on joining, heartbeats of processes, and the recent trials of long studies."""

from __future__ import annotations

import copy
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kdnas_env.agents.optuna import WORKER, OptunaConfig
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.identity import differences
from kdnas_env.support.untrusted import plain_copy, shown

_SEARCHED = "kdnas:searched"
"""User attribute of a study: the grid that it searches, so that no search of another joins it."""

_CONTENT = "kdnas:content"
"""The same: what its points stand for and what decides their rewards, as far as environments say."""

_ALIVE = "kdnas:alive:"
"""Beginning of the user attribute of a study that says when a process gave a sign, in seconds since the epoch."""

_INTERVAL = 30.0
"""Most seconds between two signs."""

_SIGNS = 5
"""Signs that are missed before a process is taken for dead, at least."""

_BESTS = 50
"""Best trials that are kept beside the youngest; of a long study TPE takes the 25 best as good ones."""

_CREATION_ATTEMPTS = 20
_JOURNAL_START = b'{"op_code"'


class SignsOfLife:
    """Sends heartbeats while this process has running trials, and detects other processes without heartbeats.

    Args:
        study: The shared study.
        worker: Name of this process in the study.
        stale_after: Seconds without a heartbeat after which a process counts as dead. The clocks of machines that share
            a study must agree within a fraction of this time.
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
                # It holds no reference, so that it ends with the search.
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
        self._study.set_user_attr(f"{_ALIVE}{self._worker}", time.time())

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
        with suppress(Exception):  # a storage may be out of reach for a while; if it stays so, the search raises
            alive.give()
        del alive


def open_storage(place: str | None) -> BaseStorage:
    """Open where studies are kept.

    Args:
        place: None for memory, the path of a journal, or the URL of a database.

    Raises:
        RunError: If it cannot be opened.
        DependencyError: If the database needs a driver that is not installed.
    """
    if place is None:
        return InMemoryStorage()
    try:
        if "://" in place:
            return _database(place)
        return _journal(expanded(place))
    except KDNASError:
        raise
    except ImportError as error:
        raise DependencyError(f"storage {place!r} needs a driver that is not installed: {error}") from error
    except (OSError, ValueError, KeyError, SQLAlchemyError, OptunaError) as error:
        raise RunError(
            f"storage {place!r} cannot be opened: {error}. Expected the URL of a database, such as "
            "sqlite:///search.db, or the path of a journal, in a folder that exists"
        ) from error


def _journal(path: Path) -> BaseStorage:
    """Open a journal, unless it is another file.

    A last line that was cut off, as by a kill, is removed first: Optuna would write behind it, and never read on.
    """
    lock = JournalFileSymlinkLock(str(path))
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if not file.readline().startswith(_JOURNAL_START):
                raise RunError(f"storage {str(path)!r} is no journal of Optuna; name another file")
        if not _ends_whole(path):
            lock.acquire()  # nobody is writing
            try:
                if not _ends_whole(path):
                    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            finally:
                lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read(1) in (b"\n", b"")


def _database(url: str) -> BaseStorage:
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    for attempt in range(_CREATION_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=patience)
        except SQLAlchemyError as error:
            # Another process is creating the tables of the same new database.
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(0.05 * attempt)
    raise RunError(f"storage {url!r} cannot be opened: other processes are changing its tables; try again later")


def check_searched(study: Study, config: OptunaConfig, space: Mapping[str, int]) -> None:
    """Refuse to join a study that searches something else; of a new one, note what it searches.

    Raises:
        RunError: If it does.
    """
    searched = {"space": {**space}, "choices": config.choices, "objectives": [*config.objectives]}
    directions = [direction.name.lower() for direction in study.directions]
    known = study.user_attrs.get(_SEARCHED, searched)
    if known != searched or directions != [*config.directions]:
        raise RunError(
            f"the study {study.study_name!r} searches {known}, to {' and '.join(directions)}, but this search is of "
            f"{searched}, to {' and '.join(config.directions)}; give another study_name"
        )
    if _SEARCHED not in study.user_attrs:
        study.set_user_attr(_SEARCHED, searched)
        if config.objectives:
            study.set_metric_names([*config.targets])


def check_content(study: Study, content: Any) -> None:
    """Refuse to join a study with other rewards or points; if its content is not recorded, record it.

    Args:
        study: The study.
        content: What decides the rewards, by part, as plain data. Parts that one of both lacks are not
            compared. Anything but a mapping is ignored.

    Raises:
        RunError: If it is of something else; nothing is changed then.
        KDNASError: If the content is no plain data.
    """
    if not isinstance(content, Mapping):
        return
    try:
        ours = plain_copy(content)
    except ValueError as error:
        raise KDNASError(f"the identity of the environment is {shown(content)}, no plain data: {error}") from error
    known = study.user_attrs.get(_CONTENT)
    if known is None:
        study.set_user_attr(_CONTENT, ours)
    elif different := differences(known, ours):
        changes = "; ".join(f"{name} is {theirs} there, {here} here" for name, theirs, here in different)
        raise RunError(f"the study {study.study_name!r} is of another search: {changes}. Give another study_name")


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
    """The newest finished trials of a study, plus the best ones (with several objectives, the Pareto front).

    Args:
        size: Number of newest trials to keep; fewer best trials are kept.
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
