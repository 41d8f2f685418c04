"""The product of a task with labels: classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.exporting.folder import TASK
from kdnas_env.exporting.measuring import Measured, TeacherFiles
from kdnas_env.exporting.measuring_classifiers import measure_classifier
from kdnas_env.exporting.record import ClassifierRecord, read_classifier_record
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.distill.classifiers import TaskWork, teacher_of, unlabelled_texts
from kdnas_env.pipeline.distill.options import CLASSIFIER, DistillOptions
from kdnas_env.pipeline.distill.products.effort import Effort
from kdnas_env.pipeline.distill.products.product import Measuring, Opening, Product
from kdnas_env.pipeline.distill.text import evaluated_by_search, evaluated_file
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.search.evaluated_texts import write_evaluated
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.support.progress import Progress
from kdnas_env.support.shell import command, python_command
from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.data import check_task, load_task
from kdnas_env.tasks.distilling import new_texts
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.own import REPEATED, is_own
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import (
    CLASSIFICATION,
    EMBEDDED_TASK,
    REGRESSION,
    TASKS,
    TRAIN,
    Split,
    TaskData,
    unlabelled_source,
)
from kdnas_env.tasks.teacher import TASK_TEACHER, TaskTeacher

_MOST_CLASSES = 12
"""Maximum number of classes that are named."""


class ClassifierProduct(Product):
    """A student with a head for labels."""

    folder: ClassVar[str] = CLASSIFIER
    marker: ClassVar[str] = TASK
    words: ClassVar[str] = "classifier"
    library: ClassVar[str] = "transformers"
    steps: ClassVar[tuple[str, ...]] = (TASK_TEACHER, "search", "distil", CLASSIFIER, "export", "measure")
    score: ClassVar[str] = "the mean of the task's metrics"

    def check(self, task: TaskOptions) -> None:
        """See :meth:`Product.check`."""
        assert task.name is not None
        check_task(task.name)
        task_metric(TASKS[EMBEDDED_TASK])

    def read(self, task: TaskOptions) -> None:
        """See :meth:`Product.read`."""
        if task.name is not None and is_own(task.name):
            load_task(task.name, own=task.own)

    def leave_out(self, options: DistillOptions, search: SearchOptions) -> None:
        """See :meth:`Product.leave_out`."""
        evaluated = evaluated_file(options, search)
        if evaluated is not None and not evaluated.exists():
            write_evaluated(options.task, evaluated, evaluated_by_search(options))

    def record(self, folder: Path) -> ClassifierRecord | None:
        """See :meth:`Product.record`."""
        return read_classifier_record(folder)

    def learning(self, options: DistillOptions, teacher: Teacher, seed: int, progress: Progress) -> TaskWork:
        """See :meth:`Product.learning`."""
        places = {"device": options.device, "cache_dir": options.cache_dir}
        return TaskWork.of(options.task, teacher, seed=seed, progress=progress, **places)

    def opened(self, task: TaskOptions, seed: int) -> Opening:
        """See :meth:`Product.opened`."""
        assert task.name is not None
        data = load_task(task.name, task.data, task.own)
        texts = unlabelled_texts(task, data, seed)
        new = len(new_texts(data, texts)[0])
        left_out = (len(texts[0]) if texts else 0) - new
        return Opening((*overview(data), _unlabelled(task, new, left_out)), Effort.of(task, data, new))

    def searched(self, task: TaskOptions, quality: str) -> TaskOptions:
        """See :meth:`Product.searched`."""
        return task

    def measuring(
        self,
        task: TaskOptions,
        teacher: str,
        format: str,
        *,
        seed: int,
        device: str | None,
        cache_dir: str | None,
        progress: Progress,
    ) -> Measuring:
        """See :meth:`Product.measuring`."""

        @cache
        def task_and_teacher() -> tuple[TaskData, TaskTeacher]:
            """Return the task and its teacher, whose fine-tuned weights were kept."""
            assert task.name is not None
            data = load_task(task.name, task.data, task.own)
            encoder = load_teacher(teacher, device=str(resolve_device(device)))
            taught = teacher_of(data, task, encoder, seed=seed, device=device, cache_dir=cache_dir, progress=progress)
            return data, taught

        def measure(model: Path, export: Path, latency: LatencySettings, beside: TeacherFiles) -> Measured:
            return measure_classifier(
                export, format, *task_and_teacher(), latency, beside, cache_dir=cache_dir, progress=progress
            )

        return measure

    def commands(self, folder: Path) -> Sequence[tuple[str, str]]:
        """See :meth:`Product.commands`."""
        use = f"from transformers import pipeline; print(pipeline('text-classification', {str(folder)!r})('a text'))"
        return [
            ("Classify a text with transformers", python_command(use)),
            ("Upload the classifier to the hub", command("export", folder, "--push", "OWNER/NAME")),
        ]


def _unlabelled(options: TaskOptions, new: int, left_out: int) -> str:
    source = unlabelled_source(options.name or "", options.unlabelled)
    if source is None:
        return "  text without labels: none; more of your domain helps (`task.unlabelled`)"
    more = f", {left_out:,} texts of the task and duplicates left out" if left_out else ""
    return f"  text without labels: {new:,} of {source}{more}"


def overview(task: TaskData) -> tuple[str, ...]:
    """Return lines on the data of a task: columns, kind, classes, splits, skipped and repeated rows."""
    columns = " and ".join(map(repr, task.spec.columns))
    labels = task.preparation.get("label_columns", ())
    repeated = task.preparation.get(REPEATED, 0)
    label = f", label {' and '.join(map(repr, labels))}" if labels else ""
    return (
        f"task {task.name}: {task.source}, text {columns}{label}",
        f"  {_kind(task)}",
        f"  splits: {', '.join(_split(task, name, split) for name, split in _splits(task).items())}",
        f"  left out: {_left_out(task)}",
        *([f"  kept: {repeated:,} {REPEATED.replace('_', ' ')}"] if repeated else []),
    )


def _splits(task: TaskData) -> dict[str, Split]:
    return {TRAIN: task.train, **task.evaluation}


def _kind(task: TaskData) -> str:
    spec, labels = task.spec, task.train.labels
    if spec.kind == REGRESSION:
        return f"{spec.kind}: numbers from {labels.min():g} to {labels.max():g} to train on"
    single = spec.kind == CLASSIFICATION
    counts = np.bincount(labels, minlength=spec.outputs) if single else labels.sum(0)
    named = [f"{shown(name)} ({count:,})" for name, count in zip(spec.class_names, counts, strict=True)]
    more = f" and {len(named) - _MOST_CLASSES} more" if len(named) > _MOST_CLASSES else ""
    return f"{spec.kind}, {spec.outputs} classes (samples to train on): {', '.join(named[:_MOST_CLASSES])}{more}"


def _split(task: TaskData, name: str, split: Split) -> str:
    origin = ""
    if "drawn" in task.preparation:
        drawn = task.preparation["drawn"].get(name)
        rest = name == TRAIN and task.preparation["drawn"]
        origin = " (the rest)" if rest else " (given)" if drawn is None else f" (drawn, seed {drawn['seed']})"
    scored = ", which is scored" if name in task.spec.scored else ""
    return f"{name} {len(split):,}{origin}{scored}"


def _left_out(task: TaskData) -> str:
    dropped = {"rows that lack fields": task.skipped, **task.preparation.get("dropped", {})}
    reasons = [f"{count:,} {reason.replace('_', ' ')}" for reason, count in dropped.items() if count]
    return ", ".join(reasons) or "nothing"
