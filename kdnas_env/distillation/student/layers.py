"""One view of the Transformer layers of all plain encoders, whatever transformers calls their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


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
        norm: LayerNorm of their sum.
        expansion: Map to the hidden size where the embeddings are factorised, or None.
    """

    word: nn.Embedding
    position: nn.Embedding
    segment: nn.Embedding | None
    norm: nn.LayerNorm
    expansion: nn.Linear | None


def encoder_layers(model: Any) -> tuple[EncoderLayer, ...]:
    """Return the layers of an encoder of a plain type; ALBERT's shared layer appears as often as it is run."""
    kind = model.config.model_type
    if kind == "distilbert":
        return tuple(_distilbert_layer(layer) for layer in model.transformer.layer)
    if kind == "albert":
        groups, layers = model.config.num_hidden_groups, model.config.num_hidden_layers
        shared = [_albert_layer(group.albert_layers[0]) for group in model.encoder.albert_layer_groups]
        return tuple(shared[index * groups // layers] for index in range(layers))
    return tuple(_bert_layer(layer) for layer in model.encoder.layer)


def embedding_tables(model: Any) -> EmbeddingTables:
    """Return the embedding tables of an encoder of a plain type."""
    embeddings = model.embeddings
    # ELECTRA has its map only where the widths differ, ALBERT always.
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
    """Return the feed-forward activation of an encoder of a plain type, ``Tensor -> Tensor``."""
    from transformers.activations import ACT2FN

    config = model.config
    return ACT2FN[config.activation if config.model_type == "distilbert" else config.hidden_act]


def heads_first(states: Tensor, heads: int) -> Tensor:
    """Split the last dimension into heads: ``(batch, length, width)`` to ``(batch, heads, length, width / heads)``."""
    batch, length, width = states.shape
    return states.view(batch, length, heads, width // heads).transpose(1, 2)


def _bert_layer(layer: Any) -> EncoderLayer:
    attention = layer.attention
    return EncoderLayer(
        query=attention.self.query,
        key=attention.self.key,
        value=attention.self.value,
        attention_output=attention.output.dense,
        attention_norm=attention.output.LayerNorm,
        ffn_in=layer.intermediate.dense,
        ffn_out=layer.output.dense,
        ffn_norm=layer.output.LayerNorm,
    )


def _albert_layer(layer: Any) -> EncoderLayer:
    attention = layer.attention
    return EncoderLayer(
        query=attention.query,
        key=attention.key,
        value=attention.value,
        attention_output=attention.dense,
        attention_norm=attention.LayerNorm,
        ffn_in=layer.ffn,
        ffn_out=layer.ffn_output,
        ffn_norm=layer.full_layer_layer_norm,
    )


def _distilbert_layer(layer: Any) -> EncoderLayer:
    attention = layer.attention
    return EncoderLayer(
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        attention_output=attention.out_lin,
        attention_norm=layer.sa_layer_norm,
        ffn_in=layer.ffn.lin1,
        ffn_out=layer.ffn.lin2,
        ffn_norm=layer.output_layer_norm,
    )
