"""The user's own task: texts and labels from files, folders or the hub, checked, cleaned and split."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdnas_env.distillation.text.columns import Columns, choose_columns
from kdnas_env.distillation.text.layout import TableLayout, TextLayout
from kdnas_env.distillation.text.records import Record, Records, open_records
from kdnas_env.distillation.text.text_files import suffix_of
from kdnas_env.errors import CorpusError, KDNASError, TaskDataError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.settings import Settings
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.labels import LABEL_NAMES, Labels, is_missing
from kdnas_env.tasks.specs import (
    CLASSIFICATION,
    MULTI_LABEL,
    REGRESSION,
    TASKS,
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    TaskData,
    TaskSpec,
)
from kdnas_env.tasks.splits import draw_share, repeats, text_keys

_METRICS = {
    CLASSIFICATION: (("accuracy",), ("f1_macro", "matthews_correlation")),
    MULTI_LABEL: (("f1_macro",), ("accuracy",)),
    REGRESSION: (("pearson", "spearman"), ()),
}
"""Metrics that make up the score of each kind of task, and metrics that are only reported."""

_NO_LABEL, _NO_TEXT, _LONE = "rows_without_label", "rows_without_text", "rows_of_classes_with_one_sample"
_STANDS_LATER = "rows_that_stand_in_a_later_split"

REPEATED = "train_rows_that_repeat_an_earlier_one"
"""Key, in the preparation of a task, of the number of duplicate training texts; duplicates are kept."""


@dataclass(frozen=True)
class OwnTask(TableLayout, Settings):
    """Layout of your own task.

    Raises:
        KDNASError: If a value is out of range.
    """

    text_columns: tuple[str, ...] = ()
    """The column with the text, or two for pairs; detected by default."""
    label_column: tuple[str, ...] = ()
    """The column with the label, or several columns of 0 and 1, one per class; detected by default."""
    kind: Literal["classification", "multi-label", "regression"] | None = None
    """Kind of the task; inferred from the labels by default: whole numbers, names and booleans are classes, lists and
    several columns are multi-label, other numbers are regression. Set ``regression`` if the numbers are whole."""
    train_split: str = TRAIN
    """Split to train on, if there are several."""
    validation_split: str | None = None
    """Split to validate on; by default ``validation``, if it exists."""
    test_split: str | None = None
    """Split to test on; by default ``test``, if it exists."""
    validation_file: str | None = None
    """File or folder to validate on, instead of a split."""
    test_file: str | None = None
    """File or folder to test on, instead of a split."""
    validation_fraction: float = 0.1
    """Share of the training split to validate on, if there is no validation split."""
    test_fraction: float = 0.1
    """Share of the training split to test on, if there is no test split; with 0, models are scored on the validation
    split."""
    split_seed: int = 0
    """Seed of the drawn splits, in which classes keep their proportions."""
    config_name: str | None = None
    """Configuration of the dataset, if it has several."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        super().__post_init__()
        for name in ("validation_fraction", "test_fraction"):
            self.check_numbers(name, at_least=0, below=1)
        if self.validation_fraction + self.test_fraction >= 1:
            raise KDNASError(
                f"validation_fraction is {self.validation_fraction} and test_fraction is {self.test_fraction}; "
                "together they leave nothing to train on"
            )
        self.check_numbers("split_seed", at_least=0)
        for name in (VALIDATION, TEST):
            if getattr(self, f"{name}_split") is not None and getattr(self, f"{name}_file") is not None:
                raise KDNASError(f"{name}_split and {name}_file are both given; keep one of them")

    @property
    def layout(self) -> TextLayout:
        """Layout of its local files."""
        return TextLayout(**{field.name: getattr(self, field.name) for field in fields(TableLayout)})


def is_own(source: str) -> bool:
    """Return whether a name may be a source of a user's own task: an existing path, a file name or a hub name."""
    there = os.path.exists(expanded(source)) or "/" in source or suffix_of(Path(source)) != ""
    return there and source not in TASKS


