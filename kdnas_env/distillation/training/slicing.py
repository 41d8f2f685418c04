"""Initialise a student's layers from its teacher's, through least-squares maps between their hidden states.

SliceGPT (Ashkboos et al. 2024, arXiv:2401.15024) rotates a network into its principal components and truncates it. Here
the student's embeddings determine the student's states, and a ridge regression predicts the teacher's states from
them. Each linear map of the teacher is composed with that regression; the regression's pseudo-inverse maps the output
back to the student's states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdnas_env.distillation.student.layers import EncoderLayer, activation_function, encoder_layers, score_terms
from kdnas_env.distillation.training.mapping import map_layers
from kdnas_env.distillation.training.packed import PackedEncoder, attention_block, states_of
from kdnas_env.distillation.training.projection import LinearFit, Moments
from kdnas_env.distillation.training.workload import TeachingBatch, Workload, measuring_batches

_RIDGE = 1e-2
_LEAST_SINGULAR = 5e-2


@torch.no_grad()
def slice_layers(encoder: PackedEncoder, workload: Workload, samples: NDArray[np.int64]) -> None:
    """Initialise every student layer from a teacher layer, with its strongest heads and feed-forward neurons.

    Student layer i replaces a group of teacher layers and starts from the first layer of that group (mapping
    ``skip``); the input of that layer is what student layer i - 1 learns. Heads are ranked by the strength of their
    output, neurons by the variance of their output. The mean output of dropped neurons goes into the bias. A head is
    reduced to the student's head size by the best approximation of its bilinear forms. If the student's heads are
    larger, the extra dimensions are 0 and stay 0, because zeros on both sides get no gradient. Student heads or neurons
    without a teacher counterpart keep their random weights. A shared layer (ALBERT) is initialised once, for its first
    position. Coordinates that the embeddings leave empty, because they are factorised, receive the directions of most
    variance in the teacher's states that the others do not explain.

    Args:
        encoder: The student, with initialised embeddings; changed in place.
        workload: The teacher and its hidden states; the teacher's type must be in
            :data:`kdnas_env.distillation.student.layers.SLICED_TYPES`.
        samples: Training samples to fit the maps on, int64; a few thousand tokens suffice.
    """
    teacher = workload.teacher
    teacher_layers = encoder_layers(teacher.model)
    teacher_heads = teacher.architecture.num_attention_heads
    activation = activation_function(teacher.model)
    terms = score_terms(teacher.model)
    batches = list(workload.batches(measuring_batches(workload.corpus, samples)))
    student = [encoder.embed(batch.packed) for batch in batches]
    initialised: set[nn.Linear] = set()
    pairs = map_layers("skip", len(encoder.layers), len(teacher_layers))
    attended = _attended_states(
        workload, batches, {pair.teacher[0] - 1: teacher_layers[pair.teacher[0] - 1] for pair in pairs}
    )
    for layer, pair in zip(encoder.layers, pairs, strict=True):
        if layer.query in initialised:
            break
        initialised.add(layer.query)
        index = pair.teacher[0] - 1
        source = teacher_layers[index]
        states = [workload.states((index,), batch.rows) for batch in batches]
        _slice_attention(layer, encoder.heads, source, teacher_heads, terms, _view(student, states))
        student = [
            attention_block(layer, encoder.heads, own, batch.packed)
            for own, batch in zip(student, batches, strict=True)
        ]
        if attended is None:
            states = [
                attention_block(source, teacher_heads, theirs, batch.packed)
                for theirs, batch in zip(states, batches, strict=True)
            ]
        else:
            states = attended[index]
        neurons = torch.cat([activation(source.ffn_in(theirs)) for theirs in states])
        _slice_ffn(layer, source, neurons, _view(student, states))
        student = [encoder.ffn_block(layer, own) for own in student]


def _attended_states(
    workload: Workload, batches: Sequence[TeachingBatch], layers: Mapping[int, EncoderLayer]
) -> dict[int, list[Tensor]] | None:
    """Run a teacher and return the states between attention and feed-forward of some layers; None if it is plain.

    For a plain teacher, the cached states determine these states. Other teachers also use positions that the cached
    states do not contain.

    Returns:
        For each layer, one ``(tokens, width)`` tensor per batch.
    """
    if workload.teacher.architecture.plain:
        return None
    vocabulary = torch.from_numpy(workload.vocabulary).to(workload.device)
    run = states_of(workload.teacher)
    after_attention: dict[int, list[Tensor]] = {index: [] for index in layers}
    hooks = [
        layer.attention_norm.register_forward_hook(
            lambda module, inputs, output, index=index: after_attention[index].append(output)
        )
        for index, layer in layers.items()
    ]
    try:
        for place, batch in enumerate(batches):
            run(replace(batch.packed, input_ids=vocabulary[batch.packed.input_ids]))
            for states in after_attention.values():
                states[place] = batch.packed.pack(states[place])
    finally:
        for hook in hooks:
            hook.remove()
    return after_attention


@dataclass(frozen=True, eq=False)
class _View:
    """The affine map that best predicts the teacher's states from the student's, float64 on the CPU.

    Attributes:
        weight: ``(student_width, teacher_width)``.
        bias: ``(teacher_width,)``.
        inverse: Maps differences of the teacher's states back to the student's, ``(teacher_width, student_width)``.
    """

    weight: Tensor
    bias: Tensor
    inverse: Tensor

    def read(self, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return weight ``(student_width, out)`` and bias of a teacher's linear map on the student's states."""
        weight = _exact(linear.weight).T
        return self.weight @ weight, self.bias @ weight + _exact(linear.bias)


