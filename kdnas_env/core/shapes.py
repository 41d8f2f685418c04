"""Shapes of encoders, from configurations of transformers.

For plain types, the name of every field is known. For other types, sizes are found under their usual names, which
``attribute_map`` of a configuration translates; other fields have defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
"""Plain types whose position ids start after the padding id."""

LONGEST_INPUT = 512
"""Maximum input length of other teachers, in tokens: some accept 8,192, but students have a row for each position."""

_ROBERTA_PADDING = 1
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "gated-gelu": "gelu_new",
    "gated-silu": "silu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Activation of a student by that of its teacher; students have no gates."""


def plain_shape(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an ``EncoderArchitecture`` from the configuration of a plain type, unchecked.

    Args:
        kind: The ``model_type``.
        values: The configuration as plain data.

    Raises:
        KeyError: If a field is missing.
    """
    distil = kind == "distilbert"
    hidden = values["dim"] if distil else values["hidden_size"]
    pad = values.get("pad_token_id")
    pad = 0 if pad is None else pad
    positions = values["max_position_embeddings"]
    return {
        "family": kind,
        "num_hidden_layers": values["n_layers"] if distil else values["num_hidden_layers"],
        "num_attention_heads": values["n_heads"] if distil else values["num_attention_heads"],
        "hidden_size": hidden,
        "intermediate_size": values["hidden_dim"] if distil else values["intermediate_size"],
        "hidden_act": values["activation"] if distil else values["hidden_act"],
        "vocab_size": values["vocab_size"],
        "max_length": positions - (pad + 1) if kind in OFFSET_POSITIONS else positions,
        "type_vocab_size": 1 if distil else values["type_vocab_size"],
        "embedding_size": values.get("embedding_size") or hidden,
        "pad_token_id": pad,
        "layer_norm_eps": 1e-12 if distil else values["layer_norm_eps"],
    }


def foreign_shape(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an ``EncoderArchitecture`` from the configuration of any other type, unchecked.

    The number of heads is the largest common divisor of the teacher's number of heads and the width, because the heads
    of a student share its width; the heads of some teachers are wider in total.

    Args:
        kind: The ``model_type``.
        values: The configuration of the encoder as plain data, customary names added.

    Raises:
        KeyError: If width, layers, heads or vocabulary are not found.
    """
    hidden = _named(values, "hidden_size", "d_model", "dim")
    heads = _named(values, "num_attention_heads", "num_heads", "n_heads", "n_head")
    pad = _named(values, "pad_token_id", default=None)
    if pad is None:
        pad = _first_of(_named(values, "eos_token_id", default=0))
    return {
        "family": kind,
        "num_hidden_layers": _named(values, "num_hidden_layers", "num_layers", "n_layers", "n_layer"),
        "num_attention_heads": math.gcd(heads, hidden),
        "hidden_size": hidden,
        "intermediate_size": _first_of(
            _named(values, "intermediate_size", "d_ff", "ffn_dim", "hidden_dim", "n_inner", default=4 * hidden)
        ),
        "hidden_act": _activation(values),
        "vocab_size": _named(values, "vocab_size"),
        "max_length": _longest_input(values, pad),
        "type_vocab_size": _named(values, "type_vocab_size", default=1) or 1,
        "embedding_size": _named(values, "embedding_size", default=hidden),
        "pad_token_id": pad,
        "layer_norm_eps": _named(
            values, "layer_norm_eps", "norm_eps", "rms_norm_eps", "layer_norm_epsilon", default=1e-12
        ),
    }


def customary_values(config: Any) -> dict[str, Any]:
    """Return the configuration of an encoder as plain data, with each size also under its usual name.

    For an encoder-decoder and for a model with several parts, it is the configuration of the text encoder.

    Args:
        config: Configuration of transformers.
    """
    part: Any = getattr(config, "encoder", None)
    if not hasattr(part, "to_dict"):
        composed = hasattr(config, "get_text_config") and not getattr(config, "is_encoder_decoder", False)
        part = config.get_text_config() if composed else config
    own = {name: value for name, value in part.to_dict().items() if value is not None}
    values = {**config.to_dict(), **own}
    for customary, name in getattr(part, "attribute_map", {}).items():
        if name in values:
            values.setdefault(customary, values[name])
    return values


_REQUIRED = object()


def _named(values: Mapping[str, Any], *names: str, default: Any = _REQUIRED) -> Any:
    """Return the first existing value under one of several names."""
    for name in names:
        if values.get(name) is not None:
            return values[name]
    if default is _REQUIRED:
        raise KeyError(names[0])
    return default


def _first_of(value: Any) -> Any:
    """Return the first of several values; some configurations have a list instead of one value."""
    return value[0] if isinstance(value, list | tuple) and value else value


def _activation(values: Mapping[str, Any]) -> str:
    name = _named(
        values, "hidden_act", "hidden_activation", "activation_function", "feed_forward_proj", "activation", default=""
    )
    return _ACTIVATIONS.get(name, "gelu") if isinstance(name, str) else "gelu"


def _longest_input(values: Mapping[str, Any], pad: int) -> Any:
    """Return the number of usable positions; types with the padding id of RoBERTa reserve positions as RoBERTa does."""
    positions = _named(values, "max_position_embeddings", "n_positions", default=LONGEST_INPUT)
    reserved = pad + 1 if pad == _ROBERTA_PADDING else 0
    return min(positions - reserved, LONGEST_INPUT)
