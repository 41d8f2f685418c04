"""Recurrent PPO that is trained across tasks: an LSTM remembers the search."""

from __future__ import annotations

import numpy as np

from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.agents.transfer.history import RecordedSearchEnv
from kdnas_env.agents.transfer.ppo import TransferPPOAgent, draw_choices
from kdnas_env.support.arrays import Ints
from kdnas_env.support.cpu_lock import pinned_threads

TRIES = 20
"""Samples per wanted candidate, since those that were evaluated are left out."""


class TransferRecurrentPPOAgent(TransferPPOAgent):
    """Proposes what a recurrent policy samples that was trained across tasks; a search does not train it.

    An LSTM reads the search, evaluation by evaluation; all dimensions of the next candidate are sampled at once.
    Candidates that were evaluated are sampled anew, and after 20 tries for each drawn at random. See
    :class:`kdnas_env.agents.transfer.ppo.TransferPPOAgent`.
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
        begins = torch.zeros(len(observed))
        begins[0] = 1.0
        with torch.no_grad():
            distribution, _ = network.get_distribution(observed, (blank, blank), begins)
        # Of the last rows, one for each candidate of the round: float64 (n, choices) for each dimension.
        likelihoods = [parts.probs[-n:].double().numpy() for parts in distribution.distribution]
        sampled = np.stack([draw_choices(likelihood, TRIES, self.rng) for likelihood in likelihoods], axis=2)
        return sampled.reshape(-1, len(likelihoods))
