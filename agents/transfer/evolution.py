"""Regularised evolution whose first population comes from similar tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdnas_env.agents.classic.evolution import EvolutionAgent, EvolutionConfig
from kdnas_env.agents.transfer.base import ExperiencedAgent
from kdnas_env.core.grid import Seen
from kdnas_env.support.arrays import Ints


@dataclass(frozen=True)
class TransferEvolutionConfig(EvolutionConfig):
    """Hyper-parameters of evolution with a start from other tasks, in addition to those of evolution.

    Attributes:
        experience: File of experience (``kdnas bench train transfer-evolution``). None for that of the package.
        warm: Fraction of the first population that is chosen by experience, in [0, 1]; the rest is random.
    """

    experience: str | None = None
    warm: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("warm", at_least=0, at_most=1)


class TransferEvolutionAgent(ExperiencedAgent, EvolutionAgent):
    """Regularised evolution whose first population has the candidates with the highest expected rewards.

    The expected reward of a candidate is its mean reward on the training tasks, weighted by their similarity to the
    task of the search. After the first population, the agent works like ``evolution``. In a space without experience,
    the whole first population is random.
    """

    Config = TransferEvolutionConfig

    def _founders(self, n: int, seen: Seen) -> Ints:
        if self._experience is None:
            return super()._founders(n, seen)
        order = np.argsort(-self._experience.expected(self._task), kind="stable")
        wanted = round(self.config.warm * self.population_size) - self._transferred
        return self.grid.fresh(self._experience.actions[order], seen)[: max(0, min(n, wanted))]

    @property
    def _transferred(self) -> int:
        """Number of candidates chosen by experience so far."""
        first = self.population_size
        evaluated = int((~self.ranking.column("random")[:first]).sum())
        return evaluated + len(self.pending)
