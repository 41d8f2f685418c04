"""The teacher in the training loop: compute its hidden states of a batch without a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.training.packed import PackedBatch, PackedEncoder

StatesOf = Callable[[PackedBatch], Sequence[Tensor]]
"""Returns all hidden states of a batch's real tokens, embeddings first, ``(tokens, hidden_size)`` each."""


def states_of(teacher: Teacher) -> StatesOf:
    """Return a function that runs a teacher on packed tokens: unpadded if the teacher is plain, else padded."""
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
