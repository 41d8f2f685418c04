from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy.stats import wilcoxon

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.base import Agent
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.lstm import agent as lstm
from kdnas_env.agents.lstm import controller
from kdnas_env.agents.lstm.agent import LSTMAgent, LSTMConfig
from kdnas_env.agents.lstm.common import exploration_ratio, random_count
from kdnas_env.agents.lstm.controls import ShuffledLSTMAgent
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.testing.bowl import BowlEnv

QUICK = LSTMConfig(epochs=2)

# Learning -------------------------------------------------------------------------------------------------------

SEEDS = range(12)


class Relabelled(gym.ActionWrapper):
    """The same rewards, dealt out to the actions at random, so that there is nothing to learn."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, gym.spaces.MultiDiscrete)
        nvec = tuple(env.action_space.nvec)
        order = np.random.default_rng(7).permutation(np.prod(nvec))
        self._actions = np.stack(np.unravel_index(order, nvec), axis=-1).reshape(*nvec, len(nvec))

    def action(self, action: np.ndarray) -> np.ndarray:
        moved: np.ndarray = self._actions[tuple(action)]
        return moved


def best_rewards(agent: Agent[Any], *, relabelled: bool = False, budget: int = 48, **options: Any) -> np.ndarray:
    """Return the best reward that each of some searches found, one environment and one seed a search."""
    bests = []
    for seed in SEEDS:
        env = gym.make("kdnas/Planted-v0", seed=seed, budget=budget, **options)
        result = agent.search(Relabelled(env) if relabelled else env, seed=100 + seed)
        bests.append(result.best_reward)
    return np.array(bests)


def chance_of_luck(agent: Agent[Any], **options: Any) -> float:
    """Return the p-value of "finds no more than random search", paired over seeds (Wilcoxon's signed ranks)."""
    found, by_chance = best_rewards(agent, **options), best_rewards(RandomAgent(), **options)
    return float(wilcoxon(found, by_chance, alternative="greater", zero_method="zsplit").pvalue)


@pytest.mark.parametrize(
    "options",
    [{}, {"noise": 0.02, "budget": 64}, {"families": ["bert", "albert", "roberta"]}],
    ids=["planted", "noisy", "three families"],
)
def test_it_learns(options: dict[str, Any]) -> None:
    assert chance_of_luck(LSTMAgent(), **options) < 0.01


def test_it_learns_from_the_bests_alone() -> None:
    assert chance_of_luck(LSTMAgent(LSTMConfig(context="bests"))) < 0.01


def test_it_needs_its_training() -> None:
    assert chance_of_luck(LSTMAgent(LSTMConfig(epochs=0))) > 0.1


def test_where_there_is_nothing_to_learn_it_is_no_better_than_chance() -> None:
    assert chance_of_luck(LSTMAgent(), relabelled=True) > 0.1


def test_it_learns_where_it_can_score_only_a_pool() -> None:
    nvec = [20] * 5  # 3.2 million points
    found = [
        [agent.search(BowlEnv(nvec), budget=56, seed=seed).best_reward for seed in range(8)]
        for agent in (LSTMAgent(LSTMConfig(pool_size=2000)), RandomAgent())
    ]
    assert wilcoxon(*found, alternative="greater").pvalue < 0.01


def test_its_predictions_are_rewards() -> None:
    result = LSTMAgent().search(gym.make("kdnas/Planted-v0"), seed=1)
    last = [record for record in result.rounds if record.known_rounds.min() >= 8]
    predicted = np.concatenate([record.predicted for record in last])
    rewards = np.concatenate([record.rewards for record in last])
    assert np.isfinite(predicted).all()
    spread = np.concatenate([record.rewards for record in result.rounds]).std()
    assert np.sqrt(np.mean((predicted - rewards) ** 2)) < 0.5 * spread


# The round ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", ["linear", "exponential", "step"])
@pytest.mark.parametrize("round_size", [2, 5, 8])
def test_each_round_has_its_share_of_random_candidates(decay: Any, round_size: int) -> None:
    fall: dict[str, Any] = {"epsilon_step": 0.3} if decay == "step" else {}
    config = LSTMConfig(epochs=1, epsilon_decay=decay, epsilon_start=0.9, **fall)
    result = LSTMAgent(config).search(BowlEnv([6, 6, 6]), budget=42, round_size=round_size)
    rounds = -(-42 // round_size)
    assert len(result.rounds) == rounds
    for index, record in enumerate(result.rounds):
        n = len(record.rewards)
        ratio = exploration_ratio(index, rounds, start=0.9, minimum=0.05, decay=decay, step=0.3)
        assert record.exploration == ratio
        expected = n if index == 0 else random_count(ratio, n, least=min(1, n - 1))
        assert record.random.sum() == expected
        assert record.random.sum() >= min(1, n - 1)
        assert np.isfinite(record.predicted).all() == (expected < n)


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


def test_until_something_succeeds_all_is_random() -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        return (-1.0, {"status": "failed"}) if step < 20 else None

    result = LSTMAgent(QUICK).search(BowlEnv([8, 8], answer), budget=40)
    assert [bool(record.random.all()) for record in result.rounds] == [True, True, True, False, False]


def test_failures_are_learned_to_be_avoided() -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return (np.nan, {"status": "out_of_memory"}) if action[0] >= 4 else (float(action[1]), {"status": "ok"})

    result = LSTMAgent().search(BowlEnv([8, 8, 4], answer), budget=64)
    chosen = np.concatenate([~record.random for record in result.rounds])
    failed = result.actions[:, 0] >= 4
    assert failed[~chosen].mean() > 0.4
    assert failed[chosen].mean() < 0.1


def test_a_large_space_is_searched_by_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm, "WHOLE_SPACE", 50)
    agent, env = LSTMAgent(LSTMConfig(epochs=1, pool_size=20)), BowlEnv([6, 6, 6])
    result = agent.search(env, budget=216, round_size=9)
    assert len(np.unique(result.actions, axis=0)) == 216


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
    fit, lessons = controller.fit, []

    def noted(model: Any, contexts: Any, rows: Any, actions: Any, targets: Any, **options: Any) -> None:
        lessons.append((contexts, actions.tolist(), targets))
        fit(model, contexts, rows, actions, targets, **options)

    monkeypatch.setattr(controller, "fit", noted)
    agent = LSTMAgent(LSTMConfig(epochs=1, replay_size=4, context="bests", epsilon_start=0.0, epsilon_min=0.0))
    agent.reset([7, 7], budget=40, round_size=1)
    told = [[3, 1], [6, 6], *([0, number] for number in range(7)), [5, 5]]
    for action in told:
        agent.tell([action], [float(sum(action) == 12)])
    agent.ask(2)
    ((contexts, actions, targets),) = lessons
    assert actions == [[6, 6], *told[-4:]]
    assert targets.argmax() == 0
    assert (contexts.actions[:, 0] == 6)[1:].all()
    assert contexts.rewards[1:, 0].tolist() == [targets[0].item()] * (len(contexts.rewards) - 1)


@pytest.mark.parametrize("cls", [LSTMAgent, ShuffledLSTMAgent], ids=lambda cls: cls.__name__)
def test_only_what_does_not_fit_is_forgotten(cls: type[LSTMAgent]) -> None:
    def search(replay_size: int) -> list[list[int]]:
        agent = cls(LSTMConfig(epochs=2, epsilon_start=0.2, replay_size=replay_size))
        actions: list[list[int]] = agent.search(BowlEnv([6, 6, 6]), budget=40, round_size=4, seed=2).actions.tolist()
        return actions

    everything = search(1000)
    assert search(36) == everything  # the last round is not learned from
    assert search(12) != everything


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
        ({"epsilon_decay": "cosine"}, r"epsilon_decay is 'cosine'; expected one of .*'exponential'"),
        ({"epsilon_start": 1.5}, r"epsilon_start is 1.5; expected a number at least 0 and at most 1"),
        ({"epsilon_min": float("nan")}, "epsilon_min is nan"),
        ({"epsilon_start": 0.1, "epsilon_min": 0.2}, "epsilon_min is 0.2; expected at most epsilon_start, 0.1"),
        ({"epsilon_decay": "exponential", "epsilon_min": 0.0}, "epsilon_min is 0, which an exponential decay never"),
        ({"epsilon_step": 0.1}, "epsilon_step is 0.1, but changes nothing: epsilon_decay is 'linear', not 'step'"),
        ({"epsilon_step": -0.1}, "epsilon_step is -0.1; expected a number at least 0"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        ({"learning_rate": 0}, "learning_rate is 0.0; expected a number above 0"),
        ({"ordinal": -0.1}, "ordinal is -0.1"),
        ({"context_dropout": 2}, "context_dropout is 2.0"),
        ({"min_random": -1}, "min_random is -1; expected a whole number, at least 0"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
        ({"embedding_size": 0}, "embedding_size is 0; expected a whole number, at least 1"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"pool_size": 0}, "pool_size is 0"),
        ({"replay_size": 0}, "replay_size is 0; expected a whole number, at least 1"),
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
