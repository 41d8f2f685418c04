from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.bench.scores import (
    area_under_curve,
    ecdf,
    hitting_times,
    incumbents,
    normalised_regret,
    performance_profile,
    profile_band,
)
from kdnas_env.errors import KDNASError


def test_regret_is_0_at_the_optimum_and_1_where_random_search_is() -> None:
    assert normalised_regret([3.0, 2.0, 1.0], 3.0, 2.0).tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(KDNASError, match=r"the optimum is 2\.0 and the median of random search is 2\.0"):
        normalised_regret([1.0], 2.0, 2.0)


@given(st.lists(st.one_of(st.integers(0, 4).map(float), st.just(math.nan), st.just(-math.inf)), min_size=1, max_size=9))
def test_an_incumbent_is_the_first_of_the_best_seen(seen: list[float]) -> None:
    true = [10.0 * place for place in range(len(seen))]
    expected, best, worth = [], -math.inf, math.nan
    for value, real in zip(seen, true, strict=True):
        if math.isfinite(value) and value > best:
            best, worth = value, real
        expected.append(worth)
    assert incumbents(seen, true) == pytest.approx(expected, nan_ok=True)
    assert incumbents([seen, seen], [true, true])[1] == pytest.approx(expected, nan_ok=True)


def test_the_band_of_a_profile_holds_it() -> None:
    scores = np.random.default_rng(0).random((2, 50))
    grid = [-1.0, 0.25, 0.5, 2.0]
    low, high = profile_band(scores, grid, np.random.default_rng(1), repetitions=300)
    profile = performance_profile(scores, grid)
    assert np.all(low <= profile)
    assert np.all(profile <= high)
    # A profile of 0 or 1 has no uncertainty; a profile of about 0.5 over 100 runs has a standard deviation of 0.05.
    assert (low[0], high[0], low[-1], high[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert high[2] - low[2] == pytest.approx(4 * 0.05, abs=0.06)


def test_the_anytime_score_is_the_mean_over_evaluations() -> None:
    assert area_under_curve([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]]).tolist() == [0.5, 1.0]
    with pytest.raises(KDNASError, match="curves hold NaN"):
        area_under_curve([math.nan, 1.0])
    with pytest.raises(KDNASError, match=r"curves have shape \(2, 0\)"):
        area_under_curve(np.empty((2, 0)))


def test_profiles_and_times() -> None:
    assert performance_profile([[0.0, 1.0], [2.0, 3.0]], [-1, 0, 1, 3]).tolist() == [0.0, 0.25, 0.5, 1.0]
    times, censored = hitting_times([[math.nan, 1.0, 2.0], [0.0, 0.0, 0.0]], 2.0)
    assert times.tolist() == [3, 3]
    assert censored.tolist() == [False, True]
    assert ecdf(times, censored, [1, 2, 3, 100]).tolist() == [0.0, 0.0, 0.5, 0.5]


def test_malformed_times_are_refused() -> None:
    with pytest.raises(KDNASError, match=r"times have shape \(3,\), censored \(1,\)"):
        ecdf([1, 2, 3], [True], [1])
    with pytest.raises(KDNASError, match="target is NaN"):
        hitting_times([1.0], math.nan)
    with pytest.raises(KDNASError, match=r"curves have shape \(2, 0\)"):
        hitting_times(np.empty((2, 0)), 1.0)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], "shape"),
        (np.empty((0, 3)), "shape"),
        ([[1.0, math.nan]], "NaN"),
        ([[1.0, math.inf]], "infinity"),
    ],
)
def test_malformed_scores_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        performance_profile(scores, [0.0])
