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
        KDNASError: If random search finds the optimum, or either is not finite.
    """
    if not np.inf > optimum > random_median > -np.inf:
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

    Raises:
        KDNASError: If values are no ``(n,)`` or hold NaN, or one of the numbers is out of its range.
    """
    ordered = np.sort(_checked_axis(values, "values"))
    n = len(ordered)
    if not 1 <= evaluations <= n:
        raise KDNASError(f"evaluations is {evaluations}; expected 1 to the table's {n}")
    if not 0 < quantile < 1:
        raise KDNASError(f"quantile is {quantile}; expected a number between 0 and 1")
    # All draws are among the k least with probability C(k, evaluations) / C(n, evaluations).
    # Summed from n down as ratios of neighbours, since differences of large log-factorials lose the digits that tell
    # ties; what rounding is left is well within the tolerance.
    # Of k less than this it is below the quantile, since C(k, evaluations) / C(n, evaluations) <= (k / n)**evaluations.
    least = max(evaluations, math.floor(n * quantile ** (1 / evaluations)) - 1)
    steps = np.log1p(-evaluations / np.arange(n, least, -1))
    reached = np.exp(np.concatenate([[0.0], np.cumsum(steps)]))[::-1]
    return float(ordered[least - 1 + int(np.argmax(reached >= quantile * (1 - 1e-9)))])


def expected_hit(points: int, targets: int) -> float:
    """Return how many draws without replacement it takes on average to meet one of some targets among some points."""
    if not 1 <= targets <= points:
        raise KDNASError(f"targets is {targets}; expected 1 to the {points} points")
    return (points + 1) / (targets + 1)


def iqm(scores: npt.ArrayLike) -> Floats:
    """Return the interquartile mean over tasks and seeds (Agarwal et al. 2021): that of the middle half of all runs.

    Args:
        scores: ``(..., tasks, seeds)``: of curves ``(tasks, seeds, points)``, move the points to the front.

    Raises:
        KDNASError: If scores lack an axis, are empty, or not all finite.
    """
    array = _checked_runs(scores)
    flat = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    n = flat.shape[-1]
    # A quarter of the runs counts in parts where it is no whole number.
    low, high = n / 4, 3 * n / 4
    weights = np.clip(np.minimum(np.arange(1, n + 1), high) - np.maximum(np.arange(n), low), 0, 1)
    mean: Floats = (flat * weights).sum(axis=-1) / weights.sum()
    return mean


