"""Controls of the LSTM controller: what is left of it without exploration, and without anything to learn."""

from __future__ import annotations

from dataclasses import dataclass

from kdnas_env.agents.lstm.agent import LSTMAgent, LSTMConfig
from kdnas_env.agents.ranking import Bools, Floats, Ints, Ranking
from kdnas_env.errors import KDNASError

_SHUFFLING = 2
"""Key of the streams of random numbers that shuffle rewards."""


@dataclass(frozen=True)
class GreedyLSTMConfig(LSTMConfig):
    """Hyper-parameters of the LSTM controller without exploration.

    Those of :class:`kdnas_env.agents.lstm.agent.LSTMConfig`, of which ``epsilon_start``, ``epsilon_min`` and
    ``min_random`` must be 0.
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
    """The LSTM controller without exploration: all is random until an evaluation succeeds, and nothing after.

    A control: it shows what the random candidates of :class:`kdnas_env.agents.lstm.agent.LSTMAgent` are worth.
    """

    Config = GreedyLSTMConfig


class ShuffledLSTMAgent(LSTMAgent):
    """The LSTM controller that learns from rewards that are shuffled among the evaluations, anew in each round.

    A control: exploration, training and all else are as in :class:`kdnas_env.agents.lstm.agent.LSTMAgent`, but there is
    nothing to learn, so that whatever it finds owes nothing to the learning.
    """

    def _lessons(self, ranking: Ranking, positions: Ints) -> tuple[Floats, Bools]:
        rewards, usable = super()._lessons(ranking, positions)
        order = self._stream(_SHUFFLING, len(ranking.rounds)).permutation(len(rewards))
        return rewards[order], usable[order]
