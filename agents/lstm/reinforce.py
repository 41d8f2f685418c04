"""REINFORCE: policy-gradient search with a reward baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas_env.agents.ask_tell import AskTellAgent, Proposal
from kdnas_env.agents.lstm.common import NetworkConfig
from kdnas_env.agents.predicting import Scale
from kdnas_env.agents.ranking import Floats, Ranking, RoundRecord

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from kdnas_env.agents.lstm.policy import Policy

_REMEMBERED = 10_000
"""Youngest evaluations that the baseline is computed from, so that the time of a round does not grow."""

_TOGETHER = 64
"""Candidates that are sampled together at least, since that takes hardly longer than one of them."""

_WEIGHTS = 1
"""Key of the stream of random numbers that the initial weights are drawn from."""


@dataclass(frozen=True)
class ReinforceConfig(NetworkConfig):
    """Hyper-parameters of REINFORCE, beside those of all agents with LSTMs; Adam takes one step per round.

    Attributes:
        entropy_weight: Weight of the policy's entropy in nats, in standard deviations of the reward.
        baseline_decay: Decay of the moving average of rewards, in [0, 1).
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
    """Proposes samples of a policy that learns from each round by REINFORCE.

    Neural architecture search of Zoph and Le 2017 (arXiv:1611.01578): an LSTM chooses one dimension after the other;
    after a round the policy takes one step up the gradient of the expected reward (Williams 1992), estimated from the
    candidates of the round and their advantage over a moving average of the rewards before. What was evaluated already,
    or must not be proposed, is sampled anew.

    The policy is derived from the ranking and the seed, and not saved: loading learns it again. In a long search, the
    newest 10,000 evaluations determine the baseline.
    """

    Config = ReinforceConfig

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state of :meth:`state_dict`, learning from one round after the other again."""
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
        seen, left = self.seen, n * self.config.tries
        sampled = np.empty((0, len(self.grid.nvec)), dtype=np.int64)
        while left and len(sampled) < n:
            count = min(left, max(_TOGETHER, n - len(sampled)))
            uniforms = self.rng.random((count, len(self.grid.nvec)))
            sampled = self.grid.fresh(np.concatenate([sampled, self._policy.sample(uniforms)]), seen)[:n]
            left -= count
        drawn = self.grid.draw(self.rng, n - len(sampled), seen.union(self.grid.numbers(sampled)))
        return Proposal(
            actions=np.concatenate([sampled, drawn]),
            random=np.arange(len(sampled) + len(drawn)) >= len(sampled),
        )

    def _learn(self, record: RoundRecord) -> None:
        self._learn_from(self.ranking)

    def _learn_from(self, ranking: Ranking) -> None:
        """Learn from the last round of a ranking; random candidates, which the policy did not choose, teach nothing."""
        from kdnas_env.agents.lstm.policy import reinforce

        record = ranking.rounds[-1]
        begin = max(0, ranking.evaluations - max(_REMEMBERED, len(record.rewards)))
        rewards, usable, random = (ranking.column(name)[begin:] for name in ("rewards", "usable", "random"))
        if not usable.any() or record.random.all():
            return
        rewards = Scale.of(rewards, usable).standardise(rewards, usable)[~random]
        actions = record.actions[~record.random]
        earlier, earned = np.split(rewards, [len(rewards) - len(actions)])
        baseline = moving_average(earlier if len(earlier) else earned, self.config.baseline_decay)
        reinforce(self._policy, self._optimizer, actions, earned - baseline, entropy_weight=self.config.entropy_weight)


def moving_average(values: Floats, decay: float) -> float:
    """Return an average of values in which each weighs ``decay`` times as much as the next, without bias."""
    weights = decay ** np.arange(len(values))[::-1]
    return float(np.average(values, weights=weights))
