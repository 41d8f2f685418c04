"""Reading tasks: the embedded one, folders in either of GLUE's layouts, and the hub."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distill.demo import demo_task
from kdnas_env.distill.libraries import one_line
from kdnas_env.errors import CorpusError
from kdnas_env.files import expanded
from kdnas_env.glue.tasks import EMBEDDED_TASK, TRAIN, Split, TaskData, TaskSpec, task_spec
from kdnas_env.plain import parse_json, shown

HUB = "nyu-mll/glue"
HIGHEST_SIMILARITY = 5.0

_Row = tuple[str, Sequence[Any]]
"""Where a row stands (for messages), and its texts and label."""


def load_task(name: str, folder: str | os.PathLike[str] | None = None) -> TaskData:
    """Read a task.

    Args:
        name: One of :data:`kdnas_env.glue.tasks.TASKS`. The embedded task ``rotten_tomatoes`` needs no folder.
        folder: Folder of GLUE, either in the layout of the hub (``cola/train-*.parquet``; jsonl and csv will do too)
            or in the original one (``CoLA/train.tsv``); None for the hub (``nyu-mll/glue``).

    Raises:
        KDNASError: If there is no such task.
        CorpusError: If it is not in the folder, the hub cannot be reached, a split or a column is missing, a split is
            empty, a text is not text, or a label is not one of the task's.
        DependencyError: If the task is the embedded one and the extra ``demo`` is not installed.
    """
    spec = task_spec(name)
    if name == EMBEDDED_TASK:
        return _embedded(spec)
    if folder is None:
        return _read_task(spec, _fetch(spec), HUB)
    root = expanded(folder)
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "is not there"
        raise CorpusError(
            f"data folder {str(folder)!r} {what}; name a folder that holds a folder for every task, such as "
            f"{spec.name}/train.csv (layout of the hub) or {spec.folder}/train.tsv (original layout), or leave it out "
            "to fetch them from the hub"
        )
    return _read_task(spec, root, str(folder))


def _embedded(spec: TaskSpec) -> TaskData:
    splits = {}
    for name in (TRAIN, *spec.splits):
        texts, labels = demo_task(name)
        splits[name] = Split((texts,), np.array(labels, dtype=np.int64))
    return TaskData(spec, splits.pop(TRAIN), splits, "embedded")


def _fetch(spec: TaskSpec) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                HUB, repo_type="dataset", allow_patterns=[f"{spec.name}/{split}-*" for split in (TRAIN, *spec.splits)]
            )
        )
    except Exception as error:
        raise CorpusError(
            f"task {spec.name!r}: the hub cannot be reached ({one_line(error)}) and no copy of {HUB} is cached; name a "
            f"folder that holds GLUE, or take the task {EMBEDDED_TASK!r}"
        ) from error


def _read_task(spec: TaskSpec, root: Path, source: str) -> TaskData:
    read = _hub_rows if (root / spec.name).is_dir() and _hub_files(root / spec.name, "") else _original_rows
    splits, skipped = {}, 0
    for name in (TRAIN, *spec.splits):
        rows: list[_Row] = []
        for row in read(spec, root, name):
            if row is None:
                skipped += 1
            else:
                rows.append(row)
        if not rows:
            raise CorpusError(f"task {spec.name!r}: split {name!r} in {source!r} is empty; give at least one row")
        splits[name] = _split(spec, rows)
    return TaskData(spec, splits.pop(TRAIN), splits, source, skipped)


def _split(spec: TaskSpec, rows: list[_Row]) -> Split:
    for place, values in rows:
        for column, value in zip(spec.columns, values, strict=False):
            if not isinstance(value, str):
                raise CorpusError(f"{place}: {column} is {shown(value)}; expected text")
    labels = [_label(spec, place, values[-1]) for place, values in rows]
    texts = tuple([values[index] for _, values in rows] for index in range(len(spec.columns)))
    return Split(texts, np.array(labels, dtype=np.float64 if spec.regression else np.int64))


def _label(spec: TaskSpec, place: str, value: Any) -> float:
    if isinstance(value, str) and value in spec.labels:
        return spec.labels.index(value)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if spec.regression:
        if not 0 <= number <= HIGHEST_SIMILARITY:
            raise CorpusError(f"{place}: label is {shown(value)}; expected a number from 0 to {HIGHEST_SIMILARITY:g}")
        return number
    if number not in range(len(spec.labels)):
        words = "" if spec.labels[0] == "0" else f", or one of {list(spec.labels)}"
        raise CorpusError(
            f"{place}: label is {shown(value)}; expected a whole number from 0 to {len(spec.labels) - 1}{words}"
        )
    return number


def _hub_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split in the layout of the hub; of all splits for an empty name."""
    pattern = re.compile(rf"{re.escape(split) or '.*'}(-.*)?\.({'|'.join(_READERS)})")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


def _hub_rows(spec: TaskSpec, root: Path, split: str) -> Iterator[_Row | None]:
    folder = root / spec.name
    files = _hub_files(folder, split)
    if not files:
        raise CorpusError(
            f"task {spec.name!r} has no split {split!r} in {str(folder)!r}; expected a file such as "
            f"{split}-00000-of-00001.parquet or {split}.jsonl"
        )
    columns = (*spec.columns, "label")
    for path in files:
        try:
            for number, row in enumerate(_READERS[path.suffix[1:]](path), start=1):
                if not isinstance(row, Mapping):
                    raise CorpusError(f"{str(path)!r} holds {shown(row)} where a row was expected")
                _check_columns(path, columns, row)
                yield f"{path}, row {number}", [row[column] for column in columns]
        except CorpusError:
            raise
        except (
            Exception
        ) as error:  # each format's reader has exceptions of its own: ArrowNotImplementedError, csv.Error
            raise CorpusError(f"{str(path)!r} cannot be read: {one_line(error)}") from error


def _check_columns(path: Path, wanted: Sequence[str], found: Any) -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        raise CorpusError(f"{str(path)!r} has no column {missing[0]!r}; its columns are {shown(list(found))}")


def _original_rows(spec: TaskSpec, root: Path, split: str) -> Iterator[_Row | None]:
    if not (root / spec.folder).is_dir():
        raise CorpusError(
            f"task {spec.name!r} is not in {str(root)!r}; expected a folder {spec.name!r} (layout of the hub) or "
            f"{spec.folder!r} (original layout)"
        )
    files = {TRAIN: TRAIN, **dict(zip(spec.splits, spec.files, strict=True))}
    path = root / spec.folder / f"{files[split]}.tsv"
    if not path.is_file():
        raise CorpusError(f"task {spec.name!r} has no split {split!r} in {str(path.parent)!r}; expected {path.name}")
    try:
        # Only line feeds end a row: the texts hold other line separators, and quotes that nothing closes.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            lines = [line.rstrip("\r\n").split("\t") for line in file]
    except (OSError, ValueError) as error:
        raise CorpusError(f"{str(path)!r} cannot be read: {one_line(error)}") from error
    if not lines:
        return
    headed = isinstance(spec.tsv_columns[0], str)
    header: list[Any] = lines[0] if headed else list(range(len(lines[0])))
    _check_columns(path, spec.tsv_columns, header)  # type: ignore[arg-type]
    places = [header.index(column) for column in spec.tsv_columns]
    for number, fields in enumerate(lines[headed:], start=1 + headed):
        complete = len(fields) > max(places)
        yield (f"{path}, line {number}", [fields[place] for place in places]) if complete else None


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.strip():
                yield parse_json(line)


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "parquet": _read_parquet,
    "jsonl": _read_lines,
    "csv": _read_csv,
}
