"""Where a search begins that knows nothing yet: points that are spread over the space."""

from __future__ import annotations

import numpy as np

from kdnas_env.agents.ranking import Ints
from kdnas_env.core.wide_dimensions import coarse, coarse_counts


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
