"""Fine-tuning an encoder on a task, with the Trainer of transformers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import SILENT, OnProgress
from kdnas_env.support.settings import Settings, parse_value
from kdnas_env.tasks.classifier import Classifier
from kdnas_env.tasks.encoding import encode, outputs, resolve_device
from kdnas_env.tasks.heads import HEADS, NATIVE, PooledHead, native_head
from kdnas_env.tasks.scores import FINETUNED, TaskScore, score_predictions, task_metric
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.training import Plan, train

_REFERENCE_RATE, _REFERENCE_WIDTH, _HIGHEST_RATE = 5e-5, 768, 1e-3
_EPOCHS, _TINY_TASKS, _TINY_EPOCHS = 3, ("mrpc", "wnli"), 5


@dataclass(frozen=True)
class FinetuneSettings(Settings):
    """Settings of fine-tuning.

    Attributes:
        learning_rate: Peak learning rate of AdamW, which falls linearly to 0; None for
            :func:`default_learning_rate`.
        batch_size: Samples per step.
        epochs: Passes over the training split; None for 3, or 5 on MRPC and WNLI (as in the GLUE examples of
            transformers).
        max_length: Maximum sequence length in tokens; less if the tokenizer allows less.
        pooling: Input of the linear head: the ``mean`` of the states of the tokens, or ``cls``, the state of the first
            token; or ``native``, the head that transformers has for the encoder's family, so that transformers can load
            the model.
        dropout: Dropout of the head; the encoder uses the dropout of its configuration.
        warmup_fraction: Share of the steps over which the learning rate rises.
        weight_decay: Weight decay of all parameters except biases and norms.
        device: Device to train on; None for the first GPU, or the CPU if there is none.

    Raises:
        KDNASError: If a value is out of range.
    """

    learning_rate: float | None = None
    batch_size: int = 32
    epochs: int | None = None
    max_length: int = 128
    pooling: str = "mean"
    dropout: float = 0.1
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    device: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("batch_size", "epochs", "max_length", at_least=1)
        self.check_numbers("learning_rate", above=0)
        self.check_numbers("dropout", "warmup_fraction", at_least=0, below=1)
        self.check_numbers("weight_decay", at_least=0)
        if self.pooling not in HEADS:
            raise KDNASError(f"unknown pooling {self.pooling!r}; choose from {list(HEADS)}")

    def changed(self, changes: Mapping[str, Any]) -> FinetuneSettings:
        """Return the settings with some fields changed.

        Raises:
            KDNASError: If there is no such field, or a value is out of range.
        """
        known = [field.name for field in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise KDNASError(f"unknown setting {unknown[0]!r} of fine-tuning; known are {known}")
        return FinetuneSettings(**{**asdict(self), **changes})

    def classifier(self, encoder: nn.Module, task_data: TaskData, seed: int) -> Classifier:
        """Return a copy of an encoder with a head for a task."""
        spec = task_data.spec
        if self.pooling == NATIVE:
            return Classifier(native_head(encoder, spec, self.dropout, seed), task_data)
        return Classifier(PooledHead(encoder, spec, self.pooling, self.dropout, seed), task_data)

    def plan(self, model: Classifier, task_data: TaskData, seed: int, device: torch.device) -> Plan:
        """Return the training plan of a classifier for a task."""
        return Plan(
            learning_rate=self.learning_rate or default_learning_rate(model.network.width),
            epochs=self.epochs or default_epochs(task_data.name),
            batch_size=self.batch_size,
            warmup_fraction=self.warmup_fraction,
            weight_decay=self.weight_decay,
            seed=seed,
            device=device,
        )

    def by_task(self, tasks: Sequence[str], settings: Sequence[str]) -> dict[str, FinetuneSettings]:
        """Return the settings of each task.

        Args:
            tasks: Names of the tasks.
            settings: Changes for single tasks, each as ``TASK.NAME=VALUE``.

        Raises:
            KDNASError: If a setting is malformed, given twice, unknown or out of range, or its task is unknown.
        """
        changes: dict[str, dict[str, Any]] = {task: {} for task in tasks}
        for setting in settings:
            place, equals, value = setting.partition("=")
            task, dot, name = place.strip().partition(".")
            if not (equals and dot):
                raise KDNASError(
                    f"task setting {setting!r} is malformed; write it as TASK.NAME=VALUE, as in rte.epochs=10"
                )
            if task not in changes:
                raise KDNASError(f"task setting {setting!r} names no task of this run; its tasks are {list(tasks)}")
            if name in changes[task]:
                raise KDNASError(f"task setting {task}.{name} is given twice; keep one of them")
            changes[task][name] = parse_value(value)
        return {task: self.changed(changes[task]) for task in tasks}


def default_learning_rate(hidden_size: int) -> float:
    """Return the peak learning rate for encoders of a width: ``min(5e-5 * (768 / width) ** 2, 1e-3)``.

    At the width of BERT-base, it is the highest rate that Devlin et al. search (2019, arXiv:1810.04805, appendix A.3).
    The increase for smaller widths was measured on the validation split of the embedded task.
    """
    return min(_REFERENCE_RATE * (_REFERENCE_WIDTH / hidden_size) ** 2, _HIGHEST_RATE)


def default_epochs(task: str) -> int:
    """Return the default number of epochs for a task."""
    return _TINY_EPOCHS if task in _TINY_TASKS else _EPOCHS


@dataclass(frozen=True, eq=False)
class Finetuned:
    """The result of a fine-tuning.

    Attributes:
        model: The classifier, on its device.
        details: Settings and measurements.
    """

    model: Classifier
    details: dict[str, Any]


def finetune(
    encoder: nn.Module,
    tokenizer: Any,
    task_data: TaskData,
    settings: FinetuneSettings | None = None,
    seed: int = 0,
    *,
    checkpoints: Path | None = None,
    on_progress: OnProgress = SILENT.advance,
) -> TaskScore:
    """Fine-tune a copy of an encoder on a task and score its final state; no scored split is used for any choice.

    See :func:`fit`, which takes the same arguments.
    """
    settings = settings or FinetuneSettings()
    task_metric(task_data.spec)  # An error is raised now, not after the training.
    began = time.perf_counter()
    tuned = fit(encoder, tokenizer, task_data, settings, seed, checkpoints=checkpoints, on_progress=on_progress)
    with training_lock():
        predictions = {
            name: task_data.spec.decide(predict(tuned.model, tokenizer, split, settings.max_length))
            for name, split in task_data.evaluation.items()
        }
    return TaskScore(
        task=task_data.name,
        method=FINETUNED,
        seed=seed,
        details=tuned.details,
        seconds=time.perf_counter() - began,
        **score_predictions(task_data, predictions),
    )


def fit(
    encoder: nn.Module,
    tokenizer: Any,
    task_data: TaskData,
    settings: FinetuneSettings,
    seed: int = 0,
    *,
    checkpoints: Path | None = None,
    on_progress: OnProgress = SILENT.advance,
) -> Finetuned:
    """Fine-tune a copy of an encoder on the training split of a task.

    Batches hold samples of similar length, padded to the longest, in float32. The global random states are preserved.
    Equal calls on the CPU with the same number of threads give equal models. The function holds
    :func:`kdnas_env.support.cpu_lock.training_lock` during each epoch, so call it outside this lock.

    Args:
        encoder: Encoder of transformers; it does not change.
        tokenizer: Its fast tokenizer.
        task_data: The task.
        settings: Settings of the fine-tuning.
        seed: Seed of the head, dropout and the order of the samples.
        checkpoints: Folder for one checkpoint per epoch, used by this fine-tuning only. A killed fine-tuning resumes
            from it; on the CPU the result is identical. None to save none.
        on_progress: Called after each training step.

    Raises:
        FloatingPointError: If the loss is not finite.
        torch.OutOfMemoryError: If the device's memory is too small.
        KDNASError: If no text fits into ``max_length``, or the device cannot be used.
        RunError: If a checkpoint cannot be written or read.
    """
    device = resolve_device(settings.device)
    model = settings.classifier(encoder, task_data, seed)
    plan = settings.plan(model, task_data, seed, device)
    examples = labelled_examples(tokenizer, task_data.train, settings.max_length)
    trained = train(model, examples, tokenizer.pad_token_id, plan, checkpoints, on_progress)
    details = {
        **asdict(settings),
        "learning_rate": plan.learning_rate,
        "epochs": plan.epochs,
        "device": device.type,
        "steps": trained.steps,
        "train_samples": len(examples),
        "train_loss": trained.losses,
    }
    return Finetuned(model.to(device), details)


def labelled_examples(tokenizer: Any, split: Split, max_length: int) -> list[dict[str, Any]]:
    """Return inputs and label of each sample of a split."""
    return [
        {**example, "labels": label}
        for example, label in zip(encode(tokenizer, split, max_length), split.labels.tolist(), strict=True)
    ]


def predict(model: nn.Module, tokenizer: Any, split: Split, max_length: int) -> NDArray[np.float32]:
    """Return logits ``(samples, classes)`` or numbers ``(samples,)`` for the texts of a split.

    Raises:
        FloatingPointError: If they are not finite.
    """
    device = next(model.parameters()).device
    values = outputs(model, encode(tokenizer, split, max_length), tokenizer.pad_token_id, device).numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError("the predictions are not finite; lower the learning rate")
    return values