def load_own(source: str | os.PathLike[str], settings: OwnTask) -> TaskData:
    """Read a user's own task.

    Rows without a label or text, and rows of classes with a single training sample, are dropped and counted. Training
    texts that also occur in the validation or test split, and validation texts that also occur in the test split, are
    dropped and counted too; case is ignored. Duplicate training texts are kept and counted.

    Args:
        source: A file (CSV, TSV, JSONL, JSON, Parquet), a folder with one file per split, or a hub dataset.
        settings: Layout of the task.

    Raises:
        TaskDataError: If it does not exist or cannot be read; a column or split is missing; a text is not text; a label
            does not fit the task's kind or is unknown in a later split; or there is only one class.
    """
    try:
        return _loaded(os.fspath(source), settings)
    except TaskDataError:
        raise
    except CorpusError as error:  # general file readers do not know that the file belongs to a task
        raise TaskDataError(re.sub("^corpus (?=file|folder|')", "task ", str(error))) from error


def _loaded(name: str, settings: OwnTask) -> TaskData:
    dropped: Counter[str] = Counter()
    with open_records(name, config_name=settings.config_name, layout=settings.layout) as records:
        train = _train_split(name, records, settings)
        label_columns = _label_columns(name, records.columns(train), settings)
        text_columns = _text_columns(name, records.columns(train), label_columns, settings)
        names = records.class_names(train, label_columns[0])
        labels: Labels | None = None
        splits: dict[str, Split] = {}
        for role in (TRAIN, VALIDATION, TEST):
            with _split_of(records, train if role == TRAIN else None, role, settings) as (opened, split):
                if split is None:
                    continue
                wanted = (*text_columns, *label_columns)
                rows = list(_usable(opened.rows(split, wanted), len(text_columns), names, dropped))
            if not rows and role != TRAIN and getattr(settings, f"{role}_split") is None:
                continue  # test splits on the hub may have no labels
            if not rows:
                raise TaskDataError(f"task {name!r}: split {split!r} holds no row with a text and a label")
            if labels is None:
                labels = Labels.read(name, [row[2] for row in rows], label_columns, names, settings.kind)
            splits[role] = _encoded(rows, labels, dropped)
    assert labels is not None
    drawn, left = {}, 1.0
    for role, fraction in ((TEST, settings.test_fraction), (VALIDATION, settings.validation_fraction)):
        if role not in splits and fraction > 0:
            rng = np.random.default_rng([settings.split_seed, len(role)])
            what = f"the split {role!r} of task {name!r}"
            splits[TRAIN], splits[role] = draw_share(splits[TRAIN], fraction / left, rng, what)
            left -= fraction
            drawn[role] = {"fraction": fraction, "seed": settings.split_seed, "samples": len(splits[role])}
    evaluated = tuple(role for role in (VALIDATION, TEST) if role in splits)
    if not evaluated:
        raise TaskDataError(f"task {name!r} has nothing to score on; name a split, or leave test_fraction above 0")
    for role, later in ((VALIDATION, evaluated[1:]), (TRAIN, evaluated)):
        if role in splits:
            splits[role] = _without(name, role, splits[role], [splits[other] for other in later], dropped)
    metrics, reported = _METRICS[labels.kind]
    spec = TaskSpec(
        name=own_name(name),
        columns=text_columns,
        metrics=metrics,
        reported=reported,
        labels=labels.names,
        multi_label=labels.kind == MULTI_LABEL,
        splits=evaluated,
        scored=evaluated[-1:],
    )
    preparation = {
        "kind": labels.kind,
        "label_columns": list(label_columns),
        "dropped": dict(sorted(dropped.items())),
        "drawn": drawn,
        REPEATED: repeats(splits[TRAIN]),
    }
    evaluation = {role: splits[role] for role in evaluated}
    return TaskData(spec, splits[TRAIN], evaluation, name, preparation=preparation, reading=asdict(settings))


def own_name(source: str) -> str:
    """Return the name of a task, which is also used in file names."""
    path = Path(source)
    stem = path.name[: -len("".join(path.suffixes))] if suffix_of(path) else path.name
    return re.sub(r"[^\w.-]+", "_", stem).strip(".") or "task"


def _train_split(name: str, records: Records, settings: OwnTask) -> str:
    if settings.train_split in records.splits:
        return settings.train_split
    if len(records.splits) == 1 and settings.train_split == TRAIN:
        return records.splits[0]
    raise TaskDataError(
        f"task {name!r} has no split {settings.train_split!r}; it has {list(records.splits)}; name one with train_split"
    )