def mean(scores: npt.ArrayLike) -> Floats:
    """Return the mean over tasks and seeds of scores ``(..., tasks, seeds)``."""
    found: Floats = _checked_runs(scores).mean(axis=(-2, -1))
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
    tails = _tails(repetitions, confidence)
    curves = array if array.ndim == 3 else array[..., None]
    tasks, seeds, points = curves.shape
    draws = rng.integers(seeds, size=(repetitions, tasks, seeds))
    found = np.empty((repetitions, points))
    chunk = max(1, _CHUNK // (tasks * seeds * points))
    task = np.arange(tasks)[None, :, None]
    for start in range(0, repetitions, chunk):
        drawn = curves[task, draws[start : start + chunk]]  # (chunk, tasks, seeds, points)
        found[start : start + chunk] = statistic(np.moveaxis(drawn, -1, 1))
    low, high = np.quantile(found, tails, axis=0)
    return (low, high) if array.ndim == 3 else (low[0], high[0])


def probability_of_improvement(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return how likely a run of X has less regret than one of Y, ties counting half: the mean over tasks.

    Args:
        x: Scores of X, less is better, ``(tasks, seeds)``.
        y: Scores of Y, ``(tasks, seeds)`` of any number of seeds.
    """
    return float((0.5 + 0.5 * _wins(*_pair(x, y)).mean(axis=(1, 2))).mean())


def improvement_interval(
    x: npt.ArrayLike, y: npt.ArrayLike, rng: np.random.Generator, *, repetitions: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the stratified bootstrap interval of :func:`probability_of_improvement`.

    Where both agents have the same seeds, a seed is drawn for both: they saw the same noise.
    """
    first, second = _pair(x, y)
    tails = _tails(repetitions, confidence)
    draws = _times_drawn(first.shape, repetitions, rng)
    others = draws if first.shape == second.shape else _times_drawn(second.shape, repetitions, rng)
    # All pairs are compared once: drawing seeds again only changes how often each of them counts.
    balance = np.stack([((draws[i] @ one) * others[i]).sum(axis=-1) for i, one in enumerate(_wins(first, second))])
    found = 0.5 + 0.5 * balance.mean(axis=0) / (first.shape[1] * second.shape[1])
    low, high = np.quantile(found, tails)
    return float(low), float(high)


def performance_profile(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> Floats:
    """Return the share of the runs with a score at or below each threshold, the mean over tasks, ``(thresholds,)``."""
    array = checked_scores(scores)
    below = array[..., None] <= _checked_axis(thresholds, "thresholds")
    share: Floats = below.mean(axis=(0, 1))
    return share


def profile_band(
    scores: npt.ArrayLike,
    thresholds: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    repetitions: int = 2000,
    confidence: float = 0.95,
) -> tuple[Floats, Floats]:
    """Return the stratified bootstrap band of :func:`performance_profile`, lower and upper ends ``(thresholds,)``.

    It holds point by point, not for the whole profile at once.
    """
    array = checked_scores(scores, curves=False)
    below = array[..., None] <= _checked_axis(thresholds, "thresholds")
    return stratified_bootstrap(below, rng, statistic=mean, repetitions=repetitions, confidence=confidence)


def area_under_curve(curves: npt.ArrayLike) -> Floats:
    """Return the anytime score of searches: the mean of their scores over all evaluations.

    Args:
        curves: Score after each evaluation, ``(..., n)``, such as the regret of :func:`incumbents`; finite: an agent
            that has found nothing yet has the worst score there is.

    Returns:
        float64 ``(...)``, less is better where that is so of the scores.

    Raises:
        KDNASError: If curves are empty or not all finite.
    """
    array = np.asarray(curves, dtype=np.float64)
    if not array.ndim or not array.size:
        raise KDNASError(f"curves have shape {array.shape}; expected (..., n) of one evaluation or more")
    found: Floats = np.asarray(_checked_finite(array, "curves").mean(axis=-1))
    return found


def hitting_times(curves: npt.ArrayLike, target: float) -> tuple[npt.NDArray[np.int64], Bools]:
    """Return after how many evaluations the incumbent is worth a target.

    Args:
        curves: True value of the incumbent after each evaluation, ``(..., n)``; NaN where there is none.
        target: What it has to be worth.

    Returns:
        Evaluations, from 1, int64 ``(...)``: n where it never is; and where it never is (the run is censored), bool.

    Raises:
        KDNASError: If curves have no evaluations, or the target is NaN.
    """
    array = np.asarray(curves, dtype=np.float64)
    if not array.ndim or not array.shape[-1]:
        raise KDNASError(f"curves have shape {array.shape}; expected (..., n) of one evaluation or more")
    if np.isnan(target):
        raise KDNASError("target is NaN; expected the value that an incumbent has to be worth")
    reached = array >= target
    hit: Bools = np.asarray(reached.any(axis=-1))
    times = np.where(hit, reached.argmax(axis=-1) + 1, reached.shape[-1])
    return np.asarray(times, dtype=np.int64), np.asarray(~hit)


def ecdf(times: npt.ArrayLike, censored: npt.ArrayLike, grid: npt.ArrayLike) -> Floats:
    """Return the share of the runs that reached a target by each number of evaluations, float64 ``(grid,)``.

    All runs have the same budget, so that a censored one is simply one that did not reach it.
    """
    reached, missed = np.asarray(times, dtype=np.float64), np.asarray(censored, dtype=np.bool_)
    if reached.shape != missed.shape or not reached.size:
        raise KDNASError(
            f"times have shape {reached.shape}, censored {missed.shape}; expected one shape, of one run or more"
        )
    hit = np.where(missed, np.inf, reached).ravel()
    share: Floats = (hit[:, None] <= _checked_axis(grid, "grid")).mean(axis=0)
    return share


def hypervolume(points: npt.ArrayLike, reference: tuple[float, float]) -> float:
    """Return the area that points dominate, of which less is better in both, up to a reference point.

    Args:
        points: ``(n, 2)``; those that are not finite or beyond the reference count nothing.
        reference: Worst value of either, finite.

    Raises:
        KDNASError: If points are no ``(n, 2)``, or the reference is not two finite numbers.
    """
    array = _checked_points(points, reference)
    return _dominated_area(array[_inside(array, reference)], reference)


def hypervolume_curve(points: npt.ArrayLike, reference: tuple[float, float]) -> Floats:
    """Return the :func:`hypervolume` of all points so far after each one, float64 ``(n,)``, never falling.

    Args:
        points: What a search evaluated, in order, ``(n, 2)``; see there.
        reference: Worst value of either, finite.
    """
    array = _checked_points(points, reference)
    curve = np.zeros(len(array))
    front, area = np.empty((0, 2)), 0.0
    for place, (point, counts) in enumerate(zip(array, _inside(array, reference).tolist(), strict=True)):
        # Most points of a search change nothing, and the rest only what is still undominated.
        if counts and not (front <= point).all(axis=1).any():
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
            area = _dominated_area(front, reference)
        curve[place] = area
    return curve


def _inside(points: Floats, reference: tuple[float, float]) -> Bools:
    return np.asarray((np.isfinite(points) & (points < reference)).all(axis=1), dtype=np.bool_)


def _dominated_area(inside: Floats, reference: tuple[float, float]) -> float:
    area, height = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))].tolist():
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area


