"""Statistics: rank correlations, aggregates of many runs with bootstrap intervals, expected results of random search.

Scores of runs are float64 ``(tasks, seeds)``, or with further axes after these, such as ``(tasks, seeds, points)``.
SciPy is imported only to compute a correlation, so that importing the environments does not load it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats
from kdnas_env.support.checks import check_number, check_whole

Statistic = Callable[[Floats], Floats]
"""Takes scores ``(..., tasks, seeds)`` and returns one value for each of the leading axes."""

RESAMPLES = 2000
"""Bootstrap samples of a correlation."""

_MIN_PAIRS = 4
"""Minimum number of pairs for a correlation with an interval."""

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Correlation:
    """A correlation with its 95 % bootstrap interval.

    Attributes:
        value: The correlation, in [-1, 1].
        low: Lower end of the interval.
        high: Upper end.
        count: Pairs of values.
    """

    value: float
    low: float
    high: float
    count: int


def kendall_tau(x: npt.ArrayLike, y: npt.ArrayLike, *, constant: float = math.nan) -> float:
    """Return Kendall's tau-b of two sequences of one length, in [-1, 1].

    Args:
        x: Numbers ``(n,)``.
        y: Numbers ``(n,)``.
        constant: Return value if a sequence is constant, because the correlation is then undefined.
    """
    from scipy.stats import kendalltau

    return constant if _constant(x, y) else float(kendalltau(x, y).statistic)


def spearman_rho(x: npt.ArrayLike, y: npt.ArrayLike, *, constant: float = math.nan) -> float:
    """Return Spearman's rho, ties at their mean rank; see :func:`kendall_tau`."""
    from scipy.stats import spearmanr

    return constant if _constant(x, y) else float(spearmanr(x, y).statistic)


def pearson(x: npt.ArrayLike, y: npt.ArrayLike, *, constant: float = math.nan) -> float:
    """Return Pearson's correlation; see :func:`kendall_tau`."""
    from scipy.stats import pearsonr

    return constant if _constant(x, y) else float(pearsonr(x, y).statistic)


def resolved_tau(truth: Floats, predicted: Floats, resolution: float = 0.0) -> float:
    """Return Kendall's tau over the pairs that truly differ by more than a resolution; NaN if there are none."""
    apart = truth[:, None] - truth
    resolved = np.abs(apart) > resolution
    count = int(np.count_nonzero(resolved))
    agree = np.sign(apart) * np.sign(predicted[:, None] - predicted)
    return float(agree[resolved].sum()) / count if count else math.nan


def correlate(
    x: npt.ArrayLike, y: npt.ArrayLike, rng: np.random.Generator, groups: npt.NDArray[np.int64] | None = None
) -> Correlation | None:
    """Return Kendall's tau-b with its percentile bootstrap interval (pairs are drawn with replacement).

    Args:
        x: Numbers ``(n,)``.
        y: Numbers ``(n,)``.
        rng: Draws the resamples.
        groups: Group of each pair, int64 ``(n,)``: only pairs of the same group are compared. None for a single group.

    Returns:
        The correlation, or None if there are fewer than four pairs, or it is not defined.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    count = len(first)
    if count < _MIN_PAIRS:
        return None
    signs = np.sign(first[:, None] - first), np.sign(second[:, None] - second)
    together = np.ones((count, count)) if groups is None else (groups[:, None] == groups).astype(np.float64)
    # In a resample, each sum over pairs is a quadratic form of the draw counts of the elements.
    forms = [together * signs[0] * signs[1], together * signs[0] ** 2, together * signs[1] ** 2]
    draws = rng.integers(0, count, (RESAMPLES, count))
    times = np.stack([np.bincount(draw, minlength=count) for draw in draws]).astype(np.float64)
    weights = np.vstack([np.ones(count), times])
    agree, untied, other = (((weights @ form) * weights).sum(1) for form in forms)
    with np.errstate(divide="ignore", invalid="ignore"):
        taus = agree / np.sqrt(untied * other)
    if not np.isfinite(taus[0]):
        return None
    low, high = percentile_interval(taus[~np.isnan(taus)][1:])
    return Correlation(float(taus[0]), low, high, count)


def percentile_interval(values: Floats) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of bootstrap samples ``(n,)``."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def resampled_means(values: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Return the means of bootstrap samples.

    Args:
        values: Numbers ``(n,)``.
        rng: Draws the samples.
        draws: Number of samples.

    Returns:
        Means, float64 ``(draws,)``.
    """
    count = len(values)
    means: Floats = values[rng.integers(0, count, (draws, count))].mean(axis=1)
    return means


def top_threshold(values: Floats, share: float) -> float:
    """Return the smallest of the best share of values ``(n,)``, higher is better; the best share has at least one."""
    count = max(1, math.ceil(share * len(values) - 1e-9))
    return float(np.partition(values, len(values) - count)[len(values) - count])


