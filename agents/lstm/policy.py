"""The LSTM policy of REINFORCE, which samples an action dimension by dimension, and its training step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas_env.agents.lstm.choice_rows import ChoiceRows
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.cpu_lock import pinned_threads

_BOUND = 0.3
"""Initial weights are uniform in [-_BOUND, _BOUND]. The paper uses 0.08, but small weights of the head scale down the
gradients of the LSTM, so that it would need more updates than a search of a few hundred evaluations has."""


class Policy(nn.Module):
    """An autoregressive distribution over actions: an LSTM reads the earlier choices; a softmax gives the next one.

    The controller of Zoph and Le 2017 (arXiv:1611.01578), with one layer. In a wide dimension, embeddings and logits
    are smooth functions of the position on the scale (:mod:`kdnas_env.core.wide_dimensions`).

    Args:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        embedding_size: Width of the embedding of a choice.
        hidden_size: Width of the LSTM.
        generator: Draws the initial weights. The global generator is neither read nor seeded.
    """

    def __init__(self, nvec: Ints, *, embedding_size: int, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        rows = ChoiceRows(nvec)
        total = sum(rows.counts)
        # Created without values, so that the layers' initialisation does not use the global generator.
        self.embedding = nn.Embedding(total + 1, embedding_size, device="meta")  # the last row is the start token
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True, device="meta")
        self.head = nn.Linear(hidden_size, total, device="meta")
        self.to_empty(device="cpu")
        self._rows = rows
        self._bounds = [0, *np.cumsum(nvec).tolist()]
        self._row_bounds = [0, *np.cumsum(rows.counts).tolist()]
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-_BOUND, _BOUND, generator=generator)

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of actions and the entropies of their choices.

        Args:
            actions: int64 of shape ``(n, dims)``.

        Returns:
            Log-probability of each action, and the entropy of each choice given the earlier choices, summed over the
            dimensions; both float32 of shape ``(n,)``, in nats.
        """
        tokens = actions + torch.tensor(self._bounds[:-1])
        start = torch.full((len(actions), 1), self._bounds[-1])
        outputs, _ = self.lstm(functional.embedding(torch.cat([start, tokens[:, :-1]], dim=1), self._table()))
        log_probability, entropy = torch.zeros(len(actions)), torch.zeros(len(actions))
        for axis in range(actions.shape[1]):
            logs = self._log_probabilities(outputs[:, axis], axis)
            log_probability = log_probability + logs.gather(1, actions[:, axis, None])[:, 0]
            entropy = entropy - (logs.exp() * logs).sum(dim=1)
        return log_probability, entropy

    @pinned_threads(1)
    @torch.no_grad()
    def sample(self, uniforms: Floats) -> Ints:
        """Sample actions by inverting the cumulative distribution of each choice.

        Args:
            uniforms: Independent uniform numbers in [0, 1), one per choice, float64 of shape ``(n, dims)``.

        Returns:
            int64 of shape ``(n, dims)``.
        """
        draws = torch.from_numpy(uniforms)
        token = torch.full((len(draws), 1), self._bounds[-1])
        table, state, chosen = self._table(), None, []
        for axis in range(draws.shape[1]):
            output, state = self.lstm(functional.embedding(token, table), state)
            cumulative = self._log_probabilities(output[:, 0], axis).double().exp().cumsum(dim=1)
            # The last sum is left out, because rounding may make it smaller than the uniform number.
            choice = (cumulative[:, :-1] <= draws[:, axis, None]).sum(dim=1)
            chosen.append(choice)
            token = (choice + self._bounds[axis])[:, None]
        return torch.stack(chosen, dim=1).numpy()

    def _table(self) -> Tensor:
        """Return the embeddings of all choices, followed by that of the start token."""
        rows, start = self.embedding.weight[:-1], self.embedding.weight[-1:]
        return torch.cat([self._rows(rows), start])

    def _log_probabilities(self, hidden: Tensor, axis: int) -> Tensor:
        rows = slice(*self._row_bounds[axis : axis + 2])
        logits = functional.linear(hidden, self.head.weight[rows], self.head.bias[rows])
        return self._rows.of(axis, logits.mT).mT.log_softmax(dim=1)


@pinned_threads(1)  # more threads are slower on such small tensors
def reinforce(
    policy: Policy, optimizer: torch.optim.Optimizer, actions: Ints, advantages: Floats, *, entropy_weight: float
) -> None:
    """Take one policy-gradient step with an entropy bonus (REINFORCE; Williams 1992, doi:10.1007/BF00992696).

    The step follows the gradient of ``mean(advantage * log_probability + entropy_weight * entropy)``.

    Args:
        policy: The policy; updated in place.
        optimizer: Optimizer of the policy's parameters.
        actions: Actions sampled from the policy, int64 of shape ``(n, dims)``.
        advantages: Rewards minus the baseline, float64 of shape ``(n,)``.
        entropy_weight: Weight of the entropy bonus per nat.
    """
    log_probability, entropy = policy(torch.from_numpy(actions))
    loss = -(torch.from_numpy(advantages).float() * log_probability + entropy_weight * entropy).mean()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
