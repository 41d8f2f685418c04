"""How well predictions agree with what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.tables.noise_ceiling import kendall_tau

Floats = npt.NDArray[np.float64]

LEVELS = {"coverage_50": 0.674490, "coverage_90": 1.644854, "coverage_95": 1.959964}
"""Central intervals of a normal distribution, in standard deviations."""

METRICS = ("r2", "rmse", "tau", "tau_resolved", "spearman", "precision_at_10", "precision_at_50", "nll", *LEVELS)
"""Keys of :func:`agreement`, beside ``students``."""


def agreement(truth: Floats, mean: Floats, deviation: Floats, resolution: float, *, largest: bool) -> dict[str, Any]:
    """Compare predictions of one quantity with the truth.

    Args:
        truth: What was found, float64 ``(n,)``.
        mean: What was predicted, float64 ``(n,)``.
        deviation: Standard deviation that was predicted, float64 ``(n,)``.
        resolution: Differences below it are noise.
        largest: Whether large values are the good ones.

    Returns:
        ``students``; ``r2``; ``rmse``; ``tau`` (Kendall's tau-b); ``tau_resolved``, over the pairs that truly
        differ by more than the resolution; ``spearman``; ``precision_at_10`` and ``precision_at_50``: how
        many of the predicted best are among the true best; ``nll``: mean negative log likelihood of a normal
        distribution; and ``coverage_50``, ``coverage_90``, ``coverage_95``: how much of the truth lies in the
        central intervals. None where it is not defined.
    """
    n = len(truth)
    told: dict[str, Any] = {"students": n, **dict.fromkeys(METRICS)}
    if n < 2:
        return told
    errors, spread = truth - mean, float(((truth - truth.mean()) ** 2).sum())
    told["r2"] = 1 - float((errors**2).sum()) / spread if spread > 0 else None
    told["rmse"] = float(np.sqrt((errors**2).mean()))
    told["tau"] = kendall_tau(truth, mean)
    told["tau_resolved"] = resolved_tau(truth, mean, resolution)
    told["spearman"] = spearman(truth, mean)
    for k in (10, 50):
        if k <= n // 2:
            told[f"precision_at_{k}"] = precision_at(truth, mean, k, largest=largest)
    if (deviation > 0).all():
        standard = errors / deviation
        told["nll"] = float((0.5 * standard**2 + np.log(deviation)).mean() + 0.5 * math.log(2 * math.pi))
        told |= {name: float((np.abs(standard) <= bound).mean()) for name, bound in LEVELS.items()}
    return told


def resolved_tau(truth: Floats, mean: Floats, resolution: float = 0.0) -> float | None:
    """Return Kendall's tau over the pairs that truly differ by more than a resolution; None if there are none."""
    apart = truth[:, None] - truth
    told = np.abs(apart) > resolution
    count = int(np.count_nonzero(told))
    agree = np.sign(apart) * np.sign(mean[:, None] - mean)
    return float(agree[told].sum()) / count if count else None


def spearman(first: Floats, second: Floats) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank; None if one of the sequences is constant."""
    return correlation(_ranks(first), _ranks(second))


def correlation(first: Floats, second: Floats) -> float | None:
    """Return Pearson's correlation; None if one of the sequences is constant."""
    a, b = first - first.mean(), second - second.mean()
    scale = math.sqrt(float((a * a).sum())) * math.sqrt(float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def precision_at(truth: Floats, mean: Floats, k: int, *, largest: bool) -> float:
    """Return which share of the ``k`` that are predicted best are among the ``k`` truly best."""
    sign = -1.0 if largest else 1.0
    best, chosen = (np.argsort(sign * values, kind="stable")[:k] for values in (truth, mean))
    return len(np.intersect1d(best, chosen)) / k


def ranking_agreement(
    scores_table: Mapping[str, Sequence[float]],
    scores_surrogate: Mapping[str, Sequence[float]],
    rng: np.random.Generator,
    *,
    draws: int = 1000,
) -> dict[str, Any]:
    """Return how alike a table and its surrogate rank agents.

    Args:
        scores_table: Scores of the runs on the table, by agent.
        scores_surrogate: The same of the runs on the surrogate, of the same agents.
        rng: Draws the bootstrap, over runs within each agent.
        draws: Bootstrap samples.

    Returns:
        ``agents``; ``tau``: Kendall's tau-b between the orders of mean scores; ``low`` and ``high``: its 95 % interval;
        and ``ceiling``: mean tau between two bootstrap samples of the table itself, more than which cannot be asked
        for.

    Raises:
        ValueError: If the agents differ, fewer than two are given, or one has no runs.
    """
    agents = sorted(scores_table)
    if agents != sorted(scores_surrogate) or len(agents) < 2:
        raise ValueError(
            f"the agents are {agents} and {sorted(scores_surrogate)}; expected the same two or more on both sides"
        )
    table, surrogate = (
        [np.asarray(scores[agent], dtype=np.float64) for agent in agents] for scores in (scores_table, scores_surrogate)
    )
    empty = [agent for agent, a, b in zip(agents, table, surrogate, strict=True) if not (len(a) and len(b))]
    if empty:
        raise ValueError(f"agent {empty[0]!r} has no runs")
    tables = [_resampled_means(table, rng, draws) for _ in range(2)]
    surrogates = _resampled_means(surrogate, rng, draws)
    taus = [kendall_tau(a, b) for a, b in zip(tables[0], surrogates, strict=True)]
    return {
        "agents": len(agents),
        "tau": kendall_tau(_means(table), _means(surrogate)),
        "low": float(np.quantile(taus, 0.025)),
        "high": float(np.quantile(taus, 0.975)),
        "ceiling": float(np.mean([kendall_tau(a, b) for a, b in zip(*tables, strict=True)])),
    }


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(middle[inverse], dtype=np.float64)


def _means(runs: Sequence[Floats]) -> Floats:
    return np.array([one.mean() for one in runs])


def _resampled_means(runs: Sequence[Floats], rng: np.random.Generator, draws: int) -> Floats:
    """Return mean scores of bootstrap samples, float64 ``(draws, agents)``."""
    return np.stack([one[rng.integers(len(one), size=(draws, len(one)))].mean(axis=1) for one in runs], axis=1)
