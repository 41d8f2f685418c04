"""Comparison of a student's text vectors with its teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats32
from kdnas_env.support.statistics import percentile_interval, resampled_means, spearman_rho

NEAREST = 10
"""Number of neighbours for the retrieval scores."""

_RESAMPLES = 200
_RESAMPLED_PAIRS = 20_000
_TRUNCATED = (384, 256, 128, 64)


@dataclass(frozen=True)
class EmbeddingScore:
    """How well a student's vectors can replace its teacher's, on held-out texts; plain data.

    Each value has its 95 % bootstrap interval over the texts: ``(value, low, high)``. Half of the texts are queries,
    the other half are documents.

    Attributes:
        texts: Number of texts.
        cosine: Mean cosine of a text's two vectors.
        spearman: Spearman's correlation between student and teacher of the cosines of all pairs of texts.
        overlap: Share of the 10 nearest documents of a query that are the same for student and teacher.
        overlap_in_teachers: The same with the student's queries and the teacher's documents, such as an existing index.
        recall: Share of the queries whose nearest document according to the teacher is among the student's 10 nearest.
        recall_in_teachers: The same with the student's queries and the teacher's documents.
        truncated: Spearman's correlation for the first dimensions of both, renormalised, by number of dimensions.
    """

    texts: int
    cosine: tuple[float, float, float]
    spearman: tuple[float, float, float]
    overlap: tuple[float, float, float]
    overlap_in_teachers: tuple[float, float, float]
    recall: tuple[float, float, float]
    recall_in_teachers: tuple[float, float, float]
    truncated: dict[str, tuple[float, float, float]]

    def columns(self) -> dict[str, float]:
        """Return the scores without their intervals, by name."""
        names = ("spearman", "cosine", "overlap", "overlap_in_teachers", "recall", "recall_in_teachers")
        return {name: getattr(self, name)[0] for name in names}


def score_vectors(student: Floats32, teacher: Floats32, seed: int = 0) -> EmbeddingScore:
    """Compare a student's vectors with its teacher's.

    Args:
        student: Unit vectors, ``(texts, width)``.
        teacher: Unit vectors of the same texts by the teacher, ``(texts, width)``.
        seed: Seed of the bootstrap.

    Raises:
        KDNASError: If there are too few texts.
    """
    count = len(student)
    if count < 4 * NEAREST:
        raise KDNASError(f"{count} texts are too few for nearest neighbours; give at least {4 * NEAREST}")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, count, (_RESAMPLES, count))
    queries, documents = slice(0, count // 2), slice(count // 2, count)

    def over_texts(values: NDArray[np.float64]) -> tuple[float, float, float]:
        return float(values.mean()), *percentile_interval(resampled_means(values, rng, _RESAMPLES))

    def correlated(ours: Floats32, theirs: Floats32) -> tuple[float, float, float]:
        similar, rows, columns = _similarities(ours, theirs)
        resampled = []
        for draw in draws:
            first, second = draw[rows], draw[columns]
            other = np.flatnonzero(first != second)  # Skip pairs of a text with itself.
            pairs = rng.choice(other, _RESAMPLED_PAIRS)
            first, second = first[pairs], second[pairs]
            resampled.append(spearman_rho(similar[0][first, second], similar[1][first, second]))
        return spearman(ours, theirs), *percentile_interval(np.array(resampled))

    wanted = _nearest(teacher[queries], teacher[documents])
    own = _nearest(student[queries], student[documents])
    beside = _nearest(student[queries], teacher[documents]) if student.shape == teacher.shape else own

    def shared(nearest: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([len(np.intersect1d(a, b)) / NEAREST for a, b in zip(nearest, wanted, strict=True)])

    def recalled(nearest: NDArray[np.int64]) -> NDArray[np.float64]:
        first: NDArray[np.float64] = (nearest == wanted[:, :1]).any(axis=1).astype(np.float64)
        return first

    sizes = [size for size in _TRUNCATED if size < teacher.shape[1]]
    return EmbeddingScore(
        texts=count,
        cosine=over_texts((_unit(student) * _unit(teacher)).sum(axis=1).astype(np.float64)),
        spearman=correlated(student, teacher),
        overlap=over_texts(shared(own)),
        overlap_in_teachers=over_texts(shared(beside)),
        recall=over_texts(recalled(own)),
        recall_in_teachers=over_texts(recalled(beside)),
        truncated={str(size): correlated(student[:, :size], teacher[:, :size]) for size in sizes},
    )


def _similarities(ours: Floats32, theirs: Floats32) -> tuple[list[Floats32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the cosines of all pairs of texts by both models, each ``(texts, texts)``, and the pairs' indices."""
    rows, columns = np.triu_indices(len(ours), 1)
    return [_unit(values) @ _unit(values).T for values in (ours, theirs)], rows, columns


def spearman(ours: Floats32, theirs: Floats32) -> float:
    """Return Spearman's correlation between the cosines of all pairs of texts by two models."""
    similar, rows, columns = _similarities(ours, theirs)
    return spearman_rho(similar[0][rows, columns], similar[1][rows, columns])


def _nearest(queries: Floats32, documents: Floats32) -> NDArray[np.int64]:
    """Return the indices of the nearest documents of each query, nearest first, ``(queries, NEAREST)``."""
    order: NDArray[np.int64] = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :NEAREST]
    return order


def _unit(values: Floats32) -> Floats32:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats32 = values / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
