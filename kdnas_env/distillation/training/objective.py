"""Training objectives: match the teacher's hidden states, or its relations between tokens."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas_env.distillation.student.layers import encoder_layers, heads_first
from kdnas_env.distillation.training.mapping import LayerPair
from kdnas_env.distillation.training.packed import PackedBatch, PackedEncoder, project_qkv
from kdnas_env.distillation.training.projection import Moments, Projection
from kdnas_env.distillation.training.recipe import Ridge
from kdnas_env.distillation.training.workload import TeachingBatch, Workload


@dataclass(frozen=True)
class Score:
    """A loss over some tokens.

    Attributes:
        error: Sum of the loss' terms.
        reference: Sum of the same terms for an uninformed student.
        count: Number of terms.
    """

    error: float
    reference: float
    count: int

    @property
    def loss(self) -> float:
        """Mean loss, raw."""
        return self.error / self.count

    @property
    def unexplained(self) -> float:
        """Loss relative to that of an uninformed student; for hidden states ``1 - R^2``."""
        return self.error / self.reference


class Objective(nn.Module):
    """A distillation loss with its own learnt parameters.

    Attributes:
        solved: Whether :meth:`fit` solves part of it in closed form.
        teacher_layers: Teacher layers whose states it uses.
    """

    solved: bool = False
    teacher_layers: tuple[int, ...] = ()

    @abstractmethod
    def terms(self, states: Sequence[Tensor], batch: TeachingBatch) -> tuple[Tensor, int]:
        """Return the sum of the loss' terms over the tokens of a batch, differentiable, and their number.

        Args:
            states: All hidden states of the student, ``(tokens, width)`` each, embeddings first.
            batch: The tokens.
        """

    @abstractmethod
    def reference(self, batch: TeachingBatch) -> float:
        """Return the sum of the same terms for an uninformed student."""

    def fit(self, passes: Iterable[tuple[Sequence[Tensor], TeachingBatch]]) -> tuple[float, int]:
        """Solve the closed-form part on training tokens.

        Args:
            passes: For each batch, all hidden states of the student, ``(tokens, width)`` each, and the tokens.

        Returns:
            The sum of the loss' terms over these tokens after solving, and their number.
        """
        raise NotImplementedError


class HiddenStateObjective(Objective):
    """Mean squared error between the teacher's hidden states and a projection of the student's.

    An uninformed student predicts the teacher's mean over the training tokens. :attr:`Score.unexplained` is therefore
    the unexplained variance, ``1 - R^2``, pooled over the layer pairs.

    Args:
        workload: The teacher's states.
        pairs: Pairs of a student layer and its teacher layers.
        width: Hidden size of the student.
        projection: ``"ridge"`` (solved by :meth:`fit`, constant in between) or ``"gradient"`` (trained).
        shared: Whether all pairs share one projection.
        ridge: Penalty of the closed form, as a fraction of the student states' mean variance, or ``gcv``.
        generator: Source of randomness for the weights of a trained projection.
    """

    def __init__(
        self,
        workload: Workload,
        pairs: Sequence[LayerPair],
        width: int,
        *,
        projection: str,
        shared: bool,
        ridge: Ridge,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._workload = workload
        self._pairs = tuple(pairs)
        self._ridge = ridge
        self.solved = projection == "ridge"
        self.teacher_layers = tuple(sorted({layer for pair in pairs for layer in pair.teacher}))
        target_width = len(pairs[0].teacher) * workload.cache.hidden_size
        self.projection = Projection(len(pairs), width, target_width, shared=shared)
        self.projection.requires_grad_(not self.solved)
        if not self.solved:
            self.projection.randomise(generator)
        self.projection.to(workload.device)

    def terms(self, states: Sequence[Tensor], batch: TeachingBatch) -> tuple[Tensor, int]:
        """Return squared errors summed over tokens, pairs and teacher dimensions, and their number."""
        error = states[0].new_zeros((), dtype=torch.float32)
        count = 0
        for index, pair in enumerate(self._pairs):
            target = self._workload.taught(pair.teacher, batch)
            predicted = self.projection(batch.compared(states[pair.student]), index)
            error = error + functional.mse_loss(predicted.float(), target, reduction="sum")
            count += target.numel()
        return error, count

    def reference(self, batch: TeachingBatch) -> float:
        """Return the teacher's squared distance from its mean, summed like the terms."""
        total = 0.0
        for pair in self._pairs:
            mean = self._workload.train_means[list(pair.teacher)].flatten()
            total += float((self._workload.taught(pair.teacher, batch) - mean).square().sum())
        return total

    @torch.no_grad()
    def fit(self, passes: Iterable[tuple[Sequence[Tensor], TeachingBatch]]) -> tuple[float, int]:
        """Solve the projection by ridge regression on training tokens."""
        moments = [Moments() for _ in range(self.projection.maps)]
        width = self.projection.weight.shape[2]
        for states, batch in passes:
            for index, pair in enumerate(self._pairs):
                target = self._workload.taught(pair.teacher, batch)
                moments[self.projection.map_of(index)].add(batch.compared(states[pair.student]).float(), target)
        fits = [moment.solve(self._ridge) for moment in moments]
        self.projection.assign(fits)
        return sum(fit.squared_error for fit in fits), sum(fit.count for fit in fits) * width


