from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from kdnas_env.core import grid as grid_module
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.errors import KDNASError

nvecs = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def action_of(number: int, nvec: list[int]) -> list[int]:
    digits = []
    for count in reversed(nvec):
        number, digit = divmod(number, count)
        digits.append(digit)
    return digits[::-1]


@given(nvec=nvecs)
def test_points_are_numbered_in_mixed_radix(nvec: list[int]) -> None:
    grid = Grid.of(nvec)
    actions = grid.actions(grid.remaining(()))
    assert actions.tolist() == [action_of(number, nvec) for number in range(grid.points)]
    assert grid.numbers(actions) == list(range(grid.points)) == [grid.number(action) for action in actions.tolist()]
    assert [grid.action(number).tolist() for number in range(grid.points)] == actions.tolist()


def test_numbers_may_outgrow_64_bits() -> None:
    nvec = [10] * 40
    grid, action = Grid.of(nvec), np.arange(40) % 10
    (number,) = grid.numbers(action[None])
    assert number == int("0123456789" * 4)
    assert grid.points == 10**40
    assert not grid.listable


@pytest.mark.parametrize("listable", [1_000_000, 0])
@given(data=st.data(), nvec=nvecs, seed=st.integers(0, 2**32))
def test_draws_are_distinct_and_unseen(listable: int, data: st.DataObject, nvec: list[int], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "LISTABLE", listable)
        grid = Grid.of(nvec)
        seen = data.draw(st.sets(st.integers(0, grid.points - 1), max_size=grid.points // 2))
        left = grid.points - len(seen)
        n = data.draw(st.integers(1, left + 3))
        drawn = grid.draw(np.random.default_rng(seed), n, seen)
    numbers = grid.numbers(drawn)
    assert drawn.dtype == np.int64
    assert drawn.shape == (min(n, left), len(nvec))
    assert len(set(numbers)) == len(numbers)
    assert seen.isdisjoint(numbers)


@pytest.mark.parametrize("listable", [1_000_000, 0], ids=["listed", "by rejection"])
def test_draws_are_uniform_over_what_is_unseen(listable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "LISTABLE", listable)
    grid, seen, rng = Grid.of([4, 3, 2]), {0, 5, 23}, np.random.default_rng(0)
    counts = np.zeros((5, 24))
    for _ in range(2000):
        numbers = grid.numbers(grid.draw(rng, 5, seen))
        counts[np.arange(5), numbers] += 1
    unseen = np.setdiff1d(np.arange(24), [*seen])
    assert counts[:, [*seen]].sum() == 0
    for position in counts[:, unseen]:
        assert chisquare(position).pvalue > 1e-3


@given(data=st.data(), nvec=nvecs, seed=st.integers(0, 2**32))
def test_a_set_that_grows_draws_as_one_that_is_made_anew(data: st.DataObject, nvec: list[int], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "_RECENT", 3)
        points = int(np.prod(nvec))
        allowed = data.draw(st.none() | st.lists(st.integers(0, points - 1), min_size=1, max_size=20))
        grid, rng, same = Grid.of(nvec, allowed), np.random.default_rng(seed), np.random.default_rng(seed)
        seen, plain = Seen(), set[int]()
        for n, others in data.draw(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, points - 1))))):
            also = seen.union(others)
            assert grid.remaining(also).tolist() == grid.remaining(plain | others).tolist()
            drawn = grid.draw(rng, n, also)
            assert drawn.tolist() == grid.draw(same, n, plain | others).tolist()
            also.update(grid.numbers(drawn))
            assert {*also} == plain | others | {*grid.numbers(drawn)}
            assert {*seen} == plain
            assert len(seen) == len(plain)
            seen.update(grid.numbers(drawn))
            plain.update(grid.numbers(drawn))


def test_what_was_seen_is_kept_in_order() -> None:
    seen = Seen([5, 3])
    more = seen.union([4, 3])
    more.add(5)
    assert [*more] == [5, 3, 4]
    assert [*reversed(more)] == [4, 3, 5]
    assert 4 in more
    assert 4 not in seen
    seen.add(9)
    assert 9 in more


@pytest.mark.parametrize("n", [1, 64])
def test_the_last_points_of_a_large_grid_are_found(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "LISTABLE", 10_000)
    grid, rng, seen = Grid.of([101, 100]), np.random.default_rng(0), Seen(range(5, 10_100))
    assert not grid.listable
    found: list[int] = []
    while len(drawn := grid.draw(rng, n, seen)):
        seen.update(grid.numbers(drawn))
        found += grid.numbers(drawn)
    assert sorted(found) == [0, 1, 2, 3, 4]


