"""Scores of searches: normalised regret, incumbents, performance profiles and hitting times.

The score of a search is its normalised regret; lower is better. 0 is the optimum, 1 is the median of random search with
the same budget.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Bools, Floats
from kdnas_env.support.statistics import checked_axis, checked_finite, checked_scores, mean, stratified_bootstrap


def normalised_regret(value: npt.ArrayLike, optimum: float, random_median: float) -> Floats:
    """Return the distance of values from the optimum, relative to that of random search; lower is better.

    Args:
        value: Values of the best students found; higher is better, any shape.
        optimum: The highest value.
        random_median: Median of the values that random search finds.

    Raises:
        KDNASError: If random search finds the optimum, or either is not finite.
    """
    if not np.inf > optimum > random_median > -np.inf:
        raise KDNASError(
            f"the optimum is {optimum} and the median of random search is {random_median}; regret can be normalised "
            "only if random search does not find the optimum. Lower the budget, or use a larger task"
        )
    regret: Floats = (optimum - np.asarray(value, dtype=np.float64)) / (optimum - random_median)
    return regret


def incumbents(observed: npt.ArrayLike, true: npt.ArrayLike) -> Floats:
    """Return the true value of the incumbent after each evaluation: the student with the highest observed value so far.

    Among equal ones, the earliest is kept. Values that are not finite (failures) are ignored. Without incumbent it is
    NaN.

    Args:
        observed: Observed values; higher is better, ``(..., n)``.
        true: True values, ``(..., n)``.

    Returns:
        The values, float64 ``(..., n)``.

    Raises:
        KDNASError: If the shapes differ, or the arrays have no axis.
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


def performance_profile(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> Floats:
    """Return the share of runs with a score at or below each threshold, averaged over tasks, ``(thresholds,)``."""
    array = checked_scores(scores)
    below = array[..., None] <= checked_axis(thresholds, "thresholds")
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

    The band is pointwise, not simultaneous.
    """
    array = checked_scores(scores, curves=False)
    below = array[..., None] <= checked_axis(thresholds, "thresholds")
    return stratified_bootstrap(below, rng, statistic=mean, repetitions=repetitions, confidence=confidence)


def area_under_curve(curves: npt.ArrayLike) -> Floats:
    """Return the anytime score of searches: the mean score over all evaluations.

    Args:
        curves: Score after each evaluation, ``(..., n)``, such as the regret of :func:`incumbents`. It must be finite,
            so use the worst score before the first success.

    Returns:
        float64 ``(...)``; lower is better if lower scores are better.

    Raises:
        KDNASError: If curves are empty or not all finite.
    """
    array = np.asarray(curves, dtype=np.float64)
    if not array.ndim or not array.size:
        raise KDNASError(f"curves have shape {array.shape}; expected (..., n) of one evaluation or more")
    return np.asarray(checked_finite(array, "curves").mean(axis=-1))


def hitting_times(curves: npt.ArrayLike, target: float) -> tuple[npt.NDArray[np.int64], Bools]:
    """Return the number of evaluations after which the incumbent reaches a target.

    Args:
        curves: True value of the incumbent after each evaluation, ``(..., n)``; NaN without an incumbent.
        target: The value to reach.

    Returns:
        Number of evaluations, from 1, int64 ``(...)``, n if the target is never reached; and whether it is never
        reached (the run is censored), bool.

    Raises:
        KDNASError: If curves have no evaluations, or the target is NaN.
    """
    array = np.asarray(curves, dtype=np.float64)
    if not array.ndim or not array.shape[-1]:
        raise KDNASError(f"curves have shape {array.shape}; expected (..., n) of one evaluation or more")
    if np.isnan(target):
        raise KDNASError("target is NaN; expected the value that an incumbent has to reach")
    reached = array >= target
    hit: Bools = np.asarray(reached.any(axis=-1))
    times = np.where(hit, reached.argmax(axis=-1) + 1, reached.shape[-1])
    return np.asarray(times, dtype=np.int64), np.asarray(~hit)


def ecdf(times: npt.ArrayLike, censored: npt.ArrayLike, grid: npt.ArrayLike) -> Floats:
    """Return the share of the runs that reached a target by each number of evaluations, float64 ``(grid,)``.

    Args:
        times: Number of evaluations after which each run reached the target, of any shape.
        censored: Whether a run did not reach it, of the same shape. All runs must have the same budget.
        grid: Numbers of evaluations, ``(n,)``.

    Raises:
        KDNASError: If the shapes differ, or an array is empty.
    """
    reached, missed = np.asarray(times, dtype=np.float64), np.asarray(censored, dtype=np.bool_)
    if reached.shape != missed.shape or not reached.size:
        raise KDNASError(
            f"times have shape {reached.shape}, censored {missed.shape}; expected one shape, of one run or more"
        )
    hit = np.where(missed, np.inf, reached).ravel()
    share: Floats = (hit[:, None] <= checked_axis(grid, "grid")).mean(axis=0)
    return share
