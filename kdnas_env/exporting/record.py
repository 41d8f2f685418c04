"""The record of a classifier: its task, scores, and training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.folder import TASK
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.places import found_again, with_places
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.data import HUB, load_task
from kdnas_env.tasks.own import OwnTask
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.specs import EMBEDDED_TASKS, Split, TaskData

FORMAT_VERSION = 1

_PATHS = ("teacher.name", "task.source", "task.reading.validation_file", "task.reading.test_file")


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
        write_json(folder / TASK, with_places({**asdict(self), **scores}, _PATHS, folder, absolute=absolute))


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
