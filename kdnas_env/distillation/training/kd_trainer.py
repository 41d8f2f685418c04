"""Transformers' Trainer with the batches, objective and optimiser of kdnas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from kdnas_env.distillation.training.kd_data import Collator, CorpusSamples, LengthGroupedOrder, teaching_batch
from kdnas_env.distillation.training.mini_kd import MiniKD, schedule
from kdnas_env.distillation.training.packed import StatesOf
from kdnas_env.distillation.training.resuming import STATE, ResumableTrainer
from kdnas_env.errors import RunError
from kdnas_env.support.atomic import replacing, write_json
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import OnProgress
from kdnas_env.support.untrusted import parse_json

OnEvaluation = Callable[[dict[str, float]], None]
"""Callback that receives a point of the learning curve."""

CURVE, START = "curve.json", "start.safetensors"

_WEIGHTS = "model.safetensors"
_CHECKED_EVERY = 16


class DistillationModel(nn.Module):
    """Student and objective as one model, whose output is the loss.

    Args:
        kd: Student, objective and workload.
        teacher: The teacher if it runs on every batch, else None.
    """

    def __init__(self, kd: MiniKD, teacher: StatesOf | None) -> None:
        super().__init__()
        self.student = kd.encoder.model
        self.objective = kd.objective
        # In a tuple, so that PyTorch does not register the teacher's parameters here.
        self._kd, self._teacher = (kd,), (teacher,)

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        """Return the mean loss of a batch of :class:`kdnas_env.distillation.training.kd_data.Collator`."""
        batch = teaching_batch(inputs)
        teacher = self._teacher[0]
        if teacher is not None:
            with torch.no_grad():
                batch = replace(batch, taught=dict(enumerate(teacher(batch.original or batch.packed))))
        error, count = self._kd[0].terms(batch)
        return {"loss": error / count}


class KDTrainer(ResumableTrainer):
    """Trains a :class:`DistillationModel`.

    Args:
        kd: Student, objective and workload.
        samples: Training samples.
        arguments: Arguments of the Trainer.
        teacher: The teacher if it runs on every batch, else None.
        steps: Total number of steps.
        patience: Evaluations without improvement after which training stops, or None.
        on_progress: Called after every step.
        on_evaluation: Called with each new point of the curve.

    Attributes:
        order: Order of the samples if their corpus is in memory, else None.
        steps: Total number of steps.
        cores: Lock held during a number of steps (:func:`kdnas_env.support.cpu_lock.training_lock`); close it after
            training.
    """

    # Attributes of the base class, which has no type hints.
    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(
        self,
        kd: MiniKD,
        samples: Any,
        arguments: TrainingArguments,
        *,
        teacher: StatesOf | None,
        steps: int,
        patience: int | None,
        on_progress: OnProgress | None,
        on_evaluation: OnEvaluation | None,
    ) -> None:
        self.kd = kd
        self.order: LengthGroupedOrder | None = None
        self.steps = steps
        self.cores = ExitStack()
        self._unchecked = torch.zeros((), device=kd.workload.device)
        callbacks: list[TrainerCallback] = [Steps(steps, on_progress, on_evaluation)]
        if patience is not None:
            callbacks.append(EarlyStoppingCallback(patience))
        super().__init__(
            DistillationModel(kd, teacher),
            arguments,
            data_collator=Collator(kd.workload, kd.objective.teacher_layers),
            train_dataset=samples,
            eval_dataset=kd.heldout,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(Epochs(self))

    def begin(self, *, solve: bool) -> None:
        """Save and evaluate the student before the first step, and begin the curve.

        A training that failed before its first checkpoint may have changed the student; then load the saved one.

        Args:
            solve: Whether to solve projections first.
        """
        folder = Path(self.args.output_dir)
        if (folder / START).exists():
            self.load_start()
        with training_lock():
            metrics = measure(self.kd, solve=solve)
        if self.is_world_process_zero():
            self._keep(folder / START)
            write_json(folder / CURVE, [point_of(0, 0.0, 0.0, metrics)])
        self.accelerator.wait_for_everyone()

    def load_start(self) -> None:
        """Load the student as it was before the first step."""
        self.model.load_state_dict(load_file(Path(self.args.output_dir) / START))

    def _keep(self, path: Path) -> None:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        with replacing(path) as file:
            file.write(save(state))

    def load_best(self, checkpoint: Path) -> None:
        """Load the best student up to a checkpoint."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE))
        self._load_best_model()

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimiser of :class:`MiniKD`; the curve's first loss sets a learning rate that depends on it."""
        if self.optimizer is None:
            start = read_curve(Path(self.args.output_dir))[0]
            self.optimizer = self.kd.optimiser(start.get("train_unexplained"))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of :class:`MiniKD`."""
        if self.lr_scheduler is None:
            warmup = self.kd.recipe.warmup_fraction
            self.lr_scheduler = LambdaLR(self.optimizer, lambda step: schedule(step, self.steps, warmup))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        samples = self.train_dataset
        if not isinstance(samples, CorpusSamples):
            return None
        arguments = self.args
        together = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        self.order = LengthGroupedOrder(samples.workload.corpus, samples.sample_ids, together, arguments.seed)
        return self.order

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Do a step; at intervals, let a latency probe use the CPU, and check that all losses were finite."""
        if self.state.global_step % _CHECKED_EVERY == 0:
            self.cores.close()
            self.cores.enter_context(training_lock())
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._unchecked += loss
        if self.state.global_step % _CHECKED_EVERY == 0:
            self._check_finite()
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Refit the closed-form projections and measure the held-out loss."""
        self._check_finite()
        self.cores.close()
        with training_lock():
            metrics = measure(self.kd)
        self.cores.enter_context(training_lock())
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _check_finite(self) -> None:
        # On a GPU this waits for the step to finish, so it is not done after every step.
        if not math.isfinite(float(self._unchecked)):
            raise FloatingPointError(f"the loss is not finite: at or before step {self.state.global_step}")
        self._unchecked.zero_()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_finite()
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._keep(folder / _WEIGHTS)


class Epochs(TrainerCallback):  # type: ignore[misc]
    """Sets the epoch of the sample order, also when training resumes within an epoch."""

    def __init__(self, trainer: KDTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the epoch."""
        order = self._trainer.order
        if order is not None:
            together = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            order.epoch = state.global_step // math.ceil(len(order) / together)


