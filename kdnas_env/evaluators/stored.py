"""A store of evaluations on disk: cache, resume and audit trail in one SQLite file."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import UNLIMITED, Constraints
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.errors import RunError
from kdnas_env.evaluators.faults import FaultWatch
from kdnas_env.support.checks import check_whole

SCHEMA_VERSION = 1

_APPLICATION = "kdnas evaluations"
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE evaluations (
        id INTEGER PRIMARY KEY,
        workload TEXT NOT NULL,    -- fingerprint of teacher, corpus, recipe and latency settings
        config TEXT NOT NULL,      -- canonical architecture, JSON with sorted keys
        fidelity TEXT NOT NULL,    -- epochs, data fraction and seed, JSON with sorted keys
        status TEXT NOT NULL,
        evaluation TEXT NOT NULL,  -- the whole record, JSON
        created_at TEXT NOT NULL,  -- UTC, ISO 8601
        UNIQUE (workload, config, fidelity)
    )""",
)
# The first complete record stays, so that all processes continue from the same record. Records of stopped students and
# of students that break a limit (and were not distilled) are incomplete; limits may change.
_INSERT = f"""
    INSERT INTO evaluations (workload, config, fidelity, status, evaluation, created_at) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (workload, config, fidelity) DO UPDATE
    SET status = excluded.status, evaluation = excluded.evaluation, created_at = excluded.created_at
    WHERE evaluations.status IN ('{Status.STOPPED}', '{Status.INFEASIBLE}')
"""
_SELECT = "SELECT evaluation FROM evaluations WHERE workload = ? AND config = ? AND fidelity = ?"


