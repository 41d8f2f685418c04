"""The candidates that a model of the rewards chooses from."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from kdnas_env.agents.ranking import Ints, Ranking
from kdnas_env.core.grid import Grid
from kdnas_env.core.wide_dimensions import is_wide, nearby


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
