"""Candidates as episodes of reinforcement learning: observations and actions of each step, and rewards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from kdnas_env.core.grid import Grid
from kdnas_env.support.arrays import Bools, Floats, Ints
from kdnas_env.wrappers.sequential import open_completions

Observations = npt.NDArray[np.float32]
Choose = Callable[[Ints, int, Bools], Ints]
"""Chooses a step of candidates. Arguments: the candidates, int64 ``(n, dims)``, with earlier dimensions already chosen;
the number of the step; whether each choice is open, bool ``(n, max(nvec))``. Returns the choices, int64 ``(n,)``."""


@dataclass(frozen=True, eq=False)
class Episodes(ABC):
    """How a candidate is built in an episode, whose last step has the reward.

    Attributes:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
    """

    nvec: Ints

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps of an episode."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of an observation."""

    @property
    @abstractmethod
    def action_space(self) -> spaces.Space[Any]:
        """Action space of a step."""

    @abstractmethod
    def observe(self, actions: Ints, step: int) -> Observations:
        """Return the observations before a step.

        Args:
            actions: Candidates, int64 ``(n, dims)``; only their first ``step`` dimensions are used.
            step: Number of the step, from 0.

        Returns:
            float32 of shape ``(n, width)``.
        """

    @abstractmethod
    def chosen(self, actions: Ints, step: int) -> Ints:
        """Return the actions of a step, int64 of shape ``(n, *action_space.shape)``."""

    @property
    def observation_space(self) -> spaces.Box:
        """Observation space."""
        return spaces.Box(0.0, 1.0, (self.width,), np.float32)


class OneShot(Episodes):
    """One step chooses all dimensions independently; the observation is constant."""

    @property
    def steps(self) -> int:
        """Number of steps: 1."""
        return 1

    @property
    def width(self) -> int:
        """Length of an observation: 1."""
        return 1

    @property
    def action_space(self) -> spaces.MultiDiscrete:
        """Action space of the candidates."""
        return spaces.MultiDiscrete(self.nvec)

    def observe(self, actions: Ints, step: int) -> Observations:
        """Return ones."""
        return np.ones((len(actions), 1), dtype=np.float32)

    def chosen(self, actions: Ints, step: int) -> Ints:
        """Return the candidates, int64 ``(n, dims)``."""
        return actions


class OneByOne(Episodes):
    """Each step chooses one dimension; the observation contains all earlier choices and the step."""

    @property
    def steps(self) -> int:
        """Number of steps: one per dimension."""
        return len(self.nvec)

    @property
    def width(self) -> int:
        """Length of an observation: one-hot choices of all dimensions, and the one-hot step."""
        return int(self.nvec.sum()) + len(self.nvec)

    @property
    def action_space(self) -> spaces.Discrete:
        """Choices of the largest dimension; in smaller dimensions, the excess choices must be masked."""
        return spaces.Discrete(int(self.nvec.max()))

    def observe(self, actions: Ints, step: int) -> Observations:
        """Return the earlier choices and the step, one-hot."""
        rows, offsets = np.arange(len(actions)), np.cumsum([0, *self.nvec])
        observed = np.zeros((len(actions), self.width), dtype=np.float32)
        for axis in range(step):
            observed[rows, offsets[axis] + actions[:, axis]] = 1.0
        observed[:, offsets[-1] + step] = 1.0
        return observed

    def chosen(self, actions: Ints, step: int) -> Ints:
        """Return the choices of the step's dimension, int64 ``(n,)``."""
        return actions[:, step]


class LastChoice(OneByOne):
    """Like :class:`OneByOne`, but the observation contains only the last choice, for policies with memory."""

    @property
    def width(self) -> int:
        """Length of an observation: the one-hot last choice, and the one-hot step."""
        return int(self.nvec.max()) + len(self.nvec)

    def observe(self, actions: Ints, step: int) -> Observations:
        """Return the last choice and the step, one-hot."""
        observed = np.zeros((len(actions), self.width), dtype=np.float32)
        if step:
            observed[np.arange(len(actions)), actions[:, step - 1]] = 1.0
        observed[:, int(self.nvec.max()) + step] = 1.0
        return observed


class SpacesEnv(gym.Env[Any, Any]):
    """Offers an algorithm its spaces; it is never stepped, because candidates are evaluated elsewhere."""

    def __init__(self, episodes: Episodes) -> None:
        self.observation_space = episodes.observation_space
        self.action_space = episodes.action_space


def ranked(rewards: Floats, usable: Bools) -> Floats:
    """Return rewards as ranks: the worst at -1, the best at 1, ties at their mean rank; float64 ``(n,)``.

    Learning then depends only on the order of the rewards, not on their scale or outliers, and still separates the best
    candidates when all proposals are good. Failures share the lowest rank.
    """
    least = rewards[usable].min() if usable.any() else 0.0
    kept = np.where(usable, rewards, least)
    _, places, counts = np.unique(kept, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles = (2 * ends - counts - 1) / 2
    return (2 * middles / max(1, len(kept) - 1) - 1)[places]


def open_choices(grid: Grid, actions: Ints, step: int, closed: list[int]) -> Bools:
    """Return which choices of a step lead to an open point: an allowed point that is not closed.

    Args:
        grid: The allowed points.
        actions: Candidates, int64 ``(n, dims)``; only their first ``step`` dimensions are used.
        step: The dimension to choose.
        closed: Sorted flat indices of the closed points (:func:`closed_points`).

    Returns:
        Bool of shape ``(n, max(nvec))``.
    """
    masks = np.zeros((len(actions), grid.nvec.max()), dtype=np.bool_)
    for mask, prefix in zip(masks, actions[:, :step].tolist(), strict=True):
        mask[: grid.nvec[step]] = open_completions(grid, prefix, closed)
    return masks


def closed_points(grid: Grid, taken: Collection[int]) -> list[int]:
    """Return the sorted flat indices of the taken points that are allowed points."""
    return sorted(number for number in set(taken) if grid.allows(number))


def close(closed: list[int], numbers: Collection[int], *, undo: bool = False) -> None:
    """Insert numbers into a sorted list without duplicates, in place; with ``undo``, remove them instead."""
    for number in numbers:
        place = bisect_left(closed, number)
        listed = place < len(closed) and closed[place] == number
        if listed and undo:
            del closed[place]
        elif not listed and not undo:
            closed.insert(place, number)


def build_candidates(grid: Grid, n: int, closed: list[int], choose: Choose, *, at_once: int) -> Ints:
    """Build distinct candidates dimension by dimension, from choices that lead to an open point.

    Args:
        grid: The allowed points.
        n: Number of candidates.
        closed: Sorted flat indices of the closed points (:func:`closed_points`); changed and restored here.
        choose: Chooses a step of candidates.
        at_once: Number of candidates to build in parallel; duplicates among them are built again.

    Returns:
        int64 of shape ``(m, dims)``; m is less than n only if no more points are open.
    """
    points: dict[int, Ints] = {}
    try:
        while len(points) < n and len(closed) < grid.size:
            actions = np.zeros((min(at_once, n - len(points)), len(grid.nvec)), dtype=np.int64)
            for step in range(len(grid.nvec)):
                actions[:, step] = choose(actions, step, open_choices(grid, actions, step, closed))
            points |= dict(zip(grid.numbers(actions), actions, strict=True))
            close(closed, points.keys())
    finally:
        close(closed, points.keys(), undo=True)
    return np.array([*points.values()], dtype=np.int64).reshape(len(points), len(grid.nvec))