@contextmanager
def _split_of(
    records: Records, split: str | None, role: str, settings: OwnTask
) -> Iterator[tuple[Records, str | None]]:
    """Yield the records that hold a split, and its name there; None if there is no such split."""
    file, asked = getattr(settings, f"{role}_file", None), getattr(settings, f"{role}_split")
    if split is not None or file is None:
        source = split or asked or (role if role in records.splits else None)
        if source is not None and source not in records.splits:
            raise TaskDataError(
                f"there is no split {source!r}; the task has {list(records.splits)}; check {role}_split"
            )
        yield records, source
        return
    with open_records(file, layout=settings.layout) as opened:
        if len(opened.splits) > 1 and role not in opened.splits:
            raise TaskDataError(
                f"{file!r} has several splits, {list(opened.splits)}, none of them {role!r}; name a file"
            )
        yield opened, role if role in opened.splits else opened.splits[0]


def _label_columns(name: str, columns: Columns, settings: OwnTask) -> tuple[str, ...]:
    if columns.doubt is not None and not settings.label_column:
        raise TaskDataError(f"task {name!r}: {columns.doubt}")
    wanted = settings.label_column or tuple(column for column in LABEL_NAMES if column in columns.names)[:1]
    if not wanted:
        raise TaskDataError(
            f"cannot tell which column of task {name!r} holds the label: its columns are {shown(list(columns.names))}; "
            "name it with label_column"
        )
    missing = [column for column in wanted if column not in columns.names]
    if missing or len(set(wanted)) < len(wanted):
        what = f"has no column {missing[0]!r}" if missing else f"cannot have a label column twice, in {list(wanted)}"
        raise TaskDataError(f"task {name!r} {what}; its columns are {shown(list(columns.names))}; check label_column")
    return tuple(wanted)


def _text_columns(name: str, columns: Columns, labels: Sequence[str], settings: OwnTask) -> tuple[str, ...]:
    textual = tuple(column for column in columns.textual if column not in labels)
    chosen = choose_columns(
        Columns(columns.names, textual, columns.doubt), settings.text_columns or None, name, what="task"
    )
    both = sorted(set(chosen) & set(labels))
    if both:
        raise TaskDataError(f"task {name!r}: column {both[0]!r} is both text and label; name another")
    return chosen


def _usable(
    rows: Iterator[Record], texts: int, names: Sequence[str], dropped: Counter[str]
) -> Iterator[tuple[str, tuple[str, ...], tuple[Any, ...]]]:
    """Yield location, texts and labels of the rows that have both texts and labels."""
    for place, values in rows:
        written, label = values[:texts], values[texts:]
        if any(is_missing(value) or (names and value == -1) for value in label):  # -1: not annotated, a hub convention
            dropped[_NO_LABEL] += 1
        elif any(value is None or value == "" or (isinstance(value, str) and not value.strip()) for value in written):
            dropped[_NO_TEXT] += 1
        else:
            for value in written:
                if not isinstance(value, str):
                    raise TaskDataError(f"{place}: the text is {shown(value)}; expected text")
            yield place, written, label


def _encoded(
    rows: Sequence[tuple[str, tuple[str, ...], tuple[Any, ...]]], labels: Labels, dropped: Counter[str]
) -> Split:
    kept = [row for row in rows if not labels.is_lone(row[2])]
    dropped[_LONE] += len(rows) - len(kept)
    encoded = labels.encode([(place, label) for place, _, label in kept])
    return Split(tuple(list(column) for column in zip(*(texts for _, texts, _ in kept), strict=True)), encoded)


def _without(name: str, role: str, split: Split, later: Sequence[Split], dropped: Counter[str]) -> Split:
    """Return a split without the texts that occur in later splits."""
    seen = {key for other in later for key in text_keys(other)}
    kept = np.array([index for index, key in enumerate(text_keys(split)) if key not in seen], dtype=np.int64)
    dropped[f"{role}_{_STANDS_LATER}"] += len(split) - len(kept)
    if not len(kept):
        raise TaskDataError(f"task {name!r}: all texts of split {role!r} occur in a later split; nothing is left of it")
    return split if len(kept) == len(split) else split.subset(kept)
