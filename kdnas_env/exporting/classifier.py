"""The folder of a classifier: the result of task distillation, in a form that transformers can load."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.errors import ExportError
from kdnas_env.exporting.cards.classifier import classifier_card
from kdnas_env.exporting.folder import TASK
from kdnas_env.exporting.product import save_product
from kdnas_env.exporting.record import ClassifierRecord, describe_task
from kdnas_env.exporting.weights import check_tokenizer, write_model
from kdnas_env.support.packages import installed_versions
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.tasks.distilling import DISTILLED, TaskDistillation
from kdnas_env.tasks.finetuning import predict
from kdnas_env.tasks.heads import NativeHead
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.teacher import TaskTeacher

TOLERANCE = 1e-5
"""Maximum deviation of a logit, relative to the largest logit if that is above 1."""

_CHECKED_TEXTS = 64
_PACKAGES = ("kdnas", "torch", "transformers")


def save_classifier(
    folder: str | os.PathLike[str],
    distilled: TaskDistillation,
    tokenizer: Any,
    task: TaskData,
    teacher: TaskTeacher,
    *,
    lineage: Lineage | None = None,
    teacher_score: TaskScore | None = None,
    unlabelled: str = "",
) -> ClassifierRecord:
    """Write a distilled student with its head to a folder that transformers can load, completely or not at all.

    ``pipeline("text-classification", model=FOLDER)`` and ``AutoModelForSequenceClassification.from_pretrained(FOLDER)``
    return the logits that were scored; this is checked. The folder holds the configuration with the names of the
    classes, the weights, the tokenizer (which truncates at the training length), a model card, ``task.json`` (a
    :class:`kdnas_env.exporting.record.ClassifierRecord`) and the lineage if known.

    Args:
        folder: The folder; an older classifier in it is replaced.
        distilled: The student, trained with ``pooling="native"``.
        tokenizer: Its tokenizer.
        task: The task.
        teacher: The task's teacher.
        lineage: Origin of the student's encoder; None if unknown.
        teacher_score: Score of the task's teacher, for the card; None if unknown.
        unlabelled: Fingerprint of the unlabelled training text; empty if unknown.

    Returns:
        The record that was written.

    Raises:
        KDNASError: If the student's head is not the native one.
        ExportError: If the folder holds something else, cannot be written, or does not reproduce the scored logits.
            Nothing is left behind.
    """
    model = distilled.model.pretrained()
    limited = copy.deepcopy(tokenizer)
    limited.model_max_length = min(distilled.score.details["finetuning"]["max_length"], tokenizer.model_max_length)
    record = ClassifierRecord(
        task=describe_task(task),
        score=distilled.score,
        teacher={"name": teacher.name, "fingerprint": teacher.fingerprint, **teacher.record},
        teacher_score=teacher_score,
        max_length=limited.model_max_length,
        parameters=model.num_parameters(),
        versions=installed_versions(*_PACKAGES),
        unlabelled=unlabelled,
    )

    def write(partial: Path) -> None:
        write_model(model, limited, partial)
        check_tokenizer(limited, partial, "the student")
        record.write(partial)

    save_product(
        folder,
        TASK,
        lineage,
        {"stage": DISTILLED, "task": task.name, "score": distilled.score.score},
        write=write,
        card=lambda lineage: classifier_card(record, model.config, lineage),
        check=lambda partial: _check_logits(partial, distilled, tokenizer, task, record.max_length),
    )
    return record


def _check_logits(folder: Path, distilled: TaskDistillation, tokenizer: Any, task: TaskData, max_length: int) -> None:
    """Compare the reloaded model with the trained one on scored texts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    split = task.evaluation[distilled.score.scored[0]]
    texts = Split(tuple(column[:_CHECKED_TEXTS] for column in split.texts), split.labels[:_CHECKED_TEXTS])
    expected = predict(copy.deepcopy(distilled.model).cpu(), tokenizer, texts, max_length)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        written = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    logits = predict(NativeHead(model), written, texts, written.model_max_length)
    error = float(np.abs(logits.reshape(expected.shape) - expected).max())
    if not error <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ExportError(
            f"the reloaded classifier's logits deviate by up to {error:.3g}; nothing was written. Try "
            "another version of transformers"
        )