def _view(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> _View:
    moments = Moments()
    for own, theirs in zip(student, teacher, strict=True):
        moments.add(own, theirs)
    fit = moments.solve(_RIDGE)
    weight, bias = _exact(fit.weight), _exact(fit.bias)
    inverse = torch.linalg.pinv(weight, rtol=_LEAST_SINGULAR)
    used = torch.stack([own.any(0) for own in student]).any(0).cpu()
    unused = torch.nonzero(~used).flatten()[: weight.shape[1]]
    if len(unused):
        inverse[:, unused] = _unexplained(student, teacher, fit, len(unused)) * inverse.norm(dim=0)[used].mean()
    return _View(weight, bias, inverse)


def _unexplained(student: Sequence[Tensor], teacher: Sequence[Tensor], fit: LinearFit, count: int) -> Tensor:
    """Return the directions of most variance that a fit leaves to the teacher's states, ``(teacher_width, count)``."""
    moments = Moments()
    weight, bias = fit.weight.float(), fit.bias.float()
    for own, theirs in zip(student, teacher, strict=True):
        rest = theirs - (own @ weight + bias)
        moments.add(rest, rest[:, :0])
    directions: Tensor = torch.linalg.eigh(_exact(moments.centred()[0]))[1]
    return directions.flip(1)[:, :count]


def _exact(values: Tensor) -> Tensor:
    # On the CPU: a GPU is slower at factorising such small matrices, and would return different factors.
    return values.cpu().double()


def _slice_attention(
    student: EncoderLayer, heads: int, teacher: EncoderLayer, teacher_heads: int, terms: int, view: _View
) -> None:
    size = student.query.out_features // heads
    teacher_size = teacher.query.out_features // teacher_heads
    # The bias is appended as the last row, so that a map and its bias are reduced together.
    maps = (torch.vstack(view.read(part)) for part in (teacher.query, teacher.key, teacher.value))
    query, key, value = (part.chunk(teacher_heads, dim=1) for part in maps)
    output = (_exact(teacher.attention_output.weight).T @ view.inverse).chunk(teacher_heads)
    strength = torch.stack([torch.linalg.matrix_norm(v @ o) for v, o in zip(value, output, strict=True)])
    # Scores are divided by the square root of the head size (which differs) times the number of terms.
    scale = (size / (teacher_size * terms)) ** 0.25
    for place, head in enumerate(strength.argsort(descending=True)[:heads].tolist()):
        rows = slice(place * size, (place + 1) * size)
        query_part, key_part = _factors(query[head], key[head].T, size)
        value_part, output_part = _factors(value[head], output[head], size)
        for linear, weight in (
            (student.query, query_part * scale),
            (student.key, key_part.T * scale),
            (student.value, value_part),
        ):
            linear.weight[rows] = weight[:-1].T.to(linear.weight)
            linear.bias[rows] = weight[-1].to(linear.bias)
        student.attention_output.weight[:, rows] = output_part.T.to(student.attention_output.weight)
    student.attention_output.bias.copy_(_exact(teacher.attention_output.bias) @ view.inverse)


def _slice_ffn(student: EncoderLayer, teacher: EncoderLayer, neurons: Tensor, view: _View) -> None:
    weight, bias = view.read(teacher.ffn_in)
    output = _exact(teacher.ffn_out.weight).T @ view.inverse
    mean = neurons.mean(0)
    # Far faster than var(0), which PyTorch computes column by column.
    variance = _exact(neurons.square().mean(0) - mean.square()) * output.square().sum(1)
    kept = variance.argsort(descending=True)[: student.ffn_in.out_features]
    count = len(kept)
    student.ffn_in.weight[:count] = weight[:, kept].T.to(student.ffn_in.weight)
    student.ffn_in.bias[:count] = bias[kept].to(student.ffn_in.bias)
    student.ffn_out.weight[:, :count] = output[kept].T.to(student.ffn_out.weight)
    left_out = _exact(mean)
    left_out[kept] = 0
    student.ffn_out.bias.copy_(left_out @ output + _exact(teacher.ffn_out.bias) @ view.inverse)


def _factors(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best factors ``(rows, rank)`` and ``(rank, columns)`` of ``left @ right``, padded with zeros."""
    left_basis, left_inner = torch.linalg.qr(left)
    right_basis, right_inner = torch.linalg.qr(right.T)
    ours, values, theirs = torch.linalg.svd(left_inner @ right_inner.T)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    first, second = left.new_zeros(left.shape[0], rank), left.new_zeros(rank, right.shape[1])
    first[:, :kept] = left_basis @ ours[:, :kept] * root
    second[:kept] = root[:, None] * (theirs[:kept] @ right_basis.T)
    return first, second
