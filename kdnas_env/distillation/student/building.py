"""Build students: transformers encoders with their teacher's vocabulary, positions and special tokens."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kdnas_env.core.architecture import (
    EncoderArchitecture,
    StudentConfig,
    factorised,
    student_embedding_size,
    student_position_offset,
)
from kdnas_env.distillation.checkpoint import takes_pooling_layer
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.errors import SpaceError

INITIALIZER_RANGE = 0.02
"""Standard deviation of random weights (BERT's)."""

_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def model_type(student: StudentConfig) -> str:
    """Return the ``model_type`` of transformers that a student is built as.

    Raises:
        SpaceError: If transformers has no such encoder.
    """
    if not student.embedding_size or student.family == "albert":
        return student.family
    if student.family != "bert":
        raise SpaceError(
            f"{student} has factorised embeddings, which kdnas cannot build for {student.family}; use bert or albert"
        )
    return "electra"


def special_tokens(teacher: Teacher) -> dict[str, int]:
    """Return the ids of the teacher's special tokens, by their names in transformers configurations."""
    ids = {name: getattr(teacher.tokenizer, name, None) for name in _SPECIAL_TOKENS}
    return {name: int(value) for name, value in ids.items() if value is not None}


def student_pretrained_config(
    student: StudentConfig, teacher: EncoderArchitecture, special: Mapping[str, int] | None = None
) -> Any:
    """Return the transformers configuration of a student.

    Settings outside the search space come from the teacher: vocabulary, positions, segments, special tokens,
    LayerNorm epsilon.

    Args:
        student: The student's architecture.
        teacher: The teacher's architecture.
        special: Ids of special tokens, as :func:`special_tokens` returns them.

    Raises:
        SpaceError: If a size is below 1, the heads do not divide the width, the family is unknown, or transformers
            does not know the activation.
    """
    from transformers import CONFIG_MAPPING
    from transformers.activations import ACT2FN

    student.check()
    if student.hidden_size % student.num_attention_heads:
        raise SpaceError(f"{student.num_attention_heads} heads do not divide hidden_size {student.hidden_size}")
    if student.hidden_act not in ACT2FN:
        raise SpaceError(f"unknown activation {student.hidden_act!r}; transformers knows {sorted(ACT2FN)}")
    kind = model_type(student)
    ids: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None, **(special or {})}
    if factorised(student):
        ids["embedding_size"] = student_embedding_size(student, teacher)
    return CONFIG_MAPPING[kind](
        vocab_size=teacher.vocab_size,
        hidden_size=student.hidden_size,
        num_hidden_layers=student.num_hidden_layers,
        num_attention_heads=student.num_attention_heads,
        intermediate_size=student.intermediate_size,
        hidden_act=student.hidden_act,
        max_position_embeddings=teacher.max_length + student_position_offset(student, teacher),
        type_vocab_size=teacher.type_vocab_size,
        layer_norm_eps=teacher.layer_norm_eps,
        pad_token_id=teacher.pad_token_id,
        initializer_range=INITIALIZER_RANGE,
        **ids,
    )


def build_student(
    student: StudentConfig, teacher: EncoderArchitecture, *, seed: int, special: Mapping[str, int] | None = None
) -> Any:
    """Build a student with random weights: an encoder of its :func:`model_type`, without pooler.

    Matrices are normal with standard deviation ``INITIALIZER_RANGE``, biases 0, norm weights 1. Each parameter draws
    from its own random stream, keyed by its name. Students with a layer of equal shape therefore start with equal
    weights there (common random numbers).

    Args:
        student: The student's architecture.
        teacher: The teacher's architecture.
        seed: Seed of the weights.
        special: Ids of special tokens.

    Raises:
        SpaceError: If the student cannot be built.
    """
    model = empty_student(student, teacher, special=special)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                stream = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)
                generator = torch.Generator().manual_seed(int(stream[0] >> np.uint64(1)))
                parameter.normal_(0.0, INITIALIZER_RANGE, generator=generator)
        padding = model.embeddings.word_embeddings.padding_idx
        if padding is not None:
            model.embeddings.word_embeddings.weight[padding] = 0
    return model


class _Uninitialised(TorchFunctionMode):
    """Skips the initialisation of weights, which takes a third of the time to build a small model."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def empty_student(
    student: StudentConfig, teacher: EncoderArchitecture, *, special: Mapping[str, int] | None = None
) -> Any:
    """Build a student whose matrices are 0; fast, for callers that fill in weights or only measure speed.

    Raises:
        SpaceError: If the student cannot be built.
    """
    from transformers import MODEL_MAPPING

    config = student_pretrained_config(student, teacher, special)
    options = {"add_pooling_layer": False} if takes_pooling_layer(config.model_type) else {}
    # On the meta device, transformers' initialisation uses no global random state.
    with torch.device("meta"), _Uninitialised():
        model = MODEL_MAPPING[type(config)](config, **options)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1.0)
        # These buffers are not saved with a model, so loading weights does not fill them.
        model.embeddings.position_ids.copy_(torch.arange(config.max_position_embeddings)[None])
        model.embeddings.token_type_ids.zero_()
    return model
