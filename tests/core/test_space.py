from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import teachers

from kdnas_env.core.architecture import FAMILIES, EncoderArchitecture, StudentConfig, count_parameters
from kdnas_env.core.choices import DIMENSIONS
from kdnas_env.core.space import LARGEST_ENUMERATION, SearchSpace
from kdnas_env.errors import SpaceError
from kdnas_env.evaluators.planted import PLANTED_TEACHER

HAND_WRITTEN = {
    "num_hidden_layers": (3, 4, 6, 10, 12),
    "num_attention_heads": (2, 3, 4, 6, 12),
    "hidden_size": (384, 768),
    "intermediate_size": (384, 512, 576, 768, 1024, 1536, 2048, 3072),
    "hidden_act": ("gelu", "relu", "silu"),
}


@pytest.fixture
def space(bert_base: EncoderArchitecture) -> SearchSpace:
    return SearchSpace.from_teacher(bert_base)


def awkward_space(bert_base: EncoderArchitecture) -> SearchSpace:
    """Return a space with points that cannot be built, aliases of one activation, and several families."""
    return SearchSpace.from_dict(
        {
            "num_hidden_layers": [2, 12, 14],
            "num_attention_heads": [4, 5],
            "hidden_size": [100, 96, 1024],
            "hidden_act": ["gelu", "gelu_python", "relu"],
            "family": list(FAMILIES),
        },
        bert_base,
    )


def test_bert_base_derives_the_1200_architectures_of_kdnas(space: SearchSpace) -> None:
    assert dict(space.choices) == HAND_WRITTEN
    every: Any = itertools.product(*HAND_WRITTEN.values(), ["bert"])
    listed = {StudentConfig(*values) for values in every}
    assert set(space) == listed
    assert space.size == len(space.valid_indices) == 1200


@given(teacher=teachers(), families=st.none() | st.sets(st.sampled_from(FAMILIES), min_size=1))
@settings(max_examples=60, deadline=None)
def test_every_point_of_a_derived_space_is_valid(teacher: EncoderArchitecture, families: set[str] | None) -> None:
    space = SearchSpace.from_teacher(teacher, families=sorted(families) if families else None)
    assert [space.violation(config) for config in space] == [None] * space.size
    assert ("family" in space.choices) == (
        len(families or ()) > 1 or (families is not None and teacher.as_student().family not in families)
    )
    assert teacher.as_student() in space or families is not None
    assert len(set(space)) == space.size


@given(teacher=teachers(), data=st.data())
@settings(max_examples=100, deadline=None)
def test_action_config_and_index_round_trip(teacher: EncoderArchitecture, data: st.DataObject) -> None:
    space = SearchSpace.from_teacher(teacher, families=FAMILIES)
    action = np.array([data.draw(st.integers(0, count - 1)) for count in space.nvec.tolist()])
    index = space.index(action)
    config = space.decode(action)
    assert space.encode(config).tolist() == action.tolist()
    assert space.from_index(index).tolist() == action.tolist()
    assert next(itertools.islice(space, index, None)) == config
    assert config in space
    assert space.encode(config).dtype == space.from_index(index).dtype == space.nvec.dtype == np.int64


def test_encode_of_an_alias_names_the_same_network(bert_base: EncoderArchitecture) -> None:
    space = awkward_space(bert_base)
    for index in range(space.size):
        config = space.decode(space.from_index(index))
        assert space.decode(space.encode(config)) == config
        assert space.index(space.encode(config)) == space.first_indices[index]


def test_valid_indices_are_unique_networks(bert_base: EncoderArchitecture) -> None:
    space = awkward_space(bert_base)
    configs = [space.decode(space.from_index(int(index))) for index in space.valid_indices]
    assert len(set(configs)) == len(configs)
    assert set(configs) == {config for config in space if space.is_valid(config)}
    assert 0 < len(configs) < space.size


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (StudentConfig(2, 5, 96, 64), "5 heads do not divide hidden_size 96"),
        (StudentConfig(13, 4, 96, 64), "13 layers, more than the teacher's 12"),
        (StudentConfig(2, 4, 1024, 64), "hidden_size 1024 is wider than the teacher's 768"),
    ],
)
def test_violation_names_the_reason(space: SearchSpace, config: StudentConfig, reason: str) -> None:
    assert reason in (space.violation(config) or "")
    assert not space.is_valid(config)


