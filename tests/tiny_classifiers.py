"""Tiny students of every family that learn tasks of every kind from tiny teachers, for one epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import small_tasks

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.exporting.classifier import save_classifier
from kdnas_env.exporting.record import ClassifierRecord
from kdnas_env.tasks.distilling import TaskDistillation, TaskDistillationSettings, distil_task
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.heads import NATIVE
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.teacher import TaskTeacher, TeacherSettings, task_teacher

TUNING = FinetuneSettings(learning_rate=2e-3, epochs=1, batch_size=8, max_length=12, pooling=NATIVE, device="cpu")
NAMED = small_tasks.named_spec(("bad", "good"))
TASKS: dict[str, Callable[[], TaskData]] = {
    "classification": lambda: small_tasks.easy_task(spec=NAMED, samples=32),
    "multi-label": lambda: small_tasks.multi_label_task(samples=32),
    "regression": lambda: small_tasks.easy_task(spec=replace(NAMED, labels=(), metrics=("pearson",)), samples=160),
    "pair": lambda: small_tasks.easy_task(spec=replace(NAMED, columns=("first", "second")), samples=32),
}
"""Kinds of tasks, including pairs of texts."""


@dataclass(frozen=True, eq=False)
class TinyClassifier:
    """A student that has learnt a task, with everything that it learnt from."""

    learnt: TaskDistillation
    teacher: Teacher
    task: TaskData
    taught: TaskTeacher

    def save(self, folder: Path, **options: Any) -> ClassifierRecord:
        """Write the folder of the student."""
        return save_classifier(folder, self.learnt, self.teacher.tokenizer, self.task, self.taught, **options)


def distil_classifier(teacher_folder: Path, task: TaskData, cache: Path) -> TinyClassifier:
    """Have the encoder of a tiny teacher learn a task from the same teacher."""
    teacher = load_teacher(teacher_folder)
    taught = task_teacher(teacher, task, TeacherSettings(rates=(1.0,), finetuning=TUNING), cache_dir=cache)
    settings = TaskDistillationSettings(finetuning=TUNING, label_epochs=1)
    learnt = distil_task(teacher.model, teacher.tokenizer, task, taught, settings, cache_dir=cache)
    return TinyClassifier(learnt, teacher, task, taught)
