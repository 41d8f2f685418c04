"""Fine-tuning an encoder on a task, with the Trainer of transformers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas_env.errors import KDNASError
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import SILENT, OnProgress
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.support.scratch import scratch_folder
from kdnas_env.support.settings import Settings, parse_value
from kdnas_env.tasks.encoding import POOLINGS, Example, PooledEncoder, encode, outputs, pad, resolve_device
from kdnas_env.tasks.scores import FINETUNED, TaskScore, score_predictions, task_metric
from kdnas_env.tasks.specs import TaskData

_REFERENCE_RATE, _REFERENCE_WIDTH, _HIGHEST_RATE = 5e-5, 768, 1e-3
_EPOCHS, _TINY_TASKS, _TINY_EPOCHS = 3, ("mrpc", "wnli"), 5
_HEAD_RANGE = 0.02


@dataclass(frozen=True)
class FinetuneSettings(Settings):
    """How an encoder is fine-tuned.

    Attributes:
        learning_rate: Peak learning rate of AdamW, which falls linearly to 0; None for
            :func:`default_learning_rate`.
        batch_size: Samples per step.
        epochs: Passes over the training split; None for 3, and 5 on MRPC and WNLI (the values that transformers'
            own examples report GLUE with).
        max_length: Longest sequence in tokens; shorter where the tokenizer allows less.
        pooling: ``mean`` over the real tokens, or ``cls``.
        dropout: Of the pooled vector; inside of the encoder its own configuration decides.
        warmup_fraction: Share of the steps over which the learning rate rises.
        weight_decay: Of all but biases and norms.
        device: Where to train; None for the first GPU, or the CPU where there is none.

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
        if self.pooling not in POOLINGS:
            raise KDNASError(f"unknown pooling {self.pooling!r}; choose from {list(POOLINGS)}")

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

    def by_task(self, tasks: Sequence[str], settings: Sequence[str]) -> dict[str, FinetuneSettings]:
        """Return the settings of each task.

        Args:
            tasks: Names of the tasks.
            settings: What is other for single tasks, each as ``TASK.NAME=VALUE``.

        Raises:
            KDNASError: If one is malformed, of no such task, given twice, unknown, or out of range.
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
                raise KDNASError(f"task setting {setting!r} is of no task of this run; its tasks are {list(tasks)}")
            if name in changes[task]:
                raise KDNASError(f"task setting {task}.{name} is given twice; keep one of them")
            changes[task][name] = parse_value(value)
        return {task: self.changed(changes[task]) for task in tasks}


def default_learning_rate(hidden_size: int) -> float:
    """Return the peak learning rate for encoders of a width: ``5e-5 * (768 / width) ** 2``, and 1e-3 at most.

    At the width of BERT-base that is the highest of the rates that its authors search (Devlin et al. 2019,
    arXiv:1810.04805, appendix A.3). How it rises towards small students was measured on the validation split of the
    embedded task.
    """
    return min(_REFERENCE_RATE * (_REFERENCE_WIDTH / hidden_size) ** 2, _HIGHEST_RATE)


def default_epochs(task: str) -> int:
    """Return how often the training split of a task is passed over."""
    return _TINY_EPOCHS if task in _TINY_TASKS else _EPOCHS


class Classifier(nn.Module):
    """A pooled encoder with dropout and a linear head; for similarities the head predicts standardised ones.

    Args:
        encoder: Encoder of transformers.
        settings: Pooling and dropout.
        outputs: Classes, or 1.
        centre: Mean of the similarities that are trained on.
        scale: Standard deviation of the same.
        generator: Draws the head.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        settings: FinetuneSettings,
        outputs: int,
        *,
        centre: float = 0.0,
        scale: float = 1.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.pooled = PooledEncoder(encoder, settings.pooling)
        self.dropout = nn.Dropout(settings.dropout)
        with preserved_rng():
            self.head = nn.Linear(self.pooled.width, outputs)
        with torch.no_grad():
            self.head.weight.normal_(0.0, _HEAD_RANGE, generator=generator)
            self.head.bias.zero_()
        self.register_buffer("centre", torch.tensor(centre))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Any:
        """Return logits ``(batch, classes)`` or similarities ``(batch,)``; with labels, the loss too."""
        values = self.head(self.dropout(self.pooled(input_ids, attention_mask, token_type_ids)))
        regression = values.shape[1] == 1
        predictions = values[:, 0] * self.scale + self.centre if regression else values
        if labels is None:
            return predictions
        if regression:
            loss = functional.mse_loss(values[:, 0], (labels.to(values.dtype) - self.centre) / self.scale)
        elif labels.dim() == 2:
            loss = functional.binary_cross_entropy_with_logits(values, labels.to(values.dtype))
        else:
            loss = functional.cross_entropy(values, labels)
        return {"loss": loss, "logits": predictions}


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
    """Fine-tune a copy of an encoder on a task, and score it after the last step; nothing is chosen on what is scored.

    Batches hold samples of similar length and are padded to their longest, in float32. The global random states are
    as they were, and equal calls on the CPU (with equal threads) give equal scores. Holds
    :func:`kdnas_env.support.cpu_lock.training_lock` epoch by epoch: call it outside of that.

    Args:
        encoder: Encoder of transformers; it does not change.
        tokenizer: Its fast tokenizer.
        task_data: The task.
        settings: How; the defaults by default.
        seed: Seed of the head, dropout and the order of the samples.
        checkpoints: Folder for a checkpoint an epoch, of this fine-tuning alone: when it was killed it goes on from
            there, on the CPU to the same score. None to keep none.
        on_progress: Called after every step.

    Raises:
        FloatingPointError: If the loss is not finite.
        torch.OutOfMemoryError: If the device's memory is too small.
        KDNASError: If no text fits into ``max_length``, or the device cannot be used.
        RunError: If a checkpoint cannot be written or read.
        DependencyError: If evaluate, scikit-learn or SciPy is missing.
    """
    settings = settings or FinetuneSettings()
    task_metric(task_data.spec)  # Told now, not after the training.
    began = time.perf_counter()
    device = resolve_device(settings.device)
    regression, labels = task_data.spec.regression, task_data.train.labels
    model = Classifier(
        copy.deepcopy(encoder).requires_grad_(True),
        settings,
        task_data.spec.outputs,
        centre=float(labels.mean()) if regression else 0.0,
        scale=(float(labels.std()) or 1.0) if regression else 1.0,
        generator=torch.Generator().manual_seed(seed),
    )
    rate = settings.learning_rate or default_learning_rate(model.pooled.width)
    epochs = settings.epochs or default_epochs(task_data.name)
    examples: list[dict[str, Any]] = [
        {**example, "labels": label}
        for example, label in zip(encode(tokenizer, task_data.train, settings.max_length), labels.tolist(), strict=True)
    ]
    losses, steps = _train(
        model, examples, tokenizer.pad_token_id, settings, rate, epochs, seed, device, checkpoints, on_progress
    )
    model.to(device)
    with training_lock():
        predictions = {
            name: task_data.spec.decide(
                _predict(model, encode(tokenizer, split, settings.max_length), tokenizer.pad_token_id, device)
            )
            for name, split in task_data.evaluation.items()
        }
    return TaskScore(
        task=task_data.name,
        method=FINETUNED,
        seed=seed,
        details={
            **asdict(settings),
            "learning_rate": rate,
            "epochs": epochs,
            "device": device.type,
            "steps": steps,
            "train_samples": len(examples),
            "train_loss": losses,
        },
        seconds=time.perf_counter() - began,
        **score_predictions(task_data, predictions),
    )


