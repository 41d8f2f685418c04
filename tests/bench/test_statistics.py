from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdnas_env.bench.statistics import (
    ecdf,
    expected_hit,
    hitting_times,
    hypervolume,
    improvement_interval,
    incumbents,
    iqm,
    mean,
    normalised_regret,
    performance_profile,
    probability_of_improvement,
    random_search_quantile,
    stratified_bootstrap,
)
from kdnas_env.errors import KDNASError

NUMBERS = st.floats(-100, 100, allow_nan=False)
SCORES = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=NUMBERS)


def test_regret_is_0_at_the_optimum_and_1_where_random_search_is() -> None:
    assert normalised_regret([3.0, 2.0, 1.0], 3.0, 2.0).tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(KDNASError, match=r"the optimum is 2\.0 and random search has 2\.0"):
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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.data())
def test_random_search_is_counted_exactly(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    quantile = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.9]))
    best = sorted(max(draw) for draw in itertools.combinations(values, k))
    found = random_search_quantile(values, k, quantile)
    assert found == best[math.ceil(quantile * len(best) - 1e-9) - 1]


def test_a_target_is_met_by_chance_after_as_many_draws_as_counted() -> None:
    times = [min(order.index(0), order.index(1)) + 1 for order in itertools.permutations(range(5))]
    assert expected_hit(5, 2) == pytest.approx(np.mean(times))
    with pytest.raises(KDNASError, match="targets is 6; expected 1 to the 5 points"):
        expected_hit(5, 6)


@given(SCORES)
def test_the_interquartile_mean_lies_between_the_quartiles(scores: np.ndarray) -> None:
    flat = np.sort(scores.ravel())
    quarter = len(flat) // 4
    middle = flat[quarter : len(flat) - quarter]
    assert middle[0] - 1e-9 <= iqm(scores) <= middle[-1] + 1e-9


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert iqm(np.arange(8.0).reshape(2, 4)) == np.mean([2, 3, 4, 5])
    assert iqm(np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 1e9]])) == pytest.approx((0.5 * 1 + 2 + 3 + 0.5 * 4) / 3)


def test_an_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = stratified_bootstrap(rng.normal(5, 1, (2, 40)), rng, statistic=mean, repetitions=300)
        covered += bool(low <= 5 <= high)
    # 95 % of 200 is 190; a percentile interval of 80 runs covers a little less.
    assert 178 <= covered <= 199


def test_a_band_is_the_interval_of_every_point() -> None:
    scores = np.random.default_rng(1).normal(size=(2, 15, 4))
    low, high = stratified_bootstrap(scores, np.random.default_rng(2), repetitions=200)
    for point in range(4):
        one = stratified_bootstrap(scores[..., point], np.random.default_rng(2), repetitions=200)
        assert (low[point], high[point]) == pytest.approx(one)


def test_tasks_are_strata() -> None:
    # Between tasks everything differs, within them nothing: no draw of seeds changes the mean.
    low, high = stratified_bootstrap([[1.0] * 5, [9.0] * 5], np.random.default_rng(0), statistic=mean, repetitions=50)
    assert (low, high) == (5.0, 5.0)


@given(SCORES, st.data())
@settings(max_examples=50)
def test_improvement_is_of_one_or_of_the_other(x: np.ndarray, data: st.DataObject) -> None:
    y = data.draw(arrays(np.float64, (len(x), data.draw(st.integers(1, 12))), elements=NUMBERS))
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)
    by_hand = np.mean([np.mean([(a < b) + 0.5 * (a == b) for a in p for b in q]) for p, q in zip(x, y, strict=True)])
    assert probability_of_improvement(x, y) == pytest.approx(by_hand)


def test_the_interval_of_an_improvement_holds_it() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (2, 100)), rng.normal(0.5, 1, (2, 100))
    low, high = improvement_interval(x, y, rng, repetitions=300)
    assert 0.5 < low < probability_of_improvement(x, y) < high < 0.8
    assert improvement_interval(x, x, rng, repetitions=50) == (0.5, 0.5)


def test_profiles_and_times() -> None:
    assert performance_profile([[0.0, 1.0], [2.0, 3.0]], [-1, 0, 1, 3]).tolist() == [0.0, 0.25, 0.5, 1.0]
    times, censored = hitting_times([[math.nan, 1.0, 2.0], [0.0, 0.0, 0.0]], 2.0)
    assert times.tolist() == [3, 3]
    assert censored.tolist() == [False, True]
    assert ecdf(times, censored, [1, 2, 3, 100]).tolist() == [0.0, 0.0, 0.5, 0.5]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_hypervolume_counts_the_cells_that_are_dominated(points: list[tuple[int, int]]) -> None:
    cells = itertools.product(range(5), repeat=2)
    dominated = sum(any(x <= a and y <= b for x, y in points) for a, b in cells)
    assert hypervolume(np.array(points, dtype=float).reshape(-1, 2), (5, 5)) == dominated


@pytest.mark.parametrize(
    ("scores", "message"),
    [([1.0, 2.0], "shape"), (np.empty((0, 3)), "shape"), ([[1.0, math.nan]], "NaN")],
)
def test_malformed_scores_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        performance_profile(scores, [0.0])
