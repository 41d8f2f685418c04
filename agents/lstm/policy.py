"""The LSTM policy, which chooses an action dimension by dimension, and its training step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas_env.agents.lstm.choice_rows import ChoiceRows
from kdnas_env.agents.ranking import Floats, Ints
from kdnas_env.support.cpu_lock import pinned_threads

_BOUND = 0.3
"""Initial weights are uniform in [-_BOUND, _BOUND]. The paper has 0.08, which takes more updates than a search of a few
hundred evaluations affords, since the gradients of the LSTM are about as small as the weights above it."""


class Policy(nn.Module):
    """A distribution over actions: an LSTM reads the choices so far, a softmax of each dimension gives the next.

    The controller of Zoph and Le 2017 (arXiv:1611.01578), with one layer. Embeddings and logits of a wide dimension are
    smooth functions of the place on the scale (:mod:`kdnas_env.core.wide_dimensions`).

    Args:
        nvec: Choices per dimension.
        embedding_size: Width of the embedding of a choice.
        hidden_size: Width of the LSTM.
        generator: Draws the initial weights. The global generator is neither read nor seeded.
    """

    def __init__(self, nvec: Ints, *, embedding_size: int, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        rows = ChoiceRows(nvec)
        total = sum(rows.counts)
        # Made without values, so that the layers' own initialisation does not draw from the global generator.
        self.embedding = nn.Embedding(total + 1, embedding_size, device="meta")  # the last stands for the beginning
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
        """Return how likely actions are, and the entropy along the way to each.

        Args:
            actions: int64 of shape ``(n, dims)``.

        Returns:
            Logarithms of the probabilities, and sums over dimensions of the entropies of the choice given those before
            it, in nats; both float32 of shape ``(n,)``.
        """
        tokens = actions + torch.tensor(self._bounds[:-1])
        begin = torch.full((len(actions), 1), self._bounds[-1])
        outputs, _ = self.lstm(functional.embedding(torch.cat([begin, tokens[:, :-1]], dim=1), self._table()))
        likelihood, entropy = torch.zeros(len(actions)), torch.zeros(len(actions))
        for axis in range(actions.shape[1]):
            logs = self._log_probabilities(outputs[:, axis], axis)
            likelihood = likelihood + logs.gather(1, actions[:, axis, None])[:, 0]
            entropy = entropy - (logs.exp() * logs).sum(dim=1)
        return likelihood, entropy

    @pinned_threads(1)
    @torch.no_grad()
    def sample(self, uniforms: Floats) -> Ints:
        """Draw actions.

        Args:
            uniforms: Independent uniform draws from [0, 1), one for each choice, float64 of shape ``(n, dims)``.

        Returns:
            int64 of shape ``(n, dims)``.
        """
        draws = torch.from_numpy(uniforms)
        token = torch.full((len(draws), 1), self._bounds[-1])
        table, state, chosen = self._table(), None, []
        for axis in range(draws.shape[1]):
            output, state = self.lstm(functional.embedding(token, table), state)
            cumulated = self._log_probabilities(output[:, 0], axis).double().exp().cumsum(dim=1)
            # The last sum may be rounded to less than a draw, hence without it.
            choice = (cumulated[:, :-1] <= draws[:, axis, None]).sum(dim=1)
            chosen.append(choice)
            token = (choice + self._bounds[axis])[:, None]
        return torch.stack(chosen, dim=1).numpy()

    def _table(self) -> Tensor:
        """Return the embedding of every choice, and of the beginning after them."""
        rows, beginning = self.embedding.weight[:-1], self.embedding.weight[-1:]
        return torch.cat([self._rows(rows), beginning])

    def _log_probabilities(self, hidden: Tensor, axis: int) -> Tensor:
        rows = slice(*self._row_bounds[axis : axis + 2])
        logits = functional.linear(hidden, self.head.weight[rows], self.head.bias[rows])
        return self._rows.of(axis, logits.mT).mT.log_softmax(dim=1)


@pinned_threads(1)  # over tensors this small more would only wait for each other
def reinforce(
    policy: Policy, optimizer: torch.optim.Optimizer, actions: Ints, advantages: Floats, *, entropy_weight: float
) -> None:
    """Take one step up the gradient of the expected reward, estimated from samples (REINFORCE, Williams 1992).

    Args:
        policy: Changed in place.
        optimizer: Of the policy's parameters.
        actions: What was sampled, int64 of shape ``(n, dims)``.
        advantages: Rewards less the baseline, float64 of shape ``(n,)``.
        entropy_weight: What a nat of entropy is worth beside the advantages.
    """
    likelihood, entropy = policy(torch.from_numpy(actions))
    loss = -(torch.from_numpy(advantages).float() * likelihood + entropy_weight * entropy).mean()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
