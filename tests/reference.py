"""Architectures that tests compare with."""

from __future__ import annotations

from kdnas_env.architecture import EncoderArchitecture

BERT_BASE = EncoderArchitecture(
    family="bert",
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_size=768,
    intermediate_size=3072,
    hidden_act="gelu",
    vocab_size=30522,
    max_length=512,
    type_vocab_size=2,
    embedding_size=768,
    pad_token_id=0,
    layer_norm_eps=1e-12,
)
