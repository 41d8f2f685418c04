"""A short task stage: estimates a student's quality on a task, in about the time of its mini-KD."""

from __future__ import annotations

import copy
import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdnas_env.core.architecture import StudentConfig, student_position_offset
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.distillation.training.mini_kd import schedule
from kdnas_env.distillation.training.packed import PackedBatch, PackedEncoder
from kdnas_env.distillation.training.projection import Moments
from kdnas_env.distillation.training.workload import Workload, measuring_batches, training_batches
from kdnas_env.errors import KDNASError
from kdnas_env.support.progress import SILENT, OnProgress
from kdnas_env.support.settings import Settings
from kdnas_env.tasks.divergence import Departure, departure, divergences
from kdnas_env.tasks.finetuning import default_learning_rate
from kdnas_env.tasks.specs import EMBEDDING, REGRESSION
from kdnas_env.tasks.teacher import TaskTeacher

FORMAT_VERSION = 2

_ORDER, _DRAW = 11, 12
_SOLVER_STEPS = 100
LEAST_SAMPLES = 8
_JUDGED_SHARE = 1 / 3


@dataclass(frozen=True)
class StageSettings(Settings):
    """Length and training settings of a task stage.

    Attributes:
        samples: Maximum number of training texts, independent of the fidelity. With only a few hundred, deep students
            get worse than at the start.
        heldout: Maximum number of texts to evaluate on; at most a third of the corpus, or the number that mini-KD holds
            out, if larger.
        epochs: Passes over the texts; 0 fits only a head on frozen states.
        batch_size: Texts per step.
        learning_rate: Peak learning rate of AdamW; None for
            :func:`kdnas_env.tasks.finetuning.default_learning_rate`.
        warmup_fraction: Share of the steps over which the learning rate rises.
        penalty: Penalty on the squared weights of the head, which is solved before and after the training, relative to
            the sum of the divergences of all texts (for vectors, of their squared errors), for pooled states of
            variance 1.

    Raises:
        KDNASError: If a value is out of range.
    """

    samples: int = 2000
    heldout: int = 1000
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_fraction: float = 0.1
    penalty: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("samples", "heldout", at_least=LEAST_SAMPLES)
        self.check_numbers("epochs", at_least=0)
        self.check_numbers("batch_size", at_least=1)
        self.check_numbers("learning_rate", above=0)
        self.check_numbers("warmup_fraction", at_least=0, below=1)
        self.check_numbers("penalty", above=0)