@given(cap=st.integers(14_584_320, 110_000_000))
@settings(max_examples=20, deadline=None)
def test_parameter_cap_is_the_only_thing_that_shrinks_a_derived_space(cap: int) -> None:
    capped = SearchSpace.from_teacher(PLANTED_TEACHER, max_parameters=cap)
    kept = [count_parameters(config, PLANTED_TEACHER) <= cap for config in capped]
    assert [capped.is_valid(config) for config in capped] == kept
    assert capped.valid_indices.tolist() == np.flatnonzero(kept).tolist()


@given(teacher=teachers())
@settings(max_examples=50, deadline=None)
def test_plain_data_round_trip(teacher: EncoderArchitecture) -> None:
    space = SearchSpace.from_teacher(teacher, families=FAMILIES, max_parameters=10**12)
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())), teacher)
    assert again == space


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_from_file(tmp_path: Path, bert_base: EncoderArchitecture, suffix: str) -> None:
    path = tmp_path / f"space.{suffix}"
    texts = {"yaml": "hidden_size: [96, 192]\nnum_attention_heads: 4\n", "json": '{"hidden_size": [96, 192]}'}
    path.write_text(texts[suffix])
    space = SearchSpace.from_file(path, bert_base)
    assert space.choices["hidden_size"] == (96, 192)
    assert space.decode(np.zeros(len(space.nvec), dtype=np.int64)).hidden_size == 96


def test_sample_is_valid_seeded_and_covers_the_space(bert_base: EncoderArchitecture) -> None:
    space = awkward_space(bert_base)
    drawn = [space.index(space.sample(np.random.default_rng(seed))) for seed in range(20)]
    assert drawn == [space.index(space.sample(np.random.default_rng(seed))) for seed in range(20)]
    rng = np.random.default_rng(0)
    seen = {space.decode(space.sample(rng)) for _ in range(2000)}
    assert seen == {config for config in space if space.is_valid(config)}


BAD_SPACES = [
    ({"hidden_size": [96]}, "1 point(s), so there is nothing to search"),
    ({"width": [96, 192]}, "unknown dimension(s) ['width']"),
    ({"hidden_size": []}, "'hidden_size' has no choices"),
    ({"hidden_size": [96, 96]}, "hidden_size has the choice(s) 96 more than once"),
    ({"hidden_size": [96, 0]}, "a choice of hidden_size is 0; expected a positive whole number"),
    ({"hidden_size": [96, 96.5]}, "a choice of hidden_size is 96.5; expected a positive whole number"),
    ({"hidden_size": [True, 96]}, "a choice of hidden_size is True; expected a positive whole number"),
    ({"hidden_act": ["gelu", 3]}, "a choice of hidden_act is 3; expected a name"),
    ({"family": ["bert", "gpt2"]}, "a choice of family is 'gpt2'; expected one of"),
    ({"num_hidden_layers": [13, 14]}, "no point of the space is valid; the first fails because the student has 13"),
    ({"hidden_size": [96, 192], "max_parameters": 0}, "max_parameters is 0"),
    ({"hidden_size": [96, 192], "max_parameters": 5}, "no point of the space is valid"),
    (["hidden_size"], "; expected a mapping of dimensions to their choices"),
]


@pytest.mark.parametrize(("data", "message"), BAD_SPACES)
def test_malformed_spaces_are_refused(bert_base: EncoderArchitecture, data: object, message: str) -> None:
    with pytest.raises(SpaceError) as error:
        SearchSpace.from_dict(data, bert_base)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize("content", [None, "a: [1, 2", "\x00"])
def test_unreadable_files_are_refused(tmp_path: Path, bert_base: EncoderArchitecture, content: str | None) -> None:
    path = tmp_path / "space.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SpaceError, match=r"space\.yaml' cannot be read as YAML or JSON"):
        SearchSpace.from_file(path, bert_base)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([0, 0, 0, 0], "action has shape (4,); expected (5,)"),
        ([[0, 0, 0, 0, 0]], "action has shape (1, 5); expected (5,)"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], "action has dtype float64; expected integers"),
        ([True, False, True, False, True], "action has dtype bool; expected integers"),
        ([0, 0, 2, 0, 0], "hidden_size is 2, expected 0 to 1"),
        ([0, -1, 0, 0, 0], "num_attention_heads is -1, expected 0 to 4"),
    ],
)
def test_malformed_actions_are_refused(space: SearchSpace, action: Any, message: str) -> None:
    for call in (space.decode, space.index):
        with pytest.raises(SpaceError) as error:
            call(action)
        assert message in str(error.value)


