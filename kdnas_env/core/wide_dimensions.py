"""Wide dimensions: dimensions with so many choices that a search never evaluates most of them.

A dimension with more than :data:`WIDE` choices is treated as a numeric scale on which neighbouring choices have similar
rewards. Therefore models smooth over neighbouring choices, and searches move by steps of all lengths. The choices of
narrower dimensions are treated as categories: each is modelled and evaluated separately.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kdnas_env.support.arrays import Ints

WIDE = 64
"""Dimensions with more choices are wide."""

KNOTS = 16
"""Degrees of freedom of the smooth function that models the effect of a wide dimension."""


def is_wide(nvec: Ints) -> npt.NDArray[np.bool_]:
    """Return which dimensions are wide, bool of shape ``(dims,)``."""
    return nvec > WIDE


def coarse(actions: Ints, nvec: Ints) -> Ints:
    """Return actions with each wide dimension divided into :data:`KNOTS` bins: the choice is replaced by its bin.

    Args:
        actions: int64 of shape ``(n, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
    """
    return np.where(is_wide(nvec), actions * KNOTS // nvec, actions)


def coarse_counts(nvec: Ints) -> Ints:
    """Return the number of choices per dimension of :func:`coarse` actions, int64 of shape ``(dims,)``."""
    return np.where(is_wide(nvec), KNOTS, nvec)


def steps_near(choices: int, reach: int | None = None) -> Ints:
    """Return the steps from a choice to its neighbours, ascending, int64 ``(n,)``; some may leave the dimension.

    Args:
        choices: Number of choices of the dimension.
        reach: Largest step; None: any. In a wide dimension the steps are 1, 8, 64, 512 and so on, for any reach.
    """
    if choices > WIDE:
        up = [1 << power for power in range(0, (choices - 1).bit_length(), 3)]
    else:
        up = [*range(1, choices if reach is None else min(reach + 1, choices))]
    return np.array([*(-step for step in reversed(up)), *up], dtype=np.int64)


def stride(places: Ints, choices: int, rng: np.random.Generator) -> Ints:
    """Move choices of one dimension up or down by log-uniform steps: 1 to 2 is as likely as 100 to 200.

    Args:
        places: Choices of one dimension, int64 of any shape.
        choices: Number of choices of the dimension, at least 2.
        rng: Draws the steps.

    Returns:
        The new choices, int64 of the same shape. A step that would leave the dimension is taken in the other direction,
        or else ends at the last choice.
    """
    far = np.exp2(rng.uniform(0.0, math.log2(choices), size=places.shape)).astype(np.int64)
    far = np.minimum(far, choices - 1) * np.where(rng.random(places.shape) < 0.5, -1, 1)
    there, back = places + far, places - far
    inside = [(place >= 0) & (place < choices) for place in (there, back)]
    return np.select(inside, [there, back], np.clip(there, 0, choices - 1))


def nearby(action: Ints, nvec: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Draw points near an action, which differ from it in two dimensions on average, int64 of shape ``(n, dims)``.

    Args:
        action: int64 of shape ``(dims,)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: Number of points; they may repeat, and may include the action.
        rng: Draws the points. Wide dimensions are changed by :func:`stride`, the others uniformly.
    """
    columns = [
        stride(np.full(n, place), count, rng) if count > WIDE else rng.integers(count, size=n)
        for place, count in zip(action.tolist(), nvec.tolist(), strict=True)
    ]
    moves = rng.random((n, len(nvec))) < 2 / len(nvec)
    return np.where(moves, np.stack(columns, axis=1), action)


class Spacing:
    """Keeps proposals apart from evaluated points in wide dimensions, where close neighbours add little information.

    Points that are equal in all other dimensions form a line. If ``m`` points of a line were evaluated, the next one
    must be at a distance of at least ``0.5 / (m + 1) ** 1.5`` of the range from each, which is always possible. Without
    wide dimensions, every point is far enough away.

    Args:
        pool: Candidates, int64 of shape ``(n, dims)``.
        known: Evaluated points, int64 of shape ``(m, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
    """

    def __init__(self, pool: Ints, known: Ints, nvec: Ints) -> None:
        wide = is_wide(nvec)
        self._wide = int(wide.sum())
        if not self._wide:
            return
        points = np.concatenate([pool, known])
        lines = np.unique(points[:, ~wide], axis=0, return_inverse=True)[1].reshape(-1)
        places = points[:, wide] / nvec[wide]
        self._lines, self._places = lines[: len(pool)], places[: len(pool)]
        self._nearest, self._tried = np.full(len(pool), np.inf), np.zeros(len(pool), dtype=np.int64)
        for line, place in zip(lines[len(pool) :], places[len(pool) :], strict=True):
            self._add(line, place)

    def take(self, position: int) -> None:
        """Count a point of the pool as evaluated."""
        if self._wide:
            self._add(self._lines[position], self._places[position])

    def far_enough(self, free: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the free points, bool ``(n,)``, are far enough from evaluated points; all if none is."""
        if not self._wide:
            return free
        apart = free & (self._nearest >= 0.5 * (self._tried + 1.0) ** (-1.5 / self._wide))
        return apart if apart.any() else free

    def _add(self, line: np.int64, place: npt.NDArray[np.float64]) -> None:
        rows = np.flatnonzero(self._lines == line)
        self._tried[rows] += 1
        away = np.abs(self._places[rows] - place).max(axis=1)
        self._nearest[rows] = np.minimum(self._nearest[rows], away)


def best_apart(pool: Ints, scores: npt.NDArray[np.float64], known: Ints, nvec: Ints, n: int) -> Ints:
    """Return the positions of the highest scores among points that are far enough from each other and evaluated points.

    Args:
        pool: int64 of shape ``(points, dims)``.
        scores: float64 of shape ``(points,)``.
        known: Evaluated points, int64 of shape ``(m, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: Number of positions.

    Returns:
        int64 of shape ``(min(n, points),)``; see :class:`Spacing`. Without wide dimensions, the ``n`` highest scores.
    """
    order = np.argsort(-scores, kind="stable")
    if not is_wide(nvec).any():
        return order[:n]
    spacing, free, chosen = Spacing(pool, known, nvec), np.ones(len(pool), dtype=np.bool_), []
    for _ in range(min(n, len(pool))):
        position = int(order[spacing.far_enough(free)[order]][0])
        chosen.append(position)
        free[position] = False
        spacing.take(position)
    return np.array(chosen, dtype=np.int64)


def bumps(choices: int) -> npt.NDArray[np.float64]:
    """Return the values of :data:`KNOTS` Gaussian radial basis functions at every choice of a dimension.

    Args:
        choices: Number of choices of the dimension.

    Returns:
        float64 of shape ``(choices, KNOTS)``, with rows of norm 1.
    """
    away = np.linspace(0, KNOTS - 1, choices)[:, None] - np.arange(KNOTS)
    heights = np.exp(-0.5 * away**2)
    weights: npt.NDArray[np.float64] = heights / np.linalg.norm(heights, axis=1, keepdims=True)
    return weights
