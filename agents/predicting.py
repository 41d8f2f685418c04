"""Shared code of agents that predict rewards: reward scale, replay, and candidate pools."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking
from kdnas_env.core.grid import Grid
from kdnas_env.core.wide_dimensions import coarse, coarse_counts, is_wide, nearby

_WHISKER = 1.5
_ROUNDING = 1e-12
"""Relative deviation of equal rewards that is due to rounding of their mean."""


@dataclass(frozen=True)
class Scale:
    """The affine map between rewards and predictions.

    Attributes:
        mean: Reward that corresponds to a prediction of 0.
        deviation: Reward difference of one unit of prediction; positive.
        least: Lower bound: lower rewards and failed evaluations are replaced by it.
    """

    mean: float
    deviation: float
    least: float

    @classmethod
    def of(cls, rewards: Floats, usable: Bools) -> Scale:
        """Fit the scale to the usable rewards; at least one is required.

        The lower bound is Tukey's lower fence (1.5 interquartile ranges below the first quartile), or the worst usable
        reward above it. So neither failures nor a single outlier determines the scale.
        """
        good = rewards[usable]
        lower, upper = np.quantile(good, (0.25, 0.75))
        fence = lower - _WHISKER * (upper - lower)
        least = float(good[good >= fence].min())
        kept = np.maximum(good, least)
        deviation = float(kept.std())
        all_equal = deviation <= _ROUNDING * float(np.abs(kept).max())
        return cls(float(kept.mean()), 1.0 if all_equal else deviation, least)

    def clipped(self, rewards: Floats, usable: Bools) -> Floats:
        """Return rewards of which none is below the least; failures count as the least."""
        kept: Floats = np.maximum(np.where(usable, rewards, self.least), self.least)
        return kept

    def standardise(self, rewards: Floats, usable: Bools) -> Floats:
        """Return rewards in units of predictions; failures get the lower bound."""
        standardised: Floats = (self.clipped(rewards, usable) - self.mean) / self.deviation
        return standardised

    def restore(self, predictions: Floats) -> Floats:
        """Return predictions in units of the reward."""
        return self.mean + self.deviation * predictions


def remembered(ranking: Ranking, size: int) -> Ints:
    """Return the indices of the newest evaluations, preceded by that of the best if it is older; int64."""
    begin, best = max(0, ranking.evaluations - size), ranking.global_best
    youngest = np.arange(begin, ranking.evaluations)
    return youngest if best is None or best.index >= begin else np.insert(youngest, 0, best.index)


def candidate_pool(
    grid: Grid, ranking: Ranking, rng: np.random.Generator, seen: Collection[int], *, whole_space: int, size: int
) -> Ints:
    """Return all unseen points or, for a large space, random points and points around the best ones.

    Points around the best ones are their neighbours. With a wide dimension, further nearby points are added, half as
    many as random points, because random points rarely combine a good choice of a wide dimension with good choices of
    other dimensions.

    Args:
        grid: The space.
        ranking: The search, with the best candidates.
        rng: Source of randomness; not used if the whole space is returned.
        seen: Flat indices of the points to exclude.
        whole_space: Spaces up to this many points are returned completely.
        size: Number of random points for a larger space.

    Returns:
        int64 of shape ``(n, dims)``, each point once.
    """
    if grid.size <= whole_space:
        return grid.actions(grid.remaining(seen))
    drawn = grid.draw(rng, size, seen)
    bests = dict.fromkeys(best.action for best in (ranking.global_best, ranking.previous_best) if best)
    around = [np.array(action, dtype=np.int64) for action in bests]
    near = [grid.neighbours(action) for action in around]
    if is_wide(grid.nvec).any():
        near += [nearby(action, grid.nvec, size // 2, rng) for action in around]
    return grid.fresh(np.concatenate([drawn, *near]), seen)


def spread(pool: Ints, known: Ints, nvec: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Choose points one by one so that every choice of every dimension is tried about equally often.

    In a wide dimension (:mod:`kdnas_env.core.wide_dimensions`), sections of the scale replace choices.

    The result is a greedy Latin hypercube of the grid. It can stop after any point, extend known points, and use a pool
    of any shape. Ties go to the point that differs from its nearest neighbour in most dimensions; remaining ties are
    random.

    Args:
        pool: Distinct points to choose from, int64 of shape ``(points, dims)``.
        known: Points already tried, int64 of shape ``(known, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: Number of points to choose.
        rng: Breaks ties.

    Returns:
        Indices in the pool, int64 of shape ``(m,)``; m is less than n only if the pool is smaller.
    """
    if not min(n, len(pool)):
        return np.empty(0, dtype=np.int64)
    pool, known, nvec = coarse(pool, nvec), coarse(known, nvec), coarse_counts(nvec)
    offsets = np.cumsum(nvec) - nvec
    # In a dimension with few choices, each choice occurs more often, hence the weights.
    weights = np.repeat(nvec, nvec).astype(np.float64)
    tried = np.bincount((known + offsets).ravel(), minlength=int(nvec.sum())) * weights
    nearest = np.full(len(pool), len(nvec))
    for point in known:
        nearest = np.minimum(nearest, (pool != point).sum(axis=1))
    free, chosen = np.ones(len(pool), dtype=np.bool_), []
    for _ in range(min(n, len(pool))):
        worn = np.where(free, tried[pool + offsets].sum(axis=1), np.inf)
        place = int(np.lexsort((rng.random(len(pool)), -nearest, worn))[0])
        chosen.append(place)
        free[place] = False
        tried[pool[place] + offsets] += weights[pool[place] + offsets]
        nearest = np.minimum(nearest, (pool != pool[place]).sum(axis=1))
    return np.array(chosen, dtype=np.int64)
