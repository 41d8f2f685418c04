"""The cost of a proposal does not grow with the number of evaluations; work is counted, not timed."""

from __future__ import annotations

import importlib
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from call_counts import counted

import kdnas_env
from kdnas_env.agents.ask_tell import AskTellAgent

CHEAP: dict[str, dict[str, Any]] = {
    "random": {},
    "evolution": {},
    "exhaustive": {},
    "local-search": {"starts": 4},
    "parameter-count": {},
    "reinforce": {"hidden_size": 4, "tries": 3},
    "lstm": {
        **{"replay_size": 32, "epochs": 1, "pool_size": 50, "epsilon_start": 0.0, "epsilon_min": 0.0},
        **{"embedding_size": 4, "hidden_size": 4},
    },
    "lstm-ensemble": {"replay_size": 32, "steps": 1, "members": 2, "pool_size": 50},
    "least-squares": {"replay_size": 32, "pool_size": 50},
    "bayesian-linear": {"replay_size": 32, "pool_size": 50},
    "random-forest": {"replay_size": 32, "pool_size": 50, "trees": 2},
    "optuna": {"sampler": "random"},
    "ppo": {"n_epochs": 1},
    "maskable-ppo": {"n_epochs": 1},
    "dqn": {"replay_size": 32, "gradient_steps": 1},
}
"""Agents that store different things, with settings that make them fast and limit what they store."""

SPACES = {"listed": [5] * 5, "drawn from by rejection": [50] * 5}
FEW, MANY = 75, 300
"""Numbers of evaluations that are far from powers of two, at which arrays grow."""
KEPT = 600
"""Number of evaluations whose memory is measured; they need more memory than the rest of the agent."""


@pytest.fixture(params=SPACES.values(), ids=list(SPACES))
def nvec(request: pytest.FixtureRequest) -> list[int]:
    space: list[int] = request.param
    return space


@pytest.fixture(autouse=True)
def short_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdnas_env.agents.lstm.reinforce._BASELINE_SIZE", 32)
    monkeypatch.setattr("kdnas_env.agents.sb3.algorithms._RANKED", 32)


def rewards_of(actions: np.ndarray) -> list[float]:
    rewards: list[float] = (-((actions - 3.3) ** 2).sum(axis=1)).tolist()
    return rewards


def told(agent: AskTellAgent[Any], nvec: list[int], evaluations: int) -> None:
    """Report unproposed points to an agent, one by one, until it has the given number of evaluations."""
    points = np.random.default_rng(0).choice(int(np.prod(nvec)), size=MANY, replace=False)[:evaluations]
    for point in points[agent.ranking.evaluations :].tolist():
        action = np.array([np.unravel_index(point, nvec)])
        agent.tell(action, rewards_of(action))


def bytes_of(call: Callable[[], Any]) -> int:
    """Return the peak memory that a call allocates, in bytes."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    call()
    return tracemalloc.get_traced_memory()[1] - before


def work(agent: AskTellAgent[Any], steps: int = 5) -> tuple[float, float]:
    """Return the mean function calls, and mean peak memory in bytes, of one proposal and the report of its reward."""

    def step() -> None:
        actions = agent.ask(1)
        agent.tell(actions, rewards_of(actions))

    for _ in range(steps):  # local search draws random points before it climbs
        step()
    with counted() as count:
        for _ in range(steps):
            step()
    tracemalloc.start()
    try:
        sizes = [bytes_of(step) for _ in range(steps)]
    finally:
        tracemalloc.stop()
    return count[0] / steps, sum(sizes) / steps


@pytest.mark.parametrize("name", CHEAP)
def test_a_proposal_takes_no_longer_the_more_was_evaluated(name: str, nvec: list[int]) -> None:
    agent = kdnas_env.make_agent(name, **CHEAP[name])
    agent.reset(nvec, budget=2 * MANY, round_size=1)
    told(agent, nvec, FEW)
    calls, size = work(agent)
    told(agent, nvec, MANY)
    more_calls, more_size = work(agent)
    assert more_calls <= 1.4 * calls
    assert more_size <= 1.4 * size + 4_000


@pytest.mark.parametrize(("name", "module"), [("lstm", "controller"), ("lstm-ensemble", "ensemble")])
def test_told_one_by_one_they_train_once_a_round(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = kdnas_env.make_agent(name, **CHEAP[name])
    trained = importlib.import_module(f"kdnas_env.agents.lstm.{module}")
    fit, known = trained.fit, []

    def noted(*arguments: Any, **options: Any) -> None:
        known.append(agent.ranking.evaluations)
        fit(*arguments, **options)

    monkeypatch.setattr(trained, "fit", noted)
    agent.reset([7] * 5, budget=40, round_size=8)
    actions = [*agent.ask(4)]
    for _ in range(36):
        action = actions.pop(0)[None]
        agent.tell(action, rewards_of(action))
        actions += [*agent.ask(1)]
    assert known[-4:] == [8, 16, 24, 32]


@pytest.mark.parametrize("name", ["random", "evolution", "exhaustive", "local-search", "parameter-count"])
def test_a_million_evaluations_fit_into_memory(name: str, nvec: list[int]) -> None:
    agent = kdnas_env.make_agent(name)
    agent.reset(nvec, budget=2 * KEPT, round_size=1)
    kept: list[Any] = []
    tracemalloc.start()
    try:
        for _ in range(2):
            while agent.ranking.evaluations < KEPT * (len(kept) + 1):
                for action in agent.ask(60):
                    agent.tell(action[None], rewards_of(action[None]))
            kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert kept[1] < 600 * 2 * KEPT
    assert kept[1] < 2.5 * kept[0]


def test_what_was_known_after_every_round_can_be_kept() -> None:
    agent, rankings = kdnas_env.make_agent("random"), []
    agent.reset([9] * 5, budget=KEPT, round_size=1)
    tracemalloc.start()
    try:
        for _ in range(KEPT):
            actions = agent.ask(1)
            agent.tell(actions, rewards_of(actions))
            rankings.append(agent.ranking)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(ranking.rewards) for ranking in rankings] == [*range(1, KEPT + 1)]
    assert kept < 1_500 * KEPT
