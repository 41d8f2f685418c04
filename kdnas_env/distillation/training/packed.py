"""Run an encoder over real tokens only.

All linear maps, norms and activations get one matrix ``(tokens, width)`` with the concatenated tokens of a batch. Only
attention needs the shape ``(sequences, length)``, padded to the longest sequence of the batch. On real tokens, the
result equals that of the padded model, without the cost of padding tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kdnas_env.distillation.student.layers import (
    EncoderLayer,
    activation_function,
    embedding_tables,
    encoder_layers,
    heads_first,
)
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus, token_rows


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """The real tokens of some sequences, concatenated.

    Attributes:
        input_ids: Token ids, int64 ``(tokens,)``.
        positions: Position of each token in its sequence, from 0, int64 ``(tokens,)``.
        segments: Segment of each token, int64 ``(tokens,)``, or None for all 0.
        sequences: Number of sequences.
        length: Tokens of the longest sequence.
        slots: Index of each token in the flattened padded batch, int64 ``(tokens,)``; None if all sequences are
            equally long, so that nothing is padded.
        mask: True on real tokens, bool ``(sequences, length)``; None if nothing is padded.
    """

    input_ids: Tensor
    positions: Tensor
    segments: Tensor | None
    sequences: int
    length: int
    slots: Tensor | None
    mask: Tensor | None

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return self.input_ids.shape[0]

    def pad(self, states: Tensor) -> Tensor:
        """Spread packed states ``(tokens, width)`` over the padded batch ``(sequences, length, width)``."""
        width = states.shape[1]
        if self.slots is not None:
            padded = states.new_zeros(self.sequences * self.length, width)
            states = padded.index_copy(0, self.slots, states)
        return states.view(self.sequences, self.length, width)

    def pack(self, states: Tensor) -> Tensor:
        """Collect the real tokens of a padded batch; the inverse of :meth:`pad`."""
        flat = states.reshape(self.sequences * self.length, -1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


def pack_samples(
    corpus: Corpus, sample_ids: NDArray[np.int64], *, device: torch.device, token_ids: NDArray[np.int64] | None = None
) -> PackedBatch:
    """Collect the tokens of some samples of a corpus.

    Args:
        corpus: The corpus.
        sample_ids: Samples, int64 ``(n,)``.
        device: Device of the batch.
        token_ids: Renumbering of the vocabulary, int64 ``(vocabulary,)``; None to keep the corpus' ids.
    """
    rows = token_rows(corpus.offsets, sample_ids)
    ids = corpus.input_ids[rows]
    segments = corpus.token_type_ids
    return pack_tokens(
        ids.astype(np.int64) if token_ids is None else token_ids[ids],
        None if segments is None else segments[rows].astype(np.int64),
        corpus.lengths[sample_ids],
        device,
    )


def pack_tokens(
    ids: NDArray[np.int64], segments: NDArray[np.int64] | None, lengths: NDArray[np.int64], device: torch.device
) -> PackedBatch:
    """Make a batch from the concatenated tokens of some sequences.

    Args:
        ids: Token ids, int64 ``(tokens,)``.
        segments: Segment of each token, int64 ``(tokens,)``, or None for all 0.
        lengths: Tokens of each sequence, int64 ``(sequences,)``.
        device: Device of the batch.
    """
    longest = int(lengths.max())
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    slots = mask = None
    if int(lengths.min()) != longest:
        slots = np.repeat(np.arange(len(lengths)) * longest, lengths) + positions
        mask = np.arange(longest) < lengths[:, None]
    return PackedBatch(
        input_ids=_tensor(ids, device),
        positions=_tensor(positions, device),
        segments=None if segments is None else _tensor(segments, device),
        sequences=len(lengths),
        length=longest,
        slots=None if slots is None else _tensor(slots, device),
        mask=None if mask is None else _tensor(mask, device),
    )


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


class Dropout:
    """Dropout with its own random generator; PyTorch's dropout uses the global one.

    Args:
        probability: Fraction of the elements to drop.
        generator: Source of randomness, on the device of the states.
    """

    def __init__(self, probability: float = 0.0, generator: torch.Generator | None = None) -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"dropout is {probability}; expected a number in [0, 1)")
        self.probability = probability
        self._generator = generator

    def __call__(self, states: Tensor) -> Tensor:
        """Drop elements and scale up the others."""
        if not self.probability:
            return states
        kept = torch.empty_like(states).bernoulli_(1 - self.probability, generator=self._generator)
        return states * kept.div_(1 - self.probability)


NO_DROPOUT = Dropout()


class PackedEncoder(nn.Module):
    """Runs a post-norm transformers encoder (any supported teacher or student) over packed tokens.

    Args:
        model: The encoder, without pooler. Its parameters are used in place, except for trimmed word embeddings.
        position_offset: Row of the position table that the first token of a sequence uses.
        vocabulary: Token ids to keep, sorted int64 ``(kept,)``. Their word embeddings are copied to a separate trained
            table, and batches number tokens by their index in it. None keeps all ids, in place.
    """

    def __init__(self, model: Any, *, position_offset: int, vocabulary: NDArray[np.int64] | None = None) -> None:
        super().__init__()
        self.model = model
        self.heads: int = model.config.num_attention_heads
        self.layers = encoder_layers(model)
        self.tables = embedding_tables(model)
        self._offset = position_offset
        self._activation = activation_function(model)
        self._vocabulary = None if vocabulary is None else torch.from_numpy(vocabulary)
        whole = cast(nn.Parameter, self.tables.word.weight)
        self.trimmed_word = None if self._vocabulary is None else nn.Parameter(whole.detach()[self._vocabulary])

    @property
    def word(self) -> nn.Parameter:
        """The word embeddings in use."""
        return cast(nn.Parameter, self.tables.word.weight) if self.trimmed_word is None else self.trimmed_word

    def named_trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every parameter in use with its name in the model; trimmed word embeddings replace the whole table."""
        for name, parameter in self.model.named_parameters():
            yield name, self.word if parameter is self.tables.word.weight else parameter

    @torch.no_grad()
    def write_back(self) -> Any:
        """Copy trimmed word embeddings back into the whole table, and return the model."""
        if self._vocabulary is not None:
            whole = self.tables.word.weight
            whole[self._vocabulary.to(whole.device)] = self.word.detach()
        return self.model

    def embed(self, batch: PackedBatch, dropout: Dropout = NO_DROPOUT) -> Tensor:
        """Return the output of the embeddings, ``(tokens, hidden_size)``."""
        tables = self.tables
        states = F.embedding(batch.input_ids, self.word)
        states = states + F.embedding(batch.positions + self._offset, tables.position.weight)
        if tables.segment is not None:
            rows = tables.segment.weight
            states = states + (rows[0] if batch.segments is None else F.embedding(batch.segments, rows))
        states = dropout(tables.norm(states))
        return states if tables.expansion is None else tables.expansion(states)

    def forward(self, batch: PackedBatch, dropout: Dropout = NO_DROPOUT) -> list[Tensor]:
        """Return all hidden states, embeddings first: ``layers + 1`` tensors ``(tokens, hidden_size)``."""
        states = [self.embed(batch, dropout)]
        for layer in self.layers:
            attended = attention_block(layer, self.heads, states[-1], batch, dropout)
            states.append(self.ffn_block(layer, attended, dropout))
        return states

    def ffn_block(self, layer: EncoderLayer, states: Tensor, dropout: Dropout = NO_DROPOUT) -> Tensor:
        """Run the feed-forward half of a layer with its residual and norm, ``(tokens, width)`` to the same."""
        inner = self._activation(layer.ffn_in(states))
        output: Tensor = layer.ffn_norm(states + dropout(layer.ffn_out(inner)))
        return output


