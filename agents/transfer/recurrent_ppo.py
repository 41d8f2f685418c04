"""Recurrent PPO trained across tasks: an LSTM reads the search so far."""

from __future__ import annotations

import numpy as np

from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.agents.transfer.history import RecordedSearchEnv
from kdnas_env.agents.transfer.ppo import TransferPPOAgent, draw_choices
from kdnas_env.support.arrays import Ints
from kdnas_env.support.cpu_lock import pinned_threads

TRIES = 20
"""Samples per requested candidate, because evaluated candidates among them are rejected."""


class TransferRecurrentPPOAgent(TransferPPOAgent):
    """Proposes samples of a recurrent policy that was trained across tasks; a search does not train it.

    An LSTM reads the search, evaluation by evaluation; all dimensions of the next candidate are sampled at once.
    Evaluated candidates are rejected and sampled again. After 20 tries per candidate, random candidates replace them.
    See :class:`kdnas_env.agents.transfer.ppo.TransferPPOAgent`.
    """

    algorithm = "RecurrentPPO"

    @staticmethod
    def recorded(experience: Experience, evaluations: int) -> RecordedSearchEnv:
        """Return the environment of the training: a step proposes a candidate."""
        return RecordedSearchEnv(experience, evaluations)

    @pinned_threads(1)
    def _sampled(self, n: int) -> Ints:
        import torch

        assert self._policy is not None
        network, rounds = self._policy.network, self.ranking.rounds
        counts = [*(len(record.rewards) for record in rounds), n]
        rows = [np.repeat(self._observed(end)[None], count, axis=0) for end, count in enumerate(counts)]
        observed = torch.from_numpy(np.concatenate(rows))
        layers, _, size = network.lstm_hidden_state_shape
        blank = torch.zeros(layers, 1, size)
        episode_starts = torch.zeros(len(observed))
        episode_starts[0] = 1.0
        with torch.no_grad():
            distribution, _ = network.get_distribution(observed, (blank, blank), episode_starts)
        # The last rows belong to the candidates of this round: float64 (n, choices) for each dimension.
        probabilities = [part.probs[-n:].double().numpy() for part in distribution.distribution]
        sampled = np.stack([draw_choices(part, TRIES, self.rng) for part in probabilities], axis=2)
        return sampled.reshape(-1, len(probabilities))
