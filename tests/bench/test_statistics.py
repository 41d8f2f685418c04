from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdnas_env.bench.statistics import (
    area_under_curve,
    ecdf,
    expected_hit,
    hitting_times,
    hypervolume,
    hypervolume_curve,
    improvement_interval,
    incumbents,
    iqm,
    mean,
    normalised_regret,
    performance_profile,
    probability_of_improvement,
    profile_band,
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


@pytest.mark.parametrize("quantile", [0.1, 0.25, 0.5, 0.75, 0.9])
def test_of_a_large_table_ties_of_probability_are_told(quantile: float) -> None:
    # One draw of 5000 is at or below the k-th least with probability k / 5000, exactly the quantile for some k.
    assert random_search_quantile(np.arange(1, 5001), 1, quantile) == 5000 * quantile


def test_random_search_is_as_simulated() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=300)
    best = [rng.choice(table, 20, replace=False).max() for _ in range(2000)]
    assert np.mean(np.array(best) <= random_search_quantile(table, 20, 0.25)) == pytest.approx(0.25, abs=0.04)


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


def test_the_interval_of_an_improvement_is_that_of_drawing_runs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (2, 12)), rng.normal(0.3, 1, (2, 9))
    draws = np.random.default_rng(1)
    firsts = draws.integers(12, size=(400, 2, 12))
    seconds = draws.integers(9, size=(400, 2, 9))
    tasks = np.arange(2)[:, None]
    drawn = [probability_of_improvement(x[tasks, i], y[tasks, j]) for i, j in zip(firsts, seconds, strict=True)]
    found = improvement_interval(x, y, np.random.default_rng(1), repetitions=400)
    assert found == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_the_band_of_a_profile_holds_it() -> None:
    scores = np.random.default_rng(0).random((2, 50))
    grid = [-1.0, 0.25, 0.5, 2.0]
    low, high = profile_band(scores, grid, np.random.default_rng(1), repetitions=300)
    profile = performance_profile(scores, grid)
    assert np.all(low <= profile)
    assert np.all(profile <= high)
    # All or none of the runs leave nothing to chance; about half of 100 leave 0.05 of standard deviation.
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


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=8))
def test_hypervolume_counts_the_cells_that_are_dominated(points: list[tuple[int, int]]) -> None:
    cells = itertools.product(range(5), repeat=2)
    dominated = sum(any(x <= a and y <= b for x, y in points) for a, b in cells)
    assert hypervolume(np.array(points, dtype=float).reshape(-1, 2), (5, 5)) == dominated


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_running_hypervolume_is_that_of_all_points_so_far(points: list[tuple[int, int]]) -> None:
    array = np.array(points, dtype=float).reshape(-1, 2)
    curve = hypervolume_curve(array, (5, 5))
    assert curve.tolist() == [hypervolume(array[: place + 1], (5, 5)) for place in range(len(array))]


def test_hypervolume_is_the_share_of_a_cloud_that_is_dominated() -> None:
    rng = np.random.default_rng(0)
    points, cloud = rng.random((20, 2)), rng.random((20000, 2))
    dominated = (points[:, None] <= cloud[None]).all(axis=2).any(axis=0).mean()
    assert hypervolume(points, (1, 1)) == pytest.approx(dominated, abs=0.02)


def test_failures_add_no_hypervolume() -> None:
    assert hypervolume_curve([[math.nan, 0], [0, math.inf], [1, 1], [3, 0]], (2, 2)).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("measure", [hypervolume, hypervolume_curve])
def test_malformed_points_are_refused(measure: Callable[..., object]) -> None:
    with pytest.raises(KDNASError, match=r"points have shape \(2, 3\); expected \(n, 2\)"):
        measure([[1, 2, 3], [3, 2, 1]], (5, 5))
    with pytest.raises(KDNASError, match=r"reference is .* two finite numbers"):
        measure([[1, 2]], (5, math.inf))


def test_malformed_settings_and_times_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(KDNASError, match="repetitions is 0"):
        stratified_bootstrap([[1.0, 2.0]], rng, repetitions=0)
    with pytest.raises(KDNASError, match="confidence is 2"):
        improvement_interval([[1.0]], [[2.0]], rng, confidence=2)
    with pytest.raises(KDNASError, match=r"values have shape \(2,\).* none of them NaN"):
        random_search_quantile([1.0, math.nan], 1)
    with pytest.raises(KDNASError, match=r"times have shape \(3,\), censored \(1,\)"):
        ecdf([1, 2, 3], [True], [1])
    with pytest.raises(KDNASError, match="target is NaN"):
        hitting_times([1.0], math.nan)
    with pytest.raises(KDNASError, match=r"curves have shape \(2, 0\)"):
        hitting_times(np.empty((2, 0)), 1.0)
    for average in (iqm, mean):
        with pytest.raises(KDNASError, match=r"shape \(2,\); expected \(\.\.\., tasks, seeds\)"):
            average([1.0, 2.0])


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
