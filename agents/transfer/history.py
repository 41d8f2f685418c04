"""The observations of a search policy (the task, and the search so far), and the environment of its training."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kdnas_env.agents.environment import DEFAULT_ROUND_SIZE
from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.core.grid import Grid
from kdnas_env.envs.task_features import Features
from kdnas_env.support.arrays import Bools, Floats, Ints

LARGEST = 5.0
"""Rewards are clipped to this number of units around the median."""


def history_width(nvec: Ints, features: int) -> int:
    """Return the length of an observation of :func:`observe_history`."""
    return features + 4 + 2 * int(nvec.sum())


def observe_history(
    task: Features, nvec: Ints, actions: Ints, rewards: Floats, usable: Bools, *, unit: float, spent: float
) -> Features:
    """Return the observation of a search policy before it proposes a candidate.

    Args:
        task: Description of the task, float32 of shape ``(features,)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        actions: Evaluated candidates, oldest first, int64 of shape ``(n, dims)``.
        rewards: Their rewards, float64 of shape ``(n,)``.
        usable: Which of them succeeded and keep the limits, bool of shape ``(n,)``.
        unit: Typical reward difference between candidates.
        spent: Fraction of the budget that is spent, in [0, 1].

    Returns:
        float32 of shape ``(history_width,)``: the task; the spent fraction; whether a candidate has succeeded; the last
        and the best reward in units above the median of the usable rewards; the last and the best candidate, one-hot.
    """
    offsets = np.cumsum(nvec) - nvec
    seen = np.zeros((2, int(nvec.sum())), dtype=np.float32)
    levels = np.zeros(2, dtype=np.float32)
    if len(actions):
        seen[0, offsets + actions[-1]] = 1.0
    if usable.any():
        kept = np.where(usable, rewards, -np.inf)
        best, median = int(kept.argmax()), float(np.median(rewards[usable]))
        seen[1, offsets + actions[best]] = 1.0
        levels[:] = np.clip((kept[[-1, best]] - median) / unit, -LARGEST, LARGEST)
    return np.concatenate([task, [spent, float(usable.any())], levels, *seen], dtype=np.float32)


class RecordedSearchEnv(gym.Env[Features, Ints]):
    """Search recorded tasks: every episode draws a task, and a step evaluates one candidate.

    The reward of a step is the improvement of the best target so far, which begins at ``-LARGEST / 5``; so the rewards
    of an episode add up to the best target of the episode, plus a constant. The reward of a repeated candidate is 0.

    As in a search, rewards become known round by round: the observation contains those of finished rounds.

    Args:
        experience: The tasks.
        evaluations: Evaluations of an episode; limited to the number of candidates.
        round_size: Evaluations per round.
    """

    def __init__(self, experience: Experience, evaluations: int, round_size: int = DEFAULT_ROUND_SIZE) -> None:
        self.experience, self.evaluations = experience, min(evaluations, len(experience.actions))
        self.round_size = round_size
        self.grid = Grid.of(experience.nvec, Grid.of(experience.nvec).flat(experience.actions))
        self._place = {number: place for place, number in enumerate(self.grid.numbers(experience.actions))}
        width = history_width(experience.nvec, experience.tasks.shape[1])
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space: Any = spaces.MultiDiscrete(experience.nvec)

    @property
    def steps(self) -> int:
        """Steps per evaluation."""
        return 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Begin a search of a random task; see :func:`observe_history` for the observation."""
        super().reset(seed=seed)
        self.task = int(self.np_random.integers(len(self.experience.tasks)))
        self.actions: list[Ints] = []
        self.targets: list[float] = []
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Features, float, bool, bool, dict[str, Any]]:
        """Look up a candidate, int64 ``(dims,)``; the info has the remaining ``gap``."""
        before = self.best
        place = self._place.get(self.grid.number(action))
        self.actions.append(np.asarray(action, dtype=np.int64))
        self.targets.append(-np.inf if place is None else float(self.experience.targets[self.task, place]))
        ended = len(self.actions) >= self.evaluations
        return self.observe(), self.best - before, ended, False, {"gap": self.gap}

    @property
    def best(self) -> float:
        """The best target so far."""
        return max([-LARGEST / 5, *self.targets])

    @property
    def gap(self) -> float:
        """Difference between the best target of the task and the best target so far."""
        return float(self.experience.targets[self.task].max()) - self.best

    def observe(self) -> Features:
        """Return the observation of the finished rounds, float32 ``(history_width,)``."""
        known = len(self.actions) // self.round_size * self.round_size
        targets = np.array(self.targets[:known])
        return observe_history(
            self.experience.tasks[self.task],
            self.experience.nvec,
            np.array(self.actions[:known], dtype=np.int64).reshape(-1, len(self.experience.nvec)),
            targets,
            np.isfinite(targets),
            unit=1.0,
            spent=known / self.evaluations,
        )
