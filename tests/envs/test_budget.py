"""Budgets of episodes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.budget import UNITS, Budget
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
RECORD = Evaluation(StudentConfig(1, 1, 8, 8), Fidelity(3), Status.OK, wall_seconds=2.5)


def make(**options: Any) -> KDNASEnv:
    env = KDNASEnv(SPACE, PlantedEvaluator(SPACE), **options)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(("unit", "cost"), [("evaluations", 1), ("epochs", 3), ("seconds", 2.5)])
def test_what_an_evaluation_costs(unit: str, cost: float) -> None:
    assert Budget(10, unit).cost(RECORD) == cost
    assert Budget(10, unit).cost(replace(RECORD, fidelity=Fidelity(0))) == (2.5 if unit == "seconds" else 1)


@given(amount=st.integers(1, 50), epochs=st.integers(0, 9), unit=st.sampled_from(["evaluations", "epochs"]))
def test_the_evaluations_it_allows_spend_it_and_no_more(amount: int, epochs: int, unit: str) -> None:
    budget, spent, count = Budget(amount, unit), 0.0, 0
    while spent < amount:
        effort = budget.affordable(Fidelity(epochs), spent)
        spent += budget.cost(replace(RECORD, fidelity=effort))
        count += 1
    assert spent == amount
    assert count == budget.evaluations(Fidelity(epochs))


def test_the_clock_tells_how_many_evaluations_seconds_allow() -> None:
    assert Budget(9.5, "seconds").evaluations(Fidelity(2)) is None
    assert Budget(9.5, "seconds").affordable(Fidelity(2), 9.0) == Fidelity(2)


@pytest.mark.parametrize(
    ("amount", "unit", "message"),
    [
        (0, "evaluations", "budget is 0; expected a whole number of evaluations, at least 1"),
        (1.5, "epochs", "budget is 1.5; expected a whole number of epochs"),
        (True, "evaluations", "budget is True"),
        (True, "seconds", "budget is True; expected a number of seconds above 0"),
        (-1.0, "seconds", "budget is -1.0"),
        (math.nan, "seconds", "budget is nan"),
        (math.inf, "seconds", "budget is inf"),
        (5, "hours", r"budget_unit is 'hours'; expected one of \['evaluations', 'epochs', 'seconds'\]"),
    ],
)
def test_bad_budgets_are_refused(amount: Any, unit: str, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        Budget(amount, unit)


def test_a_budget_of_epochs_cuts_the_last_evaluation() -> None:
    env = make(budget=7, budget_unit="epochs", fidelity=Fidelity(3))
    assert env.max_evaluations == 3
    told = [env.step(SPACE.from_index(index)) for index in range(3)]
    assert [answer[4]["epochs"] for answer in told] == [3, 3, 1]
    assert [answer[4]["budget_left"] for answer in told] == [4, 1, 0]
    assert [answer[2] for answer in told] == [False, False, True]
    assert [answer[0]["progress"][0] for answer in told] == pytest.approx([3 / 7, 6 / 7, 1.0])
    assert env.history[2].evaluation.fidelity == Fidelity(1)


def test_a_budget_of_simulated_seconds_ends_with_the_evaluation_that_passes_it() -> None:
    first = PlantedEvaluator(SPACE).evaluate([SPACE.decode(SPACE.from_index(0))], Fidelity())[0]
    env = make(budget=1.5 * first.wall_seconds, budget_unit="seconds")
    assert env.max_evaluations is None
    assert not env.step(SPACE.from_index(0))[2]
    observation, _, terminated, _, info = env.step(SPACE.from_index(0))
    assert terminated
    assert info["budget_left"] == pytest.approx(-0.5 * first.wall_seconds)
    assert observation["progress"] == 1.0


@pytest.mark.parametrize("unit", UNITS)
def test_endless_repetition_is_truncated_whatever_is_counted(unit: str) -> None:
    space = SearchSpace.from_dict({"hidden_size": [96, 192]}, PLANTED_TEACHER)
    env = KDNASEnv(space, PlantedEvaluator(space), budget=2, budget_unit=unit, duplicates="free")
    if unit == "seconds":
        env = KDNASEnv(space, PlantedEvaluator(space), budget=1e9, budget_unit=unit, duplicates="free")
    env.reset(seed=0)
    for _ in range(30):
        _, _, terminated, truncated, _ = env.step(np.array([0]))
        if terminated or truncated:
            break
    assert truncated == (unit != "epochs")  # the first evaluation spends both epochs
    assert len(env.history) == (1 if unit == "epochs" else 20)
