"""REINFORCE: policy-gradient search with a reward baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.lstm.common import NetworkConfig
from kdnas_env.agents.predicting import Scale
from kdnas_env.agents.ranking import Ranking, RoundRecord
from kdnas_env.support.arrays import Floats

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from kdnas_env.agents.lstm.policy import Policy

_BASELINE_SIZE = 10_000
"""Maximum number of newest evaluations for the baseline; limits the time of a round."""

_BATCH = 64
"""Minimum number of candidates per call of the policy, which takes hardly longer than a single candidate."""

_WEIGHTS = 1
"""Key of the random stream for the initial weights."""


@dataclass(frozen=True)
class ReinforceConfig(NetworkConfig):
    """Hyper-parameters of REINFORCE, in addition to those of all LSTM agents; Adam takes one step per round.

    Attributes:
        entropy_weight: Weight of the entropy bonus: standard deviations of the reward per nat of the policy's entropy.
        baseline_decay: Decay per evaluation of the baseline, a moving average of rewards, in [0, 1).
        tries: Number of samples per requested candidate; the first new ones are used, and random candidates replace
            missing ones.
    """

    learning_rate: float = 0.03
    entropy_weight: float = 0.3
    baseline_decay: float = 0.9
    tries: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("tries", at_least=1)
        self.check_numbers("entropy_weight", at_least=0)
        self.check_numbers("baseline_decay", at_least=0, below=1)


class ReinforceAgent(AskTellAgent[ReinforceConfig]):
    """Proposes samples of an LSTM policy, which learns from each round by the policy gradient (REINFORCE).

    Neural architecture search with reinforcement learning (Zoph and Le 2017, arXiv:1611.01578): the policy chooses the
    dimensions of a candidate one by one. After each round it takes one policy-gradient step (Williams 1992,
    doi:10.1007/BF00992696) with an entropy bonus. The advantage of a candidate is its reward minus the baseline, a
    moving average of earlier rewards. Samples that are already evaluated or forbidden are rejected, and the policy is
    sampled again.

    The policy is derived from the ranking and the seed, and not saved. After loading it is trained again, round by
    round, without evaluations. The baseline uses at most the newest 10,000 evaluations.
    """

    Config = ReinforceConfig

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`, and train the policy again, round by round."""
        super().load_state_dict(state)
        for end in range(1, len(self.ranking.rounds) + 1):
            self._learn_from(Ranking(self.ranking.rounds.until(end)))

    def _start(self) -> None:
        import torch

        from kdnas_env.agents.lstm.policy import Policy

        config = self.config
        generator = torch.Generator().manual_seed(int(self._stream(_WEIGHTS).integers(2**63)))
        self._policy: Policy = Policy(
            self.grid.nvec,
            embedding_size=config.embedding_size,
            hidden_size=config.hidden_size,
            generator=generator,
        )
        self._optimizer: Optimizer = torch.optim.Adam(self._policy.parameters(), lr=config.learning_rate, fused=True)

    def _propose(self, n: int) -> Proposal:
        seen, tries_left = self.seen, n * self.config.tries
        sampled = np.empty((0, len(self.grid.nvec)), dtype=np.int64)
        while tries_left and len(sampled) < n:
            count = min(tries_left, max(_BATCH, n - len(sampled)))
            uniforms = self.rng.random((count, len(self.grid.nvec)))
            sampled = self.grid.fresh(np.concatenate([sampled, self._policy.sample(uniforms)]), seen)[:n]
            tries_left -= count
        return self._fill(sampled, n)

    def _learn(self, record: RoundRecord) -> None:
        self._learn_from(self.ranking)

    def _learn_from(self, ranking: Ranking) -> None:
        """Learn from the last round of a ranking, except from random candidates, which the policy did not sample."""
        from kdnas_env.agents.lstm.policy import reinforce

        record = ranking.rounds[-1]
        begin = max(0, ranking.evaluations - max(_BASELINE_SIZE, len(record.rewards)))
        rewards, usable, random = (ranking.column(name)[begin:] for name in ("rewards", "usable", "random"))
        if not usable.any() or record.random.all():
            return
        rewards = Scale.of(rewards, usable).standardise(rewards, usable)[~random]
        actions = record.actions[~record.random]
        earlier, earned = np.split(rewards, [len(rewards) - len(actions)])
        baseline = moving_average(earlier if len(earlier) else earned, self.config.baseline_decay)
        reinforce(self._policy, self._optimizer, actions, earned - baseline, entropy_weight=self.config.entropy_weight)


def moving_average(values: Floats, decay: float) -> float:
    """Return the exponential moving average of values, oldest first, with weights that sum to 1.

    The weight of a value is ``decay`` times that of the next, newer value.
    """
    weights = decay ** np.arange(len(values))[::-1]
    return float(np.average(values, weights=weights))
