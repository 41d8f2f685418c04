"""Teachers of types that kdnas knows nothing of: what has to hold of their states, and what is chosen for them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdnas_env.core.shapes import LONGEST_INPUT
from kdnas_env.errors import TeacherError
from kdnas_env.support.libraries import one_line

if TYPE_CHECKING:
    from kdnas_env.distillation.teacher.loading import Teacher

_REAL_TOKENS, _PADDED_LENGTH = 11, 24
_STRIDE = 7919
_LARGEST_DIFFERENCE = 1e-3
"""Between states with and without padding, as a share of their size; rounding stays far below."""

_ROUNDING_STATES = 1e-12

_NOT_OF_THE_FORWARD_PASS = (
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
_NOT_OF_THE_FORWARD_PASS_BY_PART = ("dropout", "initializer", "token_id", "classifier", "_name_or_path", "pooling")
"""Parts of names of fields that are about training, heads and tokens."""


def check_states(what: str, teacher: Teacher) -> None:
    """Run a teacher on a few tokens, and refuse it if its hidden states are not what students can learn from.

    There has to be one state for the embeddings and one for each layer, of one vector per token, for inputs as long as
    the architecture says; and the states of a sequence must not depend on padding behind it.

    Args:
        what: The teacher in words, for messages.
        teacher: The teacher.

    Raises:
        TeacherError: If its states are not so, or it cannot be run.
    """
    architecture = teacher.architecture
    length = min(_PADDED_LENGTH, architecture.max_length)
    real = min(_REAL_TOKENS, length)
    ids = _some_ids(2 * length, architecture.vocab_size, architecture.pad_token_id).view(2, length)
    mask = torch.ones_like(ids)
    ids[0, real:], mask[0, real:] = architecture.pad_token_id, 0
    long = _some_ids(architecture.max_length, architecture.vocab_size, architecture.pad_token_id)[None]
    try:
        _table_of_words(teacher.model)
        longest = teacher.hidden_states(long, token_type_ids=torch.zeros_like(long))
        padded = teacher.hidden_states(ids, mask)
        alone = teacher.hidden_states(ids[:1, :real])
    except Exception as error:  # whatever a type of model does that was never meant to read text like this
        raise TeacherError(
            f"{what} cannot teach: a model of type {architecture.family!r} cannot be run on token ids with an "
            f"attention mask ({one_line(error)}); choose a teacher of another type"
        ) from error
    _check_shapes(what, teacher, longest, long)
    _check_shapes(what, teacher, padded, ids)
    difference = max(_difference(whole[0, :real], own[0, :real]) for whole, own in zip(padded, alone, strict=True))
    if not difference <= _LARGEST_DIFFERENCE:
        raise TeacherError(
            f"{what} cannot teach: the hidden states of a model of type {architecture.family!r} depend on the padding "
            f"behind a text (they differ by {difference:.1%}), so that its attention mask does not hide it; choose a "
            "teacher of another type"
        )


def forward_settings(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that may change hidden states, where they are not the type's defaults.

    Args:
        config: Configuration of transformers.
    """
    return _plain(
        {
            name: value
            for name, value in config.to_diff_dict().items()
            if name not in _NOT_OF_THE_FORWARD_PASS
            and not any(part in name for part in _NOT_OF_THE_FORWARD_PASS_BY_PART)
        }
    )


def usable_positions(model: torch.nn.Module) -> int:
    """Return how many positions a token can have in a model's table of them; many where it has none."""
    tables = (
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    )
    # RoBERTa's kind starts past the row that it reserves for padding.
    usable = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    return min(usable, default=LONGEST_INPUT)


def padding_token(tokenizer: Any, preferred: int) -> str:
    """Choose the token to pad with where a tokenizer has none: what the model names, else the end of a text.

    Args:
        tokenizer: The tokenizer.
        preferred: Id that the model names, or the end of a text.
    """
    named = tokenizer.convert_ids_to_tokens(preferred) if preferred < len(tokenizer) else None
    chosen = named or tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return str(chosen)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back: keys of mappings are texts."""
    copied: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return copied


def _some_ids(count: int, vocabulary: int, padding: int) -> Tensor:
    """Return token ids of all over the vocabulary, none of them padding, int64 ``(count,)``."""
    ids = torch.arange(1, count + 1) * _STRIDE % vocabulary
    return torch.where(ids == padding, (ids + 1) % vocabulary, ids)


def _table_of_words(model: Any) -> Tensor:
    weight: Tensor = model.get_input_embeddings().weight
    return weight


def _check_shapes(what: str, teacher: Teacher, states: tuple[Tensor, ...], ids: Tensor) -> None:
    architecture = teacher.architecture
    expected = [(*ids.shape, architecture.hidden_size)] * (architecture.num_hidden_layers + 1)
    found = [tuple(state.shape) for state in states]
    if found != expected:
        odd = next((shape for shape in found if shape != expected[0]), expected[0])
        raise TeacherError(
            f"{what} cannot teach: a model of type {architecture.family!r} has {len(found)} hidden states, such as one "
            f"of shape {odd}; students need {len(expected)} of shape {expected[0]}, the embeddings and every layer; "
            "choose a teacher of another type"
        )
    if not all(bool(state.isfinite().all()) for state in states):
        raise TeacherError(f"{what} cannot teach: its hidden states are not finite; is its checkpoint damaged?")


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the distance of two states as a share of the size of one."""
    return float((one - other).norm() / other.norm().clamp_min(_ROUNDING_STATES))
