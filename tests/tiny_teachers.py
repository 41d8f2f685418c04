"""Tiny teachers of every family, in hub layout, with real fast tokenizers built by hand: the same on every run."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

LAYERS, HIDDEN, HEADS, FFN, POSITIONS = 3, 32, 4, 64, 66
FAMILIES = ("bert", "roberta", "xlm-roberta", "albert", "distilbert", "electra")

SUBJECTS = ("the actor", "a young director", "this film", "her script", "every scene", "the music", "our hero")
VERBS = ("barely holds", "quietly moves", "never bores", "fully wins over", "sometimes tires", "surprises")
OBJECTS = ("the audience", "anyone who waits for two long hours", "critics", "a patient viewer", "us all")


def sentences() -> list[str]:
    """210 distinct sentences of 3 to 13 words."""
    return [f"{subject} {verb} {thing} ." for subject, verb, thing in product(SUBJECTS, VERBS, OBJECTS)]


def words() -> list[str]:
    counts = Counter(word for sentence in sentences() for word in sentence.split())
    return sorted(counts, key=lambda word: (-counts[word], word))


def wordpiece_vocabulary() -> dict[str, int]:
    letters = sorted(set("".join(words()) + "abcdefghijklmnopqrstuvwxyz0123456789,!?'"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words()]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def unigram_vocabulary(special: tuple[str, ...]) -> list[tuple[str, float]]:
    letters = sorted(set("".join(words()) + "abcdefghijklmnopqrstuvwxyz0123456789,!?'"))
    pieces = [
        ("\u2581", -9.0),
        *((letter, -10.0) for letter in letters),
        *((f"\u2581{word}", -2.0) for word in words()),
    ]
    return [*((token, 0.0) for token in special), *pieces]


def byte_level_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Merges that build each word letter by letter, with the leading space as ``\u0120``."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges: dict[tuple[str, str], None] = {}
    for word in words():
        for end in range(1, len(word) + 1):
            merges[("\u0120" + word[: end - 1], word[end - 1])] = None
    tokens = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *sorted(ByteLevel.alphabet()),
        *("".join(pair) for pair in merges),
        "<mask>",
    ]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, list(merges)


def build_tokenizer(family: str) -> Any:
    from transformers import (
        AlbertTokenizer,
        BertTokenizer,
        DistilBertTokenizer,
        ElectraTokenizer,
        RobertaTokenizer,
        XLMRobertaTokenizer,
    )

    if family in ("roberta", "data2vec-text"):
        vocabulary, merges = byte_level_bpe()
        return RobertaTokenizer(vocab=vocabulary, merges=merges)
    if family in ("xlm-roberta", "camembert"):
        return XLMRobertaTokenizer(vocab=unigram_vocabulary(("<s>", "<pad>", "</s>", "<unk>")))
    if family == "albert":
        return AlbertTokenizer(vocab=unigram_vocabulary(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")))
    kinds = {
        "bert": BertTokenizer,
        "ernie": BertTokenizer,
        "distilbert": DistilBertTokenizer,
        "electra": ElectraTokenizer,
    }
    return kinds[family](vocab=wordpiece_vocabulary())


def build_config(family: str, vocab_size: int, **overrides: Any) -> Any:
    """The configuration of a tiny encoder; the factorised families embed in half the width."""
    from transformers import AutoConfig

    offset = family in ("roberta", "xlm-roberta", "camembert", "data2vec-text")
    if family == "distilbert":
        values: dict[str, Any] = {"n_layers": LAYERS, "dim": HIDDEN, "n_heads": HEADS, "hidden_dim": FFN}
    else:
        values = {
            "num_hidden_layers": LAYERS,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "intermediate_size": FFN,
            "type_vocab_size": 1 if offset else 2,
        }
    if family in ("albert", "electra"):
        values["embedding_size"] = HIDDEN // 2
    values |= {"vocab_size": vocab_size, "max_position_embeddings": POSITIONS, "pad_token_id": 1 if offset else 0}
    if family == "albert":
        values["hidden_act"] = "gelu"
    return AutoConfig.for_model(family, **{**values, "initializer_range": 0.2, **overrides})


def save_teacher(folder: Path, family: str, *, seed: int = 0, head: bool = False, **overrides: Any) -> Path:
    """Write config, random weights (optionally of a masked language model) and tokenizer in hub layout."""
    import torch
    from transformers import AutoModel, AutoModelForMaskedLM

    tokenizer = build_tokenizer(family)
    config = build_config(family, len(tokenizer), **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (AutoModelForMaskedLM if head else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_classifier(folder: Path, labels: tuple[str, ...], **overrides: Any) -> Path:
    """Write a BERT with a classification head of random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification

    tokenizer = build_tokenizer("bert")
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    config = build_config("bert", len(tokenizer), **named, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_sentences(path: Path) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences()), encoding="utf-8")
    return path
