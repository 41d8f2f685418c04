"""Wide dimensions, of so many choices that a search never tries most of them.

A dimension of more than :data:`WIDE` choices is taken to be a scale on which neighbouring choices earn alike: what is
learned of one choice holds for those around it, and a search moves along it by strides of every length. Dimensions of
fewer choices may well be kinds, of which each is learned of and tried for itself.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

WIDE = 64
"""Dimensions of more choices are wide."""

KNOTS = 16
"""What is learned of a wide dimension is a smooth function of the place, with as many degrees of freedom."""

Ints = npt.NDArray[np.int64]


def is_wide(nvec: Ints) -> npt.NDArray[np.bool_]:
    """Return which dimensions are wide, bool of shape ``(dims,)``."""
    return nvec > WIDE


def coarse(actions: Ints, nvec: Ints) -> Ints:
    """Return actions in which each choice of a wide dimension is the number of one of its :data:`KNOTS` sections.

    Args:
        actions: int64 of shape ``(n, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
    """
    return np.where(is_wide(nvec), actions * KNOTS // nvec, actions)


def coarse_counts(nvec: Ints) -> Ints:
    """Return the choices per dimension of :func:`coarse` actions, int64 of shape ``(dims,)``."""
    return np.where(is_wide(nvec), KNOTS, nvec)


def steps_near(choices: int, reach: int | None = None) -> Ints:
    """Return how far away the neighbours of a choice are, ascending, int64 ``(n,)``; some may be off the scale.

    Args:
        choices: How many the dimension has.
        reach: Largest step; None: any. In a wide dimension the steps are 1, 8, 64, 512 and so on, whatever the reach.
    """
    if choices > WIDE:
        up = [1 << power for power in range(0, (choices - 1).bit_length(), 3)]
    else:
        up = [*range(1, choices if reach is None else min(reach + 1, choices))]
    return np.array([*(-step for step in reversed(up)), *up], dtype=np.int64)


def strode(places: Ints, choices: int, rng: np.random.Generator) -> Ints:
    """Move along a scale, up or down, as often by 1 to 2 choices as by 100 to 200.

    Args:
        places: Choices of one dimension, int64 of any shape.
        choices: How many it has, at least 2.
        rng: Draws the strides.

    Returns:
        Other choices, int64 of the same shape. Where a stride would leave the scale it goes the other way, or to the
        end.
    """
    far = np.exp2(rng.uniform(0.0, math.log2(choices), size=places.shape)).astype(np.int64)
    far = np.minimum(far, choices - 1) * np.where(rng.random(places.shape) < 0.5, -1, 1)
    there, back = places + far, places - far
    inside = [(place >= 0) & (place < choices) for place in (there, back)]
    return np.select(inside, [there, back], np.clip(there, 0, choices - 1))


def nearby(action: Ints, nvec: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Draw points around an action that differ from it in two dimensions on average, int64 of shape ``(n, dims)``.

    Args:
        action: int64 of shape ``(dims,)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: How many to draw; the action may be among them, and a point twice.
        rng: Draws them. Along a wide dimension they are as near as :func:`strode` goes.
    """
    columns = [
        strode(np.full(n, place), count, rng) if count > WIDE else rng.integers(count, size=n)
        for place, count in zip(action.tolist(), nvec.tolist(), strict=True)
    ]
    moves = rng.random((n, len(nvec))) < 2 / len(nvec)
    return np.where(moves, np.stack(columns, axis=1), action)


class Spacing:
    """Which points of a pool are not too near to what was tried: neighbours on a scale say little new.

    Of points that differ in wide dimensions only, the more were tried the nearer they may be: with ``m`` tried on one
    scale, the next is at least ``0.5 / (m + 1) ** 1.5`` of the scale away from each, for which there is always room.
    Where no dimension is wide, no point is too near.

    Args:
        pool: int64 of shape ``(n, dims)``.
        known: What was tried, int64 of shape ``(m, dims)``.
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
        """Count a point of the pool as tried."""
        if self._wide:
            self._add(self._lines[position], self._places[position])

    def keeping(self, free: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the free points, bool ``(n,)``, are far enough from what was tried; all if none is."""
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
    """Return the positions of the highest scores, of points that are not too near to each other or to what is known.

    Args:
        pool: int64 of shape ``(points, dims)``.
        scores: float64 of shape ``(points,)``.
        known: What was tried, int64 of shape ``(m, dims)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: How many to return.

    Returns:
        int64 of shape ``(min(n, points),)``; see :class:`Spacing`. Where no dimension is wide, just the highest.
    """
    order = np.argsort(-scores, kind="stable")
    if not is_wide(nvec).any():
        return order[:n]
    spacing, free, chosen = Spacing(pool, known, nvec), np.ones(len(pool), dtype=np.bool_), []
    for _ in range(min(n, len(pool))):
        position = int(order[spacing.keeping(free)[order]][0])
        chosen.append(position)
        free[position] = False
        spacing.take(position)
    return np.array(chosen, dtype=np.int64)


def bumps(choices: int) -> npt.NDArray[np.float64]:
    """Return how much a choice has of each of :data:`KNOTS` bumps (radial basis functions) along the scale.

    Args:
        choices: How many the dimension has.

    Returns:
        float64 of shape ``(choices, KNOTS)``, with rows of norm 1.
    """
    away = np.linspace(0, KNOTS - 1, choices)[:, None] - np.arange(KNOTS)
    heights = np.exp(-0.5 * away**2)
    weights: npt.NDArray[np.float64] = heights / np.linalg.norm(heights, axis=1, keepdims=True)
    return weights
