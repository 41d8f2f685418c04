"""Agents against each other: tests of pairs, corrected for their number, and ranks over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.statistics import Floats, checked_scores
from kdnas_env.errors import DependencyError, KDNASError

LEAST_TASKS = 5
"""Tasks without which a critical difference means nothing: they are its unit, not the seeds."""


@dataclass(frozen=True)
class PairedTest:
    """Whether one agent differs from the reference.

    Attributes:
        p: Two-sided p of Wilcoxon's signed-rank test over pairs of equal task and seed.
        corrected: The same by Holm (1979), for all agents that were compared.
        effect: Matched-pairs rank-biserial correlation (Kerby 2014), in [-1, 1]; positive: it has less regret than
            the reference.
    """

    p: float
    corrected: float
    effect: float


def paired_tests(reference: npt.ArrayLike, others: Mapping[str, npt.ArrayLike]) -> dict[str, PairedTest]:
    """Compare agents with a reference, pair by pair of task and seed.

    Args:
        reference: Scores of the reference, less is better, ``(tasks, seeds)``.
        others: Scores of the others, by name, of the same shape.

    Raises:
        KDNASError: If shapes disagree.
        DependencyError: If scipy is not installed.
    """
    first = checked_scores(reference)
    found: dict[str, tuple[float, float]] = {}
    for name, scores in others.items():
        second = checked_scores(scores)
        if second.shape != first.shape:
            raise KDNASError(f"scores of {name!r} have shape {second.shape}, those of the reference {first.shape}")
        found[name] = _signed_rank((first - second).ravel())
    corrected = holm([p for p, _ in found.values()])
    return {name: PairedTest(p, q, effect) for (name, (p, effect)), q in zip(found.items(), corrected, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down procedure (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for place, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return [float(value) for value in corrected]


def mean_ranks(scores: Mapping[str, npt.ArrayLike]) -> dict[str, float]:
    """Return the mean rank of each agent, 1 being the best.

    Agents are ranked for every task and seed, which they share the noise of; ties have the mean of their ranks.

    Args:
        scores: By agent, less is better, ``(tasks, seeds)`` each.
    """
    stacked = _stacked(scores)
    less = (stacked[:, None] > stacked[None]).sum(axis=1)
    equal = (stacked[:, None] == stacked[None]).sum(axis=1)
    ranks = less + (equal + 1) / 2
    return dict(zip(scores, ranks.mean(axis=(1, 2)).tolist(), strict=True))


def critical_difference(agents: int, tasks: int, alpha: float = 0.05) -> float:
    """Return by how much mean ranks have to differ (Nemenyi's test; Demsar 2006).

    Raises:
        KDNASError: If there are fewer than two agents, or too few tasks.
        DependencyError: If scipy is not installed.
    """
    if agents < 2:
        raise KDNASError(f"agents is {agents}; expected 2 or more")
    if tasks < LEAST_TASKS:
        raise KDNASError(
            f"tasks is {tasks}; a critical difference needs {LEAST_TASKS} or more, since tasks are its unit. "
            "Compare probabilities of improvement instead"
        )
    studentized_range = _scipy().studentized_range
    q = float(studentized_range.ppf(1 - alpha, agents, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(agents * (agents + 1) / (6 * tasks)))


def _signed_rank(differences: Floats) -> tuple[float, float]:
    """Return p and effect of reference minus other; equal pairs tell nothing."""
    told = differences[differences != 0]
    if not len(told):
        return 1.0, 0.0
    scipy = _scipy()
    p = float(scipy.wilcoxon(told, method="approx" if len(told) > 25 else "auto").pvalue)
    ranks = scipy.rankdata(np.abs(told))
    return p, float((ranks * np.sign(told)).sum() / ranks.sum())


def _stacked(scores: Mapping[str, npt.ArrayLike]) -> Floats:
    arrays = {name: checked_scores(one) for name, one in scores.items()}
    shapes = {one.shape for one in arrays.values()}
    if len(shapes) != 1:
        raise KDNASError(f"scores have shapes {sorted(shapes)}; expected those of all agents to be one")
    return np.stack(list(arrays.values()))


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise DependencyError('statistical tests need scipy; run: pip install "kdnas[bench]"') from error
    return stats
