"""Initialise a student's embeddings from its teacher's, reduced to the student's width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdnas_env.core.architecture import StudentConfig, student_position_offset
from kdnas_env.distillation.student.layers import embedding_tables
from kdnas_env.distillation.training.projection import CrossMoments, Moments
from kdnas_env.distillation.training.workload import TeachingBatch, Workload, measuring_batches
from kdnas_env.errors import KDNASError

_SHRINKAGE = 2.0
_LEAST_ENERGY = 1e-6
"""Directions whose variance is below this fraction of the largest variance count as noise."""


@dataclass(frozen=True, eq=False)
class EmbeddingBasis:
    """The teacher's embedding tables in coordinates sorted by importance; a student keeps the first coordinates.

    Attributes:
        word: float32 ``(vocabulary, coordinates)``.
        position: float32 ``(max_length, coordinates)``, usable positions only.
        segment: float32 ``(segments, coordinates)``.
    """

    word: Tensor
    position: Tensor
    segment: Tensor

    def rotated(self, axes: Tensor) -> EmbeddingBasis:
        """Return the tables in the coordinates given by the columns of ``axes``."""
        return EmbeddingBasis(self.word @ axes, self.position @ axes, self.segment @ axes)


class EmbeddingBases:
    """The bases of one workload, by method; each is computed when first needed, and shared by all students.

    Args:
        workload: The teacher's states.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._made: dict[str, EmbeddingBasis] = {}

    def of(self, method: str) -> EmbeddingBasis | None:
        """Return the basis of a method of :func:`embedding_basis`; None if embeddings are random.

        Raises:
            KDNASError: If the method is unknown.
        """
        if method == "random":
            return None
        if method not in self._made:
            self._made[method] = embedding_basis(self._workload, method)
        return self._made[method]


@torch.no_grad()
def embedding_basis(workload: Workload, method: str) -> EmbeddingBasis:
    """Choose coordinates for the teacher's embeddings from the training samples.

    - ``pca``: the principal components of the embeddings (sum of word, position and segment) of the training tokens.
    - ``token_means``: the coordinates of reduced-rank regression (Izenman 1975), from which a linear map best predicts
      the hidden states of all layers. Each token's embedding then moves towards the mean of its states in the training
      samples, in those coordinates: ``n / (n + 2)`` of the way after ``n`` occurrences.

    Apart from that last step, both methods are linear in the teacher's embeddings, so tokens that do not occur also
    get good embeddings. The samples are read in small batches and not kept in memory.

    For a teacher that is not plain, only the word table is known. The position and segment tables start at 0 or, with
    ``token_means``, at the mean residual of the states that the words do not explain. They are trained.

    Raises:
        KDNASError: If the method is unknown.
    """
    if method not in ("pca", "token_means"):
        raise KDNASError(f"embeddings {method!r} are not derived from the teacher's; choose 'pca' or 'token_means'")
    tables = _teacher_tables(workload)
    mean, covariance = _embedding_moments(workload, tables)
    tables = EmbeddingBasis(tables.word - mean.float(), tables.position, tables.segment)
    variances, components = torch.linalg.eigh(covariance)
    if method == "pca":
        return tables.rotated(components.flip(1).float())
    variances = variances.clamp_min(_LEAST_ENERGY * float(variances[-1]))
    whitener = (components * variances.rsqrt()) @ components.T
    predictors = whitener @ _state_covariance(workload, tables)
    energies, axes = torch.linalg.eigh(predictors @ predictors.T)
    energies = energies.flip(0).clamp_min(_LEAST_ENERGY * float(energies[-1])).sqrt()
    axes = axes.flip(1)
    reduced = tables.rotated((whitener @ axes * energies).float())
    loadings = (predictors.T @ axes / energies).float()
    reduced = replace(reduced, word=reduced.word + _shifts(workload, reduced, loadings, "word"))
    if workload.teacher.architecture.plain:
        return reduced
    reduced = replace(reduced, position=_shifts(workload, reduced, loadings, "position"))
    return replace(reduced, segment=_shifts(workload, reduced, loadings, "segment"))