def random_search_quantile(values: npt.ArrayLike, evaluations: int, quantile: float = 0.5) -> float:
    """Return an exact quantile of the best of several draws without replacement from a table.

    It is the smallest value that the best draw does not exceed with probability ``quantile`` or more.

    Args:
        values: All values of the table, more is better, ``(n,)``.
        evaluations: Number of draws, from 1 to n.
        quantile: In (0, 1).

    Raises:
        KDNASError: If values do not have shape ``(n,)`` or hold NaN, or a number is out of range.
    """
    ordered = np.sort(checked_axis(values, "values"))
    n = len(ordered)
    if not 1 <= evaluations <= n:
        raise KDNASError(f"evaluations is {evaluations}; expected 1 to the table's {n}")
    check_number("quantile", quantile, above=0, below=1)
    # All draws are among the k smallest with probability C(k, evaluations) / C(n, evaluations).
    # Summed from n down as ratios of neighbours, because differences of large log-factorials lose the digits that
    # distinguish ties. The remaining rounding error is well within the tolerance.
    # Smaller k have too small a probability, because C(k, evaluations) / C(n, evaluations) <= (k / n)**evaluations.
    least = max(evaluations, math.floor(n * quantile ** (1 / evaluations)) - 1)
    steps = np.log1p(-evaluations / np.arange(n, least, -1))
    reached = np.exp(np.concatenate([[0.0], np.cumsum(steps)]))[::-1]
    return float(ordered[least - 1 + int(np.argmax(reached >= quantile * (1 - 1e-9)))])


def expected_hit(points: int, targets: int) -> float:
    """Return the expected number of draws without replacement until the first target among ``points`` is drawn.

    Raises:
        KDNASError: If there is no target, or more targets than points.
    """
    if not 1 <= targets <= points:
        raise KDNASError(f"targets is {targets}; expected 1 to the {points} points")
    return (points + 1) / (targets + 1)


def median_hit(points: int, targets: int) -> int:
    """Return the number of draws without replacement after which a target was drawn with probability 0.5 or more.

    This is the median of the negative hypergeometric distribution of the first target.

    Raises:
        KDNASError: If there is no target, or more targets than points.
    """
    if not 1 <= targets <= points:
        raise KDNASError(f"targets is {targets}; expected 1 to the {points} points")
    # No target is among t draws with probability C(points - targets, t) / C(points, t).
    drawn = np.arange(points - targets)
    missed = np.cumsum(np.log((points - targets - drawn) / (points - drawn)))
    return 1 + int(np.searchsorted(-missed, math.log(2) * (1 - 1e-12)))


def iqm(scores: npt.ArrayLike) -> Floats:
    """Return the interquartile mean (Agarwal et al. 2021): the mean of the middle half of all runs.

    Args:
        scores: Scores ``(..., tasks, seeds)``; for curves ``(tasks, seeds, points)``, move the points to the front.

    Raises:
        KDNASError: If scores lack an axis, are empty, or not all finite.
    """
    array = _checked_runs(scores)
    flat = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    n = flat.shape[-1]
    # If a quarter of the runs is not a whole number, the runs at its edges count in part.
    low, high = n / 4, 3 * n / 4
    weights = np.clip(np.minimum(np.arange(1, n + 1), high) - np.maximum(np.arange(n), low), 0, 1)
    mean: Floats = (flat * weights).sum(axis=-1) / weights.sum()
    return mean


def mean(scores: npt.ArrayLike) -> Floats:
    """Return the mean over tasks and seeds of scores ``(..., tasks, seeds)``."""
    return np.asarray(_checked_runs(scores).mean(axis=(-2, -1)))


