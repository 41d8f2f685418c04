"""Regularised evolution: parents are the newest candidates; the oldest die regardless of reward."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.ranking import RoundRecord
from kdnas_env.core.grid import Seen
from kdnas_env.core.wide_dimensions import is_wide, stride
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.settings import Settings


@dataclass(frozen=True)
class EvolutionConfig(Settings):
    """Hyper-parameters of regularised evolution.

    Attributes:
        population_size: Number of newest candidates that may be parents, and of initial random candidates. None for a
            fifth of the budget, between 8 and 50.
        sample_size: Members drawn for each tournament; the best one is the parent.
        adjacent: Probability that a mutation moves to an adjacent choice rather than to any other, in [0, 1]; use more
            than 0 if neighbouring choices have similar rewards. In a dimension with more than 64 choices, it is the
            probability of a stride up or down, of log-uniform length.
        mutations: Maximum number of mutations of a child until it is new; after that, a random candidate replaces it.
    """

    population_size: int | None = None
    sample_size: int = 10
    adjacent: float = 0.5
    mutations: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("population_size", "sample_size", "mutations", at_least=1)
        self.check_numbers("adjacent", at_least=0, at_most=1)


class EvolutionAgent(AskTellAgent[EvolutionConfig]):
    """Proposes mutations of the winners of tournaments among the newest candidates.

    Regularised (aging) evolution (Real et al. 2019, arXiv:1802.01548): the population is the last ``population_size``
    candidates whose evaluation succeeded. A tournament draws some members with replacement; the child of the best one
    differs in one dimension. A child that is already evaluated or not allowed mutates further. All children of a round
    come from the same population.

    The population is derived from the ranking and not saved.
    """

    Config = EvolutionConfig

    @property
    def population_size(self) -> int:
        """Members of a full population."""
        given = self.config.population_size
        return min(max(self.budget // 5, 8), 50) if given is None else given

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self._members.extend(np.flatnonzero(self.ranking.usable).tolist())

    def _start(self) -> None:
        self._members: deque[int] = deque(maxlen=self.population_size)

    def _learn(self, record: RoundRecord) -> None:
        begin = self.ranking.evaluations - len(record.rewards)
        self._members.extend((begin + np.flatnonzero(record.usable)).tolist())

    def _propose(self, n: int) -> Proposal:
        seen = self.seen
        parents, rewards = self._population()
        founders = n if not len(parents) else min(max(self.population_size - len(seen), 0), n)
        children: list[Ints] = []
        for _ in range(n - founders):
            child = self._child(parents, rewards, seen)
            seen.update(self.grid.numbers(child))
            children.extend(child)
        children.extend(self._founders(founders, seen))
        return self._fill(children, n, exploration=founders / n)

    def _founders(self, n: int, seen: Seen) -> Ints:
        """Return up to ``n`` founders that are not random, int64 ``(m, dims)``; none, unless a subclass has some."""
        return np.empty((0, len(self.grid.nvec)), dtype=np.int64)

    def _population(self) -> tuple[Ints, Floats]:
        members = np.array(self._members, dtype=np.int64)
        return self._evaluated[members], self.ranking.rewards[members]

    def _child(self, parents: Ints, rewards: Floats, seen: Seen) -> Ints:
        """Return a new child of the winner of a tournament, or none: int64 of shape ``(0 or 1, dims)``."""
        drawn = self.rng.integers(len(parents), size=self.config.sample_size)
        child = parents[drawn[np.argmax(rewards[drawn])]]
        for _ in range(self.config.mutations):
            child = mutated(child, self.grid.nvec, self.rng, adjacent=self.config.adjacent)
            if len(fresh := self.grid.fresh(child[None], seen)):
                return fresh
        return np.empty((0, len(child)), dtype=np.int64)


def mutated(action: Ints, nvec: Ints, rng: np.random.Generator, *, adjacent: float) -> Ints:
    """Return an action that differs in one dimension; the same one if no dimension has another choice.

    Args:
        action: int64 of shape ``(dims,)``.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        rng: Source of randomness for the dimension and the choice.
        adjacent: Probability that the new choice is adjacent to the current one, in [0, 1]; in a wide dimension, that
            it is a stride away (:func:`kdnas_env.core.wide_dimensions.stride`).
    """
    axes = np.flatnonzero(nvec > 1)
    child = action.copy()
    if not len(axes):
        return child
    axis = rng.choice(axes)
    others = np.delete(np.arange(nvec[axis]), action[axis])
    if rng.random() < adjacent:
        if is_wide(nvec[axis]):
            child[axis] = stride(action[axis], int(nvec[axis]), rng)
            return child
        others = others[np.abs(others - action[axis]) == 1]
    child[axis] = rng.choice(others)
    return child