@torch.no_grad()
def copy_embeddings(model: Any, student: StudentConfig, workload: Workload, basis: EmbeddingBasis) -> None:
    """Write the first coordinates of a basis into a student's embedding tables.

    Coordinates that the basis lacks are 0, as are unused rows. For factorised embeddings (ALBERT), the map to the
    hidden size copies them to the first hidden coordinates.
    """
    tables = embedding_tables(model)
    offset = student_position_offset(student, workload.teacher.architecture)
    assert tables.segment is not None
    for table, values, start in (
        (tables.word, basis.word, 0),
        (tables.position, basis.position, offset),
        (tables.segment, basis.segment, 0),
    ):
        kept = min(table.embedding_dim, values.shape[1])
        table.weight.zero_()
        table.weight[start : start + len(values), :kept] = values[:, :kept].to(table.weight)
    if tables.expansion is not None:
        nn.init.eye_(tables.expansion.weight)


def _teacher_tables(workload: Workload) -> EmbeddingBasis:
    teacher = workload.teacher.architecture
    if not teacher.plain:
        model: Any = workload.teacher.model
        word = model.get_input_embeddings().weight[: teacher.vocab_size].float()
        width = word.shape[1]
        return EmbeddingBasis(
            word, word.new_zeros(teacher.max_length, width), word.new_zeros(teacher.type_vocab_size, width)
        )
    tables = embedding_tables(workload.teacher.model)
    word = tables.word.weight
    position = tables.position.weight[teacher.position_offset :][: teacher.max_length]
    segment = word.new_zeros(1, word.shape[1]) if tables.segment is None else tables.segment.weight
    return EmbeddingBasis(word, position, segment)


@dataclass(frozen=True, eq=False)
class _Embedded:
    """The training tokens of a batch: their rows in the tables, int64 ``(tokens,)``, and their embeddings."""

    batch: TeachingBatch
    rows: dict[str, Tensor]
    embeddings: Tensor


def _embedded(workload: Workload, tables: EmbeddingBasis) -> Iterator[_Embedded]:
    """Yield the training samples in batches, with embeddings ``(tokens, coordinates)``."""
    vocabulary = torch.from_numpy(workload.vocabulary).to(workload.device)
    for batch in workload.batches(measuring_batches(workload.corpus, workload.train)):
        packed = batch.packed
        ids = vocabulary[packed.input_ids]
        segments = torch.zeros_like(ids) if packed.segments is None else packed.segments
        embeddings = tables.word[ids] + tables.position[packed.positions]
        embeddings = embeddings + tables.segment[segments]
        yield _Embedded(batch, {"word": ids, "position": packed.positions, "segment": segments}, embeddings)


def _embedding_moments(workload: Workload, tables: EmbeddingBasis) -> tuple[Tensor, Tensor]:
    """Return the mean and covariance of the training tokens' embeddings, float64."""
    moments = Moments()
    for tokens in _embedded(workload, tables):
        moments.add(tokens.embeddings, tokens.embeddings[:, :0])
    gram, _, _ = moments.centred()
    return moments.means()[0], gram / moments.count


def _state_covariance(workload: Workload, tables: EmbeddingBasis) -> Tensor:
    """Return the covariance of the embeddings with the concatenated states of all layers, float64."""
    layers = range(1, workload.cache.num_layers + 1)
    moments = [CrossMoments() for _ in layers]
    for tokens in _embedded(workload, tables):
        for layer, moment in zip(layers, moments, strict=True):
            moment.add(tokens.embeddings, workload.states((layer,), tokens.batch.rows))
    return torch.cat([moment.cross() for moment in moments], dim=1) / moments[0].count


def _shifts(workload: Workload, reduced: EmbeddingBasis, loadings: Tensor, table: str) -> Tensor:
    """Return, for each row of a table, the shrunken difference of its mean reduced state from its embedding.

    Args:
        workload: The teacher's states.
        reduced: The tables.
        loadings: Map that reduces the concatenated states of all layers, ``(layers * hidden_size, coordinates)``.
        table: Name of the table: a field of ``reduced``.
    """
    layers = tuple(range(1, workload.cache.num_layers + 1))
    means = workload.train_means[1:].flatten() @ loadings
    sums = torch.zeros_like(getattr(reduced, table))
    counts = sums.new_zeros(len(sums))
    for tokens in _embedded(workload, reduced):
        rows = tokens.rows[table]
        states = workload.states(layers, tokens.batch.rows) @ loadings - means
        sums.index_add_(0, rows, states - tokens.embeddings)
        counts.index_add_(0, rows, torch.ones_like(rows, dtype=counts.dtype))
    return sums / (counts + _SHRINKAGE)[:, None]
