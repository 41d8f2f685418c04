"""Storages of studies.

A storage is opened, trials and the state of CMA-ES are stored as plain data, processes that share a study send
heartbeats, and a search is checked before it joins a study.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kdnas_env.agents.optuna import WORKER, OptunaConfig
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.identity import differences
from kdnas_env.support.untrusted import is_number, plain_copy, shown

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

_LEARNT = ("_g", "_sigma", "_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma")
"""Scalar attributes of an optimizer that change as it learns. Its other scalars follow from the options."""

_GENERATOR = "_rng"
"""Attribute of an optimizer that is not part of its state, because it is seeded for every trial."""

_RECENT = "_funhist_values"
"""Attribute of an optimizer with the values of recent generations, which are numbers by chance until it is full."""

_CREATION_ATTEMPTS = 20
_JOURNAL_START = b'{"op_code"'


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log messages and its warnings about experimental features inside the block.

    Raises:
        RunError: If a storage fails.
    """
    logger = logging.getLogger("optuna")
    level = logger.level
    # An inner block changes no level: that clears the caches of all loggers, which takes longer than most trials.
    outer = level < logging.ERROR
    if outer:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    except StorageInternalError as error:
        raise RunError(f"the storage of the study cannot be used: {error}") from error
    finally:
        if outer:
            logger.setLevel(level)


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
        if not _ends_with_line_feed(path):
            lock.acquire()  # so that no process is writing
            try:
                if not _ends_with_line_feed(path):
                    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            finally:
                lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


def _ends_with_line_feed(path: Path) -> bool:
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


def optimizer_to_json(value: Any) -> Any:
    """Return an optimizer, or a part of its state, as JSON values, without its random generator."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {name: optimizer_to_json(part) for name, part in _optimizer_state(value).items()}


def _optimizer_state(optimizer: Any) -> dict[str, Any]:
    state = {name: value for name, value in optimizer.__getstate__().items() if name != _GENERATOR}
    if _RECENT in state:  # not initialised until it is full, and only then used
        state[_RECENT] = np.nan_to_num(state[_RECENT])
    return state


def restore_optimizer(optimizer: Any, state: Any) -> None:
    """Set the state of a new optimizer; each part must have the type and shape of the new optimizer's part.

    Raises:
        ValueError: If a part is missing, or has another type or shape.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"it is {shown(state)}, expected a mapping")
    parts = {name: _restored(name, current, state.get(name)) for name, current in _optimizer_state(optimizer).items()}
    if hasattr(type(optimizer), "__setstate__"):
        optimizer.__setstate__(parts)
    else:
        vars(optimizer).update(parts)


def _restored(name: str, current: Any, value: Any) -> Any:
    """Return the stored value of a learnt part, or the current value of any other part."""
    if isinstance(current, np.ndarray) and current.size:
        array = np.array(value if isinstance(value, Sequence) else [], dtype=current.dtype)
        if array.shape != current.shape:
            raise ValueError(f"{name} has the shape {array.shape}, expected {current.shape}")
        return array
    if name in _LEARNT:
        if not is_number(value):
            raise ValueError(f"{name} is {shown(value)}, expected a number")
        return type(current)(value)
    if hasattr(current, "__dict__"):  # an optimizer inside another one
        restore_optimizer(current, value)
    return current
