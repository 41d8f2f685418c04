"""Shared code of the agents with LSTMs: hyper-parameters, exploration, contexts and retraining."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.agents.lstm.common import (
    GLOBAL_BEST,
    NONE,
    PREVIOUS_BEST,
    PREVIOUS_CANDIDATE,
    Decay,
    PredictorConfig,
    context_positions,
    exploration_ratio,
    random_count,
    until_last_retraining,
)
from kdnas_env.agents.ranking import Ranking
from kdnas_env.errors import KDNASError

# Hyper-parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon_decay": "cosine"}, r"epsilon_decay is 'cosine'; expected one of .*'exponential'"),
        ({"epsilon_start": 1.5}, r"epsilon_start is 1.5; expected a number at least 0 and at most 1"),
        ({"epsilon_min": float("nan")}, "epsilon_min is nan"),
        ({"epsilon_start": 0.1, "epsilon_min": 0.2}, "epsilon_min is 0.2; expected at most epsilon_start, 0.1"),
        ({"epsilon_decay": "exponential", "epsilon_min": 0.0}, "epsilon_min is 0, which an exponential decay never"),
        ({"epsilon_step": 0.1}, "epsilon_step is 0.1, but changes nothing: epsilon_decay is 'linear', not 'step'"),
        ({"epsilon_step": -0.1}, "epsilon_step is -0.1; expected a number at least 0"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"learning_rate": 0}, "learning_rate is 0.0; expected a number above 0"),
        ({"embedding_size": 0}, "embedding_size is 0; expected a whole number, at least 1"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"pool_size": 0}, "pool_size is 0"),
        ({"replay_size": 0}, "replay_size is 0; expected a whole number, at least 1"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        PredictorConfig(**options)


# Exploration ----------------------------------------------------------------------------------------------------------

DECAYS: list[Decay] = ["linear", "exponential", "step"]


@given(
    decay=st.sampled_from(DECAYS),
    rounds=st.integers(1, 40),
    start=st.floats(0.01, 1),
    share=st.floats(0.01, 1),
    step=st.floats(0, 1),
)
def test_the_ratio_falls_from_start_to_minimum(
    decay: Decay, rounds: int, start: float, share: float, step: float
) -> None:
    minimum = start * share
    ratios = [
        exploration_ratio(index, rounds, start=start, minimum=minimum, decay=decay, step=step)
        for index in range(rounds + 2)
    ]
    assert ratios[0] == start
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(ratios))
    assert min(ratios) >= minimum - 1e-12
    if decay != "step" and rounds > 1:
        assert ratios[rounds - 1] == pytest.approx(minimum)
        assert ratios[rounds:] == pytest.approx([minimum, minimum])


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [1.0, 0.775, 0.55, 0.325, 0.1]),
        ("exponential", [1.0, 0.5623413, 0.3162278, 0.1778279, 0.1]),
        ("step", [1.0, 0.7, 0.4, 0.1, 0.1]),
    ],
)
def test_schedules(decay: Decay, expected: list[float]) -> None:
    ratios = [exploration_ratio(index, 5, start=1.0, minimum=0.1, decay=decay, step=0.3) for index in range(5)]
    assert ratios == pytest.approx(expected)


@given(hundredths=st.integers(0, 100), n=st.integers(1, 64))
def test_counts_are_rounded_half_up_as_in_exact_arithmetic(hundredths: int, n: int) -> None:
    exact = int(Fraction(hundredths, 100) * n + Fraction(1, 2))
    assert random_count(hundredths / 100, n) == exact


@pytest.mark.parametrize("n", [5, 8, 20])
def test_a_step_of_five_hundredths_never_loses_a_candidate_to_floating_point(n: int) -> None:
    counts = [
        random_count(exploration_ratio(index, 20, start=1.0, minimum=0.05, decay="step", step=0.05), n)
        for index in range(20)
    ]
    assert counts == [int(Fraction(20 - index, 20) * n + Fraction(1, 2)) for index in range(20)]


@given(ratio=st.floats(0, 1), n=st.integers(1, 64), least=st.integers(0, 80))
def test_the_least_count_holds_as_far_as_there_are_candidates(ratio: float, n: int, least: int) -> None:
    count = random_count(ratio, n, least=least)
    assert min(least, n) <= count <= n
    assert count == max(random_count(ratio, n), min(least, n))


# Contexts and retraining ----------------------------------------------------------------------------------------------


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


@given(
    lengths=st.lists(st.integers(1, 5), max_size=12),
    round_size=st.integers(1, 6),
    failures=st.integers(0, 40),
)
def test_what_is_settled_is_as_of_the_last_whole_round(lengths: list[int], round_size: int, failures: int) -> None:
    ranking = told(lengths, failures)
    taught = until_last_retraining(ranking, round_size)
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
        assert until_last_retraining(ranking, round_size).rounds == ranking.rounds


def test_what_is_told_one_by_one_is_learned_from_less_and_less_often() -> None:
    whole = told([1] * 300)
    learned = {until_last_retraining(Ranking(whole.rounds.until(count)), 1).evaluations for count in range(301)}
    assert sorted(learned) == [*range(64), *range(64, 128, 2), *range(128, 256, 4), *range(256, 301, 8)]


def told(lengths: list[int], failures: int = 0) -> Ranking:
    """Return the ranking of a search with rounds of the given lengths; its first evaluations failed."""
    ranking = Ranking()
    for length in lengths:
        places = np.arange(ranking.evaluations, ranking.evaluations + length)
        ranking = ranking.update(places[:, None], places, usable=places >= failures)
    return ranking
