"""Comparisons of agents: pairwise tests, corrected for multiple comparisons, and ranks over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.support.statistics import checked_scores

LEAST_TASKS = 5
"""Minimum number of tasks for a critical difference, whose sample size is the number of tasks, not of seeds."""

LEAST_AGENTS = 3
"""Minimum number of agents for Friedman's test."""


@dataclass(frozen=True)
class PairedTest:
    """Test of whether an agent differs from the reference.

    Attributes:
        p: Two-sided p-value of Wilcoxon's signed-rank test over pairs of equal task and seed.
        corrected: The p-value corrected for all compared agents (Holm 1979).
        effect: Matched-pairs rank-biserial correlation (Kerby 2014), in [-1, 1]; positive if it has less regret than
            the reference.
    """

    p: float
    corrected: float
    effect: float


@dataclass(frozen=True)
class FriedmanTest:
    """Test of whether any of several agents differs from the others.

    Attributes:
        chi_squared: Friedman's statistic, corrected for ties.
        f: The less conservative statistic of Iman and Davenport; infinite if all tasks rank the agents equally.
        p: P-value: probability of such an ``f`` or a larger one if no agent differs.
    """

    chi_squared: float
    f: float
    p: float


def paired_tests(reference: npt.ArrayLike, others: Mapping[str, npt.ArrayLike]) -> dict[str, PairedTest]:
    """Compare agents with a reference, over pairs of equal task and seed.

    Args:
        reference: Scores of the reference, lower is better, ``(tasks, seeds)``.
        others: Scores of the others, by name, of the same shape.

    Raises:
        KDNASError: If shapes disagree.
    """
    first = checked_scores(reference, curves=False)
    tests: dict[str, tuple[float, float]] = {}
    for name, scores in others.items():
        second = checked_scores(scores, curves=False)
        if second.shape != first.shape:
            raise KDNASError(f"scores of {name!r} have shape {second.shape}, those of the reference {first.shape}")
        tests[name] = _signed_rank((first - second).ravel())
    corrected = holm([p for p, _ in tests.values()])
    return {name: PairedTest(p, q, effect) for (name, (p, effect)), q in zip(tests.items(), corrected, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down procedure (1979), in the order given.

    Raises:
        KDNASError: If a p-value is not between 0 and 1.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise KDNASError(f"a p-value is {p}; expected one between 0 and 1")
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    largest = 0.0
    for place, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return [float(value) for value in corrected]


def mean_ranks(scores: Mapping[str, npt.ArrayLike]) -> dict[str, float]:
    """Return the mean rank of each agent; 1 is the best.

    Agents are ranked within each task and seed, because they share its noise; ties get their mean rank.

    Args:
        scores: Scores by agent, lower is better, each ``(tasks, seeds)``.
    """
    return dict(zip(scores, _ranks(_stacked(scores)).mean(axis=(1, 2)).tolist(), strict=True))


def friedman(scores: Mapping[str, npt.ArrayLike]) -> FriedmanTest:
    """Test whether any agent differs from the others (Friedman 1937; Iman and Davenport 1980; Demsar 2006).

    The sample size is the number of tasks: in each task, agents are ranked by their mean rank over seeds (see
    :func:`mean_ranks`), so more seeds do not increase the significance. Use :func:`critical_difference` only if this
    test is significant.

    Args:
        scores: Scores by agent (three or more), lower is better, each ``(tasks, seeds)``.

    Raises:
        KDNASError: If shapes disagree, or there are fewer than three agents or too few tasks.
    """
    stacked = _stacked(scores)
    agents, tasks = stacked.shape[:2]
    if agents < LEAST_AGENTS:
        raise KDNASError(f"agents is {agents}; expected {LEAST_AGENTS} or more. Compare two by paired_tests instead")
    _check_tasks(tasks, "Friedman's test")
    by_task = _ranks(stacked).mean(axis=2)
    if np.ptp(by_task, axis=0).max() == 0:
        return FriedmanTest(0.0, 0.0, 1.0)
    from scipy import stats

    chi_squared = float(stats.friedmanchisquare(*by_task).statistic)
    largest = tasks * (agents - 1)
    # If all tasks have the same order, the residual is 0; rounding must not make it negative.
    residual = largest - chi_squared
    f = (tasks - 1) * chi_squared / residual if residual > 1e-9 * largest else np.inf
    return FriedmanTest(chi_squared, float(f), float(stats.f.sf(f, agents - 1, (agents - 1) * (tasks - 1))))


def critical_difference(agents: int, tasks: int, alpha: float = 0.05) -> float:
    """Return the minimum significant difference of mean ranks (Nemenyi's test; Demsar 2006).

    Raises:
        KDNASError: If there are fewer than two agents, or too few tasks.
    """
    check_whole("agents", agents, at_least=2)
    check_number("alpha", alpha, above=0, below=1)
    _check_tasks(tasks, "a critical difference")
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, agents, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(agents * (agents + 1) / (6 * tasks)))


def _check_tasks(tasks: int, what: str) -> None:
    if tasks < LEAST_TASKS:
        raise KDNASError(
            f"tasks is {tasks}; {what} needs {LEAST_TASKS} or more, because its sample size is the number of tasks. "
            "Compare probabilities of improvement instead"
        )


def _ranks(stacked: Floats) -> Floats:
    """Return ranks among the agents, from 1, for scores ``(agents, tasks, seeds)``."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(stacked, axis=0), dtype=np.float64)


def _signed_rank(differences: Floats) -> tuple[float, float]:
    """Return p-value and effect for differences reference minus other, without pairs that are equal."""
    from scipy.stats import rankdata, wilcoxon

    unequal = differences[differences != 0]
    if not len(unequal):
        return 1.0, 0.0
    p = float(wilcoxon(unequal, method="approx" if len(unequal) > 25 else "auto").pvalue)
    ranks = rankdata(np.abs(unequal))
    return p, float((ranks * np.sign(unequal)).sum() / ranks.sum())


def _stacked(scores: Mapping[str, npt.ArrayLike]) -> Floats:
    arrays = {name: checked_scores(array, curves=False) for name, array in scores.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1:
        raise KDNASError(f"scores have shapes {sorted(shapes)}; expected the same shape for all agents")
    return np.stack(list(arrays.values()))
