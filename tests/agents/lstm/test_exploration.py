from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.agents.lstm.common import Decay, exploration_ratio, random_count

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
