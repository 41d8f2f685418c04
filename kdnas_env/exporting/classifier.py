"""The folder of a classifier: what task distillation makes, as transformers loads it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.student.folder import Lineage, write_lineage
from kdnas_env.errors import ExportError, RunError
from kdnas_env.exporting.cards.classifier import classifier_card
from kdnas_env.exporting.folder import TASK, checked_target, written_whole
from kdnas_env.exporting.weights import check_tokenizer, write_model
from kdnas_env.support.atomic import read_json, write_json, write_text
from kdnas_env.support.libraries import installed_versions, quiet_transformers
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.distilling import DISTILLED, TaskDistillation
from kdnas_env.tasks.finetuning import predict
from kdnas_env.tasks.heads import NativeHead
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.teacher import TaskTeacher

FORMAT_VERSION = 1
TOLERANCE = 1e-5
"""Largest deviation of a logit, as a share of the largest logit where that is above 1."""

_CHECKED_TEXTS = 64
_PACKAGES = ("kdnas", "torch", "transformers")


@dataclass(frozen=True)
class ClassifierRecord:
    """What is known of a classifier; plain data, but for the scores.

    Attributes:
        task: What :meth:`kdnas_env.tasks.specs.TaskData.describe` says, and the task's kind, columns, labels, metrics
            and fingerprint.
        score: Its score, with settings and learning curve.
        teacher: Name, fingerprint and record of the task's teacher.
        teacher_score: The score of that; None if it is not known.
        max_length: Longest sequence in tokens that it was trained with.
        parameters: Its parameters, the head included.
        versions: Versions of kdnas and its libraries.
        format: Version of this record.
    """

    task: Mapping[str, Any]
    score: TaskScore
    teacher: Mapping[str, Any]
    teacher_score: TaskScore | None
    max_length: int
    parameters: int
    versions: Mapping[str, str]
    format: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        scores = {name: score and score.to_dict() for name, score in self._scores().items()}
        return {**asdict(self), **scores}

    def _scores(self) -> dict[str, TaskScore | None]:
        return {"score": self.score, "teacher_score": self.teacher_score}


def read_classifier_record(folder: str | os.PathLike[str]) -> ClassifierRecord | None:
    """Return what is known of the classifier of a folder, or None if the folder does not say.

    Raises:
        RunError: If what it says is malformed.
    """
    path = Path(folder) / TASK
    if not os.path.isfile(path):
        return None
    try:
        return restore(ClassifierRecord, read_json(path))
    except ValueError as error:
        raise RunError(f"the record of the classifier in {str(path)!r} cannot be read: {error}") from error


def save_classifier(
    folder: str | os.PathLike[str],
    distilled: TaskDistillation,
    tokenizer: Any,
    task: TaskData,
    teacher: TaskTeacher,
    *,
    lineage: Lineage | None = None,
    teacher_score: TaskScore | None = None,
) -> ClassifierRecord:
    """Write what task distillation made to a folder that transformers loads, whole or not at all.

    ``pipeline("text-classification", model=FOLDER)`` and ``AutoModelForSequenceClassification.from_pretrained(FOLDER)``
    give the logits that were scored, which is checked. The folder holds configuration (with the names of the classes),
    weights, tokenizer (which cuts texts at the length trained with), a model card, ``task.json`` (a
    :class:`ClassifierRecord`) and, where it is known, the lineage.

    Args:
        folder: The folder; an older classifier is replaced.
        distilled: The student, with the native head.
        tokenizer: Its tokenizer.
        task: The task.
        teacher: The task's teacher.
        lineage: Where the student's encoder comes from; None if that is not known.
        teacher_score: The score of the task's teacher, for the card; None if it is not known.

    Raises:
        KDNASError: If the student has another head than the native one.
        ExportError: If the folder holds something else, cannot be written, or does not give the logits that were
            scored. Nothing is left behind.
    """
    model = distilled.model.pretrained()
    target = checked_target(folder, marker=TASK)
    limited = copy.deepcopy(tokenizer)
    limited.model_max_length = min(distilled.score.details["finetuning"]["max_length"], tokenizer.model_max_length)
    if lineage is not None:
        stage = {"stage": DISTILLED, "task": task.name, "score": distilled.score.score}
        lineage = replace(lineage, stages=(*lineage.stages, stage))
    record = ClassifierRecord(
        task=_described(task),
        score=distilled.score,
        teacher={"name": teacher.name, "fingerprint": teacher.fingerprint, **teacher.record},
        teacher_score=teacher_score,
        max_length=limited.model_max_length,
        parameters=model.num_parameters(),
        versions=installed_versions(*_PACKAGES),
    )
    with written_whole(target) as partial:
        write_model(model, limited, partial)
        check_tokenizer(limited, partial, "the student")
        write_json(partial / TASK, record.to_dict())
        if lineage is not None:
            write_lineage(lineage, partial)
        write_text(partial / "README.md", classifier_card(record, model.config, lineage))
        _check_logits(partial, distilled, tokenizer, task, record.max_length)
    return record


def _described(task: TaskData) -> dict[str, Any]:
    spec = task.spec
    return {
        **task.describe(),
        "kind": spec.kind,
        "columns": list(spec.columns),
        "labels": list(spec.labels),
        "metrics": list(spec.metrics),
        "fingerprint": task.fingerprint,
    }


def _check_logits(folder: Path, distilled: TaskDistillation, tokenizer: Any, task: TaskData, max_length: int) -> None:
    """Compare what transformers loads with what was trained, on texts that were scored."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    split = task.evaluation[distilled.score.scored[0]]
    texts = Split(tuple(column[:_CHECKED_TEXTS] for column in split.texts), split.labels[:_CHECKED_TEXTS])
    expected = predict(copy.deepcopy(distilled.model).cpu(), tokenizer, texts, max_length)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        written = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    logits = predict(NativeHead(model), written, texts, written.model_max_length)
    worst = float(np.abs(logits.reshape(expected.shape) - expected).max())
    if not worst <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ExportError(
            f"transformers loads a classifier whose logits are off by up to {worst:.3g}; nothing was written. try "
            "another version of transformers"
        )
