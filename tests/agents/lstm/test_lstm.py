from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.lstm import controller
from kdnas_env.agents.lstm.agent import LSTMAgent, LSTMConfig
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.testing.bowl import BowlEnv

QUICK = LSTMConfig(epochs=2)

# Learning -------------------------------------------------------------------------------------------------------


def test_it_learns_where_it_can_score_only_a_pool() -> None:
    nvec = [20] * 4  # too many points to score them all
    found = [
        [agent.search(BowlEnv(nvec), budget=56, round_size=14, seed=seed).best_reward for seed in range(8)]
        for agent in (LSTMAgent(LSTMConfig(pool_size=1000)), RandomAgent())
    ]
    assert wilcoxon(*found, alternative="greater").pvalue < 0.01


# The round ------------------------------------------------------------------------------------------------------


def test_one_candidate_a_round_is_not_always_random() -> None:
    result = LSTMAgent(QUICK).search(BowlEnv([6, 6]), budget=12, round_size=1)
    assert [bool(record.random[0]) for record in result.rounds] == [True] * 6 + [False] * 6


def test_a_controller_told_one_by_one_explores_as_long() -> None:
    env, agent = BowlEnv([6, 6]), LSTMAgent(QUICK)
    agent.reset([6, 6], budget=24, round_size=8)
    exploration = []
    for _ in range(24):
        action = agent.ask(1)
        agent.tell(action, [env.reward(action[0])])
        exploration.append(agent.ranking.rounds[-1].exploration)
    assert exploration == [1.0] * 8 + [0.525] * 8 + [pytest.approx(0.05)] * 8


def test_without_randomness_the_controller_chooses_all() -> None:
    config = LSTMConfig(epochs=1, epsilon_start=0.0, epsilon_min=0.0, min_random=0)
    result = LSTMAgent(config).search(BowlEnv([6, 6]), budget=24)
    assert [int(record.random.sum()) for record in result.rounds] == [8, 0, 0]


def test_the_choices_are_the_most_promising_of_all_that_is_left() -> None:
    agent, env = LSTMAgent(LSTMConfig(min_random=0, epsilon_min=0.0, epsilon_start=0.0)), BowlEnv([9, 7])
    agent.reset([9, 7], budget=63, round_size=8, seed=2)
    actions = agent.ask(8)
    agent.tell(actions, [env.reward(action) for action in actions])
    promising, rest = agent.ask(8), agent.ask(100)
    agent.tell(rest, [env.reward(action) for action in rest])
    agent.tell(promising, [env.reward(action) for action in promising])
    _, later, first = agent.ranking.rounds
    assert len(first.predicted) + len(later.predicted) == 63 - 8
    assert first.predicted.min() >= later.predicted.max()
    assert (np.diff(first.predicted) <= 0).all()


def test_it_runs_where_every_candidate_was_asked_before_the_first_is_told() -> None:
    agent, env = LSTMAgent(QUICK), BowlEnv([6, 6])
    agent.reset([6, 6], budget=36, round_size=4)
    batches = [agent.ask(4) for _ in range(3)]
    for _ in range(6):
        done = batches.pop(0)
        agent.tell(done, [env.reward(action) for action in done])
        batches.append(agent.ask(4))
    assert agent.ranking.rounds[-1].known_rounds.tolist() == [3] * 4
    assert len(np.unique(np.concatenate([agent.evaluated, *batches]), axis=0)) == 36


def test_of_a_long_search_the_youngest_and_the_best_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, calls = controller.fit, []

    def noted(model: Any, contexts: Any, rows: Any, actions: Any, targets: Any, **options: Any) -> None:
        calls.append((contexts, actions.tolist(), targets))
        fit(model, contexts, rows, actions, targets, **options)

    monkeypatch.setattr(controller, "fit", noted)
    agent = LSTMAgent(LSTMConfig(epochs=1, replay_size=4, context="bests", epsilon_start=0.0, epsilon_min=0.0))
    agent.reset([7, 7], budget=40, round_size=1)
    told = [[3, 1], [6, 6], *([0, number] for number in range(7)), [5, 5]]
    for action in told:
        agent.tell([action], [float(sum(action) == 12)])
    agent.ask(2)
    ((contexts, actions, targets),) = calls
    assert actions == [[6, 6], *told[-4:]]
    assert targets.argmax() == 0
    assert (contexts.actions[:, 0] == 6)[1:].all()
    assert contexts.rewards[1:, 0].tolist() == [targets[0].item()] * (len(contexts.rewards) - 1)


def test_a_state_may_be_older_than_a_hyper_parameter() -> None:
    agent = LSTMAgent(QUICK)
    agent.search(BowlEnv([6, 6]), budget=12, round_size=4)
    state = agent.state_dict()
    del state["config"]["replay_size"]
    loaded = LSTMAgent(QUICK)
    loaded.load_state_dict(state)
    assert loaded.ask(4).tolist() == agent.ask(4).tolist()
    with pytest.raises(RunError, match="replay_size 1000, but this agent has 5"):
        LSTMAgent(replace(QUICK, replay_size=5)).load_state_dict(state)


# Configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "all"}, r"context is 'all'; expected one of \['candidates', 'bests'\]"),
        ({"ordinal": -0.1}, "ordinal is -0.1"),
        ({"context_dropout": 2}, "context_dropout is 2.0"),
        ({"min_random": -1}, "min_random is -1; expected a whole number, at least 0"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        LSTMConfig(**options)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_cannot_be_used_is_named_before_anything_is_evaluated(device: str) -> None:
    env = BowlEnv([4, 4])
    with pytest.raises(KDNASError, match=f"device is '{device}', which cannot be used here"):
        LSTMAgent(LSTMConfig(device=device)).search(env, budget=8)
    assert env.actions == []
