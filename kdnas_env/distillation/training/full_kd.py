"""Full knowledge distillation: long training of a student with transformers' Trainer.

It uses the student, objective, optimiser and schedule of :class:`kdnas_env.distillation.training.mini_kd.MiniKD`, on a
whole corpus. Training can be interrupted at any time, and runs in one process or in several (``torchrun``).
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdnas_env.distillation.training.kd_data import CorpusSamples
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.packed import states_of
from kdnas_env.errors import KDNASError, is_out_of_memory
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.checks import check_whole
from kdnas_env.support.identity import check_same
from kdnas_env.support.progress import OnProgress
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.random_state import preserved_rng

if TYPE_CHECKING:
    from kdnas_env.distillation.training.kd_trainer import KDTrainer, OnEvaluation

IDENTITY = "identity.json"
"""File that identifies the distillation of a checkpoint folder."""

_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class FullKDSettings:
    """Length and evaluation settings of a distillation; the recipe holds the other settings.

    Attributes:
        epochs: Passes over the samples; None for a stream, whose length is unknown.
        max_steps: Number of steps; None to derive it from ``epochs``.
        accumulation: Number of parts per batch, computed one after the other.
        evaluations: Number of evaluations. Each measures the held-out loss, refits the projections and writes a
            checkpoint.
        patience: Evaluations without improvement after which training stops; None to train to the end.

    Raises:
        KDNASError: If a number is out of range, or neither ``epochs`` nor ``max_steps`` is given.
    """

    epochs: int | None = 3
    max_steps: int | None = None
    accumulation: int = 1
    evaluations: int = 10
    patience: int | None = 5

    def __post_init__(self) -> None:
        for name in ("epochs", "max_steps", "accumulation", "evaluations", "patience"):
            value = getattr(self, name)
            if value is not None or name not in ("epochs", "max_steps", "patience"):
                check_whole(name, value, at_least=1)
        if self.epochs is None and self.max_steps is None:
            raise KDNASError("neither epochs nor max_steps is given, so the training has no end; give one of them")

    def steps(self, samples: int | None, batch_size: int) -> int:
        """Return the number of steps.

        Args:
            samples: Number of samples, or None if unknown.
            batch_size: Samples per step, over all processes.

        Raises:
            KDNASError: If the number of steps cannot be determined.
        """
        by_epochs = None if samples is None or self.epochs is None else self.epochs * math.ceil(samples / batch_size)
        limits = [limit for limit in (by_epochs, self.max_steps) if limit is not None]
        if not limits:
            raise KDNASError("a stream is endless, so epochs cannot be counted; give max_steps")
        return min(limits)


@dataclass(frozen=True, eq=False)
class FullKDResult:
    """A finished distillation.

    Attributes:
        model: The student of the best evaluation (including the one before the first step), as a transformers encoder,
            on the CPU, in eval mode.
        projection: State of the objective at that evaluation.
        curve: The losses at each evaluation: ``step``, ``epoch``, ``seconds``, ``unexplained`` (held-out), ``raw``
            (held-out) and, if a projection is solved in closed form, ``train_unexplained``.
        stopped_early: Whether training stopped for lack of improvement.
        accumulation: Final number of parts per batch.
    """

    model: Any
    projection: dict[str, torch.Tensor]
    curve: list[dict[str, float]]
    stopped_early: bool
    accumulation: int

    @property
    def best(self) -> dict[str, float]:
        """The point of the curve at which the returned student was saved."""
        return min(self.curve, key=lambda point: point["unexplained"])


def distil(
    kd: MiniKD,
    samples: Any,
    settings: FullKDSettings,
    folder: Path,
    *,
    teacher_in_loop: bool,
    carried: bool = False,
    on_progress: OnProgress | None = None,
    on_evaluation: OnEvaluation | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> FullKDResult:
    """Run a full distillation; an interrupted distillation resumes from its last checkpoint.

    On the CPU, an interrupted and resumed distillation gives bit for bit the same student as an uninterrupted one (with
    the same number of threads and processes). If a batch does not fit into memory, training resumes from the last
    checkpoint with the batch split into two parts, then four.

    Args:
        kd: The initialised student, on an untrimmed workload. Projections are solved on ``kd.train``; the loss is
            measured on ``kd.heldout``. Do not use it afterwards.
        samples: Training samples: :class:`kdnas_env.distillation.training.kd_data.CorpusSamples`, or an iterable
            dataset of :class:`kdnas_env.distillation.training.kd_data.Sample`.
        settings: Length and evaluation settings.
        folder: Folder for checkpoints and the curve.
        teacher_in_loop: Whether to run the teacher on every batch instead of reading cached states.
        carried: Whether to keep the objective's projections from an earlier training instead of solving them before
            the first step.
        on_progress: Called after every step.
        on_evaluation: Called with the last point of the curve when training begins, then with each new point.
        say: Called with a sentence about each noteworthy event.

    Raises:
        FloatingPointError: If the loss is not finite; the last checkpoint is kept.
        RunError: If a checkpoint belongs to another student or distillation, or the disk is full.
        torch.OutOfMemoryError: If memory does not suffice for a single sample.
    """
    from kdnas_env.distillation.training.resuming import write_failure

    if kd.kept is not None:
        if not isinstance(samples, CorpusSamples):
            raise KDNASError(
                "a smaller vocabulary is chosen from the whole text, which a stream does not offer; do not stream"
            )
        samples = samples.of(kd.workload)
    _check_identity(kd, settings, folder)
    while True:
        try:
            with preserved_rng(), quiet_transformers():
                return _distil(kd, samples, settings, folder, teacher_in_loop, carried, on_progress, on_evaluation)
        except (MemoryError, RuntimeError, OSError) as error:
            failure = write_failure(folder, error)
            if failure is not None:
                raise failure from error
            if not is_out_of_memory(error) or 2 * settings.accumulation > kd.recipe.batch_size:
                raise
        settings = replace(settings, accumulation=2 * settings.accumulation)
        say(f"out of memory: continuing with each batch in {settings.accumulation} parts")
        gc.collect()


def _distil(
    kd: MiniKD,
    samples: Any,
    settings: FullKDSettings,
    folder: Path,
    teacher_in_loop: bool,
    carried: bool,
    on_progress: OnProgress | None,
    on_evaluation: OnEvaluation | None,
) -> FullKDResult:
    from kdnas_env.distillation.training.kd_trainer import read_curve
    from kdnas_env.distillation.training.resuming import clear_checkpoints, last_checkpoint

    trainer = _trainer(kd, samples, settings, folder, teacher_in_loop, on_progress, on_evaluation)
    if trainer.is_world_process_zero():
        clear_checkpoints(folder)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        trainer.begin(solve=not carried)
    if on_evaluation is not None:
        on_evaluation(read_curve(folder)[-1])
    with trainer.cores:
        if checkpoint is None or not _exhausted(read_curve(folder), settings.patience):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        else:
            trainer.load_best(checkpoint)
    curve = read_curve(folder)
    if curve[0]["unexplained"] <= min(point["unexplained"] for point in curve):
        trainer.load_start()
    model = kd.export()
    return FullKDResult(
        model=model,
        projection={name: tensor.detach().cpu().clone() for name, tensor in kd.objective.state_dict().items()},
        curve=curve,
        stopped_early=curve[-1]["step"] < trainer.steps,
        accumulation=settings.accumulation,
    )


def _trainer(
    kd: MiniKD,
    samples: Any,
    settings: FullKDSettings,
    folder: Path,
    teacher_in_loop: bool,
    on_progress: OnProgress | None,
    on_evaluation: OnEvaluation | None,
) -> KDTrainer:
    from transformers import TrainingArguments

    from kdnas_env.distillation.training.kd_trainer import KDTrainer

    recipe, teacher, on_cpu = kd.recipe, kd.workload.teacher, kd.workload.device.type == "cpu"
    steps_of = settings.steps(len(samples) if isinstance(samples, CorpusSamples) else None, recipe.batch_size)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    every = max(1, math.ceil(steps_of / settings.evaluations))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps_of,
        per_device_train_batch_size=max(1, recipe.batch_size // (settings.accumulation * processes)),
        gradient_accumulation_steps=settings.accumulation,
        max_grad_norm=recipe.max_grad_norm or 0.0,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=_KEPT_CHECKPOINTS,
        load_best_model_at_end=True,
        metric_for_best_model="unexplained",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        seed=kd.fidelity.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        # Batches are packed, so they cannot be split along their first dimension.
        accelerator_config={"dispatch_batches": False, "split_batches": False},
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
    )
    return KDTrainer(
        kd,
        samples,
        arguments,
        teacher=states_of(teacher) if teacher_in_loop else None,
        steps=steps_of,
        patience=settings.patience,
        on_progress=on_progress,
        on_evaluation=on_evaluation,
    )


def _check_identity(kd: MiniKD, settings: FullKDSettings, folder: Path) -> None:
    """Check that the checkpoints belong to this distillation; record its identity on the first run.

    Raises:
        RunError: If the checkpoints belong to another distillation.
    """
    config = kd.encoder.model.config
    shape = ("model_type", "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "hidden_act")
    now = {
        "student": {name: getattr(config, name) for name in shape}
        | ({"embedding_size": config.embedding_size} if config.model_type == "electra" else {}),
        "teacher": kd.workload.teacher.fingerprint,
        "corpus": kd.workload.corpus.fingerprint,
        "recipe": kd.recipe.to_dict(),
        "settings": {name: value for name, value in asdict(settings).items() if name != "accumulation"},
        "seed": kd.fidelity.seed,
    }
    path = folder / IDENTITY
    if path.exists():
        check_same(
            read_json(path),
            now,
            f"the checkpoints in {str(folder)!r} belong to another distillation",
            "name another folder, or remove that one",
            since="they were written",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def _exhausted(curve: list[dict[str, float]], patience: int | None) -> bool:
    losses = [point["unexplained"] for point in curve[1:]]
    return patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience
