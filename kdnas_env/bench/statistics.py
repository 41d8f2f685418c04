"""What many searches say: aggregates with intervals, over tasks and seeds.

Scores are float64 ``(tasks, seeds)``, or with further axes behind, such as ``(tasks, seeds, points)``. The score of a
search is its normalised regret, of which less is better: 0 is the optimum, 1 what random search has at the same effort.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import KDNASError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Statistic = Callable[[Floats], Floats]
"""Takes scores ``(..., tasks, seeds)`` and returns one value for each of the leading axes."""

_CHUNK = 1 << 22


def normalised_regret(value: npt.ArrayLike, optimum: float, random_median: float) -> Floats:
    """Return how far values are from the optimum, in units of how far random search is; less is better.

    Args:
        value: Values of what was found, more is better, any shape.
        optimum: The best there is.
        random_median: Median of what random search finds.

    Raises:
        KDNASError: If random search finds the optimum.
    """
    if not optimum > random_median:
        raise KDNASError(
            f"the optimum is {optimum} and random search has {random_median} in the median; regret can be normalised "
            "only where random search leaves some. Lower the budget, or take a larger task"
        )
    regret: Floats = (optimum - np.asarray(value, dtype=np.float64)) / (optimum - random_median)
    return regret


def incumbents(observed: npt.ArrayLike, true: npt.ArrayLike) -> Floats:
    """Return the true value of what was best by the observed values so far.

    Of equals the earliest stays. What is not finite (a failure) is never best; before anything is, it is NaN.

    Args:
        observed: What was seen, more is better, ``(..., n)``.
        true: What it is worth, ``(..., n)``.
    """
    seen, worth = np.asarray(observed, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if seen.shape != worth.shape or not seen.ndim:
        raise KDNASError(f"observed has shape {seen.shape}, true {worth.shape}; expected one shape (..., n)")
    usable = np.where(np.isfinite(seen), seen, -np.inf)
    best_before = np.concatenate(
        [np.full((*seen.shape[:-1], 1), -np.inf), np.maximum.accumulate(usable, axis=-1)[..., :-1]], axis=-1
    )
    places = np.where(usable > best_before, np.arange(seen.shape[-1]), -1)
    places = np.maximum.accumulate(places, axis=-1)
    chosen = np.take_along_axis(worth, np.maximum(places, 0), axis=-1)
    return np.where(places >= 0, chosen, np.nan)


def random_search_quantile(values: npt.ArrayLike, evaluations: int, quantile: float = 0.5) -> float:
    """Return a quantile of the best of some draws without replacement from a table, exactly.

    It is the least value that the best reaches or stays below with probability ``quantile`` or more.

    Args:
        values: All values of the table, more is better, ``(n,)``.
        evaluations: Draws, from 1 to n.
        quantile: In (0, 1).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if not 1 <= evaluations <= n:
        raise KDNASError(f"evaluations is {evaluations}; expected 1 to the table's {n}")
    if not 0 < quantile < 1:
        raise KDNASError(f"quantile is {quantile}; expected a number between 0 and 1")
    # All draws are among the k least with probability C(k, evaluations) / C(n, evaluations).
    k = np.arange(evaluations, n + 1)
    logs = np.array([math.lgamma(i + 1) - math.lgamma(i - evaluations + 1) for i in k.tolist()])
    reached = np.exp(logs - logs[-1])
    return float(ordered[k[int(np.argmax(reached >= quantile * (1 - 1e-12)))] - 1])


def expected_hit(points: int, targets: int) -> float:
    """Return how many draws without replacement it takes on average to meet one of some targets among some points."""
    if not 1 <= targets <= points:
        raise KDNASError(f"targets is {targets}; expected 1 to the {points} points")
    return (points + 1) / (targets + 1)


def iqm(scores: npt.ArrayLike) -> Floats:
    """Return the interquartile mean over tasks and seeds (Agarwal et al. 2021): that of the middle half of all runs.

    Args:
        scores: ``(..., tasks, seeds)``.
    """
    array = np.asarray(scores, dtype=np.float64)
    flat = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    n = flat.shape[-1]
    # A quarter of the runs counts in parts where it is no whole number.
    low, high = n / 4, 3 * n / 4
    weights = np.clip(np.minimum(np.arange(1, n + 1), high) - np.maximum(np.arange(n), low), 0, 1)
    mean: Floats = (flat * weights).sum(axis=-1) / weights.sum()
    return mean


def mean(scores: npt.ArrayLike) -> Floats:
    """Return the mean over tasks and seeds of scores ``(..., tasks, seeds)``."""
    found: Floats = np.asarray(scores, dtype=np.float64).mean(axis=(-2, -1))
    return found


