"""Tiny encoders of random weights, of any type that transformers has, with a real fast tokenizer; equal on every call.

They prove what does not depend on what a model has learnt: that it loads, that its states are what students need, and
that a student learns from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from kdnas_env.errors import KDNASError
from kdnas_env.support.quiet import quiet_transformers

LAYERS, WIDTH, HEADS, INNER, POSITIONS = 2, 32, 2, 48, 64

_SUBJECTS = ("The actor", "a young director", "this film", "her script", "every scene", "the music")
_VERBS = ("barely holds", "quietly moves", "never bores", "fully wins over", "sometimes tires", "surprises")
_OBJECTS = ("the audience .", "anyone who waits for two long hours !", "critics", "a patient viewer .", "us all ?")
_VOCABULARY = 320
_SPREAD = 0.2
_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask")

_SIZES: Mapping[str, Any] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
}
_T5_SIZES = {
    "num_layers": LAYERS,
    "num_decoder_layers": 1,
    "d_model": WIDTH,
    "num_heads": HEADS,
    "d_ff": INNER,
    "d_kv": 8,
}
_DECODER_SIZES = {**_SIZES, "num_key_value_heads": 1, "head_dim": 16}
_ROBERTA_LIKE = {**_SIZES, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1}


@dataclass(frozen=True)
class TinyEncoder:
    """How an encoder of a type is made tiny.

    Attributes:
        tokenizer: Its kind of tokenizer: ``wordpiece`` lower-cases and adds a token at either end, ``unigram`` adds one
            at the end, ``bytes`` adds none and has no padding token.
        sizes: Fields of its configuration.
    """

    tokenizer: str = "wordpiece"
    sizes: Mapping[str, Any] = field(default_factory=lambda: _SIZES)


TINY_ENCODERS: Mapping[str, TinyEncoder] = {
    "bert": TinyEncoder(),
    "roberta": TinyEncoder("unigram", _ROBERTA_LIKE),
    "xlm-roberta": TinyEncoder("unigram", _ROBERTA_LIKE),
    "albert": TinyEncoder("wordpiece", {**_SIZES, "embedding_size": 16, "hidden_act": "gelu"}),
    "distilbert": TinyEncoder("wordpiece", {"n_layers": LAYERS, "dim": WIDTH, "n_heads": HEADS, "hidden_dim": INNER}),
    "electra": TinyEncoder("wordpiece", {**_SIZES, "embedding_size": 16}),
    "camembert": TinyEncoder("unigram", _ROBERTA_LIKE),
    "data2vec-text": TinyEncoder("unigram", _ROBERTA_LIKE),
    "ernie": TinyEncoder(),
    "modernbert": TinyEncoder("bytes", {**_SIZES, "local_attention": 8, "global_attn_every_n_layers": 2}),
    "modernbert-decoder": TinyEncoder("bytes", {**_SIZES, "pad_token_id": 0}),
    "deberta": TinyEncoder("bytes", {**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": TinyEncoder(
        "unigram", {**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16}
    ),
    "mpnet": TinyEncoder("wordpiece", _ROBERTA_LIKE),
    "nomic_bert": TinyEncoder(),
    "eurobert": TinyEncoder("bytes"),
    "jina_embeddings_v3": TinyEncoder("unigram", _ROBERTA_LIKE),
    "roformer": TinyEncoder(),
    "mobilebert": TinyEncoder("wordpiece", {**_SIZES, "intra_bottleneck_size": 16, "true_hidden_size": 16}),
    "xlm-roberta-xl": TinyEncoder("unigram", _ROBERTA_LIKE),
    "rembert": TinyEncoder("unigram", {**_SIZES, "input_embedding_size": 16}),
    "squeezebert": TinyEncoder("wordpiece", {**_SIZES, "embedding_size": WIDTH}),
    "convbert": TinyEncoder("wordpiece", {**_SIZES, "embedding_size": WIDTH, "conv_kernel_size": 3}),
    "fnet": TinyEncoder("unigram"),
    "nystromformer": TinyEncoder(),
    "t5": TinyEncoder("unigram", {**_T5_SIZES, "feed_forward_proj": "gated-gelu"}),
    "umt5": TinyEncoder("unigram", _T5_SIZES),
    "t5gemma": TinyEncoder("bytes", {"encoder": _DECODER_SIZES, "decoder": _DECODER_SIZES}),
    "bart": TinyEncoder("bytes"),
    "gpt2": TinyEncoder("bytes"),
    "llama": TinyEncoder("bytes", _DECODER_SIZES),
    "mistral": TinyEncoder("bytes", {**_DECODER_SIZES, "sliding_window": 8}),
    "qwen2": TinyEncoder("bytes", {**_SIZES, "num_key_value_heads": 1}),
    "qwen3": TinyEncoder("bytes", _DECODER_SIZES),
    "gemma": TinyEncoder("bytes", _DECODER_SIZES),
    "gemma3_text": TinyEncoder("bytes", {**_DECODER_SIZES, "sliding_window": 8, "query_pre_attn_scalar": 16}),
}
"""Tiny encoders by ``model_type``."""


def tiny_texts() -> list[str]:
    """Return 180 different short sentences."""
    return [" ".join(parts) for parts in product(_SUBJECTS, _VERBS, _OBJECTS)]


def tiny_tokenizer(kind: str) -> Any:
    """Return a fast tokenizer of a few hundred tokens, learnt from :func:`tiny_texts`.

    Args:
        kind: ``wordpiece``, ``unigram`` or ``bytes``.

    Raises:
        KDNASError: If there is no such kind.
    """
    if kind not in _TOKENIZERS:
        raise KDNASError(f"unknown kind of tokenizer {kind!r}; choose from {list(_TOKENIZERS)}")
    return _TOKENIZERS[kind]()


def save_tiny_encoder(folder: Path, model_type: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write an encoder of random weights and its tokenizer in hub layout.

    Args:
        folder: The folder.
        model_type: Its type; of one that :data:`TINY_ENCODERS` has not, the customary sizes are set.
        seed: Seed of the weights.
        changes: Fields of its configuration.

    Returns:
        The folder.

    Raises:
        KDNASError: If transformers has no model of that type.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    tiny = TINY_ENCODERS.get(model_type, TinyEncoder())
    tokenizer = tiny_tokenizer(tiny.tokenizer)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    values: dict[str, Any] = {"vocab_size": len(tokenizer), "initializer_range": _SPREAD}
    for name in _SPECIAL:
        own = getattr(tokenizer, f"{name}_token_id")
        values[f"{name}_token_id"] = end if own is None and name != "pad" else own
    try:
        config = AutoConfig.for_model(model_type, **{**values, **tiny.sizes, **changes})
    except (ValueError, KeyError) as error:
        raise KDNASError(f"no tiny encoder of type {model_type!r} can be made: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _wordpiece() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(tiny_texts(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{name}_token": at for name, at in named.items()})


def _unigram() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=_VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(tiny_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    named = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{name}_token": at for name, at in named.items()})


def _bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tiny_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", padding_side="left")


_TOKENIZERS: Mapping[str, Callable[[], Any]] = {"wordpiece": _wordpiece, "unigram": _unigram, "bytes": _bytes}
