"""The reader of text files for corpora and tasks, whole or streamed.

A path is taken literally, never as a pattern. Rows end only at line feeds, with or without a carriage return before
them, because texts contain every other line separator. Cells may have any length. Only requested columns are converted
and checked. Tables are parsed here, because the libraries end rows at carriage returns, truncate texts at NUL
characters, or limit cell sizes for the whole process.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from kdnas_env.distillation.text.columns import Columns, doubt_of_header, holds_text
from kdnas_env.distillation.text.layout import AS_NAMED, TextLayout
from kdnas_env.errors import CorpusError, one_line
from kdnas_env.support.untrusted import parse_json, shown

KINDS = {
    ".csv": "table",
    ".tsv": "table",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
"""Kinds of files by file name suffix."""


def _open_zstandard(path: Path, mode: str) -> io.BufferedReader:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), mode), "zstd"))


_COMPRESSED: Mapping[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_APPLIES = {
    "encoding": ("table", "json", "text"),
    "separator": ("table",),
    "quoted": ("table",),
    "header": ("table",),
    "unit": ("text",),
}
_HEAD_ROWS = 1000
"""Number of rows read to find the columns, and the columns that hold text."""
_BATCH = 1024
_DEEPEST = 4
_INSIDE_QUOTES = re.compile(r'(?:[^"]+|"")*+')


@dataclass(frozen=True)
class _Table:
    """An open file: its column names and its numbered rows."""

    names: Sequence[str]
    rows: Iterator[tuple[int, Any]]


def suffix_of(path: Path) -> str:
    """Return the lower-case suffix of a file name, without the suffix of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in _COMPRESSED]
    return suffixes[-1] if suffixes else ""


def field_of(row: Mapping[str, Any], name: str) -> Any:
    """Return a field of a record, nested fields as ``outer.inner``; None if the field does not exist."""
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return field_of(value, inner) if inner and isinstance(value, Mapping) else None


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name.

    Raises:
        CorpusError: If the kind is unknown.
    """
    suffix = suffix_of(path)
    if suffix not in KINDS:
        raise CorpusError(f"corpus file {str(path)!r} has an unknown file type; expected one of {sorted(KINDS)}")
    return KINDS[suffix]


def place_of(path: Path, number: int) -> str:
    """Return the location of a row, for messages."""
    return f"{path}, {'line' if kind_of(path) in ('table', 'text') else 'row'} {number}"


def columns_of(path: Path, layout: TextLayout) -> Columns | None:
    """Return the columns of a file; None if it has no rows.

    Raises:
        CorpusError: If the file cannot be read, or a layout option does not apply to its kind.
    """
    if path.stat().st_size == 0:
        raise CorpusError(f"corpus file {str(path)!r} is empty (0 bytes)")
    kind = kind_of(path)
    with _reporting(path):
        table = _opened(path, layout, None)
        head = [row for _, row in islice(table.rows, 1 if kind == "text" else _HEAD_ROWS)]
    if not head:
        return None
    names = tuple(table.names)
    if kind == "text":
        return Columns(names, names)
    if kind == "table":
        cells = {name: [row[index] for row in head if index < len(row)] for index, name in enumerate(names)}
    else:
        cells = {name: [row[name] for row in head if name in row] for name in names}
    textual = tuple(name for name, values in cells.items() if holds_text(values))
    doubtful = kind == "table" and layout.header is None
    return Columns(names, textual, doubt_of_header(path, names, textual) if doubtful else None)


def read_rows(
    path: Path, columns: Sequence[str], layout: TextLayout = AS_NAMED, *, ragged: bool = False
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Read some columns of a file.

    Args:
        path: The file.
        columns: The columns; ``outer.inner`` is a nested field.
        layout: Layout of the file.
        ragged: Whether rows of a table may have more cells than columns; extra cells are dropped.

    Yields:
        The number of a row (the line number if rows are lines), and its values: None for a missing value.

    Raises:
        CorpusError: If the file cannot be read, a column is missing or a text cannot be encoded in UTF-8.
    """
    with _reporting(path):
        table = _opened(path, layout, columns)
        first = next(table.rows, None)
        if first is None:
            return
        _check_columns(path, columns, table.names)
        by_position = kind_of(path) in ("table", "text")
        positions = [table.names.index(name) for name in columns] if by_position else []
        for number, row in chain([first], table.rows):
            if by_position:
                if not ragged and any(row[len(table.names) :]):
                    raise CorpusError(
                        f"{place_of(path, number)} has {len(row)} cells; expected {len(table.names)}, as in the first; "
                        "put texts that contain the separator into quotes (with quoted=True if it is a tab)"
                    )
                values = tuple(row[at] if at < len(row) else None for at in positions)
            else:
                values = tuple(field_of(row, name) for name in columns)
            for value in values:
                if isinstance(value, str):
                    _check_text(path, number, value)
            yield number, values


