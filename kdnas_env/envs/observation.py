"""Observation spaces, and the observation of a scalar environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from kdnas_env.core.grid_space import GridSpace
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.answers import Answer
from kdnas_env.envs.book import Book

Observation = dict[str, npt.NDArray[Any]]

SINGLES = ("last", "previous_best", "global_best")
"""Keys of the architectures in the observation; the suffix ``_reward`` gives the key of the reward."""


def observation_space(space: GridSpace[Any], reward: KDReward, round_size: int | None) -> spaces.Dict:
    """Return the observation space of one environment; without a round size, it has no previous round."""
    tokens, (low, high) = space.nvec + 1, (reward.lowest, reward.upper_bound)
    observation: dict[str, spaces.Space[Any]] = {}
    for name in SINGLES:
        observation[name] = spaces.MultiDiscrete(tokens)
        observation[f"{name}_reward"] = spaces.Box(low, high, (1,), np.float32)
    if round_size is not None:
        observation["previous_round"] = spaces.MultiDiscrete(np.tile(tokens, round_size))
        observation["previous_round_rewards"] = spaces.Box(low, high, (round_size,), np.float32)
    observation["progress"] = spaces.Box(0.0, 1.0, (1,), np.float32)
    return spaces.Dict(observation)


def nothing_yet(space: spaces.Dict) -> Observation:
    """Return the observation before the first step: every token is "none yet", every reward 0."""
    return {name: np.zeros(part.shape, dtype=part.dtype) for name, part in space.items() if part.shape is not None}


class SearchView:
    """The agent's view of a search in a scalar environment.

    Args:
        space: The observation space, including the previous round.
    """

    def __init__(self, space: spaces.Dict) -> None:
        nothing = nothing_yet(space)
        self._none, self._zero = nothing["last"], nothing["last_reward"]
        self._last, self._last_reward = self._none, self._zero
        self._previous_best, self._previous_best_reward = self._none, self._zero
        self._global_best, self._global_best_reward = self._none, self._zero
        self._round, self._round_rewards = nothing["previous_round"], nothing["previous_round_rewards"]
        self._progress = nothing["progress"]
        self._candidates: list[Answer] = []  # of the round in progress
        self._best: Answer | None = None  # of the candidates that are usable

    def update(self, answer: Answer, reward: float, counted: bool, book: Book) -> None:
        """Update the view with the latest answer of the book.

        Args:
            answer: The answer.
            reward: The returned reward.
            counted: Whether the answer was charged to the budget.
            book: The book.
        """
        self._last = answer.tokens
        self._last_reward = answer.earned if reward == answer.value else np.array([reward], dtype=np.float32)
        if book.improved:
            self._global_best, self._global_best_reward = self._last, self._last_reward
        self._progress[0] = book.progress
        if counted:
            self._candidates.append(answer)
            if answer.usable and (self._best is None or answer.value > self._best.value):
                self._best = answer
            if len(self._candidates) == book.round_size:
                self._finish_round()

    def _finish_round(self) -> None:
        answers, best = self._candidates, self._best
        self._candidates, self._best = [], None
        self._round = np.concatenate([answer.tokens for answer in answers])
        self._round_rewards = np.array([answer.value for answer in answers], dtype=np.float32)
        self._previous_best = self._none if best is None else best.tokens
        self._previous_best_reward = self._zero if best is None else best.earned

    def observation(self) -> Observation:
        """Return the observation; its arrays are copies."""
        # Written out, because a comprehension over the nine keys takes 1.5 times as long.
        return {
            "last": self._last.copy(),
            "last_reward": self._last_reward.copy(),
            "previous_best": self._previous_best.copy(),
            "previous_best_reward": self._previous_best_reward.copy(),
            "global_best": self._global_best.copy(),
            "global_best_reward": self._global_best_reward.copy(),
            "previous_round": self._round.copy(),
            "previous_round_rewards": self._round_rewards.copy(),
            "progress": self._progress.copy(),
        }
