from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_teachers
from tokenizers import Tokenizer

from kdnas_env.core.architecture import CORPUS_TOKENS, FULL
from kdnas_env.distillation.text.retokenising import Retokenised, retokenise
from kdnas_env.distillation.text.vocabulary import choose_tokens, cut_tokenizer
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import SpaceError

KINDS = ("bert", "roberta", "xlm-roberta", "albert")
"""WordPiece, byte-level BPE, and two Unigram tokenizers."""


def few(workload: Workload) -> np.ndarray[Any, Any]:
    """Return the smallest vocabulary plus up to ten tokens, which splits most words differently."""
    tokenizer, corpus = workload.teacher.tokenizer, workload.corpus
    counts = np.bincount(corpus.input_ids, minlength=len(tokenizer)).astype(np.int64)
    least = choose_tokens(tokenizer, np.zeros_like(counts))
    return choose_tokens(tokenizer, counts, len(least) + 10)


def retokenised(workload: Workload, kept: np.ndarray[Any, Any], longest: int = 512) -> Retokenised:
    return retokenise(workload.corpus, workload.teacher.tokenizer, kept, longest=longest)


def sample(corpus: Any, index: int) -> Any:
    return corpus.input_ids[corpus.offsets[index] : corpus.offsets[index + 1]]


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
@pytest.mark.parametrize("family", KINDS)
def test_a_corpus_is_spelled_as_the_smaller_tokenizer_reads_it(
    family: str, pairs: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(family, pairs=pairs)
    tokenizer, kept = workload.teacher.tokenizer, few(workload)
    new = retokenised(workload, kept)
    smaller = Tokenizer.from_str(json.dumps(cut_tokenizer(tokenizer, kept)))
    texts = tiny_teachers.sentences()
    second = texts[::-1]
    longer = 0
    read = {}
    for place, text in enumerate(texts):
        own = smaller.encode(text, second[place]) if pairs else smaller.encode(text)
        whole = tokenizer(text, second[place])["input_ids"] if pairs else tokenizer(text)["input_ids"]
        read[tuple(whole)] = (kept[own.ids].tolist(), own.type_ids)
    for index in range(len(workload.corpus)):
        ids, types = read[tuple(sample(workload.corpus, index).tolist())]
        assert sample(new.corpus, index).tolist() == ids
        if new.corpus.token_type_ids is not None:
            span = slice(new.corpus.offsets[index], new.corpus.offsets[index + 1])
            assert new.corpus.token_type_ids[span].tolist() == types
        longer += len(ids) > len(sample(workload.corpus, index))
    assert longer > len(workload.corpus) / 2
    assert new.corpus.fingerprint != workload.corpus.fingerprint


@pytest.mark.parametrize("family", KINDS)
def test_each_original_token_has_the_own_token_that_ends_where_it_does(
    family: str, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(family)
    tokenizer, kept = workload.teacher.tokenizer, few(workload)
    new = retokenised(workload, kept)
    every = np.arange(len(workload.corpus))
    own, theirs = new.corpus.input_ids[new.rows(every)], workload.corpus.input_ids
    assert len(own) == len(theirs)
    assert np.array_equal(own == theirs, np.isin(theirs, kept) & (own == theirs))
    for mine, token in zip(tokenizer.convert_ids_to_tokens(own), tokenizer.convert_ids_to_tokens(theirs), strict=True):
        end = mine.removeprefix("##").lstrip("\u2581\u0120")
        assert token.endswith(end) or mine.removeprefix("##").find(token.removeprefix("##")) >= 0, (mine, token)
    # Places never decrease within a sample, and the last tokens are aligned.
    for index in range(0, len(every), 7):
        places = new.rows(every[index : index + 1])
        assert (np.diff(places) >= 0).all()
        assert places[-1] == len(sample(new.corpus, index)) - 1


def test_all_tokens_change_nothing(workload: Workload) -> None:
    new = retokenised(workload, np.arange(len(workload.teacher.tokenizer)))
    assert new.corpus.fingerprint == workload.corpus.fingerprint
    every = np.arange(len(workload.corpus))
    assert np.array_equal(new.rows(every), np.arange(len(workload.corpus.input_ids)))
    assert new.shares(every, workload.teacher.tokenizer.unk_token_id)["longer"] == 1


def test_samples_that_get_too_long_keep_their_last_token(workload: Workload) -> None:
    longest = int(workload.corpus.lengths.max())
    new = retokenised(workload, few(workload), longest)
    assert new.corpus.lengths.max() == longest
    assert new.places.max() == longest - 1
    last = workload.corpus.input_ids[workload.corpus.offsets[1:] - 1]
    assert np.array_equal(new.corpus.input_ids[new.corpus.offsets[1:] - 1], last)


def test_a_workload_keeps_what_the_corpus_uses(workload: Workload) -> None:
    assert workload.of_vocabulary(FULL) is workload
    small = workload.of_vocabulary(CORPUS_TOKENS)
    assert small is workload.of_vocabulary(CORPUS_TOKENS)
    assert small.retokenised is not None
    used = np.concatenate([sample(workload.corpus, index) for index in workload.corpus.train_full.tolist()])
    assert np.isin(used, small.retokenised.kept).all()
    assert set(small.vocabulary) <= set(small.retokenised.kept)
    with pytest.raises(SpaceError, match="a vocabulary of 5 tokens has no room for words"):
        workload.of_vocabulary(5)
