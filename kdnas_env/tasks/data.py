"""Reading tasks: embedded ones, GLUE from the hub or from folders in either layout, and the user's own tasks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.text.columns import choose_columns
from kdnas_env.distillation.text.demo import demo_splits
from kdnas_env.distillation.text.layout import TextLayout
from kdnas_env.distillation.text.records import open_records
from kdnas_env.distillation.text.text_files import place_of, read_rows
from kdnas_env.errors import CorpusError, KDNASError, TaskDataError, one_line
from kdnas_env.support.atomic import expanded
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.labels import as_number
from kdnas_env.tasks.own import OwnTask, is_own, load_own, own_name
from kdnas_env.tasks.specs import (
    EMBEDDED_TASK,
    EMBEDDED_TASKS,
    EMBEDDING,
    TASKS,
    TRAIN,
    Split,
    TaskData,
    TaskSpec,
    task_spec,
)

HUB = "nyu-mll/glue"
HIGHEST_SIMILARITY = 5.0

_HUB_FILES = ("parquet", "jsonl", "csv")

_Row = tuple[str, Sequence[Any]]
"""Location of a row (for messages), and its texts and label."""


def check_task(name: str) -> None:
    """Check that a name is a known task or may be a source of the user's own task.

    Raises:
        KDNASError: If it is neither.
    """
    if name == EMBEDDING:
        raise KDNASError(
            f"the task {name!r} has no labels to score; it makes embedding models (kdnas run --task "
            f"{name}, or kdnas distill RUN --task {name})"
        )
    if not is_own(name):
        task_spec(name)


def task_name(source: str) -> str:
    """Return the name of the task that is read from a source: its own name, or that of the file, folder or dataset."""
    return source if source in TASKS else own_name(source)


def load_task(name: str, folder: str | os.PathLike[str] | None = None, own: OwnTask | None = None) -> TaskData:
    """Read a task.

    Args:
        name: One of :data:`kdnas_env.tasks.specs.TASKS`, or a file, folder or hub dataset with the user's own task, see
            :func:`kdnas_env.tasks.own.load_own`. The embedded tasks ``rotten_tomatoes`` and ``imdb`` need no folder.
        folder: Folder of GLUE, either in the hub's layout (``cola/train-*.parquet``, also jsonl and csv) or in the
            original layout (``CoLA/train.tsv``); None for the hub (``nyu-mll/glue``).
        own: Layout of the user's own task.

    Raises:
        KDNASError: If there is no such task.
        CorpusError: If it is not in the folder, the hub cannot be reached, a split or column is missing, a split is
            empty, a text is not text or not valid UTF-8, or a label is unknown.
        DependencyError: If the task is an embedded one and the extra ``demo`` is not installed.
    """
    check_task(name)
    if name not in TASKS:
        return load_own(name, own or OwnTask())
    spec = task_spec(name)
    if name in EMBEDDED_TASKS:
        return _embedded(spec)
    if folder is None:
        return _read_task(spec, _fetch(spec), HUB)
    root = expanded(folder)
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise CorpusError(
            f"data folder {str(folder)!r} {what}; name a folder that holds a folder for every task, such as "
            f"{spec.name}/train.csv (layout of the hub) or {spec.folder}/train.tsv (original layout), or leave it out "
            "to fetch them from the hub"
        )
    return _read_task(spec, root, str(folder))


def read_unlabelled(
    source: str | os.PathLike[str], spec: TaskSpec, samples: int, seed: int = 0
) -> tuple[tuple[str, ...], ...]:
    """Read texts for a task, without labels; rows without text are skipped.

    Args:
        source: A file, folder or hub dataset, of which the training split is read, or an embedded corpus.
        spec: The task. Its columns are read if the source has them, else the column that holds the text.
        samples: Maximum number of rows; more are sampled at random.
        seed: Seed of the sampling.

    Returns:
        One sequence of texts per column of the task.

    Raises:
        CorpusError: If the source cannot be read, or has fewer text columns than the task.
        DependencyError: If it is an embedded corpus and the extra ``demo`` is not installed.
    """
    name = os.fspath(source)
    with open_records(name) as records:
        split = TRAIN if TRAIN in records.splits else records.splits[0]
        columns = records.columns(split)
        try:
            own = set(spec.columns) <= set(columns.names)
            chosen = choose_columns(columns, spec.columns if own else None, name)
        except CorpusError as error:
            raise TaskDataError(
                f"cannot tell which column of the text without labels {name!r} holds the text: its columns are "
                f"{shown(list(columns.names))}; call it {spec.columns[0]!r} there, as in the task"
            ) from error
        if len(chosen) != len(spec.columns):
            raise TaskDataError(
                f"the unlabelled text {name!r} has columns {list(columns.names)}; the task {spec.name!r} needs two "
                f"texts a row, {list(spec.columns)}"
            )
        rows = [values for _, values in records.rows(split, chosen) if all(map(_is_text, values))]
    if len(rows) > samples:
        drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:samples])
        rows = [rows[index] for index in drawn]
    return tuple(zip(*rows, strict=True)) if rows else tuple(() for _ in chosen)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _embedded(spec: TaskSpec) -> TaskData:
    embedded = demo_splits(spec.name)
    splits = {}
    for name in (TRAIN, *spec.splits):
        texts, labels = embedded[name]
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
            f"folder that holds GLUE, or use the task {EMBEDDED_TASK!r}"
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
    number = as_number(value)
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
    """Return the files of a split in the hub's layout; of all splits if the name is empty."""
    pattern = re.compile(rf"{re.escape(split) or '.*'}(-.*)?\.({'|'.join(_HUB_FILES)})")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name))


def _hub_rows(spec: TaskSpec, root: Path, split: str) -> Iterator[_Row | None]:
    folder = root / spec.name
    files = _hub_files(folder, split)
    if not files:
        raise CorpusError(
            f"task {spec.name!r} has no split {split!r} in {str(folder)!r}; expected a file such as "
            f"{split}-00000-of-00001.parquet or {split}.jsonl"
        )
    for path in files:
        for number, values in read_rows(path, (*spec.columns, "label")):
            yield place_of(path, number), values


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
    headed = isinstance(spec.tsv_columns[0], str)
    columns = [name if isinstance(name, str) else str(name + 1) for name in spec.tsv_columns]
    for number, values in read_rows(path, columns, TextLayout(header=headed), ragged=True):
        yield None if None in values else (place_of(path, number), values)
