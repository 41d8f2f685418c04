"""Mini-KD: a short distillation that estimates the quality of a student."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdnas_env.core.architecture import StudentConfig, student_position_offset
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.building import build_student, special_tokens
from kdnas_env.distillation.student.layers import SLICED_TYPES
from kdnas_env.distillation.training.embeddings import EmbeddingBasis, copy_embeddings, embedding_basis
from kdnas_env.distillation.training.mapping import LayerPair, map_layers
from kdnas_env.distillation.training.objective import HiddenStateObjective, Objective, RelationObjective, Score
from kdnas_env.distillation.training.packed import NO_DROPOUT, Dropout, PackedEncoder
from kdnas_env.distillation.training.recipe import JUDGED, Recipe
from kdnas_env.distillation.training.slicing import slice_layers
from kdnas_env.distillation.training.workload import TeachingBatch, Workload, measuring_batches, training_batches
from kdnas_env.errors import SpaceError
from kdnas_env.support.checks import check_choice

PRECISIONS = ("float32", "bfloat16")

_SLICING_SAMPLES, _SLICING_TOKENS = 300, 1 << 14
_CHECK_STEPS = 16
_ORDER, _PROJECTION, _DROPOUT = range(3)


@dataclass(frozen=True)
class EpochResult:
    """The losses after an epoch.

    Attributes:
        epoch: Number of finished epochs; 0 is before any step.
        train: Loss on training tokens. With a closed-form projection, the loss of the solution; otherwise the mean
            over the steps of the epoch (before the first step: over the training tokens).
        heldout: Loss on held-out tokens, without dropout.
        seconds: Wall seconds of the epoch, evaluation included; epoch 0 includes the student's initialisation.
        peak_memory_bytes: Peak memory so far: resident (CPU) or allocated (CUDA).
    """

    epoch: int
    train: Score
    heldout: Score
    seconds: float
    peak_memory_bytes: int


class MiniKD:
    """The distillation of one student.

    Args:
        workload: Teacher, corpus and hidden states.
        student: The student's architecture.
        recipe: How it is distilled.
        fidelity: Epochs, share of the training samples, and seed.
        basis: Coordinates of the teacher's embeddings, shared by all students; None to compute them here.
        precision: ``float32``, or ``bfloat16`` for automatic mixed precision.
        start: An encoder of that architecture to continue from, instead of the recipe's initialisation; trained in
            place.
        judge: Recipe that defines the reported losses, instead of the student's own objective. Its layer mapping and
            separate projections of the hidden states, solved in closed form on the training samples, make the losses
            of students with different objectives and mappings comparable.

    Attributes:
        encoder: The student.
        objective: The training objective.
        train: Training samples, int64.
        heldout: Held-out samples, int64.

    Raises:
        SpaceError: If the student cannot be built, or has more layers than its teacher.
        KDNASError: If the precision is unknown.
    """

    def __init__(
        self,
        workload: Workload,
        student: StudentConfig,
        recipe: Recipe,
        fidelity: Fidelity,
        *,
        basis: EmbeddingBasis | None = None,
        precision: str = "float32",
        start: Any | None = None,
        judge: Recipe | None = None,
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        began = time.perf_counter()
        if workload.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(workload.device)
        self._peak_memory = 0
        teacher = workload.teacher
        pairs = map_layers(recipe.mapping, student.num_hidden_layers, teacher.architecture.num_hidden_layers)
        self.recipe, self.fidelity = recipe, fidelity
        # The student is initialised with the whole vocabulary; a smaller one is applied afterwards.
        self._whole, self.workload = workload, workload.of_vocabulary(student.vocabulary)
        self.train = workload.subset(fidelity.data_fraction, fidelity.seed)
        self.heldout = workload.heldout[: recipe.heldout_samples]
        self.encoder = (
            self._initialised(student, basis) if start is None else self._packed(student, start, self.workload)
        )
        if not recipe.train_embeddings:
            # Teachers of other types have no position tables to copy.
            _freeze_tables(self.encoder, words_only=not teacher.architecture.plain)
        self.objective = self._make_objective(recipe, pairs, student.hidden_size)
        self._judge = self._make_judge(judge, student)
        self._dropout = Dropout(recipe.dropout, _generator(fidelity.seed, _DROPOUT, workload.device))
        self._width = student.hidden_size
        self._precision = precision
        self._initialisation_seconds = time.perf_counter() - began

    def _initialised(self, student: StudentConfig, basis: EmbeddingBasis | None) -> PackedEncoder:
        workload, recipe = self._whole, self.recipe
        teacher = workload.teacher
        model = build_student(student, teacher.architecture, seed=self.fidelity.seed, special=special_tokens(teacher))
        if recipe.embeddings != "random":
            copy_embeddings(model, student, workload, basis or embedding_basis(workload, recipe.embeddings))
        encoder = self._packed(student, model, workload)
        # No teacher layer suits a layer that is shared by all positions and runs on embeddings that do not span the
        # width. The layers of some teachers have another shape.
        sliced = student.family != "albert" and teacher.architecture.family in SLICED_TYPES
        if recipe.layers == "teacher" and sliced and student.num_hidden_layers:
            slice_layers(encoder, workload, _slicing_samples(workload, self.train))
        return encoder if workload is self.workload else self._packed(student, model, self.workload)

    def _packed(self, student: StudentConfig, model: Any, workload: Workload) -> PackedEncoder:
        return PackedEncoder(
            model.to(workload.device),
            position_offset=student_position_offset(student, workload.teacher.architecture),
            vocabulary=workload.vocabulary if workload.trimmed else None,
        )

    def epochs(self) -> Iterator[EpochResult]:
        """Train, and yield the losses before the first step and after every epoch. Iterate only once.

        Raises:
            FloatingPointError: If a loss is not finite.
            torch.OutOfMemoryError: If the device's memory is too small.
        """
        began = time.perf_counter() - self._initialisation_seconds
        train = self.fit() if self.objective.solved else None
        start = None if train is None else train.unexplained
        yield self._result(0, train, began)
        rng = np.random.default_rng([self.fidelity.seed, _ORDER])
        optimiser = self.optimiser(start)
        steps = self.fidelity.epochs * -(-len(self.train) // self.recipe.batch_size)
        step = 0
        for epoch in range(1, self.fidelity.epochs + 1):
            began = time.perf_counter()
            plan = training_batches(self.workload.corpus, self.train, self.recipe.batch_size, rng)
            train = self._train(plan, optimiser, step, steps)
            step += len(plan)
            if self.objective.solved:
                train = self.fit()
            yield self._result(epoch, train, began)

    def carry_over(self, state: Mapping[str, Tensor]) -> bool:
        """Load the state of an earlier objective, such as its projections, if it fits; return whether it fits."""
        own = self.objective.state_dict()
        fits = own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)
        if fits:
            self.objective.load_state_dict(dict(state))
        return fits

    def export(self) -> Any:
        """Return the student as a transformers encoder with the teacher's whole vocabulary, on the CPU, in eval mode.

        This is the trained model itself, not a copy; call it last. With a smaller vocabulary, only the rows of the
        tokens in :attr:`kept` are trained; :func:`kdnas_env.distillation.student.folder.save_student` keeps these.
        """
        model = self.encoder.write_back()
        model.requires_grad_(True)
        return model.to("cpu").eval()

    @property
    def kept(self) -> NDArray[np.int64] | None:
        """Ids of the tokens of the student's vocabulary, ascending, int64; None for all of the teacher's."""
        return None if self.workload.retokenised is None else self.workload.retokenised.kept

    def _make_objective(self, recipe: Recipe, pairs: Sequence[LayerPair], width: int) -> Objective:
        workload = self.workload
        if recipe.objective == "relations":
            if not self.encoder.layers:
                raise SpaceError("a student of 0 layers has no relations between tokens; use objective 'hidden_states'")
            if workload.retokenised is not None:
                raise SpaceError(
                    "a student with a smaller vocabulary has other tokens than its teacher, so it cannot learn the "
                    "relations between the teacher's tokens; use objective 'hidden_states'"
                )
            return RelationObjective(workload, self.encoder)
        return HiddenStateObjective(
            workload,
            pairs,
            width,
            projection=recipe.projection,
            shared=recipe.share_projection,
            ridge=recipe.ridge,
            generator=_generator(self.fidelity.seed, _PROJECTION, torch.device("cpu")),
        )

    def _make_judge(self, judge: Recipe | None, student: StudentConfig) -> Objective | None:
        """Return the objective that measures the losses; None if the student's own objective does."""
        if judge is None:
            return None
        measure = replace(judge, objective="hidden_states", projection="ridge")
        if all(getattr(measure, name) == getattr(self.recipe, name) for name in (*JUDGED, "ridge")):
            return None
        depth = self.workload.teacher.architecture.num_hidden_layers
        pairs = map_layers(measure.mapping, student.num_hidden_layers, depth)
        return self._make_objective(measure, pairs, student.hidden_size)

    def optimiser(self, unexplained: float | None) -> torch.optim.Optimizer:
        """Return AdamW over the trained parameters, at its peak learning rate.

        Args:
            unexplained: Fraction of the teacher's variance unexplained before the first step; None if nothing is
                solved in closed form.
        """
        decayed: list[nn.Parameter] = []
        others = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        for name, parameter in self.encoder.named_trainable():
            if parameter.requires_grad:
                matrix = parameter.ndim > 1 and "embeddings." not in name
                (decayed if matrix else others).append(parameter)
        return torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.recipe.peak_learning_rate(self._width, unexplained),
            fused=True,
        )

    def _train(self, plan: list[NDArray[np.int64]], optimiser: torch.optim.Optimizer, step: int, steps: int) -> Score:
        peak = optimiser.defaults["lr"]
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        total = torch.zeros((), dtype=torch.float64, device=self.workload.device)
        terms = 0
        for batch in self.workload.batches(plan):
            rate = peak * schedule(step, steps, self.recipe.warmup_fraction)
            for group in optimiser.param_groups:
                group["lr"] = rate
            error, count = self.terms(batch, self._dropout)
            optimiser.zero_grad()
            torch.autograd.backward(error / count)
            if self.recipe.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
            optimiser.step()
            step += 1
            total += error.detach()
            terms += count
            if step % _CHECK_STEPS == 0:
                self._note_memory()
                # On a GPU this waits for the step to finish, so it is not done after every step.
                _check_finite(float(total), f"step {step} of {steps}")
        return Score(float(total), self._train_reference, terms)

    @torch.no_grad()
    def fit(self) -> Score:
        """Solve the objective's closed-form part on the training samples; return the loss on them."""
        error, count = self.objective.fit((self._states(batch), batch) for batch in self._passes(self.train))
        return Score(error, self._train_reference, count)

    def train_score(self) -> Score:
        """Return the loss on the training samples, without dropout, with the current projections."""
        return self._measure(self.objective, self.train, self._train_reference)

    def heldout_score(self) -> Score:
        """Return the loss on the held-out samples, without dropout."""
        return self._measure(self.objective, self.heldout, self._heldout_reference)

    @torch.no_grad()
    def _judged(self, judge: Objective) -> tuple[Score, Score]:
        """Return the judge's losses on training and held-out samples."""
        error, count = judge.fit((self._states(batch), batch) for batch in self._passes(self.train))
        train, heldout = self._judge_references
        return Score(error, train, count), self._measure(judge, self.heldout, heldout)

    @cached_property
    def _judge_references(self) -> tuple[float, float]:
        train, heldout = (self._reference(self._judge or self.objective, part) for part in (self.train, self.heldout))
        return train, heldout

    @torch.no_grad()
    def _measure(self, objective: Objective, samples: NDArray[np.int64], reference: float) -> Score:
        error, count = 0.0, 0
        for batch in self._passes(samples):
            batch_error, batch_count = self._terms(objective, batch)
            error += float(batch_error)
            count += batch_count
        return Score(error, reference, count)

    @cached_property
    def _train_reference(self) -> float:
        return self._reference(self.objective, self.train)

    @cached_property
    def _heldout_reference(self) -> float:
        return self._reference(self.objective, self.heldout)

    def _reference(self, objective: Objective, samples: NDArray[np.int64]) -> float:
        return sum(objective.reference(batch) for batch in self._passes(samples))

    def _passes(self, samples: NDArray[np.int64]) -> Iterator[TeachingBatch]:
        return self.workload.batches(measuring_batches(self.workload.corpus, samples))

    def terms(self, batch: TeachingBatch, dropout: Dropout = NO_DROPOUT) -> tuple[Tensor, int]:
        """Return the sum of the loss' terms over the tokens of a batch, differentiable, and their number."""
        return self._terms(self.objective, batch, dropout)

    def _terms(self, objective: Objective, batch: TeachingBatch, dropout: Dropout = NO_DROPOUT) -> tuple[Tensor, int]:
        with self._autocast():
            return objective.terms(self.encoder(batch.packed, dropout), batch)

    def _states(self, batch: TeachingBatch) -> list[Tensor]:
        with self._autocast():
            states: list[Tensor] = self.encoder(batch.packed)
            return states

    def _autocast(self) -> torch.autocast:
        enabled = self._precision == "bfloat16"
        return torch.autocast(self.workload.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _result(self, epoch: int, train: Score | None, began: float) -> EpochResult:
        if self._judge is None:
            train, heldout = train or self.train_score(), self.heldout_score()
        else:
            train, heldout = self._judged(self._judge)
        for name, score in (("training", train), ("held-out", heldout)):
            _check_finite(score.error, f"the {name} loss of epoch {epoch}")
        self._note_memory()
        return EpochResult(epoch, train, heldout, time.perf_counter() - began, self._peak_memory)

    def _note_memory(self) -> None:
        device = self.workload.device
        used = (
            torch.cuda.max_memory_allocated(device)
            if device.type == "cuda"
            else int(psutil.Process().memory_info().rss)
        )
        self._peak_memory = max(self._peak_memory, used)


def schedule(step: int, steps: int, warmup_fraction: float) -> float:
    """Return the learning rate at a step as a fraction of its peak: linear warmup, then linear decay to 0."""
    warmup = max(1, round(warmup_fraction * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _freeze_tables(encoder: PackedEncoder, *, words_only: bool) -> None:
    tables = encoder.tables
    others = () if words_only else (tables.position.weight, tables.segment and tables.segment.weight)
    for table in (encoder.word, tables.word.weight, *others):
        if table is not None:
            table.requires_grad_(False)


def _slicing_samples(workload: Workload, samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first samples: enough for good least-squares fits, few enough for memory."""
    first = samples[:_SLICING_SAMPLES]
    tokens = np.cumsum(workload.corpus.lengths[first])
    return first[: max(1, int(np.searchsorted(tokens, _SLICING_TOKENS)))]


def _generator(seed: int, stream: int, device: torch.device) -> torch.Generator:
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def _check_finite(value: float, what: str) -> None:
    if not np.isfinite(value):
        raise FloatingPointError(f"the loss is not finite: {what}")
