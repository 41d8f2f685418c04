"""Base of agents that fit a regression model to the rewards and evaluate what it says is promising."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.predicting import Scale, candidate_pool, remembered
from kdnas_env.agents.ranking import Floats, Ints
from kdnas_env.core.grid import Seen
from kdnas_env.support.settings import Settings

WHOLE_SPACE = 10_000
"""Spaces up to this many points are scored whole; of larger ones a pool is scored."""


@dataclass(frozen=True)
class RegressionConfig(Settings):
    """Hyper-parameters of every agent with a regression model.

    Attributes:
        initial: Random candidates that a search begins with.
        pool_size: Random candidates that are scored, beside the neighbours of the best, where the space is too large to
            be scored whole.
        replay_size: Youngest evaluations that the model is fitted to, and the best.
    """

    initial: int = 10
    pool_size: int = 2_000
    replay_size: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("initial", "pool_size", "replay_size", at_least=1)


RegressionConfigT = TypeVar("RegressionConfigT", bound=RegressionConfig)


class RegressionAgent(AskTellAgent[RegressionConfigT]):
    """Begins with random candidates; from then on a model, fitted anew before each round, chooses from a pool.

    The pool is every point that was not evaluated, or of a large space random points and the neighbours of the best.
    Failed evaluations count as the least usable reward. The model follows from the ranking and the agent's random
    numbers, so that it is no part of the saved state.
    """

    def _propose(self, n: int) -> Proposal:
        seen = self.seen
        initial = n if self.ranking.global_best is None else min(n, max(self.config.initial - len(seen), 0))
        drawn = self.grid.draw(self.rng, initial, seen)
        seen.update(self.grid.numbers(drawn))
        chosen, predicted = self._promising(self._pool(seen), n - initial) if initial < n else (drawn[:0], np.empty(0))
        return Proposal(
            actions=np.concatenate([chosen, drawn]),
            random=np.arange(len(chosen) + len(drawn)) >= len(chosen),
            predicted=np.concatenate([predicted, np.full(len(drawn), np.nan)]),
            exploration=initial / n,
        )

    def _pool(self, seen: Seen) -> Ints:
        return candidate_pool(
            self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=self.config.pool_size
        )

    def _promising(self, pool: Ints, n: int) -> tuple[Ints, Floats]:
        """Return candidates of the pool, int64 ``(m, dims)``, and their predicted rewards, float64 ``(m,)``."""
        positions = remembered(self.ranking, self.config.replay_size)
        rewards, usable = self.ranking.rewards[positions], self.ranking.usable[positions]
        scale = Scale.of(rewards, usable)
        places, predicted = self._choose(self._evaluated[positions], scale.standardise(rewards, usable), pool, n)
        return pool[places], scale.restore(predicted)

    @abstractmethod
    def _choose(self, known: Ints, targets: Floats, pool: Ints, n: int) -> tuple[Ints, Floats]:
        """Fit the model and choose from a pool.

        Args:
            known: What was evaluated, int64 of shape ``(known, dims)``.
            targets: Their rewards in units of the scale, float64 of shape ``(known,)``.
            pool: What may be chosen, int64 of shape ``(points, dims)``.
            n: How many to choose.

        Returns:
            Places in the pool, int64 of shape ``(min(n, points),)``, and the predicted targets there.
        """


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Return by how much normal rewards exceed the best so far on average (Jones et al. 1998), float64 ``(n,)``."""
    from scipy.special import ndtr

    spread = np.maximum(deviation, 1e-9)
    excess = (mean - best) / spread
    density = np.exp(-0.5 * excess**2) / np.sqrt(2 * np.pi)
    improvement: Floats = spread * (density + excess * ndtr(excess))
    return improvement
