"""Candidates as episodes of reinforcement learning: observations, actions and rewards of each step."""

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

from kdnas_env.agents.ranking import Bools, Floats, Ints
from kdnas_env.core.grid import Grid
from kdnas_env.wrappers.sequential import open_completions

Observations = npt.NDArray[np.float32]
Choose = Callable[[Ints, int, Bools], Ints]
"""Given candidates as far as they are chosen, the step, and which choices are open, returns the choices of the step."""


@dataclass(frozen=True, eq=False)
class Episodes(ABC):
    """A candidate is an episode, whose last step earns the reward.

    Attributes:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
    """

    nvec: Ints

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of an episode."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of an observation."""

    @property
    @abstractmethod
    def action_space(self) -> spaces.Space[Any]:
        """What is chosen in a step."""

    @abstractmethod
    def observe(self, actions: Ints, step: int) -> Observations:
        """Return what is seen before a step, given the choices made before it.

        Args:
            actions: Candidates of which the choices of the first ``step`` dimensions count, int64 ``(n, dims)``.
            step: Number of the step, from 0.

        Returns:
            float32 of shape ``(n, width)``.
        """

    @abstractmethod
    def chosen(self, actions: Ints, step: int) -> Ints:
        """Return what is chosen in a step, int64 of shape ``(n, *action_space.shape)``."""

    @property
    def observation_space(self) -> spaces.Box:
        """Space of an observation."""
        return spaces.Box(0.0, 1.0, (self.width,), np.float32)


class OneShot(Episodes):
    """All dimensions are chosen at once and independently; the observation is constant."""

    @property
    def steps(self) -> int:
        """One."""
        return 1

    @property
    def width(self) -> int:
        """One number, always 1."""
        return 1

    @property
    def action_space(self) -> spaces.MultiDiscrete:
        """The candidates."""
        return spaces.MultiDiscrete(self.nvec)

    def observe(self, actions: Ints, step: int) -> Observations:
        """Return ones."""
        return np.ones((len(actions), 1), dtype=np.float32)

    def chosen(self, actions: Ints, step: int) -> Ints:
        """Return the candidates."""
        return actions


class OneByOne(Episodes):
    """One dimension is chosen after the other; all earlier choices are seen, and which dimension is next."""

    @property
    def steps(self) -> int:
        """As many as dimensions."""
        return len(self.nvec)

    @property
    def width(self) -> int:
        """The choices of all dimensions, one-hot, and the dimensions."""
        return int(self.nvec.sum()) + len(self.nvec)

    @property
    def action_space(self) -> spaces.Discrete:
        """The choices of the largest dimension; those that the next one has not must not be chosen."""
        return spaces.Discrete(int(self.nvec.max()))

    def observe(self, actions: Ints, step: int) -> Observations:
        """Return the earlier choices and the step, one-hot."""
        rows, offsets = np.arange(len(actions)), np.cumsum([0, *self.nvec])
        seen = np.zeros((len(actions), self.width), dtype=np.float32)
        for axis in range(step):
            seen[rows, offsets[axis] + actions[:, axis]] = 1.0
        seen[:, offsets[-1] + step] = 1.0
        return seen

    def chosen(self, actions: Ints, step: int) -> Ints:
        """Return the choices of the step's dimension."""
        return actions[:, step]


class Remembered(OneByOne):
    """Dimensions are chosen one by one; the observation has only the last choice, earlier choices need memory."""

    @property
    def width(self) -> int:
        """The choices of the largest dimension, one-hot, and the dimensions."""
        return int(self.nvec.max()) + len(self.nvec)

    def observe(self, actions: Ints, step: int) -> Observations:
        """Return the last choice and the step, one-hot."""
        seen = np.zeros((len(actions), self.width), dtype=np.float32)
        if step:
            seen[np.arange(len(actions)), actions[:, step - 1]] = 1.0
        seen[:, int(self.nvec.max()) + step] = 1.0
        return seen


class SpacesEnv(gym.Env[Any, Any]):
    """Tells an algorithm its spaces. It is never stepped: candidates are evaluated elsewhere."""

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
    """Say which choices of a step lead to an open point: one that may be proposed and is not closed.

    Args:
        grid: What may be proposed.
        actions: Candidates of which the first ``step`` dimensions are chosen, int64 ``(n, dims)``.
        step: The dimension to be chosen.
        closed: From :func:`closed_points`.

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
    """Sort numbers in that are not there, or take out those that are."""
    for number in numbers:
        place = bisect_left(closed, number)
        there = place < len(closed) and closed[place] == number
        if there and undo:
            del closed[place]
        elif not there and not undo:
            closed.insert(place, number)


def put_together(grid: Grid, n: int, closed: list[int], choose: Choose, *, at_once: int) -> Ints:
    """Choose candidates one dimension after the other, among the choices that lead to an open point.

    Args:
        grid: What may be proposed.
        n: How many candidates.
        closed: From :func:`closed_points`; the same again on return.
        choose: Makes the choices of a step.
        at_once: Candidates that are put together side by side. Those that turn out equal are left out, and others
            chosen in their place.

    Returns:
        int64 of shape ``(m, dims)``, each once; m is less than n only if no more points are open.
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
