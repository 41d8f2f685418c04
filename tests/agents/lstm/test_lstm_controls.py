from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.lstm.agent import LSTMAgent, LSTMConfig
from kdnas_env.agents.lstm.controls import GreedyLSTMAgent, GreedyLSTMConfig, ShuffledLSTMAgent
from kdnas_env.errors import KDNASError
from kdnas_env.testing.bowl import BowlEnv

SEEDS = range(4)


def median_best(agent: Any, make_env: Callable[[int], Any], budget: int, round_size: int) -> float:
    bests = [
        agent.search(make_env(seed), budget=budget, round_size=round_size, seed=seed).best_reward for seed in SEEDS
    ]
    return float(np.median(bests))


def hidden_hill(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
    """Return the reward of a broad hill and, far from it, a higher hill on 5 % of the points."""
    if max(action) < 3:
        return 1.5 + sum(action) / 100, {}
    return 1.0 - float(np.sum(((np.array(action) + 0.5) / 8 - 0.8) ** 2)), {}


# Comparison with the controls -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_controller_beats_both_controls() -> None:
    config = LSTMConfig(epochs=12)
    controller, greedy, shuffled = (
        median_best(agent, lambda seed: BowlEnv([8, 8, 8], hidden_hill), budget=64, round_size=8)
        for agent in (LSTMAgent(config), GreedyLSTMAgent(GreedyLSTMConfig(epochs=12)), ShuffledLSTMAgent(config))
    )
    assert controller > 1.5 > greedy
    assert controller > shuffled


@pytest.mark.slow
def test_shuffled_rewards_teach_nothing() -> None:
    chance, shuffled, controller = (
        median_best(agent, lambda seed: gym.make("kdnas/Planted-v0", seed=seed), budget=48, round_size=16)
        for agent in (RandomAgent(), ShuffledLSTMAgent(), LSTMAgent())
    )
    assert shuffled < controller
    assert shuffled - chance < 0.5 * (controller - chance)


# What the controls share with the controller --------------------------------------------------------------------


def test_greed_is_random_until_something_succeeds_and_never_after() -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        return (-1.0, {"status": "failed"}) if step < 20 else None

    agent = GreedyLSTMAgent(GreedyLSTMConfig(epochs=2))
    result = agent.search(BowlEnv([8, 8], answer), budget=48)
    assert [int(record.random.sum()) for record in result.rounds] == [8, 8, 8, 0, 0, 0]
    result = agent.search(BowlEnv([8, 8]), budget=48)
    assert [int(record.random.sum()) for record in result.rounds] == [8, 0, 0, 0, 0, 0]


def test_the_shuffled_controller_explores_like_the_controller() -> None:
    config = LSTMConfig(epochs=2)
    controller, shuffled = (
        agent.search(BowlEnv([8, 8]), budget=48, seed=4) for agent in (LSTMAgent(config), ShuffledLSTMAgent(config))
    )
    for one, other in zip(controller.rounds, shuffled.rounds, strict=True):
        assert one.exploration == other.exploration
        assert one.random.tolist() == other.random.tolist()
        assert np.isfinite(one.predicted).tolist() == np.isfinite(other.predicted).tolist()
    assert controller.actions[:8].tolist() == shuffled.actions[:8].tolist()
    assert controller.actions.tolist() != shuffled.actions.tolist()


def test_shuffling_keeps_every_reward_and_failure_and_changes_with_the_round() -> None:
    agent = ShuffledLSTMAgent(LSTMConfig(epochs=1))
    agent.reset([9, 9], budget=40, round_size=20)
    shuffled = []
    for rewards in (np.arange(20.0), np.arange(20.0, 40.0)):
        actions = agent.ask(20)
        agent.tell(actions, rewards, [{"status": "ok" if reward % 4 else "failed"} for reward in rewards])
        shuffled.append(agent._targets(agent.ranking, np.arange(agent.ranking.evaluations)))
    for length, (rewards, usable) in zip((20, 40), shuffled, strict=True):
        assert sorted(rewards) == list(range(length)) != rewards.tolist()
        assert usable.tolist() == [bool(reward % 4) for reward in rewards]
        assert abs(np.corrcoef(rewards, np.arange(length))[0, 1]) < 0.5
    assert shuffled[0][0].tolist() != [reward for reward in shuffled[1][0] if reward < 20]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon_start": 0.5}, "epsilon_start is 0.5, but lstm-greedy does not explore; use agent lstm"),
        ({"min_random": 1}, "min_random is 1, but lstm-greedy does not explore"),
        ({"epochs": -1}, "epochs is -1; expected a whole number, at least 0"),
    ],
)
def test_greed_does_not_explore(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        GreedyLSTMConfig(**options)
