"""Pitfalls of comparing searches: shared state, real time in simulated time, scores that depend on the other agents."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tables import planted_table

from kdnas_env.bench.curves import Runs, regrets_of
from kdnas_env.bench.recorded_search import Recorder, run_search
from kdnas_env.bench.simulator import simulate
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.tables.storage import write_table

RANDOM = AgentSpec("random")


def test_two_searches_of_a_table_know_nothing_of_each_other(task: Task, truth: Truth) -> None:
    rng = np.random.default_rng(0)
    actions = [truth.space.sample(rng) for _ in range(8)]

    def answers(seed: int) -> list[Any]:
        env = task.make_env(Budget(8))
        env.reset(seed=seed)
        return [env.step(action)[1:4] for action in actions]

    alone = [answers(seed) for seed in (3, 4)]
    envs = [task.make_env(Budget(8)) for _ in alone]
    for env, seed in zip(envs, (3, 4), strict=True):
        env.reset(seed=seed)
    together = [[env.step(action)[1:4] for env in envs] for action in actions]
    assert [list(one) for one in zip(*together, strict=True)] == alone
    assert alone[0] != alone[1]


def test_nothing_is_better_than_the_optimum(task: Task, truth: Truth) -> None:
    everything = np.arange(truth.space.size)
    assert truth.rewards_of(everything).max() == truth.best
    agents, budget = (AgentSpec("random"), AgentSpec("evolution")), Budget(30)
    found = [run_search(agent, task, seed, budget, truth=truth) for agent in agents for seed in range(8)]
    # Because of noise, some observed rewards exceed the best true reward.
    assert max(one.observed.max() for one in found) > truth.best
    for one in found:
        assert (regrets_of(one.true, truth, budget) >= 0).all()
    runs = Runs.of(found, [truth])
    assert all((runs.regrets[agent] >= 0).all() for agent in runs.agents)


def test_a_score_does_not_depend_on_who_else_races(task: Task, truth: Truth) -> None:
    names = ("random", "evolution", "local-search")
    runs = [run_search(AgentSpec(name), task, seed, Budget(12), truth=truth) for name in names for seed in range(3)]
    views = [summarise(Runs.of(runs[:end], [truth]), repetitions=30)["views"][0] for end in (6, 9)]
    for agent in names[:2]:
        for score in ("final", "area", "curve", "profile", "hypervolume", "targets"):
            assert views[0]["agents"][agent][score] == views[1]["agents"][agent][score]


@pytest.mark.parametrize("unit", ["epochs", "seconds"])
def test_the_shortest_evaluation_is_charged(task: Task, unit: str) -> None:
    short = replace(task, epochs=1)
    truth = Truth.of(short)
    amount = 10 if unit == "epochs" else 10 * float(truth.seconds.mean())
    found = run_search(RANDOM, short, 0, Budget(amount, unit), truth=truth)
    assert (found.epochs == 1).all()
    assert (np.diff(found.cost, prepend=0)[found.ok] > 0).all()
    assert (found.finish > found.start)[found.ok].all()


def test_real_time_does_not_leak_into_simulated(task: Task, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdnas_env.agents.classic.random import RandomAgent

    quick = simulate(RANDOM, task, 0, Budget(12), 3, truth=truth)
    ask = RandomAgent.ask

    def slow(self: Any, n: int) -> Any:
        time.sleep(0.005)
        return ask(self, n)

    monkeypatch.setattr(RandomAgent, "ask", slow)
    assert simulate(RANDOM, task, 0, Budget(12), 3, truth=truth) == quick


def test_two_names_of_a_student_are_one(tmp_path: Path) -> None:
    space = {"num_hidden_layers": [3, 6], "hidden_size": [384, 768], "hidden_act": ["gelu", "silu", "swish"]}
    write_table(planted_table(space, noise=0.05), tmp_path / "aliases.npz")
    task = Task(str(tmp_path / "aliases.npz"))
    truth = Truth.of(task)
    assert len(truth.reward) == 8
    action = truth.space.from_index(0)
    axis = truth.space.dimensions.index("hidden_act")
    recorder = Recorder(task.make_env(Budget(4)), truth, 0, Budget(4))
    recorder.reset()
    for place in (1, 2):
        action[axis] = place
        recorder.step(action.copy())
    found = recorder.trajectory(RANDOM)
    assert found.index[0] == found.index[1]
    assert found.observed[0] == found.observed[1]
    assert found.duplicate.tolist() == [False, True]
