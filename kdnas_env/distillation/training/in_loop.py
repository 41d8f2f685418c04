"""The teacher in the loop: its hidden states of a batch that nobody has cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.training.packed import PackedBatch, PackedEncoder

StatesOf = Callable[[PackedBatch], Sequence[Tensor]]
"""All hidden states of the real tokens of a batch, embeddings first, ``(tokens, hidden_size)`` each."""


def states_of(teacher: Teacher) -> StatesOf:
    """Return what runs a teacher on packed tokens: without padding where it is plain, else padded as any model is."""
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
    """Spread one number a token over the padded batch, int64 ``(sequences, length)``."""
    if batch.slots is not None:
        values = values.new_full((batch.sequences * batch.length,), filler).index_copy(0, batch.slots, values)
    return values.view(batch.sequences, batch.length)
