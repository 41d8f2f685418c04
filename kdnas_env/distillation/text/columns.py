"""Find the columns of a source that contain its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kdnas_env.errors import CorpusError
from kdnas_env.support.untrusted import shown

_TEXT_NAMES = ("text", "sentence", "content", "document", "review")
_WORDS_OF_A_NAME = 4
_OTHER_SEPARATORS = ";\t|"


@dataclass(frozen=True)
class Columns:
    """Columns of a source.

    Attributes:
        names: Names of all columns; nested columns as ``outer.inner``.
        textual: Names of the columns known to hold text.
        doubt: Reason why ``names`` may not be column names, for messages; None if there is no doubt.
    """

    names: tuple[str, ...]
    textual: tuple[str, ...]
    doubt: str | None = None


def choose_columns(
    columns: Columns, requested: str | Sequence[str] | None, source: str, *, what: str = "corpus"
) -> tuple[str, ...]:
    """Return the one or two columns that hold the text.

    With ``requested=None``: the only text column, else the first existing column among ``text``, ``sentence``,
    ``content``, ``document`` and ``review``.

    Args:
        columns: The columns.
        requested: Columns that the user requests; None to find them.
        source: Name of the source, for messages.
        what: What the source is, for messages.

    Raises:
        CorpusError: If a requested column is missing, more than two are requested, the text column is ambiguous, or the
            column names are in doubt.
    """
    if requested is not None:
        names = (requested,) if isinstance(requested, str) else tuple(requested)
        if not 1 <= len(names) <= 2 or len(set(names)) != len(names):
            raise CorpusError(f"text_columns={list(names)} is not one column, or two different ones for sentence pairs")
        missing = [name for name in names if name not in columns.names]
        if missing:
            doubt = "" if columns.doubt is None else f"; {columns.doubt}"
            raise CorpusError(
                f"{what} {source!r} has no column {missing[0]!r}; its columns are {shown(list(columns.names))}{doubt}"
            )
        return names
    if columns.doubt is not None:
        raise CorpusError(f"{what} {source!r}: {columns.doubt}")
    if len(columns.textual) == 1:
        return columns.textual
    for name in _TEXT_NAMES:
        if name in columns.names:
            return (name,)
    strings = (
        f"of which {shown(list(columns.textual))} hold strings" if columns.textual else "none of which holds strings"
    )
    raise CorpusError(
        f"cannot tell which column of {what} {source!r} holds the text: its columns are {shown(list(columns.names))}, "
        f"{strings}; name one with text_columns, or two for sentence pairs"
    )


def holds_text(values: Iterable[Any]) -> bool:
    """Return whether a column contains text, ignoring numbers, booleans and dates written as strings."""
    return any(isinstance(value, str) and value.strip() and not _is_data(value.strip()) for value in values)


def doubt_of_header(path: Path, names: Sequence[str], textual: Sequence[str]) -> str | None:
    """Return why the first row of a table looks like data rather than column names; None if it does not."""
    other = next((separator for separator in _OTHER_SEPARATORS if len(names) == 1 and separator in names[0]), None)
    if other is not None:
        return f"the first row of {str(path)!r} is one cell, {shown(names[0])}; set separator={other!r} if it is more"
    given = [name for name in names if name]
    counted = given == [str(index) for index in range(len(given))]
    for name in given:
        number = _is_number(name) and name not in textual and not counted
        sentence = len(name.split()) > 1 and name.rstrip().endswith((".", "!", "?"))
        if number or sentence or len(name.split()) > _WORDS_OF_A_NAME:
            return (
                f"the first row of {str(path)!r} looks like text, not like column names: {shown(name)}; set "
                "header=False if it is text, or name the text columns with text_columns"
            )
    return None


def _is_data(text: str) -> bool:
    if _is_number(text) or text.lower() in ("true", "false"):
        return True
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