class Steps(TrainerCallback):  # type: ignore[misc]
    """Evaluates and saves the last step, reports progress, and records the curve."""

    def __init__(self, steps: int, on_progress: OnProgress | None, on_evaluation: OnEvaluation | None) -> None:
        self._steps, self._on_progress, self._on_evaluation = steps, on_progress, on_evaluation
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for an evaluation and a checkpoint after the last step."""
        if state.global_step == self._steps:
            control.should_evaluate = control.should_save = True
        if self._on_progress is not None:
            self._on_progress(state.global_step, self._steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Add to the curve."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            curve = [point for point in read_curve(folder) if point["step"] < state.global_step]
            seconds = time.perf_counter() - self._began + (curve[-1]["seconds"] if curve else 0.0)
            self._began = time.perf_counter()
            point = point_of(state.global_step, state.epoch, seconds, metrics)
            write_json(folder / CURVE, [*curve, point])
            if self._on_evaluation is not None:
                self._on_evaluation(point)


def measure(kd: MiniKD, *, solve: bool = True) -> dict[str, float]:
    """Return the losses of an evaluation.

    Args:
        kd: The student.
        solve: Whether to refit closed-form projections first.
    """
    metrics = {}
    if kd.objective.solved:
        metrics["eval_train_unexplained"] = (kd.fit() if solve else kd.train_score()).unexplained
        if torch.distributed.is_initialized():
            for parameter in kd.objective.parameters():
                torch.distributed.broadcast(parameter.data, 0)
    heldout = kd.heldout_score()
    return {"eval_unexplained": heldout.unexplained, "eval_raw": heldout.loss, **metrics}


def point_of(step: int, epoch: float, seconds: float, metrics: dict[str, float]) -> dict[str, float]:
    """Return a point of the curve as plain data."""
    return {
        "step": step,
        "epoch": round(float(epoch or 0.0), 4),
        "seconds": round(seconds, 1),
        **{name.removeprefix("eval_"): metrics[name] for name in metrics if name.startswith("eval_")},
    }


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Return the curve written so far.

    Raises:
        RunError: If the curve is malformed.
    """
    path = folder / CURVE
    if not path.exists():
        return []
    try:
        curve: list[dict[str, float]] = parse_json(path.read_text(encoding="utf-8"))
        known = ("step", "seconds", "unexplained")
        if curve and all(isinstance(point[name], int | float) for point in curve for name in known):
            return curve
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise RunError(f"the learning curve {str(path)!r} is damaged; remove it to begin a new one")