def attention_block(
    layer: EncoderLayer, heads: int, states: Tensor, batch: PackedBatch, dropout: Dropout = NO_DROPOUT
) -> Tensor:
    """Run the attention half of a layer with its residual and norm, ``(tokens, width)`` to the same."""
    query, key, value = (heads_first(part, heads) for part in batch.pad(project_qkv(layer, states)).chunk(3, dim=-1))
    mask = None if batch.mask is None else batch.mask[:, None, None, :]
    context = _attend(query, key, value, mask, dropout).transpose(1, 2)
    attended = layer.attention_output(batch.pack(context.flatten(2)))
    output: Tensor = layer.attention_norm(states + dropout(attended))
    return output


def project_qkv(layer: EncoderLayer, states: Tensor) -> Tensor:
    """Return the concatenated queries, keys and values of a layer, ``(tokens, 3 width)``."""
    parts = (layer.query, layer.key, layer.value)
    weight = torch.cat([part.weight for part in parts])
    return F.linear(states, weight, torch.cat([part.bias for part in parts]))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: Dropout) -> Tensor:
    if not dropout.probability:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # The fused kernel would use the global generator for dropout.
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return dropout(scores.softmax(dim=-1)) @ value


StatesOf = Callable[[PackedBatch], Sequence[Tensor]]
"""Returns all hidden states of a batch's real tokens, embeddings first, ``(tokens, hidden_size)`` each."""


def states_of(teacher: Teacher) -> StatesOf:
    """Return a function that runs a teacher on packed tokens, without a cache of its states.

    A plain teacher runs on the packed tokens, any other on padded sequences.
    """
    architecture = teacher.architecture
    if architecture.plain:
        return PackedEncoder(teacher.model, position_offset=architecture.position_offset)

    def run(batch: PackedBatch) -> list[Tensor]:
        ids = _padded(batch.input_ids, batch, architecture.pad_token_id)
        segments = None if batch.segments is None else _padded(batch.segments, batch, 0)
        mask = None if batch.mask is None else batch.mask.long()
        return [batch.pack(states).float() for states in teacher.hidden_states(ids, mask, segments)]

    return run


def _padded(values: Tensor, batch: PackedBatch, filler: int) -> Tensor:
    """Spread one number per token over the padded batch, int64 ``(sequences, length)``."""
    if batch.slots is not None:
        values = values.new_full((batch.sequences * batch.length,), filler).index_copy(0, batch.slots, values)
    return values.view(batch.sequences, batch.length)
