"""The records of classifiers and embedding students: task, scores, and training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.folder import EMBEDDER, TASK
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.places import found_again, with_places
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.data import HUB, load_task
from kdnas_env.tasks.embedding import EmbeddingSettings
from kdnas_env.tasks.own import OwnTask
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.specs import EMBEDDED_TASKS, Split, TaskData
from kdnas_env.tasks.vector_scores import EmbeddingScore

T = TypeVar("T")

FORMAT_VERSION = 1

_CLASSIFIER_PATHS = ("teacher.name", "task.source", "task.reading.validation_file", "task.reading.test_file")
_EMBEDDER_PATHS = ("teacher.name", "source")


@dataclass(frozen=True)
class ClassifierRecord:
    """Record of a classifier; plain data except for the scores.

    Attributes:
        task: Description of the task by :func:`describe_task`.
        score: The classifier's score, with settings and learning curve.
        teacher: Name, fingerprint and record of the task's teacher.
        teacher_score: Score of the task's teacher; None if unknown.
        max_length: Maximum sequence length of the training, in tokens.
        parameters: Number of parameters, including the head.
        versions: Versions of kdnas and its libraries.
        unlabelled: Fingerprint of the unlabelled text; empty if unknown.
        format: Version of this record.
    """

    task: Mapping[str, Any]
    score: TaskScore
    teacher: Mapping[str, Any]
    teacher_score: TaskScore | None
    max_length: int
    parameters: int
    versions: Mapping[str, str]
    unlabelled: str = ""
    format: int = FORMAT_VERSION

    def write(self, folder: Path, *, absolute: bool = True) -> None:
        """Write the record into a classifier's folder.

        Args:
            folder: The folder, or a temporary folder beside it, which is renamed later.
            absolute: Whether to write absolute paths of the task's files too, which reveal paths of this machine.

        Raises:
            RunError: If it cannot be written.
        """
        scores = {"score": self.score.to_dict(), "teacher_score": self.teacher_score and self.teacher_score.to_dict()}
        write_json(folder / TASK, with_places({**asdict(self), **scores}, _CLASSIFIER_PATHS, folder, absolute=absolute))


def read_classifier_record(folder: str | os.PathLike[str]) -> ClassifierRecord | None:
    """Read the record of a classifier's folder; None if there is none.

    Raises:
        RunError: If it is malformed.
    """
    return _read(ClassifierRecord, Path(folder) / TASK, "classifier")


@dataclass(frozen=True)
class EmbedderRecord:
    """Record of an embedding student; plain data except for the scores.

    Attributes:
        teacher: Name, fingerprint and width of the imitated teacher.
        score: Comparison of its vectors with the teacher's.
        closed_form: The same for the head in closed form, before the training.
        curve: Learning curve, see :class:`kdnas_env.tasks.embedding.EmbeddingDistillation`.
        settings: Training settings.
        made_from: Fingerprint of student, teacher, texts, settings and seed.
        source: Source of the texts.
        texts: Number of training texts.
        seed: Seed of all randomness.
        seconds: Duration of the training in seconds.
        parameters: Number of parameters, including the head, excluding an unused pooler.
        versions: Versions of kdnas and its libraries.
        drawn: How the texts were sampled from their source, as arguments of
            :func:`kdnas_env.pipeline.distill.embedders.draw_text`; empty if unknown.
        heldout: SHA-256 (hex) of the scored texts.
        format: Version of this record.
    """

    teacher: Mapping[str, Any]
    score: EmbeddingScore
    closed_form: EmbeddingScore
    curve: tuple[dict[str, float], ...]
    settings: EmbeddingSettings
    made_from: str
    source: str
    texts: int
    seed: int
    seconds: float
    parameters: int
    versions: Mapping[str, str]
    drawn: Mapping[str, Any] = field(default_factory=dict)
    heldout: str = ""
    format: int = FORMAT_VERSION

    @property
    def is_closed_form(self) -> bool:
        """Whether training brought no improvement, so that the student keeps its state in closed form."""
        return bool(self.curve) and self.score == self.closed_form

    def write(self, folder: Path, *, absolute: bool = True) -> None:
        """Write the record into the folder of an embedding student.

        Args:
            folder: The folder, or a temporary folder beside it, which is renamed later.
            absolute: Whether to write absolute paths of teacher and text too, which reveal paths of this machine.

        Raises:
            RunError: If it cannot be written.
        """
        write_json(folder / EMBEDDER, with_places(asdict(self), _EMBEDDER_PATHS, folder, absolute=absolute))


def read_embedder_record(folder: str | os.PathLike[str]) -> EmbedderRecord | None:
    """Read the record of an embedding student's folder; None if there is none.

    Raises:
        RunError: If it is malformed.
    """
    return _read(EmbedderRecord, Path(folder) / EMBEDDER, "embedding student")


def _read(kind: type[T], path: Path, model: str) -> T | None:
    if not os.path.isfile(path):
        return None
    try:
        return restore(kind, found_again(read_json(path), path.parent))
    except ValueError as error:
        raise RunError(f"the record of the {model} in {str(path)!r} cannot be read: {error}") from error


def describe_task(task: TaskData) -> dict[str, Any]:
    """Return a task as plain data: its description, its labels, and how to read it again."""
    spec = task.spec
    return {
        **task.describe(),
        "kind": spec.kind,
        "columns": list(spec.columns),
        "labels": list(spec.class_names),
        "metrics": list(spec.metrics),
        "fingerprint": task.fingerprint,
        "evaluation_fingerprint": _evaluation_fingerprint(task),
        "reading": task.reading,
    }


def recorded_task(record: ClassifierRecord) -> TaskData:
    """Read the task of a record.

    Raises:
        KDNASError: If it cannot be read, or its evaluated splits have changed.
    """
    name, source, reading = (record.task.get(key) for key in ("name", "source", "reading"))
    if reading is not None:
        task = load_task(str(source), own=restore(OwnTask, reading))
    else:
        task = load_task(str(name), None if source == HUB or name in EMBEDDED_TASKS else source)
    if _evaluation_fingerprint(task) != record.task.get("evaluation_fingerprint"):
        raise KDNASError(f"the evaluated texts or labels of task {name!r} in {source!r} differ from the record")
    return task


def _evaluation_fingerprint(task: TaskData) -> str:
    """Return the fingerprint of the evaluated splits only."""
    return task.with_train(Split(tuple([] for _ in task.spec.columns), task.train.labels[:0])).fingerprint
