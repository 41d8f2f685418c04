from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.distillation.training.mapping import LayerPair, map_layers
from kdnas_env.distillation.training.recipe import MAPPINGS
from kdnas_env.errors import SpaceError

depths = st.integers(1, 48).flatmap(lambda teacher: st.tuples(st.integers(1, teacher), st.just(teacher)))


@pytest.mark.parametrize(
    ("mapping", "student", "teacher", "expected"),
    [
        # The example in the documentation.
        ("uniform", 3, 6, {1: (2,), 2: (4,), 3: (6,)}),
        ("skip", 3, 6, {1: (1,), 2: (3,), 3: (5,)}),
        ("last", 3, 6, {1: (4,), 2: (5,), 3: (6,)}),
        ("uniform+last", 3, 6, {1: (2, 4), 2: (4, 5), 3: (6, 6)}),
        ("tinybert", 3, 6, {0: (0,), 1: (2,), 2: (4,), 3: (6,)}),
        # Depths that divide 12, the depth of a base model.
        ("uniform", 4, 12, {1: (3,), 2: (6,), 3: (9,), 4: (12,)}),
        ("skip", 4, 12, {1: (1,), 2: (4,), 3: (7,), 4: (10,)}),
        ("last", 4, 12, {1: (9,), 2: (10,), 3: (11,), 4: (12,)}),
        ("uniform+last", 3, 12, {1: (4, 10), 2: (8, 11), 3: (12, 12)}),
        ("tinybert", 4, 12, {0: (0,), 1: (3,), 2: (6,), 3: (9,), 4: (12,)}),
        # Other depths.
        ("uniform", 5, 12, {1: (2,), 2: (4,), 3: (7,), 4: (9,), 5: (12,)}),
        ("skip", 5, 12, {1: (1,), 2: (3,), 3: (5,), 4: (8,), 5: (10,)}),
        ("uniform+last", 5, 12, {1: (2, 8), 2: (4, 9), 3: (7, 10), 4: (9, 11), 5: (12, 12)}),
        ("tinybert", 5, 12, {0: (0,), 1: (2,), 2: (4,), 3: (7,), 4: (9,), 5: (12,)}),
        ("uniform", 10, 12, {i: (layer,) for i, layer in enumerate((1, 2, 3, 4, 6, 7, 8, 9, 10, 12), 1)}),
        ("uniform", 1, 12, {1: (12,)}),
        ("skip", 1, 12, {1: (1,)}),
    ],
)
def test_table(mapping: str, student: int, teacher: int, expected: dict[int, tuple[int, ...]]) -> None:
    assert map_layers(mapping, student, teacher) == tuple(LayerPair(*item) for item in expected.items())


@pytest.mark.parametrize("mapping", ["uniform", "skip", "last"])
def test_equal_depths_pair_layer_with_layer(mapping: str) -> None:
    assert map_layers(mapping, 12, 12) == tuple(LayerPair(i, (i,)) for i in range(1, 13))


@given(st.sampled_from(MAPPINGS), depths)
def test_students_learn_from_layers_that_exist_in_their_order(mapping: str, depth: tuple[int, int]) -> None:
    student, teacher = depth
    pairs = map_layers(mapping, student, teacher)
    first = 0 if mapping == "tinybert" else 1
    assert [pair.student for pair in pairs] == list(range(first, student + 1))
    for targets in zip(*(pair.teacher for pair in pairs), strict=True):
        assert all(first <= target <= teacher for target in targets)
        assert list(targets) == sorted(set(targets))


@given(st.sampled_from(sorted(set(MAPPINGS) - {"skip"})), depths)
def test_the_last_layer_learns_from_the_last(mapping: str, depth: tuple[int, int]) -> None:
    assert set(map_layers(mapping, *depth)[-1].teacher) == {depth[1]}


@given(depths)
def test_uniform_and_last_are_learnt_side_by_side(depth: tuple[int, int]) -> None:
    joined = [pair.teacher for pair in map_layers("uniform+last", *depth)]
    parts = zip(map_layers("uniform", *depth), map_layers("last", *depth), strict=True)
    assert joined == [(*uniform.teacher, *last.teacher) for uniform, last in parts]


@given(st.sampled_from(MAPPINGS), st.integers(1, 24), st.integers(1, 24))
def test_deeper_students_are_refused(mapping: str, teacher: int, more: int) -> None:
    message = f"a student of {teacher + more} layers cannot learn from a teacher of {teacher}; give it 0 to {teacher}"
    with pytest.raises(SpaceError, match=message):
        map_layers(mapping, teacher + more, teacher)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_the_embeddings_of_a_static_student_learn_the_last_layer(mapping: str) -> None:
    (pair,) = map_layers(mapping, 0, 6)
    assert pair.student == 0
    assert set(pair.teacher) == {6}
    assert len(pair.teacher) == len(map_layers(mapping, 1, 6)[-1].teacher)


def test_unknown_mappings_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SpaceError, match=r"unknown layer mapping 'first'; choose from \['uniform', 'skip'"):
        map_layers("first", 3, 6)
