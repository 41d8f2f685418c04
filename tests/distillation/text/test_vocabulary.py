from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teachers import FAMILIES, build_tokenizer, sentences, words
from tokenizers import Tokenizer

from kdnas_env.distillation.text.vocabulary import choose_tokens, count_tokens, cut_tokenizer
from kdnas_env.errors import CorpusError

KINDS = ("bert", "roberta", "xlm-roberta", "albert")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {family: build_tokenizer(family) for family in FAMILIES}


def batches(texts: list[str]) -> Iterator[list[str]]:
    return (texts[start : start + 50] for start in range(0, len(texts), 50))


def cut(tokenizer: Any, texts: list[str], size: int | None = None) -> tuple[np.ndarray[Any, Any], Tokenizer]:
    kept = choose_tokens(tokenizer, count_tokens(tokenizer, batches(texts)), size)
    return kept, Tokenizer.from_str(json.dumps(cut_tokenizer(tokenizer, kept)))


@pytest.mark.parametrize("family", KINDS)
def test_a_text_of_kept_tokens_is_read_as_before(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    kept, smaller = cut(tokenizer, sentences()[:40])
    assert len(kept) < len(tokenizer)
    assert smaller.get_vocab_size() == len(kept)
    for text in sentences()[:40]:
        assert smaller.encode(text).tokens == tokenizer.backend_tokenizer.encode(text).tokens
        assert kept[smaller.encode(text).ids].tolist() == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("family", KINDS)
def test_another_text_is_spelled_with_them(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    _, smaller = cut(tokenizer, sentences()[:1])
    unknown = tokenizer.unk_token
    for word in words():
        tokens = smaller.encode(word, add_special_tokens=False).tokens
        assert unknown not in tokens
        assert "".join(token.removeprefix("##").strip("\u2581\u0120") for token in tokens) == word


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.sampled_from(sentences()), min_size=1, max_size=20),
    family=st.sampled_from(KINDS),
    share=st.floats(0, 1),
)
def test_no_vocabulary_is_larger_than_asked_for(
    tokenizers: dict[str, Any], texts: list[str], family: str, share: float
) -> None:
    tokenizer = tokenizers[family]
    everything, _ = cut(tokenizer, texts)
    least = len(choose_tokens(tokenizer, np.zeros(len(tokenizer), dtype=np.int64)))
    size = least + 1 + round(share * len(tokenizer))
    kept, smaller = cut(tokenizer, texts, size)
    assert len(kept) <= max(size, least)
    assert set(kept) <= set(everything)
    ids = tokenizer.get_vocab()
    for text in texts:
        tokens = tokenizer.backend_tokenizer.encode(text).tokens
        if {ids[token] for token in tokens} <= set(kept.tolist()):
            assert smaller.encode(text).tokens == tokens


@pytest.mark.parametrize("family", KINDS)
def test_frequent_tokens_come_first(tokenizers: dict[str, Any], family: str) -> None:
    tokenizer = tokenizers[family]
    counts = count_tokens(tokenizer, batches(sentences()))
    everything = choose_tokens(tokenizer, counts)
    kept = choose_tokens(tokenizer, counts, len(everything) - 5)
    left_out = np.setdiff1d(everything, kept)
    assert 0 < len(left_out) <= 10  # a merged token also needs room for its parts, so more than 5 may be left out
    assert counts[left_out].max() <= np.median(counts[counts > 0])


def test_special_tokens_are_added_by_their_new_ids(tokenizers: dict[str, Any]) -> None:
    for family in KINDS:
        _, smaller = cut(tokenizers[family], sentences()[:5])
        text, pair = sentences()[0], sentences()[1]
        assert smaller.encode(text, pair).tokens == tokenizers[family].backend_tokenizer.encode(text, pair).tokens
        assert [smaller.token_to_id(token) for token in smaller.encode(text).tokens] == smaller.encode(text).ids


def test_a_size_without_room_for_words_is_refused(tokenizers: dict[str, Any]) -> None:
    counts = count_tokens(tokenizers["bert"], batches(sentences()))
    with pytest.raises(CorpusError, match=r"a vocabulary of 10 tokens has no room for words: \d+ are special"):
        choose_tokens(tokenizers["bert"], counts, 10)


def test_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    class Odd:
        class backend_tokenizer:
            @staticmethod
            def to_str() -> str:
                return json.dumps({"model": {"type": "Characters"}, "added_tokens": []})

    with pytest.raises(CorpusError, match=r"of kind 'Characters' cannot be reduced; expected one of \['WordPiece'"):
        cut_tokenizer(Odd, np.array([0]))
