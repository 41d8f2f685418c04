"""A uniform view of post-norm Transformer layers, independent of transformers' module names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdnas_env.core.architecture import PLAIN_TYPES
from kdnas_env.errors import KDNASError


@dataclass(frozen=True, eq=False)
class EncoderLayer:
    """The modules of one post-norm Transformer layer (Vaswani et al. 2017)."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    ffn_in: nn.Linear
    ffn_out: nn.Linear
    ffn_norm: nn.LayerNorm


@dataclass(frozen=True, eq=False)
class EmbeddingTables:
    """The embedding tables of an encoder.

    Attributes:
        word: ``(vocabulary, embedding_size)``.
        position: ``(positions, embedding_size)``.
        segment: ``(segments, embedding_size)``, or None where the model has none (DistilBERT).
        norm: LayerNorm applied to the sum of the embeddings.
        expansion: Map from factorised embeddings to the hidden size, or None.
    """

    word: nn.Embedding
    position: nn.Embedding
    segment: nn.Embedding | None
    norm: nn.LayerNorm
    expansion: nn.Linear | None


_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
_ALBERT = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "ffn_in": "ffn",
    "ffn_out": "ffn_output",
    "ffn_norm": "full_layer_layer_norm",
}
_DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "ffn_in": "ffn.lin1",
    "ffn_out": "ffn.lin2",
    "ffn_norm": "output_layer_norm",
}
_MPNET = _BERT | {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "attention_output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}
_DEBERTA_V2 = _BERT | {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
}
_PATHS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(PLAIN_TYPES, _BERT),
    "albert": _ALBERT,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "deberta-v2": _DEBERTA_V2,
    "roformer": _BERT,
    "rembert": _BERT,
}
"""Module paths of the parts of a layer, by model type."""

SLICED_TYPES = tuple(_PATHS)
"""``model_type`` values whose layers have the same linear maps as BERT's: the plain types, and types that add relative
positions to the attention, which students do not have."""


def encoder_layers(model: Any) -> tuple[EncoderLayer, ...]:
    """Return the layers of an encoder whose type is in :data:`SLICED_TYPES`.

    ALBERT's shared layer appears once per execution.

    Raises:
        KDNASError: If the encoder has another type.
    """
    kind = model.config.model_type
    if kind not in _PATHS:
        raise KDNASError(f"kdnas cannot read the layers of a model of type {kind!r}; expected one of {list(_PATHS)}")
    read = partial(_layer, paths=_PATHS[kind])
    if kind == "distilbert":
        return tuple(map(read, model.transformer.layer))
    if kind == "albert":
        groups, layers = model.config.num_hidden_groups, model.config.num_hidden_layers
        shared = [read(group.albert_layers[0]) for group in model.encoder.albert_layer_groups]
        return tuple(shared[index * groups // layers] for index in range(layers))
    return tuple(map(read, model.encoder.layer))


def embedding_tables(model: Any) -> EmbeddingTables:
    """Return the embedding tables of an encoder of a plain type."""
    embeddings = model.embeddings
    # ELECTRA has the map only if the widths differ; ALBERT always has it.
    albert = model.config.model_type == "albert"
    expansion = model.encoder.embedding_hidden_mapping_in if albert else getattr(model, "embeddings_project", None)
    return EmbeddingTables(
        word=embeddings.word_embeddings,
        position=embeddings.position_embeddings,
        segment=getattr(embeddings, "token_type_embeddings", None),
        norm=embeddings.LayerNorm,
        expansion=expansion,
    )


def activation_function(model: Any) -> Any:
    """Return the feed-forward activation of an encoder whose type is in :data:`SLICED_TYPES`, ``Tensor -> Tensor``."""
    from transformers.activations import ACT2FN

    config = model.config
    return ACT2FN[config.activation if config.model_type == "distilbert" else config.hidden_act]


def score_terms(model: Any) -> int:
    """Return the number of terms in a teacher's attention scores; DeBERTa scales all its terms by one factor."""
    if model.config.model_type != "deberta-v2":
        return 1
    return 1 + sum(kind in model.config.pos_att_type for kind in ("c2p", "p2c"))


def heads_first(states: Tensor, heads: int) -> Tensor:
    """Split the last dimension into heads: ``(batch, length, width)`` to ``(batch, heads, length, width / heads)``."""
    batch, length, width = states.shape
    return states.view(batch, length, heads, width // heads).transpose(1, 2)


def _layer(layer: Any, paths: Mapping[str, str]) -> EncoderLayer:
    return EncoderLayer(**{part: layer.get_submodule(path) for part, path in paths.items()})
