"""Compare the rankings of agents on a table and on surrogates of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdnas_env.support.arrays import Floats
from kdnas_env.support.statistics import kendall_tau, percentile_interval, resampled_means
from kdnas_env.tables.surrogates.students import ended_well, without
from kdnas_env.tables.surrogates.surrogate import PREDICTED_LATENCIES, Surrogate
from kdnas_env.tables.table import LATENCIES, Table


def surrogate_table(table: Table, rng: np.random.Generator, *, folds: int = 10) -> Table:
    """Replace a table's values by cross-validated predictions: each student's surrogate is fitted without it.

    This simulates predictions for students that are not in the table, with known true values. Masked and failed cells
    stay as they are, because surrogates do not predict failures.

    Args:
        table: The table.
        rng: Source of randomness for the folds and the noise between seeds.
        folds: Number of cross-validation folds.

    Raises:
        TableError: If too few students succeeded or were measured on a device.
    """
    good, configs = ended_well(table), table.configs()
    curves, latencies = table.curves.copy(), table.latencies.copy()
    rows = np.flatnonzero(good.any(axis=1))
    kinds = [LATENCIES.index(name) for name in PREDICTED_LATENCIES]
    for part in np.array_split(rng.permutation(rows), min(folds, len(rows))):
        surrogate = Surrogate.fit(without(table, part))
        inputs = surrogate.features([configs[row] for row in part.tolist()], extrapolate=True)
        for column in range(len(table.metadata.seeds)):
            drawn = surrogate.sampled(inputs, rng.standard_normal((len(part), surrogate.curve_outputs)))
            there = good[part, column]
            curves[part[there], column] = drawn.curves[there]
        predicted = surrogate.mean(inputs).latencies.astype(np.float32)
        measured = np.isfinite(latencies[part]).all(axis=-1)[..., None]
        latencies[part[:, None, None], np.arange(predicted.shape[1])[:, None], kinds] = np.where(
            measured, predicted, latencies[part][..., kinds]
        )
    return replace(table, curves=curves, latencies=latencies)


def ranking_agreement(
    scores_table: Mapping[str, Sequence[float]],
    scores_surrogate: Mapping[str, Sequence[float]],
    rng: np.random.Generator,
    *,
    draws: int = 1000,
) -> dict[str, Any]:
    """Return the agreement between the rankings of agents on a table and on its surrogate.

    Args:
        scores_table: Scores of the runs on the table, by agent.
        scores_surrogate: Scores of the runs on the surrogate, by agent; the agents must match.
        rng: Source of randomness for the bootstrap over the runs of each agent.
        draws: Number of bootstrap samples.

    Returns:
        ``agents``; ``tau``: Kendall's tau-b between the rankings by mean score; ``low`` and ``high``: its 95 %
        interval; and ``ceiling``: mean tau between two bootstrap samples of the table itself, the highest tau to
        expect. If all scores are equal, tau is 0.

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
    taus = [kendall_tau(a, b, constant=0.0) for a, b in zip(tables[0], surrogates, strict=True)]
    low, high = percentile_interval(np.array(taus))
    return {
        "agents": len(agents),
        "tau": kendall_tau(_means(table), _means(surrogate), constant=0.0),
        "low": low,
        "high": high,
        "ceiling": float(np.mean([kendall_tau(a, b, constant=0.0) for a, b in zip(*tables, strict=True)])),
    }


def _means(runs: Sequence[Floats]) -> Floats:
    return np.array([scores.mean() for scores in runs])


def _resampled_means(runs: Sequence[Floats], rng: np.random.Generator, draws: int) -> Floats:
    """Return mean scores of bootstrap samples, float64 ``(draws, agents)``."""
    return np.stack([resampled_means(scores, rng, draws) for scores in runs], axis=1)
