from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.agents.ranking import Best, Ranking, RoundRecord

candidates = st.tuples(
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([-1.0, 0.0, 0.25, 0.5, np.nan, np.inf, -np.inf]),
    st.booleans(),
)
searches = st.lists(st.lists(candidates, min_size=1, max_size=5), max_size=6)


def rank(rounds: list[list[Any]]) -> Ranking:
    ranking = Ranking()
    for index, rows in enumerate(rounds):
        actions, rewards, usable = zip(*rows, strict=True)
        ranking = ranking.update(
            actions, rewards, usable=usable, exploration=1 / (index + 1), random=usable, predicted=rewards
        )
    return ranking


def first_best(rows: list[Any], offset: int = 0) -> Best | None:
    usable = [(reward, -index, action) for index, (action, reward, ok) in enumerate(rows) if ok and np.isfinite(reward)]
    if not usable:
        return None
    reward, index, action = max(usable, key=lambda one: one[:2])
    return Best(action, reward, offset - index)


@given(searches)
def test_bests_are_those_of_the_rounds_and_of_all(rounds: list[list[Any]]) -> None:
    ranking = rank(rounds)
    flat = [row for rows in rounds for row in rows]
    assert ranking.global_best == first_best(flat)
    assert ranking.evaluations == len(flat)
    np.testing.assert_array_equal(ranking.rewards, [reward for _, reward, _ in flat])
    assert ranking.usable.tolist() == [bool(ok and np.isfinite(reward)) for _, reward, ok in flat]
    told = 0
    before = None
    for index, (record, rows) in enumerate(zip(ranking.rounds, rounds, strict=True)):
        assert record.index == index
        assert record.actions.tolist() == [list(action) for action, _, _ in rows]
        assert record.best == first_best(rows, told)
        assert record.previous_best == before
        told, before = told + len(rows), record.best
        assert record.global_best == first_best(flat[:told])
    assert ranking.previous_best == before


@given(searches)
def test_arrays_restore_the_ranking(rounds: list[list[Any]]) -> None:
    ranking = rank(rounds)
    again = Ranking.from_arrays(ranking.to_arrays())
    assert again.global_best == ranking.global_best
    assert len(again.rounds) == len(ranking.rounds)
    for one, other in zip(again.rounds, ranking.rounds, strict=True):
        assert (one.index, one.exploration, one.best, one.previous_best, one.global_best) == (
            other.index,
            other.exploration,
            other.best,
            other.previous_best,
            other.global_best,
        )
    for name, array in ranking.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)


def test_arrays_that_disagree_are_refused() -> None:
    arrays = rank([[((0, 1), 0.5, True)], [((1, 1), 0.25, True)]]).to_arrays()
    with pytest.raises(ValueError, match="disagree in length"):
        Ranking.from_arrays({**arrays, "rewards": arrays["rewards"][:1]})
    with pytest.raises(ValueError, match="zip"):
        Ranking.from_arrays({**arrays, "exploration": arrays["exploration"][:1]})
    with pytest.raises(KeyError, match="usable"):
        Ranking.from_arrays({name: array for name, array in arrays.items() if name != "usable"})


def test_a_ranking_never_changes() -> None:
    actions, rewards = np.array([[0, 1], [2, 3]]), np.array([0.1, 0.2])
    first = Ranking().update(actions, rewards)
    second = first.update([[1, 1]], [0.9])
    actions[:], rewards[:] = 9, 9
    assert first.global_best == Best((2, 3), 0.2, 1)
    assert second.global_best == Best((1, 1), 0.9, 2)
    assert first.rounds[0].actions.tolist() == [[0, 1], [2, 3]]
    for array in (first.rounds[0].rewards, first.rewards, second.column("actions")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5


@given(searches, st.data())
def test_rankings_of_one_origin_do_not_know_of_each_other(rounds: list[list[Any]], data: st.DataObject) -> None:
    rankings = [Ranking()]
    expected: list[list[Any]] = [[]]
    for rows in rounds:
        place = data.draw(st.integers(0, len(rankings) - 1))
        actions, rewards, usable = zip(*rows, strict=True)
        origin = data.draw(st.sampled_from([lambda one: one, deepcopy, lambda one: pickle.loads(pickle.dumps(one))]))
        rankings.append(origin(rankings[place]).update(actions, rewards, usable=usable, predicted=rewards))
        expected.append([*expected[place], rows])
    for ranking, known in zip(rankings, expected, strict=True):
        assert [_told(record) for record in ranking.rounds] == [_told(record) for record in rank(known).rounds]
        assert ranking.global_best == rank(known).global_best


def _told(record: RoundRecord) -> Any:
    return (record.index, record.actions.tolist(), repr(record.rewards.tolist()), record.best, record.previous_best)


def test_the_beginning_of_a_search_is_what_was_known_then() -> None:
    rounds = [[((0, 1), 0.5, True)], [((1, 1), 0.25, True), ((2, 2), 0.75, True)], [((3, 3), 1.0, True)]]
    ranking = rank(rounds)
    for count in range(4):
        before = Ranking(ranking.rounds.until(count))
        assert before.rewards.tolist() == rank(rounds[:count]).rewards.tolist()
        assert before.global_best == rank(rounds[:count]).global_best
        assert before.rounds == ranking.rounds.until(count)
        assert (before.rounds == ranking.rounds) == (count == 3)
    assert len({ranking.rounds, ranking.rounds.until(3), ranking.rounds.until(2)}) == 2
    assert [record.index for record in ranking.rounds[1:]] == [1, 2]
    assert [record.index for record in reversed(ranking.rounds)] == [2, 1, 0]
    assert ranking.rounds[-1].global_best == ranking.rounds[2].global_best == Best((3, 3), 1.0, 3)
    with pytest.raises(IndexError):
        ranking.rounds[3]


def test_without_rounds_there_is_no_best() -> None:
    ranking = Ranking()
    assert ranking.global_best is ranking.previous_best is None
    assert ranking.evaluations == len(ranking.rewards) == len(ranking.usable) == 0
