from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdnas_env.bench.comparisons import critical_difference, friedman, holm, mean_ranks, paired_tests
from kdnas_env.errors import KDNASError


def test_holm_as_in_his_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_raises_and_keeps_the_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)
    assert min(corrected) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_pairs_are_tested_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    reference, better, same = rng.normal(1, 1, (2, 30)), rng.normal(0, 1, (2, 30)), np.zeros((2, 30))
    found = paired_tests(reference, {"better": better, "same": reference, "zero": same})
    assert found["better"].p == pytest.approx(stats.wilcoxon((reference - better).ravel(), method="approx").pvalue)
    assert found["better"].corrected == pytest.approx(min(1, 3 * found["better"].p), rel=0.5)
    assert found["better"].effect > 0.5
    assert (found["same"].p, found["same"].corrected, found["same"].effect) == (1.0, 1.0, 0.0)
    back = paired_tests(better, {"reference": reference})["reference"]
    assert back.effect == pytest.approx(-found["better"].effect)


def test_ranks_are_means_over_tasks_and_seeds() -> None:
    scores = {"a": [[0.0, 1.0], [0.0, 5.0]], "b": [[1.0, 1.0], [1.0, 0.0]], "c": [[2.0, 2.0], [2.0, 2.0]]}
    assert mean_ranks(scores) == pytest.approx({"a": (1 + 1.5 + 1 + 3) / 4, "b": (2 + 1.5 + 2 + 1) / 4, "c": 11 / 4})


def test_friedman_as_scipy_and_demsar_have_it() -> None:
    scores = np.random.default_rng(0).random((4, 14)) + np.arange(4)[:, None] / 6
    found = friedman({str(agent): one[:, None] for agent, one in enumerate(scores)})
    assert found.chi_squared == pytest.approx(stats.friedmanchisquare(*scores).statistic)
    # Demsar (2006), section 3.2.2: F follows from chi squared, with 3 and 39 degrees of freedom.
    assert found.f == pytest.approx(13 * found.chi_squared / (14 * 3 - found.chi_squared))
    assert found.p == pytest.approx(stats.f.sf(found.f, 3, 39))


def test_more_seeds_are_no_more_evidence_of_a_difference() -> None:
    scores = {str(agent): np.random.default_rng(agent).random((6, 1)) for agent in range(3)}
    assert friedman({name: np.repeat(one, 50, axis=1) for name, one in scores.items()}) == friedman(scores)


def test_friedman_of_no_and_of_every_difference() -> None:
    same = friedman({name: np.zeros((5, 3)) for name in "abc"})
    assert (same.chi_squared, same.f, same.p) == (0.0, 0.0, 1.0)
    ordered = friedman({name: np.full((5, 3), float(place)) for place, name in enumerate("abc")})
    assert ordered.chi_squared == pytest.approx(10)
    assert (ordered.f, ordered.p) == (np.inf, 0.0)


def test_friedman_seldom_finds_a_difference_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    found = [friedman({name: rng.random((12, 3)) for name in "abcd"}).p < 0.05 for _ in range(300)]
    assert 0.02 <= np.mean(found) <= 0.09


def test_friedman_needs_three_agents_and_five_tasks() -> None:
    with pytest.raises(KDNASError, match="agents is 2; expected 3 or more"):
        friedman({name: np.zeros((5, 1)) for name in "ab"})
    with pytest.raises(KDNASError, match="tasks is 4; Friedman's test needs 5 or more"):
        friedman({name: np.zeros((4, 1)) for name in "abc"})


def test_p_values_and_alpha_lie_between_0_and_1() -> None:
    for wrong in (-0.1, 1.1, np.nan):
        with pytest.raises(KDNASError, match=r"a p-value is .*; expected one between 0 and 1"):
            holm([0.5, wrong])
    with pytest.raises(KDNASError, match="alpha is 1"):
        critical_difference(4, 14, alpha=1)


def test_the_critical_difference_of_demsar() -> None:
    # Demsar (2006), section 3.2.2: four classifiers, 14 data sets.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    with pytest.raises(KDNASError, match="tasks is 2; a critical difference needs 5 or more"):
        critical_difference(4, 2)


def test_shapes_have_to_agree() -> None:
    with pytest.raises(KDNASError, match=r"scores of 'other' have shape \(1, 2\), those of the reference \(1, 3\)"):
        paired_tests(np.zeros((1, 3)), {"other": np.zeros((1, 2))})
    with pytest.raises(KDNASError, match="expected the same shape for all agents"):
        mean_ranks({"a": np.zeros((1, 3)), "b": np.zeros((1, 2))})
    with pytest.raises(KDNASError, match=r"shape \(1, 2, 3\); expected \(tasks, seeds\)"):
        paired_tests(np.zeros((1, 2, 3)), {})