def _opened(path: Path, layout: TextLayout, columns: Sequence[str] | None) -> _Table:
    kind = kind_of(path)
    foreign = [name for name in layout.given() if kind not in _APPLIES[name]]
    if foreign:
        option = foreign[0]
        ends = [end for end, of in KINDS.items() if of in _APPLIES[option]]
        raise CorpusError(
            f"{option}={getattr(layout, option)!r} is for files that end in {ends}; {str(path)!r} does not"
        )
    return {"table": _open_table, "json": _open_json, "parquet": _open_parquet, "text": _open_text}[kind](
        path, layout, columns
    )


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Convert errors in the block to CorpusError with the file name; each format raises its own exceptions."""
    try:
        yield
    except (CorpusError, MemoryError):
        raise
    except UnicodeError as error:
        raise CorpusError(
            f"{str(path)!r} cannot be read: {one_line(error)}; set its encoding, such as encoding='latin-1'"
        ) from error
    except Exception as error:
        raise CorpusError(f"{str(path)!r} cannot be read: {one_line(error)}") from error


def _check_columns(path: Path, wanted: Iterable[str], names: Sequence[str]) -> None:
    for column in wanted:
        if column not in names:
            raise CorpusError(f"{str(path)!r} has no column {column!r}; its columns are {shown(list(names))}")
        if names.count(column) > 1:
            raise CorpusError(
                f"{str(path)!r} has more than one column {column!r}; its columns are {shown(list(names))}"
            )


def _check_text(path: Path, number: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # Bytes that are not valid UTF-8 are decoded to these lone surrogates.
        fault = (
            f"byte 0x{code - 0xDC00:02x}, which is not valid UTF-8; correct the text, or set the encoding of the file, "
            "such as encoding='latin-1'"
            if 0xDC80 <= code <= 0xDCFF
            else f"\\u{code:04x}, half of a surrogate pair, which cannot be encoded; correct the text"
        )
        raise CorpusError(f"{place_of(path, number)} contains {fault}") from None


# --- tables and lines ---


def _open_table(path: Path, layout: TextLayout, columns: Sequence[str] | None) -> _Table:
    separator = layout.separator or ("\t" if suffix_of(path) == ".tsv" else ",")
    rows = _cells(
        path, layout.encoding, separator, quoted=layout.quoted if layout.quoted is not None else separator != "\t"
    )
    first = next(rows, None)
    if first is None:
        return _Table((), iter(()))
    if layout.header is False:
        return _Table([str(index) for index in range(1, len(first[1]) + 1)], chain([first], rows))
    for name in first[1]:
        _check_text(path, first[0], name)
    return _Table(first[1], rows)


def _cells(path: Path, encoding: str | None, separator: str, *, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    lines = enumerate(_lines(path, encoding), start=1)
    for number, line in lines:
        if not line.strip("\r\n"):
            continue
        if not quoted or '"' not in line:
            yield number, _without_line_end(line).split(separator)
            continue
        cells = _quoted_cells(line, lines, separator)
        if cells is None:
            raise CorpusError(f"{place_of(path, number)} has an unclosed quote; set quoted=False if quotes are text")
        yield number, cells


def _quoted_cells(line: str, following: Iterator[tuple[int, str]], separator: str) -> list[str] | None:
    """Split a row that begins with a line and may continue on the next lines; None if a quote is not closed."""
    cells: list[str] = []
    at = 0
    while True:
        inside = []
        if line.startswith('"', at):
            at += 1
            while (end := _end_of_quotes(line, at)) == len(line):
                inside.append(line[at:])
                line, at = next(following, (0, ""))[1], 0
                if not line:
                    return None
            inside.append(line[at:end])
            at = end + 1
        end = line.find(separator, at)
        # Text after a closing quote belongs to the cell; so do quotes within a cell that does not begin with a quote.
        cells.append("".join(inside).replace('""', '"') + (line[at:end] if end >= 0 else _without_line_end(line[at:])))
        if end < 0:
            return cells
        at = end + 1


def _end_of_quotes(line: str, start: int) -> int:
    match = _INSIDE_QUOTES.match(line, start)
    return match.end() if match is not None else start


def _open_text(path: Path, layout: TextLayout, columns: Sequence[str] | None) -> _Table:
    lines = _lines(path, layout.encoding)
    if layout.unit == "file":
        return _Table(("text",), iter([(1, ["".join(lines)])]))
    return _Table(("text",), ((number, [_without_line_end(line)]) for number, line in enumerate(lines, start=1)))


def _lines(path: Path, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a file with their line ends; invalid UTF-8 bytes become lone surrogates."""
    with _open_bytes(path) as file:
        start = file.peek(_BATCH)[:_BATCH]
        marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
        if marked is None and encoding is None and 4 * start.count(0) > len(start):
            raise ValueError("it looks like UTF-16; set its encoding, such as encoding='utf-16-le'")
        chosen = marked or encoding or "utf-8"
        errors = "surrogateescape" if codecs.lookup(chosen).name.startswith("utf-8") else "strict"
        with io.TextIOWrapper(file, encoding=chosen, errors=errors, newline="\n") as lines:
            yield from lines


