"""The candidates that a model of the rewards chooses from."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from agents.grid import Grid
from agents.ranking import Ints, Ranking


def candidate_pool(
    grid: Grid, ranking: Ranking, rng: np.random.Generator, seen: Collection[int], *, whole_space: int, size: int
) -> Ints:
    """Return all points that were not seen, or of a large space some random ones and the neighbours of the bests.

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
    near = [grid.neighbours(np.array(action, dtype=np.int64)) for action in bests]
    return grid.fresh(np.concatenate([drawn, *near]), seen)
