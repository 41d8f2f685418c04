"""Where studies of Optuna are kept, and which searches may join one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file
from optuna.study import Study
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from kdnas_env.agents.optuna.config import OptunaConfig
from kdnas_env.agents.optuna.samplers import quiet
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.identity import differences
from kdnas_env.support.untrusted import plain_copy, shown

_SEARCHED = "kdnas:searched"
"""User attribute of a study: the grid that it searches, so that no search of another joins it."""

_CONTENT = "kdnas:content"
"""The same: what its points stand for and what decides their rewards, as far as environments tell."""

_CREATION_ATTEMPTS = 20
_JOURNAL_START = b'{"op_code"'


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
            with get_lock_file(lock):  # nobody is writing
                if not _ends_whole(path):
                    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
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
    found = study.user_attrs.get(_SEARCHED, searched)
    if found != searched or directions != [*config.directions]:
        raise RunError(
            f"the study {study.study_name!r} searches {found}, to {' and '.join(directions)}, but this search is of "
            f"{searched}, to {' and '.join(config.directions)}; give another study_name"
        )
    if _SEARCHED not in study.user_attrs:
        study.set_user_attr(_SEARCHED, searched)
        if config.objectives:
            study.set_metric_names([*config.targets])


@quiet()
def check_content(study: Study, content: Any) -> None:
    """Refuse to join a study that other rewards or points are in; of one that tells nothing, note what it is of.

    Args:
        study: The study.
        content: What decides the rewards, by part, as plain data. Parts that one of both does not tell are not
            compared. Anything but a mapping is no such thing, and not looked at.

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
    found = study.user_attrs.get(_CONTENT)
    if found is None:
        study.set_user_attr(_CONTENT, ours)
    elif different := differences(found, ours):
        told = "; ".join(f"{name} is {theirs} there, {here} here" for name, theirs, here in different)
        raise RunError(f"the study {study.study_name!r} is of another search: {told}. Give another study_name")
