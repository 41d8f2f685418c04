"""A search is recorded as the agent saw it, and an agent cannot gain by misbehaving."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import kdnas_env
from kdnas_env.bench.recorded_search import run_search
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError

RANDOM = AgentSpec("random")


@pytest.mark.parametrize("seed_policy", ["sample", "mean", 1])
def test_what_is_recorded_is_what_the_agent_saw(task: Task, truth: Truth, seed_policy: int | str) -> None:
    asked = replace(task, seed=seed_policy)
    found = run_search(RANDOM, asked, 5, Budget(30), truth=replace(truth, task=asked))
    env = asked.make_env(Budget(30))
    result = kdnas_env.make_agent("random").search(env, budget=30, seed=5)
    np.testing.assert_array_equal(found.observed, result.rewards)
    assert found.index.tolist() == [info["index"] for info in result.infos]
    assert found.ok.tolist() == [info["status"] == "ok" for info in result.infos]
    assert (found.agent, found.task, found.seed, found.budget) == ("random", str(asked), 5, 30)
    np.testing.assert_array_equal(found.true, truth.rewards_of(found.index))
    assert found.cost.tolist() == list(range(1, 31))
    assert (found.agent_seconds >= 0).all()
    assert found.error == ""


def test_an_agent_is_charged_for_what_it_does_after_its_last_evaluation(
    task: Task, truth: Truth, misbehaving: None
) -> None:
    found = run_search(AgentSpec("ponders", {"steps": 4}), task, 0, Budget(10), truth=truth)
    assert found.error == ""
    assert found.agent_seconds.sum() < 0.05 < found.agent_total
    assert found.wall_seconds > 0.05


def test_the_clock_is_that_of_the_table(task: Task, truth: Truth) -> None:
    found = run_search(RANDOM, replace(task, seed="mean"), 0, Budget(10))
    place = np.searchsorted(truth.index, found.index)
    np.testing.assert_allclose(found.finish - found.start, truth.seconds[place])
    np.testing.assert_array_equal(found.start[1:], found.finish[:-1])


def test_all_agents_see_the_same_noise(task: Task, truth: Truth) -> None:
    runs = [run_search(AgentSpec(name), task, 4, Budget(60), truth=truth) for name in ("random", "evolution")]
    seen = [dict(zip(one.index.tolist(), one.observed.tolist(), strict=True)) for one in runs]
    common = seen[0].keys() & seen[1].keys()
    assert len(common) > 10
    assert all(seen[0][index] == seen[1][index] for index in common)
    other = run_search(AgentSpec("random"), task, 5, Budget(60), truth=truth)
    again = dict(zip(other.index.tolist(), other.observed.tolist(), strict=True))
    assert any(again[index] != seen[0][index] for index in again.keys() & seen[0].keys())


def test_the_mean_is_not_noisy(task: Task, truth: Truth) -> None:
    noisy = run_search(RANDOM, task, 0, Budget(30), truth=truth)
    exact = run_search(RANDOM, replace(task, seed="mean"), 0, Budget(30))
    assert (noisy.observed[noisy.ok] != noisy.true[noisy.ok]).any()
    np.testing.assert_array_equal(exact.observed, exact.true)


@pytest.mark.parametrize("unit", ["epochs", "seconds"])
def test_other_budgets_are_spent(task: Task, truth: Truth, unit: str) -> None:
    budget = Budget(40, "epochs") if unit == "epochs" else Budget(20 * float(truth.seconds.mean()), "seconds")
    found = run_search(RANDOM, task, 0, budget, truth=truth)
    assert found.error == ""
    if unit == "epochs":
        assert found.cost[-1] == 40
        assert found.epochs.sum() == 40
        assert found.epochs[-1] == 1  # the budget left only one of three epochs
    else:
        assert found.cost[-2] < budget.amount <= found.cost[-1]
        np.testing.assert_array_equal(found.cost, found.finish)


def test_evaluations_of_fewer_epochs_are_judged_by_all(task: Task, truth: Truth) -> None:
    found = run_search(RANDOM, replace(task, epochs=1, seed="mean"), 0, Budget(10))
    assert (found.epochs == 1).all()
    np.testing.assert_array_equal(found.true, truth.rewards_of(found.index))
    assert (found.observed != found.true)[found.ok].all()


def test_an_agent_that_raises_ends_its_own_search_only(task: Task, truth: Truth, misbehaving: None) -> None:
    found = run_search(AgentSpec("raises", {"steps": 4}), task, 0, Budget(10), truth=truth)
    assert found.error == "RuntimeError: nothing works"
    assert len(found) == 4
    assert found.duplicate.tolist() == [False, True, True, True]


def test_nobody_gets_a_second_budget_or_other_noise(task: Task, truth: Truth, misbehaving: None) -> None:
    found = run_search(AgentSpec("resets", {"steps": 8}), task, 0, Budget(10), truth=truth)
    assert "a single episode" in found.error
    assert len(found) == 8
    honest = run_search(AgentSpec("exhaustive"), task, 0, Budget(100), truth=truth)
    seen = dict(zip(honest.index.tolist(), honest.observed.tolist(), strict=True))
    common = [
        (seen[index], value) for index, value in zip(found.index.tolist(), found.observed, strict=True) if index in seen
    ]
    assert common
    assert all(one == other for one, other in common)


def test_what_cannot_be_built_is_told(task: Task, truth: Truth, misbehaving: None) -> None:
    found = run_search(AgentSpec("resets", {"steps": 20}), task, 0, Budget(40), truth=truth)
    valid = set(truth.space.valid_indices.tolist())
    assert found.invalid.any()
    assert found.invalid.tolist() == [index not in valid for index in found.index.tolist()]
    assert (found.true[found.invalid] == -1).all()


@pytest.mark.parametrize("agent", [AgentSpec("nobody"), AgentSpec("random", {"speed": 1})])
def test_an_unknown_agent_is_an_error(task: Task, truth: Truth, agent: AgentSpec) -> None:
    with pytest.raises(KDNASError):
        run_search(agent, task, 0, Budget(5), truth=truth)


def test_a_search_repeats_and_leaves_global_generators_alone(task: Task, truth: Truth) -> None:
    before = random.getstate(), repr(np.random.get_state()), torch.random.get_rng_state()  # noqa: NPY002
    first = run_search(AgentSpec("lstm"), task, 1, Budget(24), truth=truth)
    assert run_search(AgentSpec("lstm"), task, 1, Budget(24), truth=truth) == first
    assert run_search(AgentSpec("lstm"), task, 2, Budget(24), truth=truth) != first
    assert random.getstate() == before[0]
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", kdnas_env.agent_names())
def test_every_agent_spends_one_budget(task: Task, truth: Truth, name: str) -> None:
    found = run_search(AgentSpec(name), task, 0, Budget(24), truth=truth)
    assert found.error == ""
    assert len(found) == 24
    assert found.counted.all()
