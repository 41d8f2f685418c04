"""Shared code of agents that predict rewards: candidates, the replay, the scale of rewards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.agents.predicting import Scale, candidate_pool, replay_indices, spread
from kdnas_env.agents.ranking import Ranking
from kdnas_env.core.grid import Grid

# Candidates -----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), nvec=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_points_that_are_spread_try_all_choices_equally_often(seed: int, nvec: list[int]) -> None:
    counts = np.array(nvec)
    pool = Grid.of(nvec).actions(np.arange(counts.prod()))
    places = spread(pool, pool[:0], counts, 7, np.random.default_rng(seed))
    assert len(set(places.tolist())) == len(places) == min(7, len(pool))
    first = pool[places[: min(nvec)]]
    assert all(len(set(column)) == len(column) for column in first.T.tolist())


def test_points_are_spread_around_what_is_known() -> None:
    pool = Grid.of([4, 4]).actions(np.arange(16))
    known = np.array([[0, 0], [1, 1]])
    chosen = pool[spread(pool, known, np.array([4, 4]), 2, np.random.default_rng(0))]
    assert sorted(chosen[:, 0]) == sorted(chosen[:, 1]) == [2, 3]


def test_a_large_space_is_a_pool_of_random_points_and_neighbours_of_the_bests() -> None:
    grid = Grid.of([50] * 4)
    ranking = Ranking().update([[1, 2, 3, 4], [9, 9, 9, 9]], [1.0, 0.0])
    pool = candidate_pool(grid, ranking, np.random.default_rng(0), {1}, whole_space=100, size=30)
    near = {tuple(point) for point in grid.neighbours(np.array([1, 2, 3, 4])).tolist()}
    assert near < {tuple(point) for point in pool.tolist()}
    assert len(near) < len(pool) <= len(near) + 30
    assert 1 not in grid.numbers(pool)


# The replay -----------------------------------------------------------------------------------------------------------


def three_rounds() -> Ranking:
    ranking = Ranking().update([[0], [1], [2]], [0.1, 0.9, 0.3])
    ranking = ranking.update([[3], [4]], [0.5, 0.6])
    return ranking.update([[5], [6]], [0.7, 0.2], usable=[False, False])


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [1, 6]), (3, [1, 4, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (7, [0, 1, 2, 3, 4, 5, 6]), (9, [0, 1, 2, 3, 4, 5, 6])],
)
def test_the_youngest_and_the_best_are_remembered(size: int, expected: list[int]) -> None:
    assert replay_indices(three_rounds(), size).tolist() == expected


def test_without_a_best_the_youngest_are_remembered() -> None:
    assert replay_indices(Ranking(), 3).tolist() == []
    failed = Ranking().update([[0], [1]], [0.1, 0.2], usable=[False, False])
    assert replay_indices(failed, 1).tolist() == [1]


# The scale ------------------------------------------------------------------------------------------------------------


rewards = st.lists(st.floats(-100, 100), min_size=1, max_size=30).map(np.array)


@given(values=rewards, data=st.data())
def test_standardising_keeps_the_order_and_can_be_undone_above_the_least(
    values: np.ndarray, data: st.DataObject
) -> None:
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    usable[data.draw(st.integers(0, len(values) - 1))] = True
    scale = Scale.of(values, usable)
    standardised = scale.standardise(values, usable)
    assert np.isfinite(standardised).all()
    assert scale.deviation > 0
    assert scale.restore(standardised[usable]) == pytest.approx(np.maximum(values[usable], scale.least), abs=1e-6)
    assert (standardised[~usable] == standardised.min()).all()


def test_neither_failures_nor_one_dreadful_candidate_set_the_scale() -> None:
    good = np.linspace(0.4, 0.6, 20)
    alone = Scale.of(good, np.ones(20, dtype=bool))
    values = np.append(good, [-1.0, np.nan, -np.inf, -50.0])
    usable = np.array([True] * 20 + [False, False, False, True])
    scale = Scale.of(values, usable)
    assert scale.least == alone.least == 0.4
    assert scale.deviation == pytest.approx(alone.deviation, rel=0.1)
    assert scale.standardise(values, usable)[20:] == pytest.approx(scale.standardise(values, usable)[0])


def test_equal_rewards_are_zero() -> None:
    scale = Scale.of(np.full(3, 0.7), np.ones(3, dtype=bool))
    assert scale.standardise(np.full(3, 0.7), np.ones(3, dtype=bool)) == pytest.approx(0, abs=1e-9)