class StoredEvaluator:
    """Returns known evaluations from a SQLite file; evaluates and records the others.

    Rows are keyed by workload (the inner evaluator's fingerprint), canonical configuration and fidelity, seed
    included. Every record is committed as soon as the inner evaluator returns it (or yields it, if it has a method
    ``evaluate_each`` like parallel evaluators). Killing the process therefore loses only evaluations in progress.
    Several processes may share a file; if two evaluate one point at once, both return the record committed first.

    Failures (diverged, out of memory, failed) are replayed like any other record, so a resumed search makes the same
    proposals as an uninterrupted one. A stopped record is stored but never returned: the point is evaluated
    again, and the new record replaces it.

    If the first new evaluations all fail for one reason, they are committed and an error is raised
    (:mod:`kdnas_env.evaluators.faults`).

    The record of a student that broke a limit, and was not distilled, is returned while the student breaks a limit;
    under wider limits the student is evaluated.

    An instance can be pickled and survives a fork; the connection opens on first use.

    Attributes:
        inner: The evaluator for points missing in the store.
        path: The SQLite file; created if missing, but its folder must exist.
        chunk: Configurations passed to the inner evaluator per call, unless it has ``evaluate_each``. A kill loses at
            most one chunk, so values above 1 help only if the inner evaluator works on several at once.
        timeout: Seconds to wait for another writing process.
        limits: Limits of students.
    """

    def __init__(
        self,
        inner: Evaluator,
        path: str | os.PathLike[str],
        *,
        chunk: int = 1,
        timeout: float = 60.0,
        limits: Constraints = UNLIMITED,
    ) -> None:
        check_whole("chunk", chunk, of="configurations per call", at_least=1)
        self.inner = inner
        self.path = Path(path)
        self.chunk = chunk
        self.timeout = timeout
        self.limits = limits
        self.deterministic = inner.deterministic
        self._connection: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        self._faults = FaultWatch()
        self._open()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the workload, from the inner evaluator."""
        return self.inner.fingerprint

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprints of parts of the workload, from the inner evaluator if it has any."""
        return getattr(self.inner, "fingerprints", {})

    @property
    def parallel(self) -> bool:
        """Whether the inner evaluator works on several students at once."""
        return bool(getattr(self.inner, "parallel", False))

    def evaluate(
        self,
        configs: Sequence[StudentConfig],
        fidelity: Fidelity,
        *,
        on_epoch: EpochCallback | None = None,
    ) -> list[Evaluation]:
        """Return one record per config, in order, evaluating only points missing in the store.

        A repeated configuration is evaluated once. ``on_epoch`` receives only running evaluations.

        Raises:
            RunError: If the store cannot be read or written, or the first evaluations all fail for one reason.
        """
        place: dict[StudentConfig, int] = {}
        answers: dict[StudentConfig, Evaluation] = {}
        for index, config in enumerate(configs):
            if config not in place:
                place[config] = index
                stored = self.find(config, fidelity)
                if stored is not None:
                    answers[config] = stored
        missing = [config for config in place if config not in answers]
        for part in self._parts(missing):
            callback = _renumbered(on_epoch, [place[config] for config in part], len(configs))
            for index, evaluation in _each(self.inner, part, fidelity, callback):
                answers[part[index]] = self.add(evaluation)
        return [answers[config] for config in configs]

    def find(self, config: StudentConfig, fidelity: Fidelity) -> Evaluation | None:
        """Return the stored evaluation of an architecture; None if it must be evaluated.

        Raises:
            RunError: If the store cannot be read.
        """
        rows = self._execute(_SELECT, (self.fingerprint, *_key(config, fidelity)))
        record = self._parsed(rows[0][0]) if rows else None
        if record is not None and (record.config, record.fidelity) != (config, fidelity):
            raise RunError(self._damaged(f"it is of {record.config}, but stored under {config}"))
        if record is None or record.status is Status.STOPPED:
            return None
        if record.status is Status.INFEASIBLE:
            return self.limits.screened(record) if self.limits.breaks(record) else None
        if record.ok:
            self._faults.note(record)
        return record

    def add(self, evaluation: Evaluation) -> Evaluation:
        """Commit an evaluation from elsewhere.

        Returns:
            The record now in the store: another process's record, if that was committed first.

        Raises:
            RunError: If the store cannot be written, or the first evaluations all fail for one reason; in the second
                case the evaluation is committed.
        """
        key = (self.fingerprint, *_key(evaluation.config, evaluation.fidelity))
        now = datetime.now(UTC).isoformat()
        with self._explained():
            values = (*key, str(evaluation.status), evaluation.to_json(), now)
            written = self._open().execute(_INSERT, values).rowcount
        if not written:  # another process was first
            rows = self._execute(_SELECT, key)
            if not rows:
                raise RunError(self._damaged("a record that was just written is missing"))
            evaluation = self._parsed(rows[0][0])
        self._faults.note(evaluation)
        return evaluation

    def records(self) -> list[Evaluation]:
        """Return every record of this workload, including stopped records, in the order of their first storage."""
        query = "SELECT evaluation FROM evaluations WHERE workload = ? ORDER BY id"
        return [self._parsed(text) for (text,) in self._execute(query, (self.fingerprint,))]

    def count(self) -> int:
        """Return the number of records of this workload."""
        query = "SELECT COUNT(*) FROM evaluations WHERE workload = ?"
        return int(self._execute(query, (self.fingerprint,))[0][0])

    def close(self) -> None:
        """Close the file, and the inner evaluator if possible. A later call opens them again."""
        self._leave_parent()
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> StoredEvaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None, "_inherited": []}

    def _parts(self, missing: list[StudentConfig]) -> Iterator[list[StudentConfig]]:
        """Yield the parts passed to the inner evaluator per call; a single part if it yields records one by one."""
        size = max(1, len(missing)) if hasattr(self.inner, "evaluate_each") else self.chunk
        for start in range(0, len(missing), size):
            yield missing[start : start + size]

    def _parsed(self, text: str) -> Evaluation:
        try:
            return Evaluation.from_json(text)
        except (TypeError, ValueError) as error:
            raise RunError(self._damaged(str(error))) from error

    def _damaged(self, reason: str) -> str:
        return (
            f"store {str(self.path)!r} holds a damaged record ({reason}); restore the file from a copy, or name a new "
            "file"
        )

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._explained():
            return self._open().execute(statement, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        self._leave_parent()
        if self._connection is None:
            with self._explained():
                self._connection = _connect(self.path, self.timeout)
        return self._connection

    def _leave_parent(self) -> None:
        # SQLite forbids using or closing a connection after a fork, so keep a reference and never collect it.
        if self._process != os.getpid():
            if self._connection is not None:
                self._inherited.append(self._connection)
            self._connection, self._process = None, os.getpid()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(_explanation(self.path, error)) from error
        except UnicodeDecodeError as error:  # from an SQLite message that quotes a damaged file
            raise RunError(f"store {str(self.path)!r} is damaged: {error}; restore it from a copy") from error


def _key(config: StudentConfig, fidelity: Fidelity) -> tuple[str, str]:
    return json.dumps(config.to_dict(), sort_keys=True), json.dumps(asdict(fidelity), sort_keys=True)


def _each(
    evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity, on_epoch: EpochCallback | None
) -> Iterable[tuple[int, Evaluation]]:
    """Evaluate a batch; yield index and record as soon as each record is available."""
    if hasattr(evaluator, "evaluate_each"):
        return cast(Iterable[tuple[int, Evaluation]], evaluator.evaluate_each(configs, fidelity, on_epoch=on_epoch))
    return enumerate(evaluator.evaluate(configs, fidelity, on_epoch=on_epoch))


def _renumbered(on_epoch: EpochCallback | None, places: Sequence[int], total: int) -> EpochCallback | None:
    """Renumber the reports of a partial batch by the index in the whole batch."""
    if on_epoch is None:
        return None

    def renumbered(report: EpochReport) -> bool | None:
        return on_epoch(replace(report, candidate=places[report.candidate], candidates=total))

    return renumbered


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        _enter_wal(connection, timeout)
        connection.execute("PRAGMA synchronous = FULL")
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection, timeout: float) -> None:
    # SQLite ignores the timeout while it changes the journal mode.
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in an empty file; otherwise check that the file is a store of evaluations."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("application", _APPLICATION), ("schema_version", str(SCHEMA_VERSION))],
            )
        elif not {"meta", "evaluations"} <= tables:
            raise RunError(f"{str(path)!r} is a database, but not a store of evaluations; name another file")
        else:
            _check_version(dict(connection.execute("SELECT key, value FROM meta")), path)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_version(meta: dict[str, str], path: Path) -> None:
    version = meta.get("schema_version", "")
    if meta.get("application") != _APPLICATION or not re.fullmatch("[0-9]{1,9}", str(version)):
        raise RunError(f"{str(path)!r} is a database, but not a store of evaluations; name another file")
    if int(version) > SCHEMA_VERSION:
        raise RunError(
            f"store {str(path)!r} was written by a newer kdnas (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade kdnas, or name another file"
        )


def _explanation(path: Path, error: sqlite3.Error) -> str:
    """Return a message on the fault of a store and its remedy, from SQLite's primary result code."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name = repr(str(path))
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return f"store {name} is damaged or not a SQLite file ({error}); restore it from a copy, or name another file"
    if code == sqlite3.SQLITE_CANTOPEN:
        if not path.parent.is_dir():
            return f"store {name} cannot be opened: there is no folder {str(path.parent)!r}; create it first"
        return f"store {name} cannot be opened or created ({error}); check that its folder is writable"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return f"store {name} cannot be written ({error}); make the file and its folder writable"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"store {name} is locked by another process ({error}); wait for it to end, or raise the timeout"
    if code == sqlite3.SQLITE_FULL:
        return f"store {name} cannot grow, the disk is full; free some space and resume"
    return f"store {name} cannot be used ({error})"
