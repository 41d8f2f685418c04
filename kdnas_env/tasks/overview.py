"""A summary of a task and its data, as lines of text."""

from __future__ import annotations

import numpy as np

from kdnas_env.support.untrusted import shown
from kdnas_env.tasks.own import REPEATED
from kdnas_env.tasks.specs import CLASSIFICATION, REGRESSION, TRAIN, Split, TaskData

_MOST_CLASSES = 12
"""Maximum number of classes that are named."""


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
