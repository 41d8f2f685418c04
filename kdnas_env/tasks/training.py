"""Training on a task with the Trainer of transformers: resumable, with early stopping if there is validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainerState, TrainingArguments

from kdnas_env.distillation.training.resuming import (
    STATE,
    ResumableTrainer,
    clear_checkpoints,
    last_checkpoint,
    write_failure,
)
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import OnProgress
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.support.scratch import scratch_folder
from kdnas_env.tasks.encoding import pad

TARGETS = ("labels", "soft_labels")
"""Fields of an example that are targets, not inputs of the model."""

Validate = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """Settings of a training.

    Attributes:
        learning_rate: Peak learning rate of AdamW.
        epochs: Maximum number of passes over the examples.
        batch_size: Samples per step.
        warmup_fraction: Share of the steps over which the learning rate rises.
        weight_decay: Weight decay of all parameters except biases and norms.
        seed: Seed of dropout and the order of the samples.
        device: Device to train on.
        patience: Epochs without a better validation loss before the training stops.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    warmup_fraction: float
    weight_decay: float
    seed: int
    device: torch.device
    patience: int = 1


@dataclass(frozen=True)
class Trained:
    """Results of a training.

    Attributes:
        losses: Mean training loss of each epoch.
        validations: Validation results after each epoch; empty without validation.
        steps: Number of steps.
    """

    losses: list[float]
    validations: list[dict[str, float]]
    steps: int


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the dropout of all modules of a model; its configuration, which is saved with it, does not change."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def set_attention_dropout(model: nn.Module, probability: float) -> None:
    """Set the dropout of attention weights only; see :func:`set_dropout`."""
    for module in model.modules():
        for name, child in module.named_children():
            of_weights = name == "attention_dropout" or (
                name == "dropout" and type(module).__name__.endswith("SelfAttention")
            )
            if of_weights and isinstance(child, nn.Dropout):
                child.p = probability


def train(
    model: nn.Module,
    examples: list[dict[str, Any]],
    pad_token_id: int,
    plan: Plan,
    checkpoints: Path | None,
    on_progress: OnProgress,
    validate: Validate | None = None,
) -> Trained:
    """Train a model in place, starting from the last checkpoint.

    Args:
        model: A model that returns its loss if it gets targets.
        examples: Inputs and targets of each sample.
        pad_token_id: Id of the token to pad with.
        plan: Settings of the training.
        checkpoints: Folder for one checkpoint per epoch, used by this training only; None to save none.
        on_progress: Called after each step.
        validate: Called after each epoch; returns ``loss`` and other values to record. With it, the model ends in the
            state after the epoch with the lowest loss.

    Raises:
        FloatingPointError: If the loss is not finite.
        RunError: If a checkpoint cannot be written or read.
    """
    saved = checkpoints is not None or validate is not None
    keeping = scratch_folder("training") if checkpoints is None else nullcontext(checkpoints)
    with keeping as folder, preserved_rng(), _turns(on_progress, keeps_last=validate is not None) as turns:
        clear_checkpoints(folder)
        best: dict[str, Any] = {}
        if validate is not None:
            best = {
                "eval_strategy": "epoch",  # requires a dataset, although ``validate`` has its own
                "load_best_model_at_end": True,
                "metric_for_best_model": "loss",
                "greater_is_better": False,
                "restore_callback_states_from_checkpoint": True,
            }
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=plan.epochs,
            per_device_train_batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            warmup_steps=plan.warmup_fraction,
            weight_decay=plan.weight_decay,
            train_sampling_strategy="group_by_length",
            seed=plan.seed,
            use_cpu=plan.device.type == "cpu",
            dataloader_pin_memory=plan.device.type != "cpu",
            remove_unused_columns=False,
            logging_strategy="epoch",
            logging_nan_inf_filter=False,  # The filter hides NaN, which must be reported, and synchronises every step.
            save_strategy="epoch" if saved else "no",
            save_total_limit=1 if validate is None else 2,  # the best and the last
            report_to="none",
            disable_tqdm=True,
            **best,
        )
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # More GPUs would split each batch, which changes the result.
        stopping = [EarlyStoppingCallback(plan.patience)] if validate is not None else []
        trainer = _TaskTrainer(
            model,
            arguments,
            data_collator=lambda batch: _collated(batch, pad_token_id),
            train_dataset=examples,
            eval_dataset=None if validate is None else examples,
            callbacks=[turns, *stopping],
        )
        trainer.validate = validate
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.go_on(last_checkpoint(folder))
        except (RuntimeError, OSError) as error:
            failure = write_failure(folder, error)
            if failure is not None:
                raise failure from error
            raise
        history = trainer.state.log_history
        return Trained(
            losses=[float(entry["loss"]) for entry in history if "loss" in entry],
            validations=[
                {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
                for entry in history
                if "eval_loss" in entry
            ],
            steps=trainer.state.global_step,
        )


def _collated(batch: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Tensor]:
    inputs = [{name: value for name, value in example.items() if name not in TARGETS} for example in batch]
    targets = {name: _stacked([example[name] for example in batch]) for name in TARGETS if name in batch[0]}
    return {**pad(inputs, pad_token_id), **targets}


def _stacked(values: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(values)) if isinstance(values[0], np.ndarray) else torch.tensor(values)


class _TaskTrainer(ResumableTrainer):
    validate: Validate | None = None

    # Declared here because the base class has no type hints.
    state: Any
    control: Any

    def go_on(self, checkpoint: Path | None) -> None:
        """Train from a checkpoint; a checkpoint of a finished training only restores the best model."""
        if checkpoint is not None and self.validate is not None:
            state = TrainerState.load_from_json(str(checkpoint / STATE))
            stop = state.stateful_callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop")
            if stop or state.global_step >= state.max_steps:
                self.state = state
                self._load_best_model()
                return
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate."""
        assert self.validate is not None
        with training_lock():
            metrics = {f"eval_{name}": value for name, value in self.validate().items()}
        if not math.isfinite(metrics["eval_loss"]):
            raise FloatingPointError(f"the validation loss is {metrics['eval_loss']}; lower the learning rate")
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _load_best_model(self) -> None:
        # The folder may have been moved since the path was written.
        name = Path(self.state.best_model_checkpoint).name
        self.state.best_model_checkpoint = str(Path(self.args.output_dir) / name)
        super()._load_best_model()


@contextmanager
def _turns(on_progress: OnProgress, *, keeps_last: bool) -> Iterator[Any]:
    """Yield a callback that holds the training lock during each epoch and checks the losses.

    Args:
        on_progress: Called after every step.
        keeps_last: Whether to save a checkpoint of the last epoch, because it may be the best.
    """

    class Turns(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.held = ExitStack()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.held.enter_context(training_lock())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_progress(state.global_step, state.max_steps)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.held.close()
            if state.global_step >= state.max_steps and not keeps_last:
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
