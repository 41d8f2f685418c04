"""Storages of studies: opening them, heartbeats of processes, and checks before a search joins a study."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kdnas_env.agents.optuna.config import WORKER, OptunaConfig
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.identity import differences
from kdnas_env.support.untrusted import plain_copy, shown

_SEARCHED = "kdnas:searched"
"""User attribute of a study: the searched grid, so that a search of another grid cannot join."""

_CONTENT = "kdnas:content"
"""User attribute of a study: the data that determine the rewards of its points, if the environment offers them."""

_ALIVE = "kdnas:alive:"
"""Prefix of the user attribute of a study with the time of a process's last heartbeat, in seconds since 1970 (UTC)."""

_INTERVAL = 30.0
"""Maximum number of seconds between two heartbeats."""

_MISSED = 5
"""Minimum number of missed heartbeats before a process counts as dead."""

_CREATION_ATTEMPTS = 20
_JOURNAL_START = b'{"op_code"'


class Heartbeat:
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
        self._interval = min(_INTERVAL, stale_after / _MISSED)
        self._trials = 0
        self._lock = Lock()
        self._stop: Event | None = None  # stops the heartbeat thread; None if there is no thread

    def trial_begins(self) -> None:
        """Send heartbeats from now on, because one more trial is running."""
        with self._lock:
            self._trials += 1
            if self._stop is None:
                self._stop = Event()
                self.send()
                # The thread holds only a weak reference, so that it ends with the search.
                Thread(
                    target=_send_repeatedly, args=(weakref.ref(self), self._stop, self._interval), daemon=True
                ).start()

    def trial_ends(self) -> None:
        """Stop sending heartbeats if no other trial is running."""
        with self._lock:
            self._trials -= 1
            if self._trials <= 0 and self._stop is not None:
                self._stop.set()
                self._stop = None

    def send(self) -> None:
        """Send a heartbeat."""
        self._study.set_user_attr(f"{_ALIVE}{self._worker}", time.time())

    def stale(self, running: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the running trials of dead processes: without a recent heartbeat or start of a trial."""
        others = [
            trial
            for trial in running
            if trial.state is TrialState.RUNNING and trial.user_attrs.get(WORKER) != self._worker
        ]
        attributes, now = self._study.user_attrs if others else {}, time.time()
        return [trial for trial in others if now - _last_heartbeat(trial, attributes) > self._stale_after]


def _last_heartbeat(trial: FrozenTrial, attributes: dict[str, float]) -> float:
    start = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    return max(start, attributes.get(f"{_ALIVE}{trial.user_attrs.get(WORKER)}", 0.0))


def _send_repeatedly(reference: weakref.ref[Heartbeat], stop: Event, interval: float) -> None:
    while not stop.wait(interval):
        heartbeat = reference()
        if heartbeat is None:
            return
        # A storage may be unavailable for a while; if it stays unavailable, the search itself raises.
        with suppress(Exception):
            heartbeat.send()
        del heartbeat


def open_storage(place: str | None) -> BaseStorage:
    """Open a storage of studies.

    Args:
        place: None for memory, the path of a journal file, or the URL of a database.

    Raises:
        RunError: If the storage cannot be opened.
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
            "sqlite:///search.db, or the path of a journal file, in an existing folder"
        ) from error


def _journal(path: Path) -> BaseStorage:
    """Open a journal file; refuse a file of another type.

    An incomplete last line, as a killed process leaves it, is removed first. Otherwise Optuna would append to it and
    could not read the file any more.
    """
    lock = JournalFileSymlinkLock(str(path))
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if not file.readline().startswith(_JOURNAL_START):
                raise RunError(f"storage {str(path)!r} is not a journal of Optuna; name another file")
        if not _ends_whole(path):
            lock.acquire()  # so that no process is writing
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
    """Refuse to join a study of another grid or other objectives; record both in a new study.

    Args:
        study: The study.
        config: Hyper-parameters of the agent.
        space: Number of choices of each parameter.

    Raises:
        RunError: If the study has another grid or other objectives.
    """
    searched = {"space": {**space}, "choices": config.choices, "objectives": [*config.objectives]}
    directions = [direction.name.lower() for direction in study.directions]
    known = study.user_attrs.get(_SEARCHED, searched)
    if known != searched or directions != [*config.directions]:
        raise RunError(
            f"the study {study.study_name!r} searches {known} ({' and '.join(directions)}), but this search is of "
            f"{searched} ({' and '.join(config.directions)}); use another study_name"
        )
    if _SEARCHED not in study.user_attrs:
        study.set_user_attr(_SEARCHED, searched)
        if config.objectives:
            study.set_metric_names([*config.targets])


def check_content(study: Study, content: Any) -> None:
    """Refuse to join a study in which other data determine the rewards; record the data in a new study.

    Args:
        study: The study.
        content: The data that determine the rewards, by part, as plain data. Parts that only one of the two searches
            has are not compared. Anything but a mapping is ignored.

    Raises:
        RunError: If the data differ; the study is not changed in this case.
        KDNASError: If the content is not plain data.
    """
    if not isinstance(content, Mapping):
        return
    try:
        ours = plain_copy(content)
    except ValueError as error:
        raise KDNASError(f"the environment's identity is {shown(content)}; expected plain data: {error}") from error
    known = study.user_attrs.get(_CONTENT)
    if known is None:
        study.set_user_attr(_CONTENT, ours)
    elif different := differences(known, ours):
        changes = "; ".join(f"{name} is {theirs} in the study and {here} here" for name, theirs, here in different)
        raise RunError(f"the study {study.study_name!r} belongs to another search: {changes}. Use another study_name")
