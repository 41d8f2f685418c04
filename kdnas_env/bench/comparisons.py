"""Agents against each other: tests of pairs, corrected for their number, and ranks over tasks."""

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
"""Tasks without which a critical difference means nothing: they are its unit, not the seeds."""

LEAST_AGENTS = 3
"""Agents without which there is nothing for Friedman's test: two are a pair."""


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


@dataclass(frozen=True)
class FriedmanTest:
    """Whether any of several agents differs from the others.

    Attributes:
        chi_squared: Friedman's statistic, corrected for ties.
        f: The less conservative one of Iman and Davenport; infinite if all tasks rank the agents alike.
        p: Probability of such an ``f`` or a larger one if none differs.
    """

    chi_squared: float
    f: float
    p: float


def paired_tests(reference: npt.ArrayLike, others: Mapping[str, npt.ArrayLike]) -> dict[str, PairedTest]:
    """Compare agents with a reference, pair by pair of task and seed.

    Args:
        reference: Scores of the reference, less is better, ``(tasks, seeds)``.
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
        KDNASError: If one is not between 0 and 1.
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
    """Return the mean rank of each agent, 1 being the best.

    Agents are ranked for every task and seed, which they share the noise of; ties have the mean of their ranks.

    Args:
        scores: By agent, less is better, ``(tasks, seeds)`` each.
    """
    return dict(zip(scores, _ranks(_stacked(scores)).mean(axis=(1, 2)).tolist(), strict=True))


def friedman(scores: Mapping[str, npt.ArrayLike]) -> FriedmanTest:
    """Test whether any agent differs from the others (Friedman 1937; Iman and Davenport 1980; Demsar 2006).

    Tasks are the unit: agents are ranked by their mean rank over the seeds of a task, as in :func:`mean_ranks`, so
    that more seeds make no more evidence of it. Only where it finds something does :func:`critical_difference` apply.

    Args:
        scores: By agent, three or more, less is better, ``(tasks, seeds)`` each.

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
    # All tasks in one order leave no residual; rounding must not make it negative.
    residual = largest - chi_squared
    f = (tasks - 1) * chi_squared / residual if residual > 1e-9 * largest else np.inf
    return FriedmanTest(chi_squared, float(f), float(stats.f.sf(f, agents - 1, (agents - 1) * (tasks - 1))))


def critical_difference(agents: int, tasks: int, alpha: float = 0.05) -> float:
    """Return by how much mean ranks have to differ (Nemenyi's test; Demsar 2006).

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
            f"tasks is {tasks}; {what} needs {LEAST_TASKS} or more, since tasks are its unit. "
            "Compare probabilities of improvement instead"
        )


def _ranks(stacked: Floats) -> Floats:
    """Return ranks among the agents, from 1, of scores ``(agents, tasks, seeds)``."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(stacked, axis=0), dtype=np.float64)


def _signed_rank(differences: Floats) -> tuple[float, float]:
    """Return p and effect of reference minus other; equal pairs are left out."""
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
        raise KDNASError(f"scores have shapes {sorted(shapes)}; expected those of all agents to be one")
    return np.stack(list(arrays.values()))
