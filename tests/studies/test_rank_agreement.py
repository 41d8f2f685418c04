from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from kdnas_env.studies.rank_agreement import (
    correlate,
    kendall_tau,
    latency_groups,
    regret,
    spearman_rho,
    within_groups,
)

numbers = st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=30)


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
        found = correlate(kendall_tau, truth, truth + rng.normal(size=count), rng)
        assert found is not None
        assert found.low <= found.value <= found.high
        assert found.count == count
        widths.append(found.high - found.low)
    assert widths[1] < 0.5 * widths[0]


def test_too_few_or_equal_students_correlate_with_nothing() -> None:
    rng = np.random.default_rng(0)
    assert correlate(kendall_tau, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], rng) is None
    assert correlate(spearman_rho, [1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], rng) is None


def test_agreement_within_groups_ignores_the_differences_between_them() -> None:
    groups = np.repeat([0, 1], 4)
    one = np.array([1.0, 2, 3, 4, 101, 102, 103, 104])
    other = np.array([4.0, 3, 2, 1, 104, 103, 102, 101])
    assert kendall_tau(one, other) > 0
    assert within_groups(kendall_tau, one, other, groups) == pytest.approx(-1.0)
    assert within_groups(kendall_tau, one, other, np.arange(8)) is None


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60))
def test_groups_of_similar_latency_are_contiguous_and_of_equal_size(ratios: list[float]) -> None:
    groups = latency_groups(np.array(ratios))
    ordered = groups[np.argsort(ratios, kind="stable")]
    assert (np.diff(ordered) >= 0).all()
    sizes = np.bincount(groups)
    assert sizes.max() - sizes.min() <= 1


def test_regret_is_what_the_best_of_the_chosen_lacks() -> None:
    proxy, truth = np.array([0.9, 0.8, 0.1]), np.array([0.5, 0.7, 1.0])
    assert [regret(proxy, truth, k) for k in (1, 2, 3)] == pytest.approx([0.5, 0.3, 0.0])