class RelationObjective(Objective):
    """MiniLMv2: match the relations between tokens in queries, keys and values (Wang et al. 2021).

    Queries, keys and values of the last layer are each split into relation heads. The relations of a token are the
    softmax of its scaled dot products with all tokens of its sequence. The loss is the Kullback-Leibler divergence of
    the student's relations from the teacher's, summed over the three kinds and averaged over tokens and heads
    (arXiv:2012.15828, equations 4 to 6). It needs no projection. An uninformed student has uniform relations.

    Args:
        workload: The teacher's states; queries, keys and values are computed from the input of its last layer.
        encoder: The student.
    """

    def __init__(self, workload: Workload, encoder: PackedEncoder) -> None:
        super().__init__()
        self._workload = workload
        self._encoder = (encoder,)  # in a tuple, so that PyTorch does not register its parameters here
        self._teacher_layer = encoder_layers(workload.teacher.model)[-1]
        self.teacher_layers = (workload.cache.num_layers - 1,)
        width = encoder.model.config.hidden_size
        self.heads = math.gcd(workload.teacher.architecture.num_attention_heads, width)

    def terms(self, states: Sequence[Tensor], batch: TeachingBatch) -> tuple[Tensor, int]:
        """Return divergences summed over tokens, heads and kinds, and the number of tokens and heads."""
        student = project_qkv(self._encoder[0].layers[-1], states[-2])
        divergence = torch.zeros((), device=student.device)
        for ours, theirs in zip(self._relations(student, batch.packed), self._teacher_relations(batch), strict=True):
            divergence = divergence + self._divergence(theirs, ours, batch.packed)
        return divergence, batch.packed.tokens * self.heads

    @torch.no_grad()
    def reference(self, batch: TeachingBatch) -> float:
        """Return the divergence of uniform relations from the teacher's."""
        packed = batch.packed
        total = 0.0
        for theirs in self._teacher_relations(batch):
            even = torch.zeros_like(theirs)
            if packed.mask is not None:
                even = even.masked_fill(~packed.mask[:, None, None, :], float("-inf"))
            total += float(self._divergence(theirs, even.log_softmax(-1), packed))
        return total

    @torch.no_grad()
    def _teacher_relations(self, batch: TeachingBatch) -> list[Tensor]:
        states = self._workload.taught((self._workload.cache.num_layers - 1,), batch)
        return self._relations(project_qkv(self._teacher_layer, states), batch.packed)

    def _relations(self, qkv: Tensor, packed: PackedBatch) -> list[Tensor]:
        """Return log-relations of queries, keys and values, each ``(sequences, heads, length, length)``."""
        relations = []
        for vectors in packed.pad(qkv.float()).chunk(3, dim=-1):
            split = heads_first(vectors, self.heads)
            scores = split @ split.transpose(-1, -2) * split.shape[-1] ** -0.5
            if packed.mask is not None:
                scores = scores.masked_fill(~packed.mask[:, None, None, :], float("-inf"))
            relations.append(scores.log_softmax(dim=-1))
        return relations

    @staticmethod
    def _divergence(theirs: Tensor, ours: Tensor, packed: PackedBatch) -> Tensor:
        # Padding has log-probability -inf on both sides; masking the difference avoids 0 * inf in the gradient.
        difference = theirs - ours
        if packed.mask is not None:
            real = packed.mask[:, None, :, None] & packed.mask[:, None, None, :]
            difference = difference.masked_fill(~real, 0.0)
        return (theirs.exp() * difference).sum()
