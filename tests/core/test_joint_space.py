"""Joint spaces: the architecture of a student and its distillation recipe, searched together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import students

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.training.recipe import check_recipe_choices
from kdnas_env.errors import SpaceError
from kdnas_env.evaluators.planted import PLANTED_TEACHER

JOINT: dict[str, list[Any]] = {
    "recipe.mapping": ["uniform", "last"],
    "num_hidden_layers": [3, 6],
    "recipe.learning_rate": [0.01, 0.001, 0.1],
    "hidden_size": [384, 768],
    "recipe.share_projection": [False, True],
}


@pytest.fixture
def joint(bert_base: EncoderArchitecture) -> SearchSpace:
    return SearchSpace.from_dict(JOINT, bert_base)


def test_dimensions_of_the_recipe_follow_those_of_the_student(joint: SearchSpace) -> None:
    assert joint.dimensions == (
        "num_hidden_layers",
        "hidden_size",
        "recipe.mapping",
        "recipe.learning_rate",
        "recipe.share_projection",
    )
    assert joint.choices["recipe.learning_rate"] == (0.001, 0.01, 0.1)
    assert joint.ordered == (True, True, False, True, False)
    assert joint.recipe_choices == {
        "mapping": ("uniform", "last"),
        "learning_rate": (0.001, 0.01, 0.1),
        "share_projection": (False, True),
    }
    assert SearchSpace.from_dict(joint.to_dict(), joint.teacher) == joint


def test_every_point_is_one_action(joint: SearchSpace) -> None:
    listed = list(joint)
    assert len(set(listed)) == joint.size == 48
    for index, config in enumerate(listed):
        action = joint.from_index(index)
        assert joint.decode(action) == config
        assert np.array_equal(joint.encode(config), action)
    assert len({config.network for config in listed}) == 4


def test_an_action_changes_the_recipe(joint: SearchSpace) -> None:
    config = joint.decode([1, 0, 1, 2, 0])
    assert config.num_hidden_layers == 6
    assert config.recipe == (("learning_rate", 0.1), ("mapping", "last"), ("share_projection", False))
    assert config.network == joint.teacher.as_student().__class__(6, 12, 384, 3072, "gelu", "bert")
    assert config != config.network
    assert str(config).endswith("gelu learning_rate=0.1 mapping=last share_projection=false")


def test_a_student_of_another_space_is_not_in_it(joint: SearchSpace, bert_base: EncoderArchitecture) -> None:
    config = joint.decode([0, 0, 0, 0, 0])
    plain = SearchSpace.from_dict({"num_hidden_layers": [3, 6], "hidden_size": [384, 768]}, bert_base)
    with pytest.raises(SpaceError, match=r"changes \[\] of the recipe"):
        joint.encode(config.network)
    with pytest.raises(SpaceError, match=r"but the space searches \[\]"):
        plain.encode(config)
    assert config.network in plain


@given(students())
def test_changes_survive_text_and_plain_data(student: StudentConfig) -> None:
    assert StudentConfig.from_dict(json.loads(json.dumps(student.to_dict()))) == student
    assert StudentConfig.parse(str(student)) == student
    evaluation = Evaluation(student, Fidelity(), Status.FAILED)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert ("recipe" in student.to_dict()) == bool(student.recipe)


@given(st.permutations([("batch_size", 8), ("mapping", "last"), ("learning_rate", 0.1)]))
def test_the_order_of_changes_does_not_matter(changes: list[tuple[str, Any]]) -> None:
    student = StudentConfig(1, 1, 8, 8, recipe=tuple(changes))
    assert student == StudentConfig(1, 1, 8, 8, recipe=tuple(sorted(changes)))
    assert len({student, student.network}) == 2


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"recipe.mapping": []}, "no choices"),
        ({"recipe.mapping": [["last"]]}, "expected a number, name"),
        ({"recipe.mapping": ["last", "last"]}, "more than once"),
        ({"reciep.mapping": ["last"]}, "unknown dimension"),
    ],
)
def test_malformed_choices_are_refused(choices: dict[str, Any], message: str, bert_base: EncoderArchitecture) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_dict({"num_hidden_layers": [1, 2], **choices}, bert_base)


@pytest.mark.parametrize("changes", [(("a", 1), ("a", 2)), (("a", [1]),), ("ab",), (("a",),), ((1, 2),)])
def test_malformed_changes_are_refused(changes: Any) -> None:
    with pytest.raises(SpaceError, match="recipe"):
        StudentConfig(1, 1, 8, 8, recipe=changes)


def test_millions_of_points_are_sampled_and_named() -> None:
    space = SearchSpace.from_dict(
        {
            "num_hidden_layers": [*range(1, 13)],
            "intermediate_size": [*range(8, 3072, 8)],
            "recipe.learning_rate": [10 ** (-place / 10) for place in range(10, 50)],
            "recipe.batch_size": [1, 2, 4, 8, 16, 32, 64],
        },
        PLANTED_TEACHER,
    )
    assert space.size > 1_000_000
    rng = np.random.default_rng(0)
    for action in [space.sample(rng) for _ in range(20)]:
        assert np.array_equal(space.from_index(space.index(action)), action)
        assert np.array_equal(space.encode(space.decode(action)), action)


def test_the_shipped_space_has_millions_of_students() -> None:
    space = SearchSpace.from_file("joint", PLANTED_TEACHER)
    assert space.size == 2_880_000
    assert {"learning_rate", "batch_size", "mapping", "objective"} <= space.recipe_choices.keys()
    check_recipe_choices(space.recipe_choices)


def test_a_file_of_the_name_of_a_shipped_space_is_read(
    bert_base: EncoderArchitecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("joint").write_text("num_hidden_layers: [1, 2]")
    assert SearchSpace.from_file("joint", bert_base).size == 2
