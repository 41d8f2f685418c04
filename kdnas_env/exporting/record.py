"""The records of classifiers and embedding students: what they are for, their scores, and how they were made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

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

FORMAT_VERSION = 1

_CLASSIFIER_PATHS = ("teacher.name", "task.source", "task.reading.validation_file", "task.reading.test_file")
_EMBEDDER_PATHS = ("teacher.name", "source")


@dataclass(frozen=True)
class ClassifierRecord:
    """What is known of a classifier; plain data, but for the scores.

    Attributes:
        task: What :func:`describe_task` returns.
        score: The classifier's score, with settings and learning curve.
        teacher: Name, fingerprint and record of the task's teacher.
        teacher_score: The score of the task's teacher; None if it is not known.
        max_length: Longest sequence in tokens that the classifier was trained with.
        parameters: Number of parameters, including the head.
        versions: Versions of kdnas and its libraries.
        unlabelled: Fingerprint of the text without labels; empty if that is not known.
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
            folder: The folder, or one beside it, to be renamed.
            absolute: Whether the absolute paths of the task's files are written too, which describe the machine.

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
    path = Path(folder) / TASK
    if not os.path.isfile(path):
        return None
    try:
        return restore(ClassifierRecord, found_again(read_json(path), path.parent))
    except ValueError as error:
        raise RunError(f"the record of the classifier in {str(path)!r} cannot be read: {error}") from error


@dataclass(frozen=True)
class EmbedderRecord:
    """What is known of an embedding student; plain data, but for the scores.

    Attributes:
        teacher: Name, fingerprint and width of what it imitates.
        score: How its vectors compare with the teacher's.
        closed_form: The same of the head in closed form alone.
        curve: Learning curve, see :class:`kdnas_env.tasks.embedding.EmbeddingDistillation`.
        settings: How it was trained.
        made_from: Fingerprint of student, teacher, texts, settings and seed.
        source: Where the texts come from.
        texts: Texts that it was trained on.
        seed: Seed of everything random.
        seconds: Seconds of the training.
        parameters: Number of parameters, including the head, without a pooler that no vector depends on.
        versions: Versions of kdnas and its libraries.
        drawn: How the texts were drawn from their source, as :func:`kdnas_env.pipeline.embedders.draw_text` takes it;
            empty if that is not known.
        heldout: SHA-256 (hex) of the texts that it was scored on.
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
        """Whether it was trained, to no avail, and is left as it was before."""
        return bool(self.curve) and self.score == self.closed_form

    def write(self, folder: Path, *, absolute: bool = True) -> None:
        """Write the record into the folder of an embedding student.

        Args:
            folder: The folder, or one beside it, to be renamed.
            absolute: Whether the absolute paths of teacher and text are written too, which describe the machine.

        Raises:
            RunError: If it cannot be written.
        """
        write_json(folder / EMBEDDER, with_places(asdict(self), _EMBEDDER_PATHS, folder, absolute=absolute))


def read_embedder_record(folder: str | os.PathLike[str]) -> EmbedderRecord | None:
    """Read the record of an embedding student's folder; None if there is none.

    Raises:
        RunError: If it is malformed.
    """
    path = Path(folder) / EMBEDDER
    if not os.path.isfile(path):
        return None
    try:
        return restore(EmbedderRecord, found_again(read_json(path), path.parent))
    except ValueError as error:
        raise RunError(f"the record of the embedding student in {str(path)!r} cannot be read: {error}") from error


def describe_task(task: TaskData) -> dict[str, Any]:
    """Return a task as plain data: its description, what its labels are, and how it is read again."""
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
    """Read the task of a record again.

    Raises:
        KDNASError: If it cannot be read, or its evaluated splits have changed.
    """
    name, source, reading = (record.task.get(key) for key in ("name", "source", "reading"))
    if reading is not None:
        task = load_task(str(source), own=restore(OwnTask, reading))
    else:
        task = load_task(str(name), None if source == HUB or name in EMBEDDED_TASKS else source)
    if _evaluation_fingerprint(task) != record.task.get("evaluation_fingerprint"):
        raise KDNASError(f"the task {name!r} in {source!r} has other evaluated texts or labels than the record")
    return task


def _evaluation_fingerprint(task: TaskData) -> str:
    """Return the fingerprint of the evaluated splits alone."""
    return task.with_train(Split(tuple([] for _ in task.spec.columns), task.train.labels[:0])).fingerprint
