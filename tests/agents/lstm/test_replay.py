from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.agents.lstm.common import (
    GLOBAL_BEST,
    NONE,
    PREVIOUS_BEST,
    PREVIOUS_CANDIDATE,
    Scale,
    context_positions,
    remembered,
    settled,
)
from kdnas_env.agents.ranking import Ranking


def three_rounds() -> Ranking:
    ranking = Ranking().update([[0], [1], [2]], [0.1, 0.9, 0.3])
    ranking = ranking.update([[3], [4]], [0.5, 0.6])
    return ranking.update([[5], [6]], [0.7, 0.2], usable=[False, False])


def test_a_context_is_what_was_known_then() -> None:
    positions, roles = context_positions(three_rounds(), np.array([0, 1, 2, 3]), with_candidates=True)
    candidate, none = PREVIOUS_CANDIDATE, NONE
    assert roles.tolist() == [
        [none, none, none, none, none],
        [GLOBAL_BEST, PREVIOUS_BEST, candidate, candidate, candidate],
        [GLOBAL_BEST, PREVIOUS_BEST, candidate, candidate, none],
        [GLOBAL_BEST, none, candidate, candidate, none],
    ]
    known = [row[role != NONE].tolist() for row, role in zip(positions, roles, strict=True)]
    assert known == [[], [1, 1, 0, 1, 2], [1, 4, 3, 4], [1, 5, 6]]


def test_a_context_may_hold_the_bests_alone() -> None:
    positions, roles = context_positions(three_rounds(), np.array([0, 2, 3]), with_candidates=False)
    assert positions.tolist() == [[0, 0], [1, 4], [1, 0]]
    assert roles.tolist() == [[NONE, NONE], [GLOBAL_BEST, PREVIOUS_BEST], [GLOBAL_BEST, NONE]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, [1, 6]), (3, [1, 4, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (7, [0, 1, 2, 3, 4, 5, 6]), (9, [0, 1, 2, 3, 4, 5, 6])],
)
def test_the_youngest_and_the_best_are_remembered(size: int, expected: list[int]) -> None:
    assert remembered(three_rounds(), size).tolist() == expected


def test_without_a_best_the_youngest_are_remembered() -> None:
    assert remembered(Ranking(), 3).tolist() == []
    failed = Ranking().update([[0], [1]], [0.1, 0.2], usable=[False, False])
    assert remembered(failed, 1).tolist() == [1]


@given(
    lengths=st.lists(st.integers(1, 5), max_size=12),
    round_size=st.integers(1, 6),
    failures=st.integers(0, 40),
)
def test_what_is_settled_is_as_of_the_last_whole_round(lengths: list[int], round_size: int, failures: int) -> None:
    ranking = told(lengths, failures)
    taught = settled(ranking, round_size)
    if taught.evaluations < ranking.evaluations:
        assert taught.global_best is not None
        assert taught.evaluations // round_size == ranking.evaluations // round_size
        assert len(taught.rounds) < 2 or taught.rounds.ends[-2] // round_size < ranking.evaluations // round_size
    else:
        assert taught.rounds == ranking.rounds


@pytest.mark.parametrize("round_size", [8, 9, 20])
def test_a_search_that_goes_by_rounds_is_settled_after_each(round_size: int) -> None:
    for rounds in range(60):
        ranking = told([round_size] * rounds)
        assert settled(ranking, round_size).rounds == ranking.rounds


def test_what_is_told_one_by_one_is_learned_from_less_and_less_often() -> None:
    whole = told([1] * 300)
    learned = {settled(Ranking(whole.rounds.until(count)), 1).evaluations for count in range(301)}
    assert sorted(learned) == [*range(64), *range(64, 128, 2), *range(128, 256, 4), *range(256, 301, 8)]


def told(lengths: list[int], failures: int = 0) -> Ranking:
    """Return a search in rounds of some lengths, the first evaluations of which failed."""
    ranking = Ranking()
    for length in lengths:
        places = np.arange(ranking.evaluations, ranking.evaluations + length)
        ranking = ranking.update(places[:, None], places, usable=places >= failures)
    return ranking


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
