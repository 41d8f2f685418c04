from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.reward import KDReward
from kdnas_env.studies.findings import (
    Agreement,
    Findings,
    draw_findings,
    find,
    groups_of_similar,
    proxies_of,
    regret,
    targets_of,
)
from kdnas_env.studies.proxy import Judgement


@pytest.mark.parametrize(
    ("speedups", "labels"), [((3.5, 9.0, 17.0), ["4x", "8x", "16x"]), ((5.0, 6.0, 7.0), ["5x", "7x"])]
)
def test_the_bar_of_the_picture_is_labelled_within_its_colours(speedups: tuple[float, ...], labels: list[str]) -> None:
    """Formerly, ticks were at the powers of two around the speed-ups, so that half of the bar was white."""
    findings = Findings(
        students=tuple(StudentConfig(layers, 2, 32, 64) for layers in (1, 2, 3)),
        proxies=proxies_of(("rte",)),
        targets=targets_of(("rte",)),
        columns={name: np.array([-0.3, -0.2, -0.1]) for name in ("imitation", "task:rte", "divergence:rte")},
        ratios=1 / np.array(speedups),
        agreements=tuple(
            Agreement(proxy, "divergence:rte", None, None, None, {}) for proxy in ("imitation", "task:rte")
        ),
        ceilings={},
        noise={},
        seconds={},
        failed=0,
    )
    bar = draw_findings(findings).axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == labels
    assert bar.get_ylim() == pytest.approx((np.log2(speedups[0]), np.log2(speedups[-1])))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60))
def test_groups_of_similar_latency_are_contiguous_and_of_equal_size(ratios: list[float]) -> None:
    groups = groups_of_similar(np.array(ratios))
    ordered = groups[np.argsort(ratios, kind="stable")]
    assert (np.diff(ordered) >= 0).all()
    sizes = np.bincount(groups)
    assert sizes.max() - sizes.min() <= 1


def test_regret_is_what_the_best_of_the_chosen_lacks() -> None:
    proxy, truth = np.array([0.9, 0.8, 0.1]), np.array([0.5, 0.7, 1.0])
    assert [regret(proxy, truth, k) for k in (1, 2, 3)] == pytest.approx([0.5, 0.3, 0.0])


def judged(students: int, seeds: tuple[int, ...] = (0, 1)) -> dict[Judgement, dict[str, Any]]:
    """Return judgements in which only the short task score predicts final quality; imitation reverses the ranking."""
    results: dict[Judgement, dict[str, Any]] = {}
    for number in range(students):
        student, good = StudentConfig(1 + number, 2, 32, 64), number / students
        for seed in seeds:
            short = {"unexplained": [0.9, good], "tasks": {"rte": {"unexplained": 1 - good, "seconds": 2.0}}}
            results[Judgement("short", student, seed)] = {
                **{"status": "ok", "latency_ratio": 0.1 * (1 + number), "parameters": 10 * number, "seconds": 4.0},
                **short,
            }
            learnt = {"unexplained": 1 - good, "agreement": good, "score": 0.5}
            results[Judgement("long", student, seed)] = {
                "status": "ok",
                "unexplained": [0.9, good],
                "tasks": {"rte": learnt},
            }
    return results


def test_a_quality_that_ranks_as_the_task_does_is_told_from_another() -> None:
    findings = find(judged(8), ("rte",), KDReward(alpha=0.0, quality="task"), seed=0)
    taus = {(row.proxy, row.target): row.tau and row.tau.value for row in findings.agreements}
    assert taus["task:rte", "divergence:rte"] == taus["task:rte", "agreement:rte"] == pytest.approx(1)
    assert taus["reward", "divergence:rte"] == pytest.approx(1)
    assert taus["imitation", "divergence:rte"] == pytest.approx(-1)
    assert taus["imitation", "long"] == pytest.approx(1)
    assert taus["task:rte", "score:rte"] is None
    assert findings.ceilings["task:rte"] is not None
    assert findings.ceilings["task:rte"].value == pytest.approx(1)
    assert findings.noise["divergence:rte"] == 0
    assert findings.seconds == {"imitation": 4.0, "task:rte": 2.0}
    json.dumps(findings.to_dict(), allow_nan=False)


def test_failures_are_counted_and_left_out() -> None:
    results = judged(6)
    first = next(iter(results))
    results[first] = {"status": "failed", "error": "the loss is not finite"}
    findings = find(results, ("rte",), KDReward(), seed=0)
    assert (len(findings.students), findings.failed) == (5, 1)


def test_nothing_is_found_where_nothing_was_judged() -> None:
    findings = find({}, ("rte",), KDReward(), seed=0)
    assert findings.students == ()
    assert all(row.tau is None for row in findings.agreements)
