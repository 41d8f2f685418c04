"""Measurements of an exported classifier as deployed: size, speed and score relative to its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kdnas_env.exporting.measuring import FILES, Measured, TeacherFiles, TeacherGraph, served, size_and_speed
from kdnas_env.exporting.onnx import LOGITS
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tasks.scores import Share, Standing, share_kept, standing
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.splits import choosing_name, choosing_splits
from kdnas_env.tasks.teacher import TaskTeacher

Decided = Mapping[str, NDArray[Any]]
"""Decisions of a classifier on each split, as returned by :meth:`kdnas_env.tasks.specs.TaskSpec.decide`."""


def measure_classifier(
    export: Path,
    format: str,
    task: TaskData,
    teacher: TaskTeacher,
    latency: LatencySettings,
    beside: TeacherFiles,
    *,
    decided: Decided | None = None,
    cache_dir: str | None = None,
    progress: Progress = SILENT,
) -> Measured:
    """Measure an exported classifier in ONNX Runtime.

    Args:
        export: Folder of the export.
        format: File to measure: ``float32`` or ``int8``.
        task: The task.
        teacher: Its teacher; if it has several members, one of them is timed.
        latency: Batch size, sequence length, threads, and duration.
        beside: Files of teachers; the teacher's is added if missing.
        decided: Decisions of the file by :func:`decide`, if already known.
        cache_dir: Cache folder of the teacher's soft labels.
        progress: Receives the steps.

    Raises:
        RunError: If the CPU lock cannot be used.
    """
    file = export / FILES[format]
    progress.begin(f"timing {file.name} beside its teacher")
    fields = size_and_speed(export, format, _graph(teacher, task), latency, beside)
    if decided is None:
        progress.begin(f"scoring {file.name}")
        decided = decide(export, format, task)
    own = decided

    def judge(name: str, split: Split) -> tuple[Share, Standing]:
        taught = task.spec.decide(teacher.soft_labels(split.texts, cache_dir))
        share = share_kept(task.spec, name, own[name], taught, split.labels)
        return share, standing(task, name, own[name], taught, split)

    judged = [judge(name, split) for name, split in _evaluation_splits(task).items()]
    chosen_by, *scored = (share for share, _ in judged)
    return Measured(
        **fields, chosen_by=chosen_by, scored=tuple(scored), standings=tuple(scores for _, scores in judged)
    )


def decide(export: Path, format: str, task: TaskData) -> Decided:
    """Return the decisions of an exported classifier in ONNX Runtime, text by text, as in deployment.

    Args:
        export: Folder of the export.
        format: File to use: ``float32`` or ``int8``.
        task: The task.

    Raises:
        RunError: If the CPU lock cannot be used.
    """
    with training_lock():
        logits = served(export, format, LOGITS)
        made = {name: logits(split) for name, split in _evaluation_splits(task).items()}
    return {name: task.spec.decide(values[:, 0] if task.spec.regression else values) for name, values in made.items()}


def _evaluation_splits(task: TaskData) -> dict[str, Split]:
    """Return, by name, the split that candidates are selected on, then the scored splits."""
    _, choosing = choosing_splits(task)
    return {choosing_name(task, choosing): choosing, **{scored: task.evaluation[scored] for scored in task.spec.scored}}


def _graph(teacher: TaskTeacher, task: TaskData) -> TeacherGraph:
    texts = Split(tuple(list(column[:2]) for column in task.train.texts), task.train.labels[:2])
    outputs = {LOGITS: lambda logits: logits}
    return TeacherGraph(teacher.fingerprint, teacher.members[0], teacher.tokenizer, teacher.max_length, outputs, texts)
