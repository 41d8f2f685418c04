"""Students without layers, with smaller embeddings or vocabularies, and their dimensions in a search space."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from kdnas_env.core.architecture import (
    CORPUS_TOKENS,
    FULL,
    EncoderArchitecture,
    StudentConfig,
    count_parameters,
    forward_flops,
)
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError

CHOICES: dict[str, Any] = {
    "num_hidden_layers": [0, 1, 2],
    "num_attention_heads": [2, 4],
    "hidden_size": [96, 768],
    "intermediate_size": [64, 128],
    "hidden_act": ["relu", "gelu"],
    "embedding_size": ["full", 64, 128],
    "vocabulary": ["full", 8000, "corpus", 500],
}


@pytest.fixture
def space(bert_base: EncoderArchitecture) -> SearchSpace:
    return SearchSpace.from_dict(CHOICES, bert_base)


def test_what_is_not_changed_is_neither_written_nor_printed() -> None:
    plain = StudentConfig(2, 2, 8, 8)
    assert plain.to_dict().keys() == {
        *("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "hidden_act", "family")
    }
    assert str(plain) == "bert 2L/8h/2a/8f/gelu"


@pytest.mark.parametrize(
    "text",
    [
        "bert 0L/96h/1a/1f/gelu",
        "bert 2L/96h/2a/64f/relu embedding_size=64",
        "bert 2L/96h/2a/64f/relu embedding_size=64 vocabulary=corpus",
        "albert 2L/96h/2a/64f/relu vocabulary=500 batch_size=4",
    ],
)
def test_words_and_plain_data_restore_a_student(text: str) -> None:
    student = StudentConfig.parse(text)
    assert str(student) == text
    assert StudentConfig.from_dict(json.loads(json.dumps(student.to_dict()))) == student


def test_all_shapes_of_no_layers_are_one_student() -> None:
    student = StudentConfig(0, 4, 96, 512, "relu")
    assert student == StudentConfig(0, 1, 96, 1, "gelu")
    assert hash(student) == hash(StudentConfig(0, 1, 96, 1))


def test_words_stand_for_numbers(space: SearchSpace) -> None:
    assert StudentConfig(1, 1, 8, 8, embedding_size="full", vocabulary="corpus") == StudentConfig(  # type: ignore[arg-type]
        1, 1, 8, 8, embedding_size=FULL, vocabulary=CORPUS_TOKENS
    )
    assert space.choices["vocabulary"] == (500, 8000, "corpus", "full")
    assert space.choices["embedding_size"] == (64, 128, "full")
    assert space.ordered == (True, True, True, True, False, True, True)
    assert SearchSpace.from_dict(space.to_dict(), space.teacher) == space


def test_every_action_names_a_student_that_names_it(space: SearchSpace) -> None:
    first = space.canonical(np.arange(space.size))
    assert np.array_equal(first, space.first_indices)
    for index in range(space.size):
        config = space.decode(space.from_index(index))
        assert space.index(space.encode(config)) == first[index]


def test_a_static_student_is_listed_once(space: SearchSpace) -> None:
    listed = list(space.students())
    configs = [config for _, config in listed]
    assert len(set(configs)) == len(configs)
    assert set(configs) == {config for config in space if space.is_valid(config)}
    assert [index for index, _ in listed] == space.valid_indices.tolist()
    # Width 96 has embeddings of 64 or full, width 768 has all three; each with four vocabularies.
    assert sum(config.num_hidden_layers == 0 for config in configs) == (2 + 3) * 4


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"embedding_size": [768, "full"], "hidden_size": 96}, None),
        (
            {"embedding_size": [64, "half"]},
            "a choice of embedding_size is 'half'; expected a whole number, or one of ['full']",
        ),
        ({"embedding_size": [64, -1]}, "a choice of embedding_size is -1; expected"),
        (
            {"vocabulary": [True, 500]},
            "a choice of vocabulary is True; expected a whole number, or one of ['corpus', 'full']",
        ),
        ({"vocabulary": [[1], 500]}, "a choice of vocabulary is [1]"),
        ({"vocabulary": [40000, 50000]}, "the teacher has 30522 tokens, no more than the vocabulary 40000"),
        ({"embedding_size": [64, 128], "family": "roberta"}, "a roberta has no factorised embeddings"),
        ({"num_hidden_layers": 0, "family": "albert", "hidden_size": [96, 192]}, "an albert has at least one layer"),
        ({"embedding_size": [96, 128], "hidden_size": 96}, "embedding_size 96 is not below hidden_size 96"),
    ],
)
def test_choices_that_no_student_can_have(
    bert_base: EncoderArchitecture, choices: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert len(SearchSpace.from_dict(choices, bert_base).valid_indices) == 1
        return
    with pytest.raises(SpaceError) as error:
        SearchSpace.from_dict(choices, bert_base)
    assert message in str(error.value)


def test_costs_follow_the_embeddings(bert_base: EncoderArchitecture) -> None:
    full, small = StudentConfig(2, 2, 96, 64), StudentConfig(2, 2, 96, 64, embedding_size=32)
    rows = 30522 + 512 + 2
    assert count_parameters(full, bert_base) - count_parameters(small, bert_base) == (
        (rows + 2) * (96 - 32) - (32 * 96 + 96)
    )
    cut = StudentConfig(2, 2, 96, 64, vocabulary=500)
    assert count_parameters(full, bert_base) - count_parameters(cut, bert_base) == (30522 - 500) * 96
    assert count_parameters(cut, bert_base, tokens=400) == count_parameters(cut, bert_base) - 100 * 96
    flops = {student: forward_flops(student, bert_base, batch=1, length=10) for student in (full, small)}
    assert flops[small] - flops[full] == 2 * 10 * 32 * 96
    assert forward_flops(StudentConfig(0, 1, 96, 1), bert_base, batch=1, length=10) == 0
