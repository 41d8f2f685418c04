from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.studies.findings import Agreement, Findings, draw_findings, latency_groups, regret


@pytest.mark.parametrize(
    ("speedups", "labels"), [((3.5, 9.0, 17.0), ["4x", "8x", "16x"]), ((5.0, 6.0, 7.0), ["5x", "7x"])]
)
def test_the_bar_of_the_picture_is_labelled_within_its_colours(speedups: tuple[float, ...], labels: list[str]) -> None:
    """Ticks stood at the powers of two around the speed-ups, so that half of the bar was white."""
    findings = Findings(
        students=tuple(StudentConfig(layers, 2, 32, 64) for layers in (1, 2, 3)),
        columns={name: np.array([-0.3, -0.2, -0.1]) for name in ("loss", "full_loss", "score")},
        ratios=1 / np.array(speedups),
        agreements=tuple(Agreement("loss", target, None, None, None, {}) for target in ("full_loss", "score")),
        ceilings={},
        noise={},
        failed=0,
    )
    bar = draw_findings(findings, task="rte").axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == labels
    assert bar.get_ylim() == pytest.approx((np.log2(speedups[0]), np.log2(speedups[-1])))


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