def stratified_bootstrap(
    scores: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    statistic: Statistic = iqm,
    repetitions: int = 2000,
    confidence: float = 0.95,
) -> tuple[Floats, Floats]:
    """Return the percentile interval of a statistic, with seeds resampled within each task.

    Args:
        scores: ``(tasks, seeds)``, or ``(tasks, seeds, points)`` for a band: the same seeds are drawn for all points.
        rng: Draws the seeds.
        statistic: Statistic of scores ``(..., tasks, seeds)``.
        repetitions: Number of resamples.
        confidence: Share of the repetitions within the interval.

    Returns:
        Lower and upper ends, each ``()`` or ``(points,)``.
    """
    array = checked_scores(scores)
    tails = _tails(repetitions, confidence)
    curves = array if array.ndim == 3 else array[..., None]
    tasks, seeds, points = curves.shape
    draws = rng.integers(seeds, size=(repetitions, tasks, seeds))
    estimates = np.empty((repetitions, points))
    chunk = max(1, _CHUNK // (tasks * seeds * points))
    task = np.arange(tasks)[None, :, None]
    for start in range(0, repetitions, chunk):
        drawn = curves[task, draws[start : start + chunk]]  # (chunk, tasks, seeds, points)
        estimates[start : start + chunk] = statistic(np.moveaxis(drawn, -1, 1))
    low, high = np.quantile(estimates, tails, axis=0)
    return (low, high) if array.ndim == 3 else (low[0], high[0])


def probability_of_improvement(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Return the probability that a run of X has less regret than a run of Y, averaged over tasks; ties count half.

    Args:
        x: Scores of X, less is better, ``(tasks, seeds)``.
        y: Scores of Y, ``(tasks, seeds)``; the number of seeds may differ.
    """
    return float((0.5 + 0.5 * _wins(*_pair(x, y)).mean(axis=(1, 2))).mean())


def improvement_interval(
    x: npt.ArrayLike, y: npt.ArrayLike, rng: np.random.Generator, *, repetitions: int = 1000, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the stratified bootstrap interval of :func:`probability_of_improvement`.

    If both agents have the same seeds, each draw uses the same seeds for both, because they saw the same noise.
    """
    first, second = _pair(x, y)
    tails = _tails(repetitions, confidence)
    draws = _times_drawn(first.shape, repetitions, rng)
    others = draws if first.shape == second.shape else _times_drawn(second.shape, repetitions, rng)
    # All pairs are compared only once: resampling changes only how often each pair counts.
    balance = np.stack([((draws[i] @ wins) * others[i]).sum(axis=-1) for i, wins in enumerate(_wins(first, second))])
    estimates = 0.5 + 0.5 * balance.mean(axis=0) / (first.shape[1] * second.shape[1])
    low, high = np.quantile(estimates, tails)
    return float(low), float(high)


def checked_scores(scores: npt.ArrayLike, *, curves: bool = True) -> Floats:
    """Return scores as float64.

    Args:
        scores: ``(tasks, seeds)``, or ``(tasks, seeds, points)``.
        curves: Whether ``(tasks, seeds, points)`` is allowed.

    Raises:
        KDNASError: If they have other axes, are empty, or not all finite.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in ((2, 3) if curves else (2,)) or not array.size:
        expected = "(tasks, seeds) or (tasks, seeds, points)" if curves else "(tasks, seeds)"
        raise KDNASError(f"scores have shape {array.shape}; expected {expected}, none of them 0")
    return checked_finite(array, "scores")


def _checked_runs(scores: npt.ArrayLike) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim < 2 or not array.size:
        raise KDNASError(f"scores have shape {array.shape}; expected (..., tasks, seeds), none of them 0")
    return checked_finite(array, "scores")


def checked_finite(array: Floats, name: str) -> Floats:
    """Return an array unchanged.

    Raises:
        KDNASError: If not all values are finite; its message contains the name.
    """
    # The difference of two infinite scores is NaN, which would silently spread through every aggregate.
    if not np.isfinite(array).all():
        raise KDNASError(f"{name} hold NaN or infinity; give a run that found nothing the worst finite score")
    return array


def checked_axis(values: npt.ArrayLike, name: str) -> Floats:
    """Return numbers as float64 ``(n,)``.

    Raises:
        KDNASError: If they have another shape, are empty or hold NaN; its message contains the name.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or np.isnan(array).any():
        raise KDNASError(f"{name} have shape {array.shape}; expected (n,) of one number or more, none of them NaN")
    return array


def _constant(*sequences: npt.ArrayLike) -> bool:
    return any(np.ptp(np.asarray(values)) == 0 for values in sequences)


def _tails(repetitions: int, confidence: float) -> list[float]:
    check_whole("repetitions", repetitions, at_least=1)
    check_number("confidence", confidence, above=0, below=1)
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _pair(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = checked_scores(x, curves=False), checked_scores(y, curves=False)
    if len(first) != len(second):
        raise KDNASError(f"scores have shapes {first.shape} and {second.shape}; expected (tasks, seeds) of equal tasks")
    return first, second


def _wins(x: Floats, y: Floats) -> Floats:
    """Return 1 where a run of X has less regret than one of Y, -1 where it has more, ``(tasks, seeds, seeds)``."""
    return np.asarray(np.sign(y[:, None, :] - x[:, :, None]))


def _times_drawn(shape: tuple[int, ...], repetitions: int, rng: np.random.Generator) -> Floats:
    """Return how often each seed is drawn, float64 ``(tasks, repetitions, seeds)``."""
    tasks, seeds = shape
    draws = rng.integers(seeds, size=(repetitions, tasks, seeds))
    cells = draws + seeds * np.arange(repetitions * tasks).reshape(repetitions, tasks, 1)
    counts = np.bincount(cells.ravel(), minlength=draws.size).reshape(draws.shape)
    return counts.transpose(1, 0, 2).astype(np.float64)
