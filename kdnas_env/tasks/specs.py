"""Specifications of the tasks (columns, labels, metrics), and the data of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_whole, meant

EMBEDDED_TASK, EMBEDDED_REVIEWS = "rotten_tomatoes", "imdb"
TRAIN, VALIDATION, TEST = "train", "validation", "test"

CLASSIFICATION, MULTI_LABEL, REGRESSION = "classification", "multi-label", "regression"
KINDS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
"""Kinds of tasks: one class of several, any number of several classes, or a number."""

EMBEDDING = "embedding"
"""The task without labels: text vectors like those of the teacher."""


@dataclass(frozen=True)
class TaskSpec:
    """Specification of a task.

    Attributes:
        name: Its name on the hub.
        columns: Columns with the one or two texts, in the layout of the hub.
        metrics: Metrics whose mean is the score (Wang et al. 2019, arXiv:1804.07461).
        labels: Names of the classes in the order of their numbers; empty for a number, such as a similarity.
        splits: Splits that models are scored on, in the layout of the hub.
        scored: Splits among them that make up the score.
        folder: Folder in the original layout.
        files: Their files in the original layout, without ``.tsv``.
        tsv_columns: Columns with the texts and the label in the original layout; numbers where there is no header.
        names: Readable names of the classes if their labels are numbers; classifiers get these names.
        multi_label: Whether a text may have several classes, or none.
        reported: Metrics that are reported but not part of the score.
    """

    name: str
    columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    labels: tuple[str, ...] = ("0", "1")
    splits: tuple[str, ...] = ("validation",)
    scored: tuple[str, ...] = ("validation",)
    folder: str = ""
    files: tuple[str, ...] = ("dev",)
    tsv_columns: tuple[str | int, ...] = ()
    names: tuple[str, ...] = ()
    multi_label: bool = False
    reported: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        """Whether a number is predicted instead of a class."""
        return not self.labels

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return REGRESSION if self.regression else MULTI_LABEL if self.multi_label else CLASSIFICATION

    @property
    def class_names(self) -> tuple[str, ...]:
        """Readable names of the classes; empty for regression."""
        return self.names or self.labels

    @property
    def outputs(self) -> int:
        """Number of outputs of a head: the number of classes, or 1 for regression."""
        return len(self.labels) or 1

    def decide(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return :func:`decide` for the kind of the task."""
        return decide(self.kind, logits)