@pytest.mark.parametrize("index", [-1, 1200])
def test_flat_index_out_of_range(space: SearchSpace, index: int) -> None:
    with pytest.raises(SpaceError, match=f"flat index {index} is out of range; the space has 1200 points"):
        space.from_index(index)


def test_encode_refuses_what_is_not_in_the_space(space: SearchSpace) -> None:
    inside = next(iter(space))
    for outside, message in [
        (replace(inside, hidden_size=400), "hidden_size is 400; expected one of"),
        (replace(inside, family="albert"), "family is fixed to 'bert'"),
    ]:
        assert outside not in space
        with pytest.raises(SpaceError, match=message):
            space.encode(outside)
    assert "not a config" not in space


def test_a_space_too_large_to_list_still_answers(bert_base: EncoderArchitecture) -> None:
    space = SearchSpace.from_dict({"intermediate_size": list(range(1, LARGEST_ENUMERATION + 2))}, bert_base)
    assert space.size == LARGEST_ENUMERATION + 1
    assert space.decode(np.array([41])).intermediate_size == 42
    with pytest.raises(SpaceError, match=f"expected at most {LARGEST_ENUMERATION} to list them"):
        _ = space.valid_indices


def test_dimensions_follow_the_student_fields(space: SearchSpace) -> None:
    reordered = SearchSpace(dict(reversed(list(space.choices.items()))), space.teacher)
    assert reordered.dimensions == tuple(name for name in DIMENSIONS if name in space.choices)
    assert reordered == space
    assert math.prod(space.nvec.tolist()) == space.size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nhidden_size: *a", "aliases are not read"),
        ("lol1: &l1 [x,x]\nlol2: &l2 [*l1,*l1]", "aliases are not read"),
        ("hidden_act: 2001-99-99", "cannot be read as YAML or JSON: month"),
        ("hidden_act: 2001-01-01", "put a text into quotes"),
        ("hidden_size: !!python/object/apply:os.getpid []", "could not determine a constructor"),
        ("hidden_size: 0x" + "f" * 5000, "very many digits"),
        ("[" * 5000, "nested too deeply"),
        ("hidden_size: [384, 99999999]", "a choice of hidden_size is 99999999; expected at most"),
        ("hidden_size: [384, 1e999]", "expected a positive whole number"),
        ("max_parameters: x\nhidden_size: [384, 768]", "max_parameters is 'x'; expected a positive number"),
        ("max_parameters: .nan\nhidden_size: [384, 768]", "max_parameters is nan"),
        ("3: [1, 2]", "key 3 is not a text"),
        ("[1, 2]", "; expected a mapping of dimensions"),
        ("hidden_size: [384, 768]\nhidden_size: [384]", "the key 'hidden_size' occurs twice"),
        ('{"hidden_size": [384, 768], "hidden_size": [384]}', "the key 'hidden_size' occurs twice"),
    ],
)
def test_files_that_hold_something_else_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_file(tmp_path / "space.yaml", PLANTED_TEACHER)


def test_a_file_of_millions_of_choices_is_not_even_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdnas_env.core.choices.parse_yaml", lambda text: pytest.fail("parsed"))
    (tmp_path / "space.yaml").write_text("intermediate_size: [" + "8, " * 4_000_000 + "8]")
    with pytest.raises(SpaceError, match="it is larger than 200,000 bytes; give each dimension fewer choices"):
        SearchSpace.from_file(tmp_path / "space.yaml", PLANTED_TEACHER)


@pytest.mark.parametrize("action", [[[0], [0, 1]], np.array([0], dtype="m8[s]"), [None], "0", {}, [2**70]])
def test_what_is_no_action_is_refused(action: object) -> None:
    space = SearchSpace.from_dict({"hidden_size": [384, 768]}, PLANTED_TEACHER)
    with pytest.raises(SpaceError, match=r"action has (shape|dtype)"):
        space.decode(action)  # type: ignore[arg-type]
