"""Results are withheld until their simulated second, and a simulation of one worker equals a plain search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import kdnas_env
from kdnas_env.bench.recorded_search import Recorder
from kdnas_env.bench.simulator import simulate
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.tables.table import STATUSES

RANDOM = AgentSpec("random")


def one_by_one(agent: str, task: Task, truth: Truth, seed: int, budget: Budget) -> Trajectory:
    recorder = Recorder(task.make_env(budget), truth, seed, budget)
    limit = truth.evaluation_limit(budget)
    kdnas_env.make_agent(agent).search(recorder, budget=limit, round_size=1, seed=seed)
    return recorder.trajectory(AgentSpec(agent))


@pytest.mark.parametrize("agent", ["random", "local-search", "evolution", "lstm", "optuna"])
def test_one_worker_is_a_plain_search(task: Task, truth: Truth, agent: str) -> None:
    found = simulate(AgentSpec(agent), task, 3, Budget(12), 1, truth=truth)
    assert found.error == ""
    assert found == one_by_one(agent, task, truth, 3, Budget(12))


@pytest.mark.parametrize("unit", ["epochs", "seconds"])
def test_one_worker_spends_any_budget_as_a_plain_search(task: Task, truth: Truth, unit: str) -> None:
    budget = Budget(31, "epochs") if unit == "epochs" else Budget(10.3 * float(truth.seconds.mean()), "seconds")
    found = simulate(RANDOM, task, 3, budget, 1, truth=truth)
    assert found == one_by_one("random", task, truth, 3, budget)


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_are_busy_and_never_too_many(task: Task, truth: Truth, workers: int) -> None:
    found = simulate(RANDOM, task, 0, Budget(40), workers, truth=truth)
    assert len(found) == 40
    assert (np.diff(found.finish) >= 0).all()
    begun = np.sort(found.start)
    for second in begun:
        running = ((found.start <= second) & (found.finish > second)).sum()
        assert running <= workers
    # A worker that finishes a student starts the next one at once.
    assert set(begun.tolist()) <= {0.0, *found.finish.tolist()}
    assert (found.start == 0).sum() >= workers
    alone = simulate(RANDOM, task, 0, Budget(40), 1, truth=truth)
    assert alone.finish[-1] / workers <= found.finish[-1] < alone.finish[-1]


def test_nothing_is_known_before_it_is_finished(task: Task, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdnas_env.agents.classic.random import RandomAgent

    log: list[tuple[str, int]] = []
    ask, tell = RandomAgent.ask, RandomAgent.tell

    def asked(self: Any, n: int) -> Any:
        log.append(("ask", len(self.evaluated)))
        return ask(self, n)

    def told(self: Any, actions: Any, rewards: Any, infos: Any = None) -> None:
        log.append(("tell", len(actions)))
        tell(self, actions, rewards, infos)

    monkeypatch.setattr(RandomAgent, "ask", asked)
    monkeypatch.setattr(RandomAgent, "tell", told)
    found = simulate(RANDOM, replace(task, seed="mean"), 0, Budget(12), 3)
    assert log[:3] == [("ask", 0)] * 3
    assert all(count == 1 for kind, count in log if kind == "tell")
    # When the last student was proposed, the agent knew exactly the students that had finished by its start.
    known = [count for kind, count in log if kind == "ask"]
    starts = np.sort(found.start)
    assert known[-1] == (found.finish <= starts[-1]).sum()


def test_a_simulation_repeats(task: Task, truth: Truth) -> None:
    first = simulate(AgentSpec("evolution"), task, 2, Budget(40), 4, truth=truth)
    assert simulate(AgentSpec("evolution"), task, 2, Budget(40), 4, truth=truth) == first


def test_decisions_are_charged_to_the_worker(task: Task, truth: Truth) -> None:
    free = simulate(RANDOM, task, 0, Budget(10), 1, truth=truth)
    charged = simulate(RANDOM, task, 0, Budget(10), 1, decision_time=100.0, truth=truth)
    np.testing.assert_allclose(charged.finish, free.finish + 100 * np.arange(1, 11))
    measured = simulate(RANDOM, task, 0, Budget(10), 1, decision_time="measured", truth=truth)
    assert free.finish[-1] < measured.finish[-1] < charged.finish[-1]
    np.testing.assert_array_equal(measured.index, free.index)


def test_seconds_are_of_the_clock(task: Task, truth: Truth) -> None:
    budget = Budget(6 * float(truth.seconds.mean()), "seconds")
    found = simulate(RANDOM, task, 1, budget, 3, truth=truth)
    assert (found.start < budget.amount).all()
    assert (found.finish >= budget.amount).sum() == 3
    assert len(found) > len(simulate(RANDOM, task, 1, budget, 1, truth=truth))
    np.testing.assert_array_equal(found.cost, found.finish)


def test_epochs_are_never_exceeded(task: Task, truth: Truth) -> None:
    found = simulate(RANDOM, task, 1, Budget(31, "epochs"), 4, truth=truth)
    assert found.epochs.sum() == 31
    assert found.cost[-1] == 31
    np.testing.assert_array_equal(np.diff(found.cost, prepend=0), found.epochs)


def test_an_exhausted_space_ends_it(task: Task, truth: Truth) -> None:
    valid = len(truth.space.valid_indices)
    found = simulate(RANDOM, task, 0, Budget(valid + 50), 7, truth=truth)
    assert len(found) == valid
    assert found.error == ""


def test_agents_without_ask_and_tell_are_refused(task: Task, truth: Truth, misbehaving: None) -> None:
    with pytest.raises(KDNASError, match="'raises' has no start and no ask and no tell"):
        simulate(AgentSpec("raises"), task, 0, Budget(5), 2, truth=truth)


@pytest.mark.parametrize("agent", ["optuna", "lstm"])
def test_learners_can_wait_for_several(task: Task, truth: Truth, agent: str) -> None:
    found = simulate(AgentSpec(agent), task, 0, Budget(16), 4, truth=truth)
    assert (found.error, len(found), bool(found.duplicate.any())) == ("", 16, False)


def test_a_pruner_stops_students_and_the_clock_knows(task: Task, truth: Truth) -> None:
    whole = simulate(AgentSpec("optuna", {"sampler": "random"}), task, 0, Budget(30), 2, truth=truth)
    pruning = AgentSpec("optuna", {"sampler": "random", "pruner": "median"})
    pruned = simulate(pruning, task, 0, Budget(30), 2, truth=truth)
    stopped = pruned.status == STATUSES.index("stopped")
    assert pruned.error == ""
    assert 3 <= stopped.sum() < 30
    assert pruned.finish[-1] < whole.finish[-1]


@pytest.mark.parametrize("duplicates", ["free", "reject"])
def test_a_repetition_that_costs_nothing_waits_for_the_first(
    task: Task, truth: Truth, misbehaving: None, duplicates: str
) -> None:
    asked = replace(task, duplicates=duplicates)
    found = simulate(AgentSpec("repeats"), asked, 0, Budget(4), 3, truth=replace(truth, task=asked))
    assert found.error == ""
    assert found.counted.sum() == 4
    assert found.duplicate.tolist() == (~found.counted).tolist()
    first = {index: found.finish[place] for place, index in reversed([*enumerate(found.index.tolist())])}
    assert all(second >= first[index] for index, second in zip(found.index.tolist(), found.finish, strict=True))


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"workers": True}, {"decision_time": -1.0}, {"decision_time": "slow"}]
)
def test_malformed_numbers_are_refused(task: Task, truth: Truth, wrong: dict[str, Any]) -> None:
    with pytest.raises(KDNASError, match=next(iter(wrong))):
        simulate(RANDOM, task, 0, Budget(5), **{"workers": 2, "truth": truth, **wrong})
