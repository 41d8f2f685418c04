from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from kdnas_env.errors import KDNASError
from kdnas_env.support.statistics import (
    RESAMPLES,
    correlate,
    expected_hit,
    improvement_interval,
    iqm,
    kendall_tau,
    mean,
    median_hit,
    pearson,
    probability_of_improvement,
    random_search_quantile,
    resampled_means,
    resolved_tau,
    spearman_rho,
    stratified_bootstrap,
    top_threshold,
)

NUMBERS = st.floats(-100, 100, allow_nan=False)
SCORES = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=NUMBERS)
numbers = st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=30)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.data())
def test_random_search_is_counted_exactly(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    quantile = data.draw(st.sampled_from([0.1, 0.25, 0.5, 0.9]))
    best = sorted(max(draw) for draw in itertools.combinations(values, k))
    found = random_search_quantile(values, k, quantile)
    assert found == best[math.ceil(quantile * len(best) - 1e-9) - 1]


@pytest.mark.parametrize("quantile", [0.1, 0.25, 0.5, 0.75, 0.9])
def test_of_a_large_table_ties_of_probability_are_told(quantile: float) -> None:
    # One draw of 5000 is at or below the k-th smallest with probability k / 5000, exactly the quantile for some k.
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


@pytest.mark.parametrize(("points", "targets"), [(5, 1), (5, 2), (7, 3), (6, 6), (1, 1)])
def test_the_median_of_the_draws_to_a_target_is_counted_too(points: int, targets: int) -> None:
    times = sorted(min(chosen) + 1 for chosen in itertools.combinations(range(points), targets))
    assert median_hit(points, targets) == times[(len(times) - 1) // 2]
    with pytest.raises(KDNASError, match="targets is 0; expected 1 to the"):
        median_hit(points, 0)


def test_the_median_draw_of_a_large_space_is_exact() -> None:
    assert median_hit(1_000_000, 1) == 500_000
    assert median_hit(1_000_000, 1_000) == pytest.approx(-np.log(0.5) / 1e-3, rel=0.002)


def test_resampled_means_are_those_of_draws_with_replacement() -> None:
    values = np.array([0.0, 1.0, 5.0])
    means = resampled_means(values, np.random.default_rng(3), 4)
    drawn = np.random.default_rng(3).integers(3, size=(4, 3))
    assert means.tolist() == [values[draw].mean() for draw in drawn]


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
    # Scores differ between tasks only, so resampling the seeds of a task does not change the mean.
    low, high = stratified_bootstrap([[1.0] * 5, [9.0] * 5], np.random.default_rng(0), statistic=mean, repetitions=50)
    assert (float(low), float(high)) == (5.0, 5.0)


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


def test_malformed_settings_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(KDNASError, match="repetitions is 0"):
        stratified_bootstrap([[1.0, 2.0]], rng, repetitions=0)
    with pytest.raises(KDNASError, match="confidence is 2"):
        improvement_interval([[1.0]], [[2.0]], rng, confidence=2)
    with pytest.raises(KDNASError, match=r"values have shape \(2,\).* none of them NaN"):
        random_search_quantile([1.0, math.nan], 1)
    for average in (iqm, mean):
        with pytest.raises(KDNASError, match=r"shape \(2,\); expected \(\.\.\., tasks, seeds\)"):
            average([1.0, 2.0])


@given(numbers, st.integers(0, 5))
def test_correlations_depend_on_order_alone(values: list[float], seed: int) -> None:
    one = np.unique(np.round(values, 3))
    if len(one) < 4:
        return
    other = np.random.default_rng(seed).permutation(one)
    for statistic in (kendall_tau, spearman_rho):
        assert statistic(one, other) == pytest.approx(statistic(np.exp(one / 1e3), other**3))
        assert statistic(one, one) == pytest.approx(1.0)
        assert statistic(one, -one) == pytest.approx(-1.0)
    assert spearman_rho(one, other) == pytest.approx(float(spearmanr(one, other).statistic))


def test_intervals_hold_the_value_and_narrow_with_more_students() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 200):
        truth = rng.normal(size=count)
        other = truth + rng.normal(size=count)
        found = correlate(truth, other, rng)
        assert found is not None
        assert found.value == pytest.approx(kendall_tau(truth, other))
        assert found.low <= found.value <= found.high
        assert found.count == count
        widths.append(found.high - found.low)
    assert widths[1] < 0.5 * widths[0]


def test_too_few_or_equal_students_correlate_with_nothing() -> None:
    rng = np.random.default_rng(0)
    assert correlate([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], rng) is None
    assert correlate([1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], rng) is None


def test_agreement_within_groups_ignores_the_differences_between_them() -> None:
    groups = np.repeat([0, 1], 4)
    one = np.array([1.0, 2, 3, 4, 101, 102, 103, 104])
    other = np.array([4.0, 3, 2, 1, 104, 103, 102, 101])
    assert kendall_tau(one, other) > 0
    within = correlate(one, other, np.random.default_rng(0), groups)
    assert within is not None
    assert (within.value, within.low, within.high) == pytest.approx((-1.0, -1.0, -1.0))
    assert correlate(one, other, np.random.default_rng(0), np.arange(8)) is None


def test_an_interval_is_that_of_resampled_pairs() -> None:
    x, y = np.array([[1.0, 2, 2, 4, 5, 6, 7], [2.0, 1, 3, 3, 7, 5, 6]])
    found = correlate(x, y, np.random.default_rng(3))
    draws = np.random.default_rng(3).integers(0, 7, (RESAMPLES, 7))
    low, high = np.nanquantile([kendall_tau(x[draw], y[draw]) for draw in draws], (0.025, 0.975))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((kendall_tau(x, y), low, high))


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_tau_is_what_counting_pairs_gives(pairs: list[tuple[int, int]]) -> None:
    count = len(pairs)
    concordant = discordant = ties_x = ties_y = 0
    for i in range(count):
        for j in range(i):
            product = (pairs[i][0] - pairs[j][0]) * (pairs[i][1] - pairs[j][1])
            concordant += product > 0
            discordant += product < 0
            ties_x += pairs[i][0] == pairs[j][0]
            ties_y += pairs[i][1] == pairs[j][1]
    total = count * (count - 1) // 2
    scale = ((total - ties_x) * (total - ties_y)) ** 0.5
    expected = (concordant - discordant) / scale if scale else math.nan
    assert kendall_tau(*zip(*pairs, strict=True)) == pytest.approx(expected, nan_ok=True)


def test_what_is_constant_correlates_with_nothing() -> None:
    for statistic in (kendall_tau, spearman_rho, pearson):
        assert math.isnan(statistic([1.0, 1.0], [1.0, 2.0]))
        assert statistic([1.0, 1.0], [1.0, 2.0], constant=0.0) == 0.0
    assert pearson([1.0, 2.0, 4.0], [3.0, 2.0, 0.0]) == pytest.approx(-1)


def test_pairs_within_the_resolution_do_not_count() -> None:
    truth = np.arange(20.0)
    swapped = truth.reshape(-1, 2)[:, ::-1].ravel()
    assert resolved_tau(truth, swapped) == pytest.approx(1 - 4 * 10 / (20 * 19))
    assert resolved_tau(truth, swapped, 1.0) == 1
    assert resolved_tau(truth, np.zeros(20)) == 0
    assert math.isnan(resolved_tau(truth, truth, 30.0))


@given(st.lists(st.integers(0, 9).map(float), min_size=1, max_size=30), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_the_best_share_holds_one_value_at_least(values: list[float], share: float) -> None:
    count = max(1, math.ceil(share * len(values) - 1e-9))
    assert top_threshold(np.array(values), share) == sorted(values)[-count]
