"""What agents that predict rewards share: the scale of rewards, the replay, and the candidates to choose from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking
from kdnas_env.core.grid import Grid
from kdnas_env.core.wide_dimensions import coarse, coarse_counts, is_wide, nearby

_WHISKER = 1.5
_ROUNDING = 1e-12
"""Relative deviation that equal rewards may show, since their mean is rounded."""


@dataclass(frozen=True)
class Scale:
    """The affine map between rewards and what the controller predicts.

    Attributes:
        mean: Reward that is predicted as 0.
        deviation: Reward that one unit stands for; positive.
        least: Rewards below it, and failed evaluations, count as this.
    """

    mean: float
    deviation: float
    least: float

    @classmethod
    def of(cls, rewards: Floats, usable: Bools) -> Scale:
        """Fit the scale to the usable rewards, of which there must be one.

        The least reward is Tukey's lower fence (1.5 interquartile ranges below the first quartile), or the worst
        usable reward above it: so neither a failure nor one dreadful candidate sets the scale of the others.
        """
        good = rewards[usable]
        lower, upper = np.quantile(good, (0.25, 0.75))
        fence = lower - _WHISKER * (upper - lower)
        least = float(good[good >= fence].min())
        kept = np.maximum(good, least)
        deviation = float(kept.std())
        all_equal = deviation <= _ROUNDING * float(np.abs(kept).max())
        return cls(float(kept.mean()), 1.0 if all_equal else deviation, least)

    def standardise(self, rewards: Floats, usable: Bools) -> Floats:
        """Return rewards in units of the controller; failures are as bad as the least."""
        kept = np.where(usable, rewards, self.least)
        standardised: Floats = (np.maximum(kept, self.least) - self.mean) / self.deviation
        return standardised

    def restore(self, predictions: Floats) -> Floats:
        """Return predictions in units of the reward."""
        return self.mean + self.deviation * predictions


def remembered(ranking: Ranking, size: int) -> Ints:
    """Return the positions of the youngest evaluations, and before them that of the best, if it is older; int64."""
    begin, best = max(0, ranking.evaluations - size), ranking.global_best
    youngest = np.arange(begin, ranking.evaluations)
    return youngest if best is None or best.index >= begin else np.insert(youngest, 0, best.index)


def candidate_pool(
    grid: Grid, ranking: Ranking, rng: np.random.Generator, seen: Collection[int], *, whole_space: int, size: int
) -> Ints:
    """Return all points that were not seen, or of a large space some random ones and those around the bests.

    Around the bests are their neighbours, and where a dimension is wide half as many points as are drawn at random:
    of its many choices those of the bests hardly ever come together with the right ones of other dimensions by chance.

    Args:
        grid: The space.
        ranking: The search, with the bests.
        rng: Draws the random points; not read where the space is returned whole.
        seen: Numbers of the points to leave out.
        whole_space: Spaces up to this many points are returned whole.
        size: Random points of a larger one.

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
    """Choose points one after the other so that every choice of every dimension is tried about equally often.

    In a wide dimension (:mod:`kdnas_env.core.wide_dimensions`) that is every section of the scale.

    A Latin hypercube of the grid, grown greedily, so that it can be stopped after any point, goes on from what is
    known, and keeps to a pool of any shape. Of equally good points the one is taken that differs from its nearest
    neighbour in most dimensions, and of these any.

    Args:
        pool: Points to choose from, each once, int64 of shape ``(points, dims)``.
        known: Points that were tried already, int64 of shape ``(known, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: How many to choose.
        rng: Breaks ties.

    Returns:
        Their places in the pool, int64 of shape ``(m,)``, where m is less than n only if the pool has less.
    """
    if not min(n, len(pool)):
        return np.empty(0, dtype=np.int64)
    pool, known, nvec = coarse(pool, nvec), coarse(known, nvec), coarse_counts(nvec)
    offsets = np.cumsum(nvec) - nvec
    # A choice among few is tried more often than one among many, hence the weights.
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