def stratified_bootstrap(
    scores: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Statistic = iqm,
    repetitions: int = 2000,
    confidence: float = 0.95,
) -> tuple[Floats, Floats]:
    """Return the percentile interval of a statistic, seeds being drawn again within every task.

    Args:
        scores: ``(tasks, seeds)``, or ``(tasks, seeds, points)`` for a band: the same seeds are drawn for all points.
        rng: Draws the seeds.
        statistic: Of scores ``(..., tasks, seeds)``.
        repetitions: How often seeds are drawn.
        confidence: Share of the repetitions within the interval.

    Returns:
        Lower and upper ends, each ``()`` or ``(points,)``.
    """
    array = checked_scores(scores)
    if not 0 < confidence < 1:
        raise KDNASError(f"confidence is {confidence}; expected a number between 0 and 1")
    curves = array if array.ndim == 3 else array[..., None]
    tasks, seeds, points = curves.shape
    draws = rng.integers(seeds, size=(repetitions, tasks, seeds))
    found = np.empty((repetitions, points))
    chunk = max(1, _CHUNK // (tasks * seeds * points))
    task = np.arange(tasks)[None, :, None]
    for start in range(0, repetitions, chunk):
        drawn = curves[task, draws[start : start + chunk]]  # (chunk, tasks, seeds, points)
        found[start : start + chunk] = statistic(np.moveaxis(drawn, -1, 1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail], axis=0)
    return (low, high) if array.ndim == 3 else (low[0], high[0])


def probability_of_improvement(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return how likely a run of X has less regret than one of Y, ties counting half: the mean over tasks.

    Args:
        x: Scores of X, less is better, ``(tasks, seeds)``.
        y: Scores of Y, ``(tasks, seeds)`` of any number of seeds.
    """
    first, second = _pair(x, y)
    return float(_improvement(first[None], second[None])[0])


def improvement_interval(
    x: npt.ArrayLike, y: npt.ArrayLike, rng: np.random.Generator, *, repetitions: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the stratified bootstrap interval of :func:`probability_of_improvement`.

    Where both agents have the same seeds, a seed is drawn for both: they saw the same noise.
    """
    first, second = _pair(x, y)
    tasks = np.arange(len(first))[None, :, None]
    draws = rng.integers(first.shape[1], size=(repetitions, *first.shape))
    paired = first.shape == second.shape
    others = draws if paired else rng.integers(second.shape[1], size=(repetitions, *second.shape))
    found = np.empty(repetitions)
    chunk = max(1, _CHUNK // (first.size * second.shape[1]))
    for start in range(0, repetitions, chunk):
        part = slice(start, start + chunk)
        found[part] = _improvement(first[tasks, draws[part]], second[tasks, others[part]])
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def performance_profile(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> Floats:
    """Return the share of the runs with a score at or below each threshold, the mean over tasks, ``(thresholds,)``."""
    array = checked_scores(scores)
    below = array[..., None] <= np.asarray(thresholds, dtype=np.float64)
    share: Floats = below.mean(axis=(0, 1))
    return share


def hitting_times(curves: npt.ArrayLike, target: float) -> tuple[npt.NDArray[np.int64], Bools]:
    """Return after how many evaluations the incumbent is worth a target.

    Args:
        curves: True value of the incumbent after each evaluation, ``(..., n)``; NaN where there is none.
        target: What it has to be worth.

    Returns:
        Evaluations, from 1, int64 ``(...)``: n where it never is; and where it never is (the run is censored), bool.
    """
    reached = np.asarray(curves, dtype=np.float64) >= target
    hit: Bools = np.asarray(reached.any(axis=-1))
    times = np.where(hit, reached.argmax(axis=-1) + 1, reached.shape[-1])
    return np.asarray(times, dtype=np.int64), np.asarray(~hit)


def ecdf(times: npt.ArrayLike, censored: npt.ArrayLike, grid: npt.ArrayLike) -> Floats:
    """Return the share of the runs that reached a target by each number of evaluations, float64 ``(grid,)``.

    All runs have the same budget, so that a censored one is simply one that did not reach it.
    """
    hit = np.where(np.asarray(censored, dtype=np.bool_), np.inf, np.asarray(times, dtype=np.float64)).ravel()
    share: Floats = (hit[:, None] <= np.asarray(grid, dtype=np.float64)).mean(axis=0)
    return share


def hypervolume(points: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Return the area that points dominate, of which less is better in both, up to a reference point.

    Args:
        points: ``(n, 2)``; those that are not finite or beyond the reference count nothing.
        reference: Worst value of either.
    """
    array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    inside = array[np.isfinite(array).all(axis=1) & (array < reference).all(axis=1)]
    area, height = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))].tolist():
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area


def checked_scores(scores: npt.ArrayLike) -> Floats:
    """Return scores as float64.

    Raises:
        KDNASError: If they have no axes of tasks and seeds, are empty, or not all numbers.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in (2, 3) or not array.size:
        raise KDNASError(f"scores have shape {array.shape}; expected (tasks, seeds) or (tasks, seeds, points)")
    if np.isnan(array).any():
        raise KDNASError("scores hold NaN; give a run that found nothing the worst score there is")
    return array


def _pair(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = checked_scores(x), checked_scores(y)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise KDNASError(f"scores have shapes {first.shape} and {second.shape}; expected (tasks, seeds) of equal tasks")
    return first, second


def _improvement(x: Floats, y: Floats) -> Floats:
    """Return the probability for scores ``(n, tasks, seeds)`` of either, float64 ``(n,)``."""
    difference = np.sign(y[..., None, :] - x[..., :, None])
    found: Floats = (0.5 + 0.5 * difference.mean(axis=(-2, -1))).mean(axis=-1)
    return found