@given(data=st.data(), nvec=nvecs)
def test_only_allowed_points_are_drawn(data: st.DataObject, nvec: list[int]) -> None:
    size = int(np.prod(nvec))
    allowed = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8))
    grid = Grid.of(nvec, allowed)
    drawn = grid.numbers(grid.draw(np.random.default_rng(0), size, {allowed[0]}))
    assert sorted(drawn) == sorted(set(allowed) - {allowed[0]})
    assert grid.size == len(set(allowed))
    everything = grid.actions(np.arange(size))
    assert grid.numbers(grid.fresh(everything, {allowed[0]})) == sorted(drawn)


def test_allowed_points_are_listed_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "LISTABLE", 2)
    grid = Grid.of([5, 5], [3, 7, 11])
    assert sorted(grid.numbers(grid.draw(np.random.default_rng(0), 10, ()))) == [3, 7, 11]


@given(data=st.data(), nvec=nvecs)
def test_neighbours_are_all_points_that_differ_in_one_dimension(data: st.DataObject, nvec: list[int]) -> None:
    grid = Grid.of(nvec)
    action = np.array([data.draw(st.integers(0, n - 1)) for n in nvec])
    everything = grid.actions(grid.remaining(()))
    expected = everything[(everything != action).sum(axis=1) == 1]
    assert sorted(grid.numbers(grid.neighbours(action))) == grid.numbers(expected)
    near = expected[(np.abs(expected - action) <= 2).all(axis=1)]
    assert sorted(grid.numbers(grid.neighbours(action, reach=2))) == grid.numbers(near)


@given(nvec=st.lists(st.integers(1, 6), min_size=1, max_size=3), reach=st.none() | st.integers(1, 3))
def test_neighbours_of_all_points_are_those_of_each(nvec: list[int], reach: int | None) -> None:
    grid = Grid.of(nvec)
    numbers = grid.neighbour_numbers(grid.listed(), reach)
    for action, row in zip(grid.actions(grid.listed()), numbers, strict=True):
        assert row[row >= 0].tolist() == grid.numbers(grid.neighbours(action, reach))


def test_fresh_keeps_the_first_of_each() -> None:
    actions = np.array([[1, 0], [0, 1], [1, 0], [2, 1], [0, 1]])
    assert Grid.of([3, 2]).fresh(actions, {5}).tolist() == [[1, 0], [0, 1]]
    assert Grid.of([3, 2]).fresh(actions, {1, 2, 5}).shape == (0, 2)


@pytest.mark.parametrize("nvec", [[], [3, 0], [2.5], [[2, 2]], "ab", 3])
def test_malformed_counts_are_refused(nvec: Any) -> None:
    with pytest.raises(KDNASError, match="expected the number of choices of each dimension, each at least 1"):
        Grid.of(nvec)


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ([], "expected the numbers of one or more points"),
        ([0.5], "expected the numbers of one or more points"),
        ([-1, 2], "range from -1 to 2, but the grid has 6 points"),
        ([6], "range from 6 to 6, but the grid has 6 points"),
    ],
)
def test_malformed_allowed_points_are_refused(allowed: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        Grid.of([3, 2], allowed)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 1], r"int64 of shape \(2,\); expected integers of shape \(n, 2\)"),
        ([[0, 1, 0]], r"of shape \(1, 3\)"),
        ([[0.0, 1.0]], "actions are float64"),
        ([[0, 1], [0, 2]], r"action \[0, 2\] is out of range; expected indices from 0 to \[2, 1\]"),
        ([[-1, 0]], r"action \[-1, 0\] is out of range"),
    ],
)
def test_malformed_actions_are_refused(actions: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        Grid.of([3, 2]).check(actions)


@pytest.mark.parametrize(
    "nvec", [[[2], [2, 3]], "ab", [2.0], [2**70], np.array([2**63], dtype=np.uint64), [None], np.array([2], "m8[s]")]
)
def test_counts_of_other_types_are_refused(nvec: Any) -> None:
    with pytest.raises(KDNASError, match="expected the number of choices of each dimension"):
        Grid.of(nvec)


@pytest.mark.parametrize("actions", [[[0], [0, 1]], [["a", "b"]], [[None, {}]], 3, np.array([[0, 1]], "m8[s]")])
def test_actions_of_other_types_are_refused(actions: Any) -> None:
    with pytest.raises(KDNASError, match="expected integers of shape"):
        Grid.of([2, 2]).check(actions)


@pytest.mark.parametrize("allowed", [[[0], [0, 1]], [{}], "ab", [0.5]])
def test_points_of_other_types_are_refused(allowed: Any) -> None:
    with pytest.raises(KDNASError, match="expected the numbers of one or more points"):
        Grid.of([2, 2], allowed)