def checked_scores(scores: npt.ArrayLike, *, curves: bool = True) -> Floats:
    """Return scores as float64.

    Args:
        scores: ``(tasks, seeds)``, or ``(tasks, seeds, points)``.
        curves: Whether the latter will do.

    Raises:
        KDNASError: If they have other axes, are empty, or not all finite.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in ((2, 3) if curves else (2,)) or not array.size:
        expected = "(tasks, seeds) or (tasks, seeds, points)" if curves else "(tasks, seeds)"
        raise KDNASError(f"scores have shape {array.shape}; expected {expected}, none of them 0")
    return _checked_finite(array, "scores")


def _checked_runs(scores: npt.ArrayLike) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim < 2 or not array.size:
        raise KDNASError(f"scores have shape {array.shape}; expected (..., tasks, seeds), none of them 0")
    return _checked_finite(array, "scores")


def _checked_finite(array: Floats, name: str) -> Floats:
    # An infinite score less an infinite one is NaN, which would spread through every aggregate unseen.
    if not np.isfinite(array).all():
        raise KDNASError(f"{name} hold NaN or infinity; give a run that found nothing the worst finite score there is")
    return array


def _checked_axis(values: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or np.isnan(array).any():
        raise KDNASError(f"{name} have shape {array.shape}; expected (n,) of one number or more, none of them NaN")
    return array


def _checked_points(points: npt.ArrayLike, reference: tuple[float, float]) -> Floats:
    array = np.asarray(points, dtype=np.float64)
    if not array.size:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise KDNASError(f"points have shape {array.shape}; expected (n, 2), a row a point: transpose them if need be")
    if np.shape(reference) != (2,) or not np.isfinite(reference).all():
        raise KDNASError(f"reference is {reference}; expected two finite numbers, the worst of either cost")
    return array


def _tails(repetitions: int, confidence: float) -> list[float]:
    if repetitions < 1:
        raise KDNASError(f"repetitions is {repetitions}; expected 1 or more, 2000 being usual")
    if not 0 < confidence < 1:
        raise KDNASError(f"confidence is {confidence}; expected a number between 0 and 1")
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _pair(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = checked_scores(x, curves=False), checked_scores(y, curves=False)
    if len(first) != len(second):
        raise KDNASError(f"scores have shapes {first.shape} and {second.shape}; expected (tasks, seeds) of equal tasks")
    return first, second


def _wins(x: Floats, y: Floats) -> Floats:
    """Return 1 where a run of X has less regret than one of Y, -1 where it has more, ``(tasks, seeds, seeds)``."""
    found: Floats = np.sign(y[:, None, :] - x[:, :, None])
    return found


def _times_drawn(shape: tuple[int, ...], repetitions: int, rng: np.random.Generator) -> Floats:
    """Return how often each seed is drawn, float64 ``(tasks, repetitions, seeds)``."""
    tasks, seeds = shape
    draws = rng.integers(seeds, size=(repetitions, tasks, seeds))
    cells = draws + seeds * np.arange(repetitions * tasks).reshape(repetitions, tasks, 1)
    counts = np.bincount(cells.ravel(), minlength=draws.size).reshape(draws.shape)
    return counts.transpose(1, 0, 2).astype(np.float64)
