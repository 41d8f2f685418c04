"""Limits of students: the cost of a broken limit, and its effect on the reward."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.constraints import BYTES_PER_PARAMETER, ConstrainedReward, Constraints
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
STUDENTS = PlantedEvaluator(SPACE).evaluate([*SPACE][::37], Fidelity())


def limits(**values: Any) -> Constraints:
    return Constraints(**values)


def test_costs_are_relative_and_nothing_where_a_limit_is_kept() -> None:
    student = STUDENTS[0]
    assert student.latency is not None
    speedup, size = student.latency.speedup, student.parameters * BYTES_PER_PARAMETER["int8"] / 1e6
    twice = limits(speedup=2 * speedup, latency_ms=student.latency.median_ms / 2, parameters=student.parameters // 2)
    assert twice.costs(student) == pytest.approx({"speedup": 1, "latency_ms": 1, "parameters": 1}, rel=1e-5)
    kept = limits(speedup=speedup, latency_ms=student.latency.median_ms, parameters=student.parameters)
    assert kept.costs(student) == {"speedup": 0, "latency_ms": 0, "parameters": 0}
    assert limits(size_mb=size / 3, format="int8").costs(student) == pytest.approx({"size_mb": 2})
    assert limits(keep=0.9).costs(student) == {"keep": 0}
    assert limits(keep=0.9).costs(student, quality=0.6) == pytest.approx({"keep": 0.5})
    assert limits(keep=0.9).costs(student, quality=-3.0)["keep"] > 1
    assert not Constraints()
    assert not limits(speedup=0)
    assert Constraints().costs(student) == {}


@pytest.mark.parametrize("times_too_slow", [1.2, 1.3])
def test_a_limit_is_surely_broken_where_no_error_of_the_latency_explains_it(times_too_slow: float) -> None:
    student = STUDENTS[0]
    assert student.latency is not None
    for speed in (
        limits(speedup=times_too_slow * student.latency.speedup),
        limits(latency_ms=student.latency.median_ms / times_too_slow),
    ):
        assert speed.breaks(student)
        assert speed.surely_breaks(student) == (times_too_slow > 1.25)
    assert limits(parameters=1).surely_breaks(student)
    assert not limits(keep=0.9).surely_breaks(student)


def test_what_breaks_a_limit_is_screened_as_if_it_had_not_been_distilled() -> None:
    student = STUDENTS[0]
    assert student.latency is not None
    strict = limits(speedup=2 * student.latency.speedup, parameters=1)
    screened = strict.screened(student)
    assert screened.status is Status.INFEASIBLE
    assert (screened.config, screened.latency, screened.parameters) == (
        student.config,
        student.latency,
        student.parameters,
    )
    assert screened.heldout_unexplained == screened.epoch_seconds == ()
    assert screened.wall_seconds == 0
    assert "speedup" in screened.error
    assert "parameters" in screened.error
    assert limits(keep=0.9).describe(student, quality=0.6) == "quality 0.600 is below 0.9 of the teacher's"
    assert strict.screened(screened) == screened
    assert limits(parameters=10**12, keep=1.0).screened(student) is student
    diverged = replace(student, status=Status.DIVERGED, latency=None)
    assert strict.screened(diverged) is diverged


@given(
    place=st.integers(0, len(STUDENTS) - 1),
    others=st.lists(st.integers(0, len(STUDENTS) - 1), min_size=1),
    factor=st.floats(0.3, 3),
)
def test_what_breaks_a_limit_earns_less_than_all_that_keep_it_and_more_the_closer_it_is(
    place: int, others: list[int], factor: float
) -> None:
    latency = STUDENTS[place].latency
    assert latency is not None
    reward = ConstrainedReward(limits=limits(speedup=factor * latency.speedup))
    found = [reward(reward.limits.screened(STUDENTS[number])) for number in (place, *others)]
    kept = [one.reward for one in found if one.cost == 0]
    broken = sorted((one.cost, one.reward) for one in found if one.cost > 0)
    if kept and broken:
        assert max(earned for _, earned in broken) < min(kept)
    assert all(a[1] > b[1] for a, b in itertools.pairwise(broken) if a[0] < b[0])
    assert all(reward.lowest < earned < reward.floor for _, earned in broken)
    failed = Evaluation(STUDENTS[0].config, Fidelity(), Status.DIVERGED)
    assert reward(failed).reward == reward.lowest


def test_a_cost_can_be_told_beside_the_reward() -> None:
    student = STUDENTS[0]
    assert student.latency is not None
    reward = ConstrainedReward(limits=limits(speedup=2 * student.latency.speedup), handling="cost")
    plain = KDReward()(student)
    components = reward(student)
    assert replace(components, cost=0.0) == plain
    assert components.cost == pytest.approx(1.0)
    assert (reward.lowest, reward.failure) == (KDReward().floor, KDReward().floor)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speedup": -1}, "speedup is -1; expected a number at least 0"),
        ({"size_mb": 0}, "size_mb is 0; expected a number above 0"),
        ({"latency_ms": "fast"}, "latency_ms is 'fast'"),
        ({"parameters": 2.5}, "parameters is 2.5; expected a whole number"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"format": "int4"}, "format is 'int4'; expected one of"),
        ({"speed": 3}, "limits are {'speed': 3}; expected a mapping of some of"),
    ],
)
def test_malformed_limits(values: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError) as caught:
        Constraints.of(values)
    assert message in str(caught.value)
