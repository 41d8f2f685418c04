"""How well one ranking of students agrees with another: rank correlations with intervals, and what a choice costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
_LEAST = 4
"""Fewest students of which a correlation is worth anything."""


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its 95 % bootstrap interval.

    Attributes:
        value: The correlation, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end.
        count: Students.
    """

    value: float
    low: float
    high: float
    count: int


def kendall_tau(one: Floats, other: Floats) -> float:
    """Return Kendall's tau-b; NaN if either is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(one, other).statistic)


def spearman_rho(one: Floats, other: Floats) -> float:
    """Return Spearman's rho; NaN if either is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(one), rankdata(other)
    if min(float(np.ptp(row)) for row in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def correlate(
    statistic: Callable[[Floats, Floats], float],
    one: Sequence[float] | Floats,
    other: Sequence[float] | Floats,
    rng: np.random.Generator,
) -> Correlation | None:
    """Return a rank correlation with its percentile bootstrap interval (students are drawn with replacement).

    Args:
        statistic: :func:`kendall_tau` or :func:`spearman_rho`.
        one: A quantity of each student.
        other: Another quantity of the same.
        rng: Source of the resamples.

    Returns:
        The correlation, or None if there are fewer than four students or one quantity is constant.
    """
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    value = statistic(first, second) if len(first) >= _LEAST else float("nan")
    if not np.isfinite(value):
        return None
    draws = rng.integers(0, len(first), (RESAMPLES, len(first)))
    resampled = np.array([statistic(first[draw], second[draw]) for draw in draws])
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return Correlation(value, float(low), float(high), len(first))


def within_groups(
    statistic: Callable[[Floats, Floats], float], one: Floats, other: Floats, groups: npt.NDArray[np.int64]
) -> float | None:
    """Return the mean of a rank correlation within groups, weighted by the number of pairs; None if there is none."""
    values, weights = [], []
    for group in np.unique(groups):
        members = groups == group
        size = int(members.sum())
        value = statistic(one[members], other[members]) if size > 1 else float("nan")
        if np.isfinite(value):
            values.append(value)
            weights.append(size * (size - 1) / 2)
    return float(np.average(values, weights=weights)) if values else None


def latency_groups(ratios: Floats, students_per_group: int = 8) -> npt.NDArray[np.int64]:
    """Return the group of each student among those of similar latency, int64: equally large, fastest first."""
    order = np.argsort(np.argsort(ratios, kind="stable"), kind="stable")
    groups = max(1, len(ratios) // students_per_group)
    labels: npt.NDArray[np.int64] = (order * groups // len(ratios)).astype(np.int64)
    return labels


def regret(proxy: Floats, truth: Floats, k: int) -> float:
    """Return how far the best of the ``k`` students that a proxy likes most falls short of the best of all.

    Args:
        proxy: What students are chosen by, more is better.
        truth: What counts, more is better.
        k: Students chosen.
    """
    chosen = np.argsort(-proxy, kind="stable")[:k]
    return float(truth.max() - truth[chosen].max())
