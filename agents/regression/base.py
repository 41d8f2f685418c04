"""Base class of agents that fit a regression model to the rewards and propose promising candidates."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.predicting import WHOLE_SPACE, Scale, candidate_pool, replay_indices
from kdnas_env.core.grid import Seen
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.settings import Settings


@dataclass(frozen=True)
class RegressionConfig(Settings):
    """Hyper-parameters of every agent with a regression model.

    Attributes:
        initial: Number of initial random candidates.
        pool_size: Number of random candidates to score, in addition to neighbours of the best ones, if the space is too
            large to score completely.
        replay_size: Number of newest evaluations to fit the model to, plus the best.
    """

    initial: int = 10
    pool_size: int = 2_000
    replay_size: int = 1_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("initial", "pool_size", "replay_size", at_least=1)


RegressionConfigT = TypeVar("RegressionConfigT", bound=RegressionConfig)


class RegressionAgent(AskTellAgent[RegressionConfigT]):
    """Begins with random candidates; then a model, refitted before each round, chooses from a pool.

    The pool is all unevaluated points or, for a large space, random points and neighbours of the best ones. Failed
    evaluations count as the lowest usable reward. The model is derived from the ranking and the agent's random numbers,
    and not saved.
    """

    def _propose(self, n: int) -> Proposal:
        seen = self.seen
        initial = n if self.ranking.global_best is None else min(n, max(self.config.initial - len(seen), 0))
        drawn = self.grid.draw(self.rng, initial, seen)
        seen.update(self.grid.numbers(drawn))
        chosen, predicted = self._promising(seen, n - initial) if initial < n else (drawn[:0], np.empty(0))
        return Proposal.of_model(
            np.concatenate([chosen, drawn]),
            len(chosen),
            predicted=np.concatenate([predicted, np.full(len(drawn), np.nan)]),
            exploration=initial / n,
        )

    def _promising(self, seen: Seen, n: int) -> tuple[Ints, Floats]:
        """Return unseen candidates, int64 ``(m, dims)``, and their predicted rewards, float64 ``(m,)``."""
        size = self.config.pool_size
        pool = candidate_pool(self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=size)
        positions = replay_indices(self.ranking, self.config.replay_size)
        rewards, usable = self.ranking.rewards[positions], self.ranking.usable[positions]
        scale = Scale.of(rewards, usable)
        places, predicted = self._choose(self._evaluated[positions], scale.standardise(rewards, usable), pool, n)
        return pool[places], scale.restore(predicted)

    @abstractmethod
    def _choose(self, known: Ints, targets: Floats, pool: Ints, n: int) -> tuple[Ints, Floats]:
        """Fit the model and choose from a pool.

        Args:
            known: Evaluated points, int64 of shape ``(known, dims)``.
            targets: Rewards of the points in units of the scale, float64 of shape ``(known,)``.
            pool: Points to choose from, int64 of shape ``(points, dims)``.
            n: Number of points to choose.

        Returns:
            Indices in the pool, int64 of shape ``(min(n, points),)``, and the predicted targets of these points.
        """


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Return the expected improvement of normal rewards over the best (Jones et al. 1998), float64 ``(n,)``."""
    from scipy.special import ndtr

    spread = np.maximum(deviation, 1e-9)
    excess = (mean - best) / spread
    density = np.exp(-0.5 * excess**2) / np.sqrt(2 * np.pi)
    improvement: Floats = spread * (density + excess * ndtr(excess))
    return improvement
