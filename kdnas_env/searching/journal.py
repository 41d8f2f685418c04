"""The journal of an asynchronous search: its proposals and results in order. With the store, it can be replayed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kdnas_env.core.evaluation import Evaluation
from kdnas_env.errors import RunError, one_line
from kdnas_env.support.untrusted import parse_json, shown

ASKED, TOLD = "asked", "told"


@dataclass(frozen=True)
class Entry:
    """One event of a search.

    Attributes:
        kind: ``asked``: the agent proposed the action; ``told``: the agent was told the result of the action.
        action: The action.
        evaluation: The result of a stopped student, which the store does not hold; else None.
    """

    kind: str
    action: tuple[int, ...]
    evaluation: Evaluation | None = None

    def to_json(self) -> str:
        """Return the entry as one line of JSON."""
        data: dict[str, Any] = {self.kind: list(self.action)}
        if self.evaluation is not None:
            data["evaluation"] = json.loads(self.evaluation.to_json())
        return json.dumps(data)

    @classmethod
    def from_json(cls, line: str) -> Entry:
        """Restore an entry of :meth:`to_json`.

        Raises:
            ValueError: If the line is not an entry.
        """
        data = parse_json(line)
        if not isinstance(data, dict):
            raise ValueError(f"{shown(data)} is not an event")
        (kind,) = {ASKED, TOLD} & data.keys()
        action = data[kind]
        if not isinstance(action, list) or not all(type(index) is int for index in action):
            raise ValueError(f"{shown(action)} is not an action")
        evaluation = data.get("evaluation")
        return cls(kind, tuple(action), None if evaluation is None else Evaluation.from_json(json.dumps(evaluation)))


class Journal:
    """A file with one line per event, each written before the search continues.

    If the process is killed, nothing is lost. A power failure may lose proposals after the last result, which are then
    made again. Opening the file removes an incomplete last line, so only one process may open it; others must use
    :func:`read_entries`.

    Args:
        path: The file; created if it does not exist.

    Attributes:
        path: Path of the file.
        entries: Entries in the file when it was opened.

    Raises:
        RunError: If it cannot be read or written, or is not a journal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # Unbuffered, so that a failed write is not repeated later.
            self._file = self.path.open("ab", buffering=0)
            whole = _whole_lines(self.path)
            self._file.truncate(len(whole))
        except OSError as error:
            raise RunError(f"the journal {str(self.path)!r} cannot be opened: {error}") from error
        try:
            self.entries: Sequence[Entry] = _entries(self.path, whole)
        except RunError:
            self.close()
            raise

    def write(self, entry: Entry) -> None:
        """Append an event.

        Raises:
            RunError: If it cannot be written.
        """
        try:
            line = entry.to_json().encode() + b"\n"
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if entry.kind == TOLD:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(
                f"the journal {str(self.path)!r} cannot be written: {error}; free some space, then resume"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_entries(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a journal, even while another process writes to it.

    Raises:
        RunError: If it cannot be read, or is not a journal.
    """
    try:
        whole = _whole_lines(Path(path))
    except OSError as error:
        raise RunError(f"the journal {str(path)!r} cannot be read: {error}") from error
    return _entries(Path(path), whole)


def _whole_lines(path: Path) -> bytes:
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def _entries(path: Path, whole: bytes) -> list[Entry]:
    entries = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entries.append(Entry.from_json(line.decode()))
        except ValueError as error:
            raise RunError(
                f"line {number} of the journal {str(path)!r} is damaged ({one_line(error)}); restore the file "
                "from a copy, or start a new run"
            ) from error
    return entries
