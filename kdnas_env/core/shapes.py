"""Shapes of encoders, read off configurations of transformers.

Of the plain types every field is known by name. Of all others the sizes are found under the names that are customary,
which :data:`attribute_map` of a configuration translates, and what a student needs beside them has a default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "data2vec-text")
"""Plain types whose tokens take positions past the padding id."""

LONGEST_INPUT = 512
"""Longest input in tokens of teachers that are not plain: some take 8,192, and a student has a row for each."""

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
"""Activation of a student by that of its teacher; gates aside, which students have not."""


def plain_shape(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an ``EncoderArchitecture`` from the configuration of a plain type, unchecked.

    Args:
        kind: The ``model_type``.
        values: The configuration as plain data.

    Raises:
        KeyError: If something is lacking.
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

    The number of heads is the largest that divides both the teacher's and the width, since a student's heads share its
    width; some teachers' are larger.

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
    """Return the configuration of an encoder as plain data, with each size under the customary name too.

    Of an encoder-decoder and of a model of several parts it is that of the encoder of text.

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
    """Return the first value that is there under one of some names."""
    for name in names:
        if values.get(name) is not None:
            return values[name]
    if default is _REQUIRED:
        raise KeyError(names[0])
    return default


def _first_of(value: Any) -> Any:
    """Return the first of several values, which some configurations have where others have one."""
    return value[0] if isinstance(value, list | tuple) and value else value


def _activation(values: Mapping[str, Any]) -> str:
    name = _named(
        values, "hidden_act", "hidden_activation", "activation_function", "feed_forward_proj", "activation", default=""
    )
    return _ACTIVATIONS.get(name, "gelu") if isinstance(name, str) else "gelu"


def _longest_input(values: Mapping[str, Any], pad: int) -> Any:
    """Return how many positions a token can have; types whose padding is RoBERTa's reserve positions as that does."""
    positions = _named(values, "max_position_embeddings", "n_positions", default=LONGEST_INPUT)
    reserved = pad + 1 if pad == _ROBERTA_PADDING else 0
    return min(positions - reserved, LONGEST_INPUT)
