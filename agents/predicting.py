"""Shared code of agents that predict rewards: reward scale, replay, candidate pools, and the choice from a pool."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kdnas_env.agents.ranking import Ranking
from kdnas_env.core.grid import Grid
from kdnas_env.core.wide_dimensions import Spacing, coarse, coarse_counts, is_wide, nearby
from kdnas_env.support.arrays import Bools, Floats, Ints

PosteriorT = TypeVar("PosteriorT")

WHOLE_SPACE = 10_000
"""Spaces up to this many points are scored completely; for larger spaces, a pool is scored."""

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
        """Return rewards, float64 ``(n,)``, raised to the lower bound where they are lower; failures get it too."""
        kept: Floats = np.maximum(np.where(usable, rewards, self.least), self.least)
        return kept

    def standardise(self, rewards: Floats, usable: Bools) -> Floats:
        """Return rewards in units of predictions, float64 ``(n,)``; failures get the lower bound."""
        standardised: Floats = (self.clipped(rewards, usable) - self.mean) / self.deviation
        return standardised

    def restore(self, predictions: Floats) -> Floats:
        """Return predictions in units of the reward, float64 ``(n,)``."""
        return self.mean + self.deviation * predictions


def replay_indices(ranking: Ranking, size: int) -> Ints:
    """Return the indices of the newest evaluations, preceded by that of the best if it is older; int64 ``(n,)``."""
    begin, best = max(0, ranking.evaluations - size), ranking.global_best
    newest = np.arange(begin, ranking.evaluations)
    return newest if best is None or best.index >= begin else np.insert(newest, 0, best.index)


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


def choose_one_by_one(
    pool: Ints,
    known: Ints,
    nvec: Ints,
    n: int,
    posterior: PosteriorT,
    *,
    acquisition: Callable[[PosteriorT], npt.ArrayLike],
    believing: Callable[[PosteriorT, int], PosteriorT],
) -> Ints:
    """Choose candidates one by one, each by the acquisition function after the ones before.

    After each choice, the posterior is updated as if the candidate earned its predicted reward, which keeps a round
    diverse ("kriging believer", Ginsbourger et al. 2010, doi:10.1007/978-3-642-10701-6_6). In wide dimensions,
    candidates keep a distance from each other and from known points (:mod:`kdnas_env.core.wide_dimensions`).

    Args:
        pool: Distinct points to choose from, int64 of shape ``(points, dims)``.
        known: Points that are evaluated or pending, int64 of shape ``(known, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: Number of points to choose.
        posterior: The model's belief about the rewards of the pool.
        acquisition: Returns the acquisition value of each point of the pool, shape ``(points,)``; the point with the
            highest value is chosen.
        believing: Returns the posterior if the point at an index of the pool earned its predicted reward.

    Returns:
        Indices in the pool, int64 of shape ``(min(n, points),)``.
    """
    spacing, free, places = Spacing(pool, known, nvec), np.ones(len(pool), dtype=np.bool_), list[int]()
    for _ in range(min(n, len(pool))):
        values = np.asarray(acquisition(posterior))
        place = int(np.where(spacing.far_enough(free), values, -np.inf).argmax())
        free[place] = False
        spacing.take(place)
        places.append(place)
        posterior = believing(posterior, place)
    return np.array(places, dtype=np.int64)


def with_exploring(pool: Ints, chosen: Ints, known: Ints, nvec: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Add exploring candidates, spread over the space, to those that a model has chosen.

    Args:
        pool: Distinct points to choose from, int64 of shape ``(points, dims)``.
        chosen: Indices of the points that the model has chosen, int64 of shape ``(chosen,)``.
        known: Points that are evaluated or pending, int64 of shape ``(known, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: Number of points to add.
        rng: Breaks ties.

    Returns:
        ``chosen``, followed by the indices of the added points (:func:`spread`), int64.
    """
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    added = rest[spread(pool[rest], np.concatenate([known, pool[chosen]]), nvec, n, rng)]
    return np.concatenate([chosen, added])


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
        uses = np.where(free, tried[pool + offsets].sum(axis=1), np.inf)
        place = int(np.lexsort((rng.random(len(pool)), -nearest, uses))[0])
        chosen.append(place)
        free[place] = False
        tried[pool[place] + offsets] += weights[pool[place] + offsets]
        nearest = np.minimum(nearest, (pool != pool[place]).sum(axis=1))
    return np.array(chosen, dtype=np.int64)
