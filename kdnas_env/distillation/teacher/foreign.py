"""Teachers of types unknown to kdnas: checks of their hidden states, and defaults for missing settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.core.shapes import LONGEST_INPUT
from kdnas_env.errors import TeacherError, one_line

_REAL_TOKENS, _PADDED_LENGTH = 11, 24
_STRIDE = 7919
_LARGEST_DIFFERENCE = 1e-3
"""Largest relative difference between states with and without padding; rounding errors are far smaller."""

_ROUNDING_STATES = 1e-12

_UNUSED_FIELDS = (
    "architectures",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
_UNUSED_FIELD_PARTS = ("dropout", "initializer", "token_id", "classifier", "_name_or_path", "pooling")
"""Substrings of the names of fields that concern training, heads and tokens."""


def check_states(
    what: str,
    model: torch.nn.Module,
    architecture: EncoderArchitecture,
    hidden_states: Callable[..., tuple[Tensor, ...]],
) -> None:
    """Run a teacher on a few tokens and check that students can learn from its hidden states.

    The teacher must return one state for the embeddings and one for each layer, with one vector per token, for inputs
    up to the architecture's maximum length. The states of a sequence must not depend on trailing padding.

    Args:
        what: Description of the teacher for messages.
        model: Encoder without head.
        architecture: Shape of the model.
        hidden_states: Runs the model, see :meth:`kdnas_env.distillation.teacher.loading.Teacher.hidden_states`.

    Raises:
        TeacherError: If a check fails, or the teacher cannot be run.
    """
    length = min(_PADDED_LENGTH, architecture.max_length)
    real = min(_REAL_TOKENS, length)
    ids = _some_ids(2 * length, architecture.vocab_size, architecture.pad_token_id).view(2, length)
    mask = torch.ones_like(ids)
    ids[0, real:], mask[0, real:] = architecture.pad_token_id, 0
    long = _some_ids(architecture.max_length, architecture.vocab_size, architecture.pad_token_id)[None]
    try:
        _word_embeddings(model)
        longest = hidden_states(long, token_type_ids=torch.zeros_like(long))
        padded = hidden_states(ids, mask)
        alone = hidden_states(ids[:1, :real])
    except Exception as error:  # an unknown type of model may raise any error on such input
        raise TeacherError(
            f"{what} cannot teach: a model of type {architecture.family!r} cannot be run on token ids with an "
            f"attention mask ({one_line(error)}); choose a teacher of another type"
        ) from error
    _check_shapes(what, architecture, longest, long)
    _check_shapes(what, architecture, padded, ids)
    difference = max(
        relative_distance(whole[0, :real], own[0, :real]) for whole, own in zip(padded, alone, strict=True)
    )
    if not difference <= _LARGEST_DIFFERENCE:
        raise TeacherError(
            f"{what} cannot teach: the hidden states of a model of type {architecture.family!r} depend on the padding "
            f"after a text (they differ by {difference:.1%}), although the attention mask excludes it; choose a "
            "teacher of another type"
        )


def forward_settings(config: Any) -> dict[str, Any]:
    """Return the configuration fields that may change hidden states and differ from the type's defaults.

    Args:
        config: A transformers configuration.
    """
    return _plain(
        {
            name: value
            for name, value in config.to_diff_dict().items()
            if name not in _UNUSED_FIELDS and not any(part in name for part in _UNUSED_FIELD_PARTS)
        }
    )


def usable_positions(model: torch.nn.Module) -> int:
    """Return the number of usable positions in a model's position table; a large number if it has no table."""
    tables = (
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    )
    # RoBERTa-like models number positions from the row after the one reserved for padding.
    usable = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    return min(usable, default=LONGEST_INPUT)


def padding_token(tokenizer: Any, preferred: int) -> str:
    """Choose a padding token for a tokenizer without one: the model's padding id, else the end-of-text token.

    Args:
        tokenizer: The tokenizer.
        preferred: The model's padding id, or its end-of-text id.
    """
    named = tokenizer.convert_ids_to_tokens(preferred) if preferred < len(tokenizer) else None
    chosen = named or tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return str(chosen)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings as a JSON round trip does: keys of mappings become strings."""
    copied: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return copied


def _some_ids(count: int, vocabulary: int, padding: int) -> Tensor:
    """Return token ids spread over the vocabulary, without the padding id, int64 ``(count,)``."""
    ids = torch.arange(1, count + 1) * _STRIDE % vocabulary
    return torch.where(ids == padding, (ids + 1) % vocabulary, ids)


def _word_embeddings(model: Any) -> Tensor:
    weight: Tensor = model.get_input_embeddings().weight
    return weight


def _check_shapes(what: str, architecture: EncoderArchitecture, states: tuple[Tensor, ...], ids: Tensor) -> None:
    expected = [(*ids.shape, architecture.hidden_size)] * (architecture.num_hidden_layers + 1)
    shapes = [tuple(state.shape) for state in states]
    if shapes != expected:
        odd = next((shape for shape in shapes if shape != expected[0]), expected[0])
        raise TeacherError(
            f"{what} cannot teach: a model of type {architecture.family!r} has {len(shapes)} hidden states, such as "
            f"one of shape {odd}; students need {len(expected)} of shape {expected[0]}, the embeddings and every "
            "layer; choose a teacher of another type"
        )
    if not all(bool(state.isfinite().all()) for state in states):
        raise TeacherError(f"{what} cannot teach: its hidden states are not finite; is its checkpoint damaged?")


def relative_distance(states: Tensor, expected: Tensor) -> float:
    """Return the distance of hidden states from what is expected, relative to the norm of what is expected."""
    return float((states - expected).norm() / expected.norm().clamp_min(_ROUNDING_STATES))