def decide(kind: str, logits: NDArray[Any]) -> NDArray[Any]:
    """Return the decisions that follow from logits.

    Args:
        kind: One of :data:`KINDS`.
        logits: Logits ``(samples, classes)``; for regression predictions ``(samples,)``.

    Returns:
        Classes, int64 ``(samples,)``; for multi-label tasks 0 and 1, int64 ``(samples, classes)``; for regression the
        numbers unchanged.
    """
    if kind == REGRESSION:
        return logits
    return (logits > 0).astype(np.int64) if kind == MULTI_LABEL else logits.argmax(1)


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_SENTIMENT = ("negative", "positive")
_GLUE = (
    TaskSpec(
        "cola",
        ("sentence",),
        ("matthews_correlation",),
        names=("unacceptable", "acceptable"),
        folder="CoLA",
        tsv_columns=(3, 1),
    ),
    TaskSpec("sst2", ("sentence",), names=_SENTIMENT, folder="SST-2", tsv_columns=("sentence", "label")),
    TaskSpec(
        "mrpc",
        _PAIR,
        ("accuracy", "f1"),
        names=("not_equivalent", "equivalent"),
        folder="MRPC",
        tsv_columns=("#1 String", "#2 String", "Quality"),
    ),
    TaskSpec("stsb", _PAIR, ("pearson", "spearman"), labels=(), folder="STS-B", tsv_columns=(*_PAIR, "score")),
    TaskSpec(
        "qqp",
        ("question1", "question2"),
        ("accuracy", "f1"),
        names=("not_duplicate", "duplicate"),
        folder="QQP",
        tsv_columns=("question1", "question2", "is_duplicate"),
    ),
    TaskSpec(
        "mnli",
        ("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        splits=("validation_matched", "validation_mismatched"),
        scored=("validation_matched", "validation_mismatched"),
        folder="MNLI",
        files=("dev_matched", "dev_mismatched"),
        tsv_columns=(*_PAIR, "gold_label"),
    ),
    TaskSpec(
        "qnli",
        ("question", "sentence"),
        labels=_ENTAILMENT,
        folder="QNLI",
        tsv_columns=("question", "sentence", "label"),
    ),
    TaskSpec("rte", _PAIR, labels=_ENTAILMENT, folder="RTE", tsv_columns=(*_PAIR, "label")),
    TaskSpec("wnli", _PAIR, names=_ENTAILMENT[::-1], folder="WNLI", tsv_columns=(*_PAIR, "label")),
)
"""Tasks that are read from the hub's GLUE or a copy of it."""

_EMBEDDED = (
    TaskSpec(EMBEDDED_TASK, ("text",), names=_SENTIMENT, splits=(VALIDATION, TEST), scored=(TEST,)),
    TaskSpec(EMBEDDED_REVIEWS, ("text",), names=_SENTIMENT, splits=(VALIDATION, TEST), scored=(TEST,)),
)
"""Tasks whose text is installed with the extra ``demo``."""

TASKS: Mapping[str, TaskSpec] = {spec.name: spec for spec in (*_GLUE, *_EMBEDDED)}
"""All predefined tasks: the nine of GLUE, and the two embedded ones."""

GLUE_TASKS = tuple(spec.name for spec in _GLUE)
EMBEDDED_TASKS = tuple(spec.name for spec in _EMBEDDED)

NO_TEXT = "none"
"""Replaces a source of unlabelled text: use none."""

_EMBEDDED_TEXT = "demo:all"


def unlabelled_source(task: str, source: str | None) -> str | None:
    """Return where the unlabelled text of a task comes from; None if there is none.

    Args:
        task: Name of the task.
        source: The requested source, or ``none``; None for the default, which only the embedded tasks have.
    """
    source = source or (_EMBEDDED_TEXT if task in EMBEDDED_TASKS else NO_TEXT)
    return None if source == NO_TEXT else source


def task_spec(name: str) -> TaskSpec:
    """Return the specification of a task.

    Raises:
        KDNASError: If the task is unknown.
    """
    if name not in TASKS:
        known = [*TASKS, EMBEDDING]
        raise KDNASError(
            f"unknown task {name!r}; choose from {known}, or name a file or folder of your own{meant(name, known)}"
        )
    return TASKS[name]


@dataclass(frozen=True, eq=False)
class Split:
    """A split of a task.

    Attributes:
        texts: One list of texts per column, of equal length; two for sentence pairs.
        labels: Classes, int64 ``(samples,)``; for multi-label tasks 0 and 1, int64 ``(samples, classes)``; for
            regression numbers, float64 ``(samples,)``.
    """

    texts: tuple[Sequence[str], ...]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, samples: NDArray[np.int64]) -> Split:
        """Return some samples, in the order given."""
        return Split(tuple([column[index] for index in samples] for column in self.texts), self.labels[samples])


@dataclass(frozen=True, eq=False)
class TaskData:
    """A task with its data.

    Attributes:
        spec: Specification of the task.
        train: The training split.
        evaluation: Splits to score models on, by name.
        source: Source of the data.
        skipped: Number of rows skipped because they lack fields.
        preparation: For a user's own task, as plain data: dropped rows by reason, duplicates, and how splits were
            drawn.
        reading: Fields of the :class:`kdnas_env.tasks.own.OwnTask` that it was read with; None for predefined tasks.
    """

    spec: TaskSpec
    train: Split
    evaluation: Mapping[str, Split]
    source: str
    skipped: int = 0
    preparation: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.spec.name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all texts and labels."""
        digest = hashlib.sha256(self.name.encode())
        for name, split in {TRAIN: self.train, **self.evaluation}.items():
            digest.update(json.dumps([name, split.texts, split.labels.tolist()]).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Return name, source and sizes, as plain data."""
        sizes = {name: len(split) for name, split in {TRAIN: self.train, **self.evaluation}.items()}
        # For a user's own task, ``preparation`` already counts dropped rows by reason.
        skipped = {} if "dropped" in self.preparation else {"skipped_rows": self.skipped}
        return {"name": self.name, "source": self.source, **sizes, **skipped, **self.preparation}

    def with_train(self, train: Split) -> TaskData:
        """Return the task with another training split."""
        return replace(self, train=train)

    def limited(self, samples: int | None, seed: int = 0) -> TaskData:
        """Return the task with at most ``samples`` training samples, drawn at random; None keeps all.

        Raises:
            KDNASError: If the number is below 1.
        """
        if samples is not None:
            check_whole("max_samples", samples, of="training samples", at_least=1, advice="None takes all")
        if samples is None or samples >= len(self.train):
            return self
        drawn = np.sort(np.random.default_rng(seed).permutation(len(self.train))[:samples])
        return self.with_train(self.train.subset(drawn))
