"""Measures of how hard a task is to search: its landscape, and the evaluations that simple searches need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdnas_env.bench.structure import explained_variance
from kdnas_env.bench.truth import TARGETS, Truth
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.grid import REACH, Grid
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import TableError
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.support.arrays import Bools, Floats, Ints
from kdnas_env.support.statistics import expected_hit, median_hit, pearson, top_threshold
from kdnas_env.tables.table import MISSING, Table

_LAGS = 10
_NORMAL_95 = 1.959964


@dataclass(frozen=True, eq=False)
class Landscape:
    """Rewards of points, and their neighbours, as defined by the agent ``local-search``.

    Attributes:
        neighbours: Rows of the points one move away (:meth:`Grid.neighbours`), int64 ``(n, most)``, padded with -1.
        rewards: float64 ``(n,)``.
    """

    neighbours: Ints
    rewards: Floats

    @classmethod
    def of(cls, grid: Grid, index: Ints, rewards: Floats, reach: int = REACH) -> Landscape:
        """Make the landscape of rewards on a grid.

        Args:
            grid: The grid.
            index: Flat indices of the points in ascending order, int64 ``(n,)``.
            rewards: Their rewards, float64 ``(n,)``.
            reach: Maximum distance of a neighbour's choice.

        Raises:
            TableError: If there are fewer than two points, or a reward is not finite.
        """
        if len(index) < 2 or not np.isfinite(rewards).all():
            raise TableError(f"{len(index)} rewards were given, or one is not finite; expected two or more numbers")
        wanted = grid.neighbour_numbers(index, reach)
        rows = np.minimum(np.searchsorted(index, wanted), len(index) - 1)
        return cls(np.where(index[rows] == wanted, rows, -1), np.asarray(rewards, dtype=np.float64))

    @property
    def padded(self) -> Floats:
        """Rewards of the neighbours, float64 ``(n, most)``, padded with minus infinity."""
        return np.where(self.neighbours >= 0, self.rewards[self.neighbours], -np.inf)


def hardness(
    table: Table,
    rng: np.random.Generator,
    *,
    task: Task | None = None,
    tolerance: float | None = None,
    starts: int = 300,
) -> dict[str, Any]:
    """Report how hard a table is to search, based on the mean over its seeds.

    Args:
        table: The table; students without evaluations are left out.
        rng: Draws the starting points of the local searches.
        task: Reward, device for the latencies, and limits; students that break a limit are left out. None for the
            default task of the table.
        tolerance: Reward differences to ignore for ``optima_beyond_noise`` and ``basin_beyond_noise``; None for the
            standard error of a difference of two means over seeds.
        starts: Number of simulated local searches.

    Returns:
        The result of :func:`landscape_report`, and: ``table``, its name; ``sampled``: whether the table is a sample of
        its space; its students then have no neighbours, so only ``r2`` and ``noise`` are valid for the space;
        ``feasible``: share of students that keep the limits, None without limits; ``r2``: share of the variance of the
        log reward that simple models explain (:func:`kdnas_env.bench.structure.explained_variance`); and ``noise``:
        ``deviation`` of a student's reward between seeds, ``resolution`` (the standard error of a difference of two
        means) and ``indistinct_top_pairs``, the share of pairs among the best 1 % (at least three students) whose means
        differ by less than 1.96 resolutions. These are None if the table has only one seed.
    """
    task = task or Task(table.metadata.name)
    rows = evaluated = np.flatnonzero((table.status != MISSING).any(axis=1))
    if task.limits:
        keeping = Truth.of_table(task, table).index
        rows = evaluated[np.isin(table.space.canonical(table.index[evaluated]), keeping)]
    means = rewards_of_table(table, task.reward, "mean", task.device)[rows]
    seeds = [rewards_of_table(table, task.reward, seed, task.device)[rows] for seed in table.metadata.seeds]
    noise = _noise(means, np.stack(seeds, axis=1), table.status[rows] != MISSING)
    if tolerance is None:
        tolerance = noise["resolution"] or 0.0
    landscape = Landscape.of(table.space.grid, table.index[rows], means)
    return {
        "table": table.metadata.name,
        "sampled": table.sampled,
        "feasible": len(rows) / len(evaluated) if task.limits else None,
        **landscape_report(landscape, rng, tolerance=tolerance, ties=noise["deviation"] or 0.0, starts=starts),
        "r2": explained_variance(table.space.grid.actions(table.index[rows]), means, table.space.grid.nvec),
        "noise": noise,
    }


def landscape_report(
    landscape: Landscape, rng: np.random.Generator, *, tolerance: float = 0.0, ties: float = 0.0, starts: int = 300
) -> dict[str, Any]:
    """Report how hard a landscape is to search.

    Args:
        landscape: The landscape.
        rng: Draws the starting points of the local searches.
        tolerance: Maximum depth of a descent to ignore.
        ties: Maximum difference from the best reward at which a point counts as an optimum.
        starts: Number of simulated local searches.

    Returns:
        ``points``; ``optima``: number of points tied with the best; ``local_optima`` (a plateau counts once) and
        ``optima_beyond_noise``: those from which each path to a better point descends by more than the tolerance;
        ``basin`` and ``basin_beyond_noise``: share of points whose steepest ascent ends at the best reward, exactly and
        within the tolerance; ``fitness_distance_correlation`` of rewards with the number of moves to the nearest best
        point (-1 is easy; Jones and Forrest 1995); ``autocorrelation`` of rewards on a random walk, by lag from 1
        (Weinberger 1990), and ``correlation_length``; ``random_search`` (exact, without replacement) and
        ``local_search`` (simulated): ``mean`` and ``median`` evaluations to each of ``TARGETS``; and ``tolerance``.
    """
    rewards = landscape.rewards
    depths = optimum_depths(landscape)
    ends = rewards[steepest_ascent(landscape)]
    best = float(rewards.max())
    correlations = walk_autocorrelation(landscape, _LAGS)
    first = correlations[0] if correlations else None
    least = {name: top_threshold(rewards, share) if share else best - ties for name, share in TARGETS.items()}
    targets = {name: rewards >= threshold for name, threshold in least.items()}
    return {
        "points": len(rewards),
        "optima": int(targets["optimum"].sum()),
        "local_optima": len(depths),
        "optima_beyond_noise": int((depths > tolerance).sum()),
        "basin": float((ends == best).mean()),
        "basin_beyond_noise": float((ends >= best - tolerance).mean()),
        "fitness_distance_correlation": _fitness_distance(landscape),
        "autocorrelation": correlations,
        "correlation_length": -1 / math.log(first) if first is not None and 0 < first < 1 else None,
        "random_search": {
            name: {
                "mean": expected_hit(len(rewards), int(hit.sum())),
                "median": float(median_hit(len(rewards), int(hit.sum()))),
            }
            for name, hit in targets.items()
        },
        "local_search": local_search_evaluations(landscape, targets, rng, starts),
        "tolerance": tolerance,
    }


def hardness_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a report as rows of text: name and value."""
    rows = [
        ("points", str(report["points"])),
        *([] if report.get("feasible") is None else [("points that keep the limits", f"{report['feasible']:.1%}")]),
        *((f"{name} R2 of the log reward", _number(r2)) for name, r2 in report.get("r2", {}).items()),
    ]
    if not report.get("sampled"):
        rows += _rows_of_searches(report)
    noise = report.get("noise")
    if noise is not None:
        share = noise["indistinct_top_pairs"]
        rows.append(("deviation between seeds", _number(noise["deviation"])))
        rows.append(
            ("pairs of the top 1 percent that seeds cannot tell apart", "-" if share is None else f"{share:.1%}")
        )
    return rows