def _open_bytes(path: Path) -> Any:
    return _COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


# --- records ---


def _open_json(path: Path, layout: TextLayout, columns: Sequence[str] | None) -> _Table:
    rows = _checked_records(path, _json_values(path, layout.encoding))
    head = list(islice(rows, _HEAD_ROWS))
    names = dict.fromkeys(name for _, row in head for name in _paths(row))
    return _Table(list(names), chain(head, rows))


def _json_values(path: Path, encoding: str | None) -> Iterator[tuple[int, Any]]:
    lines = ((number, line) for number, line in enumerate(_lines(path, encoding), start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        for number, value in enumerate(parse_json("".join([first[1], *(line for _, line in lines)]), finite=False), 1):
            yield number, {"text": value} if isinstance(value, str) else value
        return
    for number, line in chain([first], lines):
        try:
            value = parse_json(line, finite=False)
        except ValueError as error:
            if number == first[0] and path.suffix.lower() != ".jsonl":
                # One object that spans several lines.
                yield 1, parse_json("".join([line, *(further for _, further in lines)]), finite=False)
                return
            raise CorpusError(f"{place_of(path, number)} cannot be read: {one_line(error)}") from error
        yield number, value


def _checked_records(path: Path, rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in rows:
        if not isinstance(row, Mapping):
            raise CorpusError(f"{place_of(path, number)} is {shown(row)}; expected an object with columns")
        yield number, row


def _open_parquet(path: Path, layout: TextLayout, columns: Sequence[str] | None) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    packed = path.suffix.lower() in _COMPRESSED
    file = pq.ParquetFile(pa.BufferReader(_open_bytes(path).read()) if packed else path)
    within = (file.schema.column(index).path for index in range(len(file.schema)))
    names = list(dict.fromkeys([*file.schema_arrow.names, *within]))
    batches = file.iter_batches(batch_size=_BATCH, columns=columns)
    return _Table(names, enumerate((row for batch in batches for row in batch.to_pylist()), start=1))


def _paths(row: Mapping[str, Any], depth: int = 1) -> Iterator[str]:
    for name, value in row.items():
        yield name
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from (f"{name}.{inner}" for inner in _paths(value, depth + 1))


def _without_line_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