def _predict(model: Classifier, examples: Sequence[Example], pad_token_id: int, device: torch.device) -> Any:
    values = outputs(model, examples, pad_token_id, device).numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError("the predictions are not finite; lower the learning rate")
    return values


def _train(
    model: Classifier,
    examples: list[dict[str, Any]],
    pad_token_id: int,
    settings: FinetuneSettings,
    rate: float,
    epochs: int,
    seed: int,
    device: torch.device,
    checkpoints: Path | None,
    on_progress: OnProgress,
) -> tuple[list[float], int]:
    """Train in place, from the last checkpoint on; return the mean loss of each epoch, and the number of steps.

    Raises:
        RunError: If a checkpoint cannot be written or read.
    """
    from transformers import PrinterCallback, TrainingArguments

    from kdnas_env.distillation.training.resuming import ResumableTrainer, clear_checkpoints, last_checkpoint, unwritten

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        inputs = [{name: value for name, value in example.items() if name != "labels"} for example in batch]
        return {**pad(inputs, pad_token_id), "labels": torch.tensor([example["labels"] for example in batch])}

    keeping = scratch_folder("glue") if checkpoints is None else nullcontext(checkpoints)
    with keeping as folder, preserved_rng(), _turns(on_progress) as turns:
        clear_checkpoints(folder)
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=rate,
            warmup_steps=settings.warmup_fraction,
            weight_decay=settings.weight_decay,
            train_sampling_strategy="group_by_length",
            seed=seed,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type != "cpu",
            remove_unused_columns=False,
            logging_strategy="epoch",
            logging_nan_inf_filter=False,  # It would hide what must be told, and wait for the device every step.
            save_strategy="no" if checkpoints is None else "epoch",
            save_total_limit=1,
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # More would each take a share of every batch, and change what is trained.
        trainer = ResumableTrainer(model, arguments, data_collator=collate, train_dataset=examples, callbacks=[turns])
        trainer.remove_callback(PrinterCallback)
        checkpoint = last_checkpoint(folder)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except (RuntimeError, OSError) as error:
            lost = unwritten(folder, error)
            if lost is not None:
                raise lost from error
            raise
        losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        return losses, trainer.state.global_step


@contextmanager
def _turns(on_progress: OnProgress) -> Iterator[Any]:
    """Yield a callback that holds the cores while an epoch lasts, sees to the losses, and keeps no last checkpoint."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.held = ExitStack()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.held.enter_context(training_lock())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_progress(state.global_step, state.max_steps)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.held.close()
            if state.global_step >= state.max_steps:
                control.should_save = False

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            loss = (logs or {}).get("loss")
            if loss is not None and not math.isfinite(loss):
                raise FloatingPointError(f"the training loss is {loss}; lower the learning rate")

    turns = Turns()
    try:
        yield turns
    finally:
        turns.held.close()
