"""Structure of the rewards of a task, and the similarity of two tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from kdnas_env.bench.truth import Truth
from kdnas_env.core.wide_dimensions import coarse
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.statistics import kendall_tau, top_threshold

TOP_SHARE = 0.01
"""Share of points that count as the best in a comparison of two tasks."""

MOST_PARAMETERS = 1_500
"""Maximum number of parameters of a fitted model, so that it takes at most seconds."""

_POINTS_A_PARAMETER = 2
"""Minimum number of points per parameter, so that a model cannot memorise them."""


def explained_variance(actions: Ints, rewards: Floats, nvec: Ints) -> dict[str, float | None]:
    """Return the share of the variance of the log reward that simple models explain, as adjusted R2.

    The logarithm turns a product, such as the KD-NAS reward of quality and latency, into a sum.

    Args:
        actions: Points, int64 of shape ``(n, dims)``.
        rewards: Their rewards, float64 of shape ``(n,)``; values that are not positive (failures) are left out.
        nvec: Number of choices per dimension, int64 of shape ``(dims,)``; wide dimensions
            (:mod:`kdnas_env.core.wide_dimensions`) are counted by section.

    Returns:
        ``additive``: for a sum over dimensions with one parameter per choice. ``pairwise``: for a sum over pairs of
        dimensions with one parameter per pair of choices. None if all rewards are equal or the model is too large: more
        free parameters than half the number of points, or more parameters than :data:`MOST_PARAMETERS`.
    """
    there = rewards > 0
    points, values = coarse(actions[there], nvec), np.log(rewards[there])
    dims = range(actions.shape[1])
    models = {"additive": [*combinations(dims, 1)], "pairwise": [*combinations(dims, min(2, len(dims)))]}
    return {name: _adjusted_r2(points, values, groups) for name, groups in models.items()}


def _adjusted_r2(points: Ints, values: Floats, groups: Sequence[tuple[int, ...]]) -> float | None:
    from scipy.linalg import lstsq

    codes = [np.unique(points[:, group], axis=0, return_inverse=True)[1].reshape(-1) for group in groups]
    parameters = sum(int(code.max(initial=-1)) + 1 for code in codes)
    if not 0 < parameters <= MOST_PARAMETERS or np.ptp(values) == 0:
        return None
    features = np.concatenate([np.eye(code.max() + 1)[code] for code in codes], axis=1)
    # QR is several times as fast as SVD. ``cond`` detects the linear dependence of the features despite rounding.
    weights, _, rank, _ = lstsq(features, values, cond=1e-9, lapack_driver="gelsy")
    if rank * _POINTS_A_PARAMETER > len(values):
        return None
    residual = float(np.square(values - features @ weights).sum()) / (len(values) - int(rank))
    return 1.0 - residual / float(values.var(ddof=1))


def describe_rewards(truth: Truth) -> dict[str, Any]:
    """Return statistics of the rewards of a task.

    Args:
        truth: The truth of the task; for a surrogate, it may be a sample (:meth:`kdnas_env.bench.truth.Truth.sampled`).

    Returns:
        ``points``, the number of points that keep the limits; ``feasible``, their share, or None without limits;
        ``deviation`` of a student's reward between seeds; ``near_best``, the share of points within one deviation of
        the best; and ``r2``; see :func:`explained_variance`.
    """
    points = len(truth.index)
    return {
        "points": points,
        "feasible": points / (points + truth.infeasible) if truth.task.limits else None,
        "deviation": truth.tolerance,
        "near_best": len(truth.optima) / points,
        "r2": explained_variance(truth.space.grid.actions(truth.index), truth.reward, truth.space.grid.nvec),
    }


def reward_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the statistics of rewards as rows of text: name and value."""
    yield "points", str(report["points"])
    if report["feasible"] is not None:
        yield "points that keep the limits", f"{report['feasible']:.1%}"
    yield "deviation between seeds", f"{report['deviation']:.4g}"
    yield "points within it of the best", f"{report['near_best']:.2%}"
    for name, share in report["r2"].items():
        yield f"{name} R2 of the log reward", "-" if share is None else f"{share:.4g}"


def compare_tasks(first: Truth, other: Truth) -> dict[str, Any]:
    """Return the similarity of two tasks of the same space, over their common points.

    Args:
        first: A task.
        other: Another one.

    Returns:
        ``tasks``, their names; ``points``, the number of common points; ``tau``: Kendall's tau-b of the rewards;
        ``top_overlap``: share of the best 1 % of one task that is among the best 1 % of the other; ``first_optimum``
        and ``other_optimum``: the rank of each task's best point in the other task, from 1.

    Raises:
        KDNASError: If the tasks are of different spaces, or have fewer than two points in common.
    """
    names = [str(first.task), str(other.task)]
    if first.space.to_dict() != other.space.to_dict():
        raise KDNASError(f"{names[0]} and {names[1]} search different spaces; compare tasks of one space")
    common = np.intersect1d(first.index, other.index)
    if len(common) < 2:
        raise KDNASError(f"{names[0]} and {names[1]} have {len(common)} student(s) in common; expected two or more")
    rewards = [truth.rewards_of(common) for truth in (first, other)]
    best = [values >= top_threshold(values, TOP_SHARE) for values in rewards]
    ranks = [int((there > there[here.argmax()]).sum()) + 1 for here, there in (rewards, rewards[::-1])]
    return {
        "tasks": names,
        "points": len(common),
        "tau": kendall_tau(*rewards),
        "top_overlap": float((best[0] & best[1]).sum() / max(best[0].sum(), best[1].sum())),
        "first_optimum": ranks[0],
        "other_optimum": ranks[1],
    }


def comparison_rows(comparison: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a comparison as rows of text: name and value."""
    yield "points that both have", str(comparison["points"])
    yield "Kendall's tau of the rewards", f"{comparison['tau']:.3f}"
    yield "overlap of the best 1 percent", f"{comparison['top_overlap']:.0%}"
    yield "rank of its optimum in the other", str(comparison["first_optimum"])
    yield "rank of the other's optimum in it", str(comparison["other_optimum"])
