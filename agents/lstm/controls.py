"""Ablations of the LSTM controller: without exploration, and with shuffled rewards."""

from __future__ import annotations

from dataclasses import dataclass

from kdnas_env.agents.lstm.agent import LSTMAgent, LSTMConfig
from kdnas_env.agents.ranking import Ranking
from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Bools, Floats, Ints

_SHUFFLING = 2
"""Key of the random streams that shuffle rewards."""


@dataclass(frozen=True)
class GreedyLSTMConfig(LSTMConfig):
    """Hyper-parameters of the LSTM controller without exploration.

    Like :class:`kdnas_env.agents.lstm.agent.LSTMConfig`, but ``epsilon_start``, ``epsilon_min`` and ``min_random`` must
    be 0.
    """

    epsilon_start: float = 0.0
    epsilon_min: float = 0.0
    min_random: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epsilon_start", "epsilon_min", "min_random"):
            if getattr(self, name) != 0:
                raise KDNASError(f"{name} is {getattr(self, name)!r}, but lstm-greedy does not explore; use agent lstm")


class GreedyLSTMAgent(LSTMAgent):
    """The LSTM controller without exploration: candidates are random only until an evaluation succeeds.

    An ablation that measures the value of random candidates in :class:`kdnas_env.agents.lstm.agent.LSTMAgent`.
    """

    Config = GreedyLSTMConfig


class ShuffledLSTMAgent(LSTMAgent):
    """The LSTM controller with rewards shuffled among the evaluations, again in each round.

    An ablation: exploration and training are as in :class:`kdnas_env.agents.lstm.agent.LSTMAgent`, but the rewards
    carry no information, so its result shows the search without learning.
    """

    def _targets(self, ranking: Ranking, positions: Ints) -> tuple[Floats, Bools]:
        rewards, usable = super()._targets(ranking, positions)
        order = self._stream(_SHUFFLING, len(ranking.rounds)).permutation(len(rewards))
        return rewards[order], usable[order]
