"""Where studies are kept, and how processes that share one know whether the others are alive."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kdnas_env.agents.optuna.config import WORKER
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.atomic import expanded

_ALIVE = "kdnas:alive:"
"""Beginning of the user attribute of a study that says when a process gave a sign, in seconds since the epoch."""

_INTERVAL = 30.0
"""Most seconds between two signs."""

_SIGNS = 5
"""Signs that are missed before a process is taken for dead, at least."""

_CREATION_ATTEMPTS = 20
_JOURNAL_START = b'{"op_code"'


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
