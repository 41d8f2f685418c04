"""Task distillation: a student learns a task from the task's teacher, on labelled and unlabelled text."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import SILENT, OnProgress, counting_on
from kdnas_env.support.settings import Settings
from kdnas_env.tasks.classifier import Classifier, Objective
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.finetuning import FinetuneSettings, labelled_examples, predict
from kdnas_env.tasks.heads import NATIVE
from kdnas_env.tasks.scores import TaskScore, score_predictions, task_metric
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.splits import choosing_splits, text_keys
from kdnas_env.tasks.teacher import TaskTeacher
from kdnas_env.tasks.training import Trained, set_attention_dropout, set_dropout, train

DISTILLED = "task distillation"

STAGES = ("soft-labels", "labels")
"""Consecutive training stages: on the teacher's outputs, then on the teacher's outputs and the labels."""

Texts = Sequence[Sequence[str]]
"""One list of texts per column."""


@dataclass(frozen=True)
class TaskDistillationSettings(Settings):
    """Settings of task distillation.

    Attributes:
        temperature: Divisor of the logits.
        label_epochs: Epochs of the second stage, on labelled text with labels; 0 skips it.
        label_weight: Weight of the labels in the second stage; the soft labels have the rest.
        label_rate: Peak learning rate of the second stage, as a multiple of that of the first.
        patience: Epochs without a better validation loss before a stage stops.
        dropout: Dropout of encoder and head during the training, except of attention weights; None for that of their
            configuration.
        attention_dropout: Dropout of attention weights during the training. The fused attention of PyTorch has none on
            the CPU: with it, a step of a small student at 128 tokens takes 1.6 times as long.
        finetuning: All other settings; its epochs are passes of the first stage over labelled and unlabelled text, on
            soft labels only. The head is ``native`` by default, so that transformers can load the student.

    Raises:
        KDNASError: If a value is out of range.
    """

    temperature: float = 1.0
    label_epochs: int = 2
    label_weight: float = 0.5
    label_rate: float = 0.25
    patience: int = 1
    dropout: float | None = None
    attention_dropout: float = 0.0
    finetuning: FinetuneSettings = field(default_factory=lambda: FinetuneSettings(pooling=NATIVE))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("temperature", "label_rate", above=0)
        self.check_numbers("label_epochs", at_least=0)
        self.check_numbers("label_weight", at_least=0, at_most=1)
        self.check_numbers("patience", at_least=1)
        self.check_numbers("dropout", "attention_dropout", at_least=0, below=1)


@dataclass(frozen=True, eq=False)
class TaskDistillation:
    """A student that was trained on a task.

    Attributes:
        model: The student with its head, on its device.
        score: Its score; ``details`` hold the settings and the learning curve: for each epoch the stage, the mean
            training loss, and the validation loss and score.
    """

    model: Classifier
    score: TaskScore


def distil_task(
    encoder: nn.Module,
    tokenizer: Any,
    task: TaskData,
    teacher: TaskTeacher,
    settings: TaskDistillationSettings | None = None,
    seed: int = 0,
    *,
    unlabelled: Texts = (),
    checkpoints: Path | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    on_labelling: OnProgress = SILENT.advance,
    on_stage: Callable[[str], object] = SILENT.begin,
    on_progress: OnProgress = SILENT.advance,
) -> TaskDistillation:
    """Train a copy of an encoder on a task with the task's teacher, and score it.

    The first stage uses the teacher's soft labels of labelled and unlabelled text. The second stage uses labelled text
    only, with true labels too, at a lower learning rate. Each stage returns to its epoch with the lowest loss on the
    validation split of :func:`kdnas_env.tasks.splits.choosing_splits`; no scored split is used for any choice. The
    function holds :func:`kdnas_env.support.cpu_lock.training_lock` during each epoch, so call it outside this lock.

    Args:
        encoder: Encoder of transformers; it does not change.
        tokenizer: Its fast tokenizer.
        task: The task.
        teacher: Teacher of the task.
        settings: Settings; None for the defaults.
        seed: Seed of the head, dropout and the order of the samples.
        unlabelled: Texts of the domain, with as many columns as the task. Texts that occur in an evaluated split or in
            the training split are skipped.
        checkpoints: Folder for one checkpoint per epoch, used by this distillation only. A killed distillation resumes
            from it; on the CPU the result is identical. None to save none.
        cache_dir: Cache folder of soft labels; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
        on_labelling: Called with the number of texts labelled by the teacher, unless the soft labels were cached.
        on_stage: Called with the name of each stage, one of :data:`STAGES`, when it begins.
        on_progress: Called after each training step.

    Raises:
        FloatingPointError: If the loss is not finite.
        torch.OutOfMemoryError: If the device's memory is too small.
        KDNASError: If no text fits, the unlabelled text has other columns, or the device cannot be used.
        RunError: If a checkpoint cannot be written or read.
        DependencyError: If evaluate or scikit-learn is missing.
    """
    settings = settings or TaskDistillationSettings()
    task_metric(task.spec)  # Raises for missing libraries now, not after the training.
    began = time.perf_counter()
    training, choosing = choosing_splits(task)
    new = new_texts(task, unlabelled)
    model = settings.finetuning.classifier(encoder, task, seed)
    if settings.dropout is not None:
        set_dropout(model, settings.dropout)
    set_attention_dropout(model, settings.attention_dropout)
    student = _Student(model, tokenizer, task, teacher, settings, seed, cache_dir)
    soft, soft_new, soft_choosing = student.soft_labels([training.train.texts, new, choosing.texts], on_labelling)
    labelled = student.examples(training.train, soft)
    curve: list[dict[str, Any]] = []
    unlabelled_examples = student.unlabelled_examples(new, soft_new)
    for stage in student.stages():
        examples = labelled if stage.objective.label_weight else [*labelled, *unlabelled_examples]
        folder = None if checkpoints is None else checkpoints / stage.name
        on_stage(stage.name)
        trained = student.train(stage, examples, choosing, soft_choosing, folder, on_progress)
        curve += [
            {"stage": stage.name, "epoch": epoch, "train_loss": loss, **validation}
            for epoch, (loss, validation) in enumerate(zip(trained.losses, trained.validations, strict=True), start=1)
        ]
    with training_lock():
        predictions = {name: task.spec.decide(student.predict(split)) for name, split in task.evaluation.items()}
    details = {
        **asdict(settings),
        "device": student.device.type,
        "teacher": teacher.fingerprint,
        "train_samples": len(labelled),
        "unlabelled_samples": len(new[0]),
        "unlabelled_left_out": len(unlabelled[0]) - len(new[0]) if unlabelled else 0,
        "curve": curve,
    }
    seconds = time.perf_counter() - began
    scored = score_predictions(task, predictions)
    return TaskDistillation(model, TaskScore(task.name, DISTILLED, seed, details=details, seconds=seconds, **scored))


@dataclass(frozen=True)
class _Stage:
    name: str
    objective: Objective
    epochs: int
    rate: float


class _Student:
    """A student during training: its model, and its training data."""

    def __init__(
        self,
        model: Classifier,
        tokenizer: Any,
        task: TaskData,
        teacher: TaskTeacher,
        settings: TaskDistillationSettings,
        seed: int,
        cache_dir: str | os.PathLike[str] | None,
    ) -> None:
        self.model, self.tokenizer, self.task, self.teacher = model, tokenizer, task, teacher
        self.settings, self.cache_dir = settings, cache_dir
        self.device = resolve_device(settings.finetuning.device)
        self.plan = replace(settings.finetuning.plan(model, task, seed, self.device), patience=settings.patience)

    def stages(self) -> list[_Stage]:
        settings, rate = self.settings, self.plan.learning_rate
        soft = Objective(label_weight=0.0, temperature=settings.temperature)
        both = replace(soft, label_weight=settings.label_weight)
        stages = [_Stage(STAGES[0], soft, self.plan.epochs, rate)]
        if settings.label_epochs and settings.label_weight:
            stages.append(_Stage(STAGES[1], both, settings.label_epochs, rate * settings.label_rate))
        return stages

    def soft_labels(self, parts: Sequence[Texts], on_labelling: OnProgress) -> list[NDArray[np.float32]]:
        """Return the teacher's soft labels for several parts of the text; empty for a part without texts."""
        done, total = 0, sum(len(texts[0]) for texts in parts)
        soft = []
        for texts in parts:
            on_progress = counting_on(on_labelling, done, total)
            none = np.empty(0, dtype=np.float32)
            soft.append(self.teacher.soft_labels(texts, self.cache_dir, on_progress=on_progress) if texts[0] else none)
            done += len(texts[0])
        return soft

    def examples(self, split: Split, soft: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Return inputs, label and soft label of each sample."""
        examples = labelled_examples(self.tokenizer, split, self.settings.finetuning.max_length)
        return [{**example, "soft_labels": row.tolist()} for example, row in zip(examples, soft, strict=True)]

    def unlabelled_examples(self, texts: Texts, soft: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Return the same for unlabelled texts, with placeholder labels of 0, which are not used."""
        if not texts[0]:
            return []
        labels = np.zeros((len(texts[0]), *self.task.train.labels.shape[1:]), dtype=self.task.train.labels.dtype)
        return self.examples(Split(tuple(texts), labels), soft)

    def predict(self, split: Split) -> NDArray[np.float32]:
        self.model.to(self.device)
        return predict(self.model, self.tokenizer, split, self.settings.finetuning.max_length)

    def train(
        self,
        stage: _Stage,
        examples: list[dict[str, Any]],
        choosing: Split,
        soft_choosing: NDArray[np.float32],
        folder: Path | None,
        on_progress: OnProgress,
    ) -> Trained:
        metric, spec = task_metric(self.task.spec), self.task.spec
        labels = torch.from_numpy(choosing.labels).to(self.device)
        soft = torch.tensor(soft_choosing, device=self.device)

        def validate() -> dict[str, float]:
            logits = self.predict(choosing)
            loss = self.model.loss(torch.from_numpy(logits).to(self.device), labels, soft)
            values = metric.compute(predictions=spec.decide(logits), references=choosing.labels)
            return {"loss": float(loss), "score": float(np.mean([values[name] for name in spec.metrics]))}

        self.model.objective = stage.objective
        plan = replace(self.plan, learning_rate=stage.rate, epochs=stage.epochs)
        return train(self.model, examples, self.tokenizer.pad_token_id, plan, folder, on_progress, validate)


def new_texts(task: TaskData, unlabelled: Texts) -> tuple[list[str], ...]:
    """Return unlabelled texts that occur in no split of the task, without duplicates.

    Args:
        task: The task.
        unlabelled: The texts, one list per column; empty, or as many columns as the task has.

    Raises:
        KDNASError: If they do not have as many columns as the task.
    """
    columns = len(task.spec.columns)
    if not unlabelled:
        return tuple([] for _ in range(columns))
    if len(unlabelled) != columns:
        raise KDNASError(
            f"the unlabelled text has {len(unlabelled)} columns; the task {task.name!r} has {columns}, "
            f"{list(task.spec.columns)}; name as many"
        )
    seen = {key for split in (task.train, *task.evaluation.values()) for key in text_keys(split)}
    rows = list(zip(*unlabelled, strict=True))
    keys = text_keys(Split(tuple(unlabelled), np.zeros(len(rows))))
    new = []
    for row, key in zip(rows, keys, strict=True):
        if key not in seen:
            seen.add(key)
            new.append(row)
    return tuple([row[column] for row in new] for column in range(columns))
