"""Shared behaviour of the LSTM agents that predict rewards: the controller and the ensemble."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy.stats import wilcoxon

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.base import Agent
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.lstm import agent as lstm
from kdnas_env.agents.lstm import ensemble_agent as lstm_ensemble
from kdnas_env.agents.lstm.agent import LSTMAgent
from kdnas_env.agents.lstm.common import exploration_ratio, random_count
from kdnas_env.agents.lstm.controls import ShuffledLSTMAgent
from kdnas_env.agents.lstm.ensemble_agent import LSTMEnsembleAgent
from kdnas_env.testing.bowl import BowlEnv

QUICK: dict[type[Agent[Any]], dict[str, Any]] = {
    LSTMAgent: {"epochs": 2},
    ShuffledLSTMAgent: {"epochs": 2},
    LSTMEnsembleAgent: {"steps": 2, "members": 2},
}
BOTH = (LSTMAgent, LSTMEnsembleAgent)
both = pytest.mark.parametrize("cls", BOTH, ids=lambda cls: cls.__name__)


def make(cls: Any, **options: Any) -> Any:
    return cls(cls.Config(**options))


def quick(cls: Any, **options: Any) -> Any:
    return make(cls, **QUICK[cls], **options)


# Learning -------------------------------------------------------------------------------------------------------

PLANTED: dict[str, dict[str, Any]] = {
    "planted": {"budget": 48, "round_size": 16},
    "noisy, of three families": {
        **{"noise": 0.02, "budget": 36, "round_size": 12},
        "families": ["bert", "albert", "roberta"],
    },
    "noisy": {"noise": 0.02, "budget": 32},
}
"""Settings of environments, with few rounds, because each round trains a model."""


def best_rewards(agent: Agent[Any], name: str) -> np.ndarray:
    """Return the best reward of each of ten searches; each search has its own environment and seed."""
    envs = [gym.make("kdnas/Planted-v0", seed=seed, **PLANTED[name]) for seed in range(10)]
    return np.array([agent.search(env, seed=100 + seed).best_reward for seed, env in enumerate(envs)])


@cache
def by_chance(name: str) -> np.ndarray:
    return best_rewards(RandomAgent(), name)


def chance_of_luck(agent: Agent[Any], name: str) -> float:
    """Return the p-value of "no better than random search", paired over seeds (Wilcoxon signed-rank test)."""
    found = best_rewards(agent, name)
    return float(wilcoxon(found, by_chance(name), alternative="greater", zero_method="zsplit").pvalue)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (make(LSTMAgent), "planted"),
        (make(LSTMAgent, context="bests"), "noisy, of three families"),
        (make(LSTMEnsembleAgent), "noisy"),
    ],
    ids=["lstm", "lstm that knows the bests", "ensemble"],
)
def test_it_learns(agent: Agent[Any], name: str) -> None:
    assert chance_of_luck(agent, name) < 0.01


def test_it_needs_its_training() -> None:
    assert chance_of_luck(make(LSTMAgent, epochs=0), "planted") > 0.1


@both
def test_where_there_is_nothing_to_learn_it_is_no_better_than_chance(cls: Any) -> None:
    def search(agent: Agent[Any], seed: int) -> float | None:
        table = np.random.default_rng([7, seed]).normal(size=(6, 6, 6))
        env = BowlEnv([6, 6, 6], lambda step, action: (float(table[tuple(action)]), {}))
        return agent.search(env, budget=24, round_size=12, seed=seed).best_reward

    found, by_chance = ([search(agent, seed) for seed in range(8)] for agent in (cls(), RandomAgent()))
    assert wilcoxon(found, by_chance, alternative="greater", zero_method="zsplit").pvalue > 0.1


@pytest.mark.parametrize(("cls", "error"), [(LSTMAgent, 0.4), (LSTMEnsembleAgent, 0.3)])
def test_its_predictions_are_rewards(cls: Any, error: float) -> None:
    result = cls().search(gym.make("kdnas/Planted-v0", budget=64, round_size=16), seed=1)
    later = result.rounds[2:]
    predicted = np.concatenate([record.predicted for record in later])
    errors = np.abs(predicted - np.concatenate([record.rewards for record in later]))
    known = np.isfinite(predicted)
    assert known.mean() > 0.8
    assert errors[known].mean() < error * result.rewards.std()


@both
def test_failures_are_learned_to_be_avoided(cls: Any) -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        if action[0] >= 4:
            return np.nan, {"status": "out_of_memory"}
        return -float(0.3 * (action[0] - 2) ** 2 + (action[1] - 5) ** 2 + (action[2] - 3) ** 2), {"status": "ok"}

    result = cls().search(BowlEnv([8, 8, 8], answer), budget=56, round_size=14)
    chosen = np.concatenate([~record.random for record in result.rounds])
    failed = result.actions[:, 0] >= 4
    assert failed[~chosen].mean() > 0.4
    assert failed[chosen].mean() < 0.1


# The round ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "round_size"), [("linear", 8), ("exponential", 5), ("step", 2)])
@both
def test_each_round_has_its_share_of_exploring_candidates(cls: Any, decay: str, round_size: int) -> None:
    fall = {"epsilon_step": 0.3} if decay == "step" else {}
    agent = quick(cls, epsilon_decay=decay, epsilon_start=0.9, epsilon_min=0.05, **fall)
    result = agent.search(BowlEnv([6, 6, 6]), budget=42, round_size=round_size)
    rounds = -(-42 // round_size)
    assert len(result.rounds) == rounds
    for index, record in enumerate(result.rounds):
        n = len(record.rewards)
        ratio = exploration_ratio(index, rounds, start=0.9, minimum=0.05, decay=decay, step=0.3)  # type: ignore[arg-type]
        if cls is LSTMAgent:  # at least one candidate is random, unless the round has only one
            expected, meant = random_count(ratio, n, least=min(1, n - 1)), ratio
        else:  # the first ten candidates are spread over the space
            expected = min(n, max(random_count(ratio, n), 10 - index * round_size))
            meant = expected / n
        expected = n if index == 0 else expected
        assert record.random.sum() == expected
        assert record.exploration == (1.0 if index == 0 and cls is LSTMEnsembleAgent else meant)
        assert np.isfinite(record.predicted).all() == (expected < n)


@both
def test_until_something_succeeds_all_is_random(cls: Any) -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        return (-1.0, {"status": "failed"}) if step < 20 else None

    result = quick(cls).search(BowlEnv([8, 8], answer), budget=40)
    assert [bool(record.random.all()) for record in result.rounds] == [True, True, True, False, False]


@pytest.mark.parametrize(("cls", "module"), [(LSTMAgent, lstm), (LSTMEnsembleAgent, lstm_ensemble)])
def test_a_large_space_is_searched_by_a_pool(cls: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE_SPACE", 50)
    result = quick(cls, pool_size=20).search(BowlEnv([5, 5, 5]), budget=125, round_size=9)
    assert len(np.unique(result.actions, axis=0)) == 125


@pytest.mark.parametrize("cls", QUICK, ids=lambda cls: cls.__name__)
def test_only_what_does_not_fit_is_forgotten(cls: Any) -> None:
    def search(replay_size: int) -> list[list[int]]:
        agent = quick(cls, epsilon_start=0.2, replay_size=replay_size)
        actions: list[list[int]] = agent.search(BowlEnv([6, 6, 6]), budget=40, round_size=4, seed=2).actions.tolist()
        return actions

    everything = search(1000)
    assert search(36) == everything  # no proposal follows the last round of four
    assert search(12) != everything