class TaskStage:
    """The short task stage that evaluates all students of a search.

    A student gets a linear head on its mean-pooled states, solved to match the soft labels of the task's teacher
    (vectors for the task without labels). Then head and encoder, except the embeddings, are trained on the soft labels.
    Finally the head is solved again, so that the result measures the quality of the states. All students see the same
    texts in the same order.

    Args:
        workload: Teacher and text. The held-out samples of mini-KD are used for evaluation and its training samples for
            training; other texts of the corpus are added to both.
        kind: One of :data:`kdnas_env.tasks.specs.KINDS`, or ``embedding``.
        teacher: The task's teacher, with the same tokenizer as the corpus.
        settings: Length and training settings.
        cache_dir: Cache folder of soft labels.
        on_progress: Called with the number of labelled texts.

    Attributes:
        identity: Everything besides the workload that determines the results, as plain data.

    Raises:
        KDNASError: If the teacher gives the same answer for all texts.
    """

    def __init__(
        self,
        workload: Workload,
        kind: str,
        teacher: TaskTeacher,
        settings: StageSettings,
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        on_progress: OnProgress = SILENT.advance,
    ) -> None:
        train, heldout = stage_samples(workload.corpus, settings)
        self._texts = replace(workload, train=train, heldout=heldout)
        self._in_tokens: dict[bytes, Workload] = {}
        self._kind, self._settings = kind, settings
        self.identity = {
            **{"format_version": FORMAT_VERSION, "teacher": teacher.fingerprint, "kind": kind},
            **{"stage": asdict(settings), "text": workload.corpus.fingerprint},
        }
        every = np.concatenate([train, heldout])
        soft = teacher.corpus_soft_labels(workload.corpus, every, cache_dir, on_progress=on_progress)
        self._soft = torch.from_numpy(soft.copy()).to(workload.device)
        self._places = np.full(len(workload.corpus), -1, dtype=np.int64)
        self._places[every] = np.arange(len(every))
        self._scale, self._centre = 1.0, 0.0
        if self._kind == REGRESSION:
            self._centre, self._scale = float(soft.mean()), float(soft.std()) or 1.0
        judged = self._labels(heldout)
        if departure(self._kind, judged, judged).reference <= 0:
            raise KDNASError("the teacher of the task answers all texts of the corpus alike; give other text")

    @cached_property
    def samples(self) -> tuple[int, int]:
        """Number of texts to train on, and to evaluate on."""
        return len(self._texts.train), len(self._texts.heldout)

    def run(
        self,
        model: Any,
        config: StudentConfig,
        fidelity: Fidelity,
        *,
        precision: str = "float32",
        kept: NDArray[np.int64] | None = None,
    ) -> Departure:
        """Return the difference between a student and the task's teacher after the stage.

        Args:
            model: The student as an encoder of transformers; it does not change.
            config: Its architecture.
            fidelity: Only its seed is used, for the order of the texts.
            precision: ``float32`` or ``bfloat16``.
            kept: Token ids of the student's vocabulary, int64; None for all. The model has the embeddings of all tokens
                in any case.

        Raises:
            FloatingPointError: If a loss is not finite.
            torch.OutOfMemoryError: If the device's memory is too small.
        """
        texts = self._texts_in(kept)
        encoder = PackedEncoder(
            copy.deepcopy(model).to(texts.device).requires_grad_(True),
            position_offset=student_position_offset(config, texts.teacher.architecture),
            vocabulary=texts.vocabulary,
        )
        student = _Student(encoder, texts, precision)
        head = self._solved_head(student)
        if self._settings.epochs:
            self._train(student, head, config.hidden_size, fidelity.seed)
            head = self._solved_head(student)
        plan = measuring_batches(texts.corpus, texts.heldout)
        with torch.no_grad():
            outputs = [self._outputs(head(student.pooled(texts.packed(batch)))) for batch in plan]
        return departure(self._kind, torch.cat(outputs), self._labels(np.concatenate(plan)))

    def _texts_in(self, kept: NDArray[np.int64] | None) -> Workload:
        """Return the texts in the student's vocabulary; the texts of each smaller vocabulary are cached."""
        if kept is None:
            return self._texts
        name = kept.tobytes()
        if name not in self._in_tokens:
            self._in_tokens[name] = self._texts.in_tokens(kept)
        return self._in_tokens[name]

    def _labels(self, samples: NDArray[np.int64]) -> Tensor:
        return self._soft[torch.from_numpy(self._places[samples])]

    def _outputs(self, values: Tensor) -> Tensor:
        """Convert the values of a head to logits or, for regression, to numbers."""
        return values[:, 0] * self._scale + self._centre if self._kind == REGRESSION else values

    def _loss(self, values: Tensor, soft_labels: Tensor) -> Tensor:
        return divergences(self._kind, self._outputs(values), soft_labels).mean() / self._scale**2

    def _solved_head(self, student: _Student) -> nn.Linear:
        """Return the best linear map from pooled states to the teacher's soft labels."""
        plan = measuring_batches(student.texts.corpus, student.texts.train)
        with torch.no_grad():
            pooled = torch.cat([student.pooled(student.texts.packed(batch)) for batch in plan])
        soft = self._labels(np.concatenate(plan))
        penalty = self._settings.penalty / len(soft)
        if self._kind == EMBEDDING:
            moments = Moments()
            moments.add(pooled, soft)
            fit = moments.solve(penalty)
            return _linear(fit.weight, fit.bias)
        return _linear(*self._least_divergence(pooled.double(), soft.double(), penalty))

    def _least_divergence(self, pooled: Tensor, soft: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the linear map with the least divergence from the teacher, a convex problem."""
        mean, scale = pooled.mean(0), (pooled - pooled.mean(0)).square().mean().sqrt()
        standard = (pooled - mean) / scale
        outputs = 1 if soft.ndim == 1 else soft.shape[1]
        weight = pooled.new_zeros(pooled.shape[1], outputs, requires_grad=True)
        bias = pooled.new_zeros(outputs, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=_SOLVER_STEPS, line_search_fn="strong_wolfe")

        def penalised() -> Tensor:
            solver.zero_grad()
            loss = self._loss(standard @ weight + bias, soft) + penalty * weight.square().sum()
            torch.autograd.backward(loss)
            return loss

        solver.step(penalised)  # type: ignore[no-untyped-call]
        unscaled = (weight / scale).detach()
        return unscaled, (bias - mean @ unscaled).detach()

    def _train(self, student: _Student, head: nn.Linear, width: int, seed: int) -> None:
        settings, texts = self._settings, student.texts
        rng = np.random.default_rng([seed, _ORDER])
        plan = [
            batch
            for _ in range(settings.epochs)
            for batch in training_batches(texts.corpus, texts.train, settings.batch_size, rng)
        ]
        peak = settings.learning_rate or default_learning_rate(width)
        trained = [*student.trained(), *head.parameters()]
        optimiser = torch.optim.AdamW(trained, lr=peak, weight_decay=0.01, fused=True)
        total = torch.zeros((), device=texts.device)
        for step, batch in enumerate(plan):
            for group in optimiser.param_groups:
                group["lr"] = peak * schedule(step, len(plan), settings.warmup_fraction)
            loss = self._loss(head(student.pooled(texts.packed(batch))), self._labels(batch))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            total += loss.detach()
        if not np.isfinite(float(total)):
            raise FloatingPointError("the loss of the task stage is not finite; lower its learning rate")


@dataclass(frozen=True, eq=False)
class _Student:
    encoder: PackedEncoder
    texts: Workload
    precision: str

    def pooled(self, batch: PackedBatch) -> Tensor:
        """Return the mean of the last states of each sequence, ``(sequences, width)``."""
        half = self.precision == "bfloat16"
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=half):
            states = batch.pad(self.encoder(batch)[-1]).float()
        return states.mean(1) if batch.mask is None else states.sum(1) / batch.mask.sum(1, keepdim=True)

    def trained(self) -> list[nn.Parameter]:
        """Return all parameters to train: all but those of the embeddings, which are frozen."""
        named = list(self.encoder.named_trainable())
        for name, parameter in named:
            parameter.requires_grad_("embeddings." not in name)
        return [parameter for _, parameter in named if parameter.requires_grad]


def stage_samples(corpus: Corpus, settings: StageSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the samples of a stage: to train on, and to evaluate on, both int64 and sorted.

    No training sample of mini-KD is used for evaluation, and none of its held-out samples for training.
    """
    rng = np.random.default_rng([corpus.report.seed, _DRAW])
    others = rng.permutation(np.setdiff1d(corpus.train_full, corpus.train))
    judged = min(settings.heldout, max(len(corpus.heldout), int(_JUDGED_SHARE * len(corpus))))
    heldout = np.concatenate([rng.permutation(corpus.heldout), others])[:judged]
    left = np.setdiff1d(others, heldout, assume_unique=True)
    train = np.concatenate([rng.permutation(corpus.train), rng.permutation(left)])[: settings.samples]
    return np.sort(train), np.sort(heldout)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return ``states @ weight + bias`` as a module."""
    inputs, outputs = weight.shape
    head = nn.Linear(inputs, outputs, device="meta").to_empty(device=weight.device)  # draws no weights
    with torch.no_grad():
        head.weight.copy_(weight.T)
        head.bias.copy_(bias)
    return head
