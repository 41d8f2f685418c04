"""The LSTM controller: reads a sequence of candidates and predicts the reward of the last one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdnas_env.agents.lstm.choice_rows import ChoiceRows
from kdnas_env.agents.lstm.common import NONE, QUERY, ROLES
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.cpu_lock import pinned_threads

_SCORED_TOGETHER = 16_384
"""Candidates per forward pass when a space is scored; limits memory use."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """The information known at proposals: one sequence per row.

    Attributes:
        actions: int64 of shape ``(contexts, length, dims)``.
        rewards: Standardised rewards, float32 of shape ``(contexts, length)``.
        roles: Role of each element, see :mod:`kdnas_env.agents.lstm.common`, int64 of shape ``(contexts, length)``.
    """

    actions: Tensor
    rewards: Tensor
    roles: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Contexts:
        return Contexts(self.actions[rows], self.rewards[rows], self.roles[rows])

    def hidden(self, rows: Tensor) -> Contexts:
        """Return a copy in which the rows of a bool mask are empty: every element has the role ``NONE``."""
        return Contexts(
            self.actions,
            self.rewards.masked_fill(rows[:, None], 0.0),
            self.roles.masked_fill(rows[:, None], NONE),
        )


class Controller(nn.Module):
    """Embeddings of actions and an LSTM with a linear head.

    An element of the sequence is the concatenation of one embedding per dimension, the standardised reward (0 if
    unknown) and its role, one-hot. In a wide dimension the embedding is a smooth function of the position on the scale
    (:mod:`kdnas_env.core.wide_dimensions`).

    Args:
        nvec: Choices per dimension.
        embedding_size: Width of the embedding of one dimension.
        hidden_size: Width of the LSTM.
        ordinal: Fraction of an embedding's initial variance that is linear in the index of the choice, in [0, 1],
            because neighbouring choices mostly have similar rewards; the remaining variance is independent.
        generator: Draws the initial weights. The global generator is neither read nor seeded.
    """

    offsets: Tensor

    def __init__(
        self, nvec: Ints, *, embedding_size: int, hidden_size: int, ordinal: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        # Created without values, so that the layers' initialisation does not use the global generator.
        rows = ChoiceRows(nvec)
        self.embedding = nn.Embedding(sum(rows.counts), embedding_size, device="meta")
        inputs = len(nvec) * embedding_size + 1 + ROLES
        self.lstm = nn.LSTM(inputs, hidden_size, batch_first=True, device="meta")
        self.head = nn.Linear(hidden_size, 1, device="meta")
        self.to_empty(device="cpu")
        self._rows = rows
        self.register_buffer("offsets", torch.from_numpy(np.cumsum(nvec) - nvec), persistent=False)
        bound = 1.0 / math.sqrt(hidden_size)
        with torch.no_grad():
            tables = [_embedding_table(n, embedding_size, ordinal, generator) for n in rows.counts]
            self.embedding.weight.copy_(torch.cat(tables))
            for parameter in (*self.lstm.parameters(), *self.head.parameters()):
                parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, contexts: Contexts, context_rows: Tensor, actions: Tensor) -> Tensor:
        """Predict standardised rewards; each context is read once, however many candidates share it.

        Args:
            contexts: The contexts.
            context_rows: Row of the context of each candidate, int64 of shape ``(n,)``.
            actions: The candidates, int64 of shape ``(n, dims)``.

        Returns:
            float32 of shape ``(n,)``.
        """
        _, (hidden, cell) = self.lstm(self._elements(contexts.actions, contexts.rewards, contexts.roles))
        roles = torch.full((len(actions), 1), QUERY, device=actions.device)
        queries = self._elements(actions[:, None], torch.zeros(roles.shape, device=actions.device), roles)
        state = (hidden[:, context_rows].contiguous(), cell[:, context_rows].contiguous())
        outputs, _ = self.lstm(queries, state)
        predictions: Tensor = self.head(outputs[:, 0])[:, 0]
        return predictions

    def _elements(self, actions: Tensor, rewards: Tensor, roles: Tensor) -> Tensor:
        table = self._rows(self.embedding.weight)
        embedded = functional.embedding(actions + self.offsets, table).flatten(-2)
        embedded = embedded.masked_fill((roles == NONE)[..., None], 0.0)
        return torch.cat([embedded, rewards[..., None], functional.one_hot(roles, ROLES).float()], dim=-1)


@pinned_threads(1)  # more threads are slower on such small tensors
def fit(
    controller: Controller,
    contexts: Contexts,
    context_rows: Tensor,
    actions: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    context_dropout: float,
    generator: torch.Generator,
) -> None:
    """Train a controller by least squares on a replay, in shuffled mini-batches.

    Args:
        controller: Trained in place.
        contexts: The contexts of the proposals.
        context_rows: Row of each candidate's context, int64 of shape ``(n,)``.
        actions: The candidates, int64 of shape ``(n, dims)``.
        targets: Standardised rewards, float32 of shape ``(n,)``.
        epochs: Passes over the replay.
        batch_size: Candidates per step.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        context_dropout: Probability that a context is hidden in a step, in [0, 1].
        generator: CPU generator for shuffling and context dropout.
    """
    device = targets.device
    optimizer = torch.optim.AdamW(controller.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(targets), generator=generator).to(device)
        for batch in torch.split(order, batch_size):
            rows, own_row = torch.unique(context_rows[batch], return_inverse=True)
            hide = torch.rand(len(rows), generator=generator).to(device) < context_dropout
            predictions = controller(contexts[rows].hidden(hide), own_row, actions[batch])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(functional.mse_loss(predictions, targets[batch]))
            optimizer.step()


@pinned_threads(1)
@torch.no_grad()
def predict(controller: Controller, context: Contexts, actions: Tensor) -> Floats:
    """Predict the standardised rewards of candidates under one context.

    Args:
        controller: A trained controller.
        context: One context.
        actions: The candidates, int64 of shape ``(n, dims)``.

    Returns:
        float64 of shape ``(n,)``.
    """
    if not len(actions):
        return np.empty(0)
    predictions = [
        controller(context, torch.zeros(len(chunk), dtype=torch.int64, device=chunk.device), chunk)
        for chunk in torch.split(actions, _SCORED_TOGETHER)
    ]
    return torch.cat(predictions).cpu().numpy().astype(np.float64)


def _embedding_table(choices: int, width: int, ordinal: float, generator: torch.Generator) -> Tensor:
    independent = torch.randn(choices, width, generator=generator)
    direction = torch.randn(width, generator=generator)
    place = torch.arange(choices) - (choices - 1) / 2
    spread = math.sqrt(max((choices**2 - 1) / 12, 1.0))
    return math.sqrt(1 - ordinal) * independent + math.sqrt(ordinal) * (place / spread)[:, None] * direction