def _rows_of_searches(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows that are valid only if every point of the space is known."""
    rows = [
        ("points that tie with the best", f"{report['optima']} ({report['optima'] / report['points']:.1%})"),
        ("local optima", str(report["local_optima"])),
        ("local optima beyond noise", str(report["optima_beyond_noise"])),
        ("basin of the optimum", f"{report['basin']:.1%}"),
        ("basin of the optimum, within noise", f"{report['basin_beyond_noise']:.1%}"),
        ("fitness-distance correlation", _number(report["fitness_distance_correlation"])),
        ("autocorrelation of a random walk, one move", _number(next(iter(report["autocorrelation"]), None))),
        ("correlation length, moves", _number(report["correlation_length"])),
    ]
    for name in TARGETS:
        words = name.replace("_", " ")
        for search in ("random", "local"):
            for statistic, evaluations in report[f"{search}_search"][name].items():
                rows.append((f"{search} search to the {words}, {statistic} evaluations", _number(evaluations)))
        for agent, needed in report.get("searches", {}).items():
            median, reached = needed[name]["median"], needed[name]["reached"]
            rows.append((f"{agent} to the {words}, median evaluations", f"{_number(median)} ({reached:.0%} reach it)"))
    return rows


def rewards_of_table(table: Table, reward: KDReward, seed: int | str = "mean", device: str | None = None) -> Floats:
    """Return the reward of each row, float64 ``(n,)``; masked cells have the reward of a failure."""
    evaluator = TabularEvaluator(table, seed=seed, device=device, missing="failed")
    return evaluator.look_up(table.index, Fidelity(epochs=table.metadata.epochs)).rewards(reward)


def optimum_depths(landscape: Landscape) -> Floats:
    """Return the minimum descent from each local optimum to reach a better point, float64 ``(optima,)``.

    This is the persistence of the landscape's peaks, computed by flooding from above (Edelsbrunner et al. 2002). A
    plateau is one optimum, or none if it has an exit upwards. The best optimum has infinite depth; so has the best one
    of each part that is not connected to it.
    """
    rewards, neighbours = landscape.rewards.tolist(), landscape.neighbours.tolist()
    parent = [-1] * len(rewards)
    depths: list[float] = []

    def peak_of(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row in np.argsort(-landscape.rewards, kind="stable").tolist():
        parent[row] = row
        for other in neighbours[row]:
            if other < 0 or parent[other] < 0:
                continue
            higher, lower = peak_of(other), peak_of(row)
            if higher == lower:
                continue
            if rewards[higher] < rewards[lower]:
                higher, lower = lower, higher
            parent[lower] = higher
            if rewards[lower] > rewards[row]:
                depths.append(rewards[lower] - rewards[row])
    summits = sum(parent[row] == row for row in range(len(rewards)))
    return np.array([math.inf] * summits + depths)


def steepest_ascent(landscape: Landscape) -> Ints:
    """Return the end of the steepest ascent from each point, int64 ``(n,)``; plateaus are crossed."""
    rewards, neighbours = landscape.rewards, landscape.neighbours
    n = len(rewards)
    level = _plateaus(landscape)
    padded = landscape.padded
    place = padded.argmax(axis=1)
    highest = padded[np.arange(n), place]
    # A plateau is left at the best exit of all its points.
    order = np.lexsort((-highest, level))
    leaders = order[np.unique(level[order], return_index=True)[1]]
    exits = np.arange(n)
    exits[level[leaders]] = np.where(
        highest[leaders] > rewards[leaders], neighbours[leaders, place[leaders]], level[leaders]
    )
    following = exits[level]
    while True:
        further = following[following]
        if np.array_equal(further, following):
            return np.asarray(following, dtype=np.int64)
        following = further


def walk_autocorrelation(landscape: Landscape, lags: int) -> list[float]:
    """Return the autocorrelation of rewards on an infinite random walk, by lag from 1; empty if it is undefined.

    It is computed exactly: such a walk visits points in proportion to their number of neighbours.
    """
    there = landscape.neighbours >= 0
    degree = there.sum(axis=1)
    if not degree.any():
        return []
    visits = degree / degree.sum()
    centred = landscape.rewards - float((visits * landscape.rewards).sum())
    variance = float((visits * centred**2).sum())
    if variance <= 0:
        return []
    correlations, ahead = [], centred
    for _ in range(lags):
        ahead = np.where(there, ahead[landscape.neighbours], 0.0).sum(axis=1) / np.maximum(degree, 1)
        correlations.append(float((visits * centred * ahead).sum()) / variance)
    return correlations


def local_search_evaluations(
    landscape: Landscape, targets: Mapping[str, Bools], rng: np.random.Generator, starts: int
) -> dict[str, dict[str, float]]:
    """Simulate hill climbing with random restarts; return mean and median evaluations to each target.

    As in White et al. 2021 (arXiv:2005.02960), all neighbours are evaluated in random order. The climb moves to the
    best neighbour if it is better; otherwise it restarts at a random new point. Each point is evaluated and counted
    once.
    """
    counts = np.array([_local_search(landscape, list(targets.values()), rng) for _ in range(starts)])
    return {
        name: {"mean": float(column.mean()), "median": float(np.median(column))}
        for name, column in zip(targets, counts.T, strict=True)
    }


def _local_search(landscape: Landscape, targets: list[Bools], rng: np.random.Generator) -> list[int]:
    rewards = landscape.rewards
    when = np.zeros(len(rewards), dtype=np.int64)
    fresh = iter(rng.permutation(len(rewards)).tolist())
    count, hits = 0, [0] * len(targets)

    def evaluate(row: int) -> bool:
        """Evaluate a point, and return whether all targets are found."""
        nonlocal count
        if not when[row]:
            count += 1
            when[row] = count
            for place, hit in enumerate(targets):
                if hit[row] and not hits[place]:
                    hits[place] = count
        return all(hits)

    for start in fresh:
        if when[start]:
            continue
        current = start
        if evaluate(current):
            return hits
        while True:
            around = landscape.neighbours[current]
            around = rng.permutation(around[around >= 0])
            if any(evaluate(row) for row in around.tolist()):
                return hits
            if not len(around) or rewards[around].max() <= rewards[current]:
                break
            current = int(around[rewards[around].argmax()])
    raise AssertionError("every target is a point")


def _plateaus(landscape: Landscape) -> Ints:
    """Return the plateau of each point, as the first row of its connected points of equal reward, int64 ``(n,)``."""
    equal = landscape.padded == landscape.rewards[:, None]
    level = np.arange(len(landscape.rewards))
    while True:
        lowest = np.minimum(level, np.where(equal, level[landscape.neighbours], len(level)).min(axis=1))
        lowest = lowest[lowest]
        if np.array_equal(lowest, level):
            return np.asarray(level, dtype=np.int64)
        level = lowest


def moves_to_best(landscape: Landscape) -> Ints:
    """Return the number of moves from each point to the nearest best point, int64 ``(n,)``; -1 if unreachable."""
    rewards, neighbours = landscape.rewards, landscape.neighbours
    moves = np.where(rewards == rewards.max(), 0, -1)
    while True:
        near = ((neighbours >= 0) & (moves[neighbours] >= 0)).any(axis=1) & (moves < 0)
        if not near.any():
            return np.asarray(moves, dtype=np.int64)
        moves[near] = moves.max() + 1


def _fitness_distance(landscape: Landscape) -> float | None:
    moves = moves_to_best(landscape)
    reached = moves >= 0
    correlation = pearson(landscape.rewards[reached], moves[reached])
    return correlation if np.isfinite(correlation) else None


def _noise(means: Floats, seeds: Floats, there: Bools) -> dict[str, float | None]:
    several = there.all(axis=1)
    count = seeds.shape[1]
    if count < 2 or not several.any():
        return {"deviation": None, "resolution": None, "indistinct_top_pairs": None}
    deviation = float(np.sqrt(seeds[several].var(axis=1, ddof=1).mean()))
    resolution = deviation * math.sqrt(2 / count)
    top = np.sort(means)[-max(3, math.ceil(0.01 * len(means) - 1e-9)) :]
    apart = np.abs(top[:, None] - top)[np.triu_indices(len(top), 1)]
    return {
        "deviation": deviation,
        "resolution": resolution,
        "indistinct_top_pairs": float((apart < _NORMAL_95 * resolution).mean()),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
