"""What holds for every agent that is installed."""

from __future__ import annotations

import hashlib
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_envs import PlainEnv

import kdnas_env
from agents.base import Agent, SearchResult
from agents.ranking import Ranking
from kdnas_env.errors import KDNASError, RunError

QUICK: dict[str, dict[str, Any]] = {
    "lstm": {"epochs": 2, "pool_size": 200},
    "lstm-greedy": {"epochs": 2, "pool_size": 200},
    "lstm-shuffled": {"epochs": 2, "pool_size": 200},
    "reinforce": {"hidden_size": 8, "tries": 3},
}
"""Settings that make an agent fast where it need not be good."""

DETERMINED = {"exhaustive"}
"""Agents whose proposals do not depend on the seed: exhaustive search goes through the points in order."""

every_agent = pytest.mark.parametrize("name", kdnas_env.agent_names())

SPACES = {
    "one point": [1],
    "two points": [2],
    "one dimension": [13],
    "with idle dimensions": [1, 5, 1, 4],
    "not a multiple of the round": [3, 5, 2],
    "listed to draw from, not scored whole": [11] * 5,
    "drawn from by rejection": [40] * 4,
    "more points than 64 bits": [10] * 30,
}
AWKWARD = {"num_hidden_layers": [3, 6, 24], "num_attention_heads": [5, 12], "hidden_act": ["gelu", "gelu_python"]}


def make(name: str, **config: Any) -> Any:
    agent = kdnas_env.make_agent(name, **{**QUICK.get(name, {}), **config})
    assert isinstance(agent, Agent)
    return agent


def points(result: SearchResult) -> list[tuple[int, ...]]:
    return [tuple(action) for action in result.actions.tolist()]


# Searching ------------------------------------------------------------------------------------------------------


@every_agent
@pytest.mark.parametrize("nvec", SPACES.values(), ids=SPACES.keys())
def test_it_searches_any_space_without_repeating_itself(name: str, nvec: list[int]) -> None:
    env = PlainEnv(nvec)
    result = make(name).search(env, budget=40, round_size=8, seed=3)
    size = int(np.prod(nvec, dtype=float))
    assert len(result.actions) == len(result.rewards) == len(result.infos) == min(40, size)
    assert len(set(points(result))) == len(result.actions)
    assert result.actions.dtype == np.int64
    assert result.actions.tolist() == env.actions
    assert result.rewards.tolist() == [env.reward(action) for action in result.actions]
    assert result.best_reward == result.rewards.max()
    assert result.best_index == int(result.rewards.argmax())
    assert result.best_action.tolist() == env.actions[result.best_index]
    assert [len(record.rewards) for record in result.rounds][:-1] == [8] * (len(result.rounds) - 1)


@every_agent
@given(
    nvec=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    budget=st.integers(1, 30),
    round_size=st.integers(1, 9),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=15, deadline=None)
def test_the_budget_is_spent_and_never_exceeded(
    name: str, nvec: list[int], budget: int, round_size: int, seed: int
) -> None:
    env = PlainEnv(nvec)
    result = make(name).search(env, budget=budget, round_size=round_size, seed=seed)
    assert len(env.actions) == len(result.actions) == min(budget, int(np.prod(nvec)))
    assert len(set(points(result))) == len(result.actions)


@every_agent
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_is_searched_like_a_single_one(name: str, mode: str) -> None:
    together = gym.make_vec("kdnas/Planted-v0", num_envs=4, budget=22, autoreset_mode=mode)
    one_by_one = gym.make("kdnas/Planted-v0", round_size=4, budget=20)
    if not make(name).capabilities.vector:
        with pytest.raises(KDNASError, match="vector"):
            make(name).search(together, seed=3)
        return
    result, expected = (make(name).search(env, seed=3) for env in (together, one_by_one))
    assert points(result) == points(expected)
    assert result.rewards.tolist() == expected.rewards.tolist()
    assert result.best == expected.best
    assert [info["loss"] for info in result.infos] == [info["loss"] for info in expected.infos]
    with pytest.raises(KDNASError, match="a round of a vector environment is one step of its 4 seats"):
        make(name).search(together, round_size=5)


@every_agent
def test_it_takes_budget_and_round_size_from_the_environment(name: str) -> None:
    env = gym.make("kdnas/Planted-v0", budget=11, round_size=4)
    assert [len(record.rewards) for record in make(name).search(env).rounds] == [4, 4, 3]
    assert len(make(name).search(env, budget=6).actions) == 6
    assert len(make(name).search(env, budget=100).actions) == 11
    assert [len(record.rewards) for record in make(name).search(env, round_size=6).rounds] == [6, 5]


@every_agent
def test_it_stops_when_the_episode_ends(name: str) -> None:
    result = make(name).search(PlainEnv([5, 5], ends_after=7), budget=20, round_size=5)
    assert [len(record.rewards) for record in result.rounds] == [5, 2]


@every_agent
def test_the_seed_decides_the_search(name: str) -> None:
    env = gym.make("kdnas/Planted-v0", noise=0.05)
    agent = make(name)
    runs = [agent.search(env, budget=32, seed=seed) for seed in (1, 1, 2)]
    again = make(name).search(gym.make("kdnas/Planted-v0", noise=0.05), budget=32, seed=1)
    assert points(runs[0]) == points(runs[1]) == points(again)
    assert (points(runs[0]) == points(runs[2])) == (name in DETERMINED)


@every_agent
def test_the_environment_is_reset_with_the_seed(name: str) -> None:
    env = PlainEnv([4, 4])
    make(name).search(env, budget=3, seed=17)
    assert env.seeds == [17]


@every_agent
def test_each_round_is_reported(name: str) -> None:
    seen: list[Ranking] = []
    result = make(name).search(PlainEnv([6, 6]), budget=20, round_size=8, on_round=seen.append)
    assert [ranking.evaluations for ranking in seen] == [8, 16, 20]
    assert seen[-1].rounds == result.rounds
    assert seen[-1].global_best == result.best


@every_agent
def test_no_global_generator_is_read_or_seeded(name: str) -> None:
    code = (
        "import hashlib, pickle, random, numpy, torch, gymnasium\n"
        "def states():\n"
        "    return random.getstate(), pickle.dumps(numpy.random.get_state()), torch.get_rng_state().tolist()\n"
        "before = states()\n"
        "import kdnas_env\n"
        f"agent = kdnas_env.make_agent({name!r}, **{QUICK.get(name, {})!r})\n"
        "agent.search(gymnasium.make('kdnas/Planted-v0'), budget=24)\n"
        "assert states() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@every_agent
def test_the_global_generators_do_not_change_the_search(name: str) -> None:
    import torch

    def fingerprint() -> str:
        result = make(name).search(gym.make("kdnas/Planted-v0"), budget=24, seed=5)
        return hashlib.sha256(result.actions.tobytes()).hexdigest()

    first = fingerprint()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002
        torch.manual_seed(99)
        assert fingerprint() == first
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


# Failures -------------------------------------------------------------------------------------------------------


@every_agent
def test_failures_are_tolerated_and_never_best(name: str) -> None:
    env = gym.make("kdnas/Planted-v0", failures=0.2, seed=4)
    result = make(name).search(env, budget=64, seed=1)
    statuses = np.array([info["status"] for info in result.infos])
    assert len(result.actions) == 64
    assert 0 < (statuses != "ok").sum() < 64
    assert statuses[result.best_index] == "ok"
    assert result.best_reward == result.rewards[statuses == "ok"].max()


@every_agent
def test_a_failure_with_the_highest_reward_is_not_best(name: str) -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
        return {0: (5.0, {"status": "failed"}), 3: (np.nan, {}), 9: (np.inf, {})}.get(step, (step / 100, {}))

    result = make(name).search(PlainEnv([6, 6], answer), budget=20, round_size=5)
    assert result.best_index == 19
    assert [record.best.index for record in result.rounds] == [4, 8, 14, 19]


@every_agent
def test_a_search_in_which_all_fails_ends_without_a_best(name: str) -> None:
    env = PlainEnv([6, 6], lambda step, action: (-1.0, {"status": "diverged"}))
    result = make(name).search(env, budget=20)
    assert len(result.actions) == 20
    assert result.best is result.best_action is result.best_reward is result.best_index is None


@every_agent
def test_points_that_cannot_be_built_are_never_proposed(name: str) -> None:
    env = gym.make("kdnas/Planted-v0", space=AWKWARD, budget=12)
    result = make(name).search(env)
    assert sorted(info["status"] for info in result.infos) == ["ok", "ok"]
    capped = gym.make("kdnas/Planted-v0", max_parameters=30_000_000, budget=40)
    assert {info["status"] for info in make(name).search(capped).infos} == {"ok"}


# Stopping and going on ------------------------------------------------------------------------------------------


@every_agent
@pytest.mark.parametrize("rounds", [0, 1, 4])
@pytest.mark.parametrize("pending", [False, True])
def test_a_loaded_agent_proposes_what_the_saved_one_would_have(
    name: str, rounds: int, pending: bool, tmp_path: Path
) -> None:
    env = PlainEnv([7, 6, 5])
    agent, loaded = make(name), make(name)
    agent.reset(env.action_space.nvec, budget=64, round_size=8, seed=5)
    for _ in range(rounds):
        actions = agent.ask(8)
        agent.tell(actions, [env.reward(action) for action in actions], [{"status": "ok"}] * 8)
    if pending:
        agent.ask(3)
    agent.save(tmp_path / "state.npz")
    loaded.load(tmp_path / "state.npz")
    for _ in range(3):
        actions, same = agent.ask(8), loaded.ask(8)
        assert actions.tolist() == same.tolist()
        for one in (agent, loaded):
            one.tell(actions, [env.reward(action) for action in actions])
    assert agent.result().best == loaded.result().best
    assert [record.random.tolist() for record in agent.ranking.rounds] == [
        record.random.tolist() for record in loaded.ranking.rounds
    ]


@every_agent
def test_an_interrupted_search_keeps_what_it_found_and_goes_on(name: str, tmp_path: Path) -> None:
    def interrupt(step: int, action: list[int]) -> None:
        if step == 13:
            raise KeyboardInterrupt

    agent = make(name)
    env = PlainEnv([7, 6, 5], interrupt)
    with pytest.raises(KeyboardInterrupt):
        agent.search(env, budget=40, round_size=8, seed=5)
    kept = agent.result()
    assert kept.actions.tolist() == env.actions
    assert len(kept.rewards) == 13
    assert [len(record.rewards) for record in kept.rounds] == [8, 5]

    waiting = agent.pending.tolist()
    assert len(waiting) == 3
    agent.save(tmp_path / "state.npz")
    agent = make(name)
    agent.load(tmp_path / "state.npz")
    whole = agent.resume(PlainEnv([7, 6, 5]))
    assert points(whole)[:13] == points(kept)
    assert whole.actions[13:16].tolist() == waiting
    assert len(set(points(whole))) == len(whole.actions) == 40


@every_agent
def test_a_finished_search_is_not_gone_on_with(name: str) -> None:
    agent, env = make(name), PlainEnv([7, 6])
    result = agent.search(env, budget=9)
    assert points(agent.resume(env)) == points(result)
    assert len(env.actions) == 9


@every_agent
def test_a_state_of_other_settings_is_refused(name: str, tmp_path: Path) -> None:
    agent = make(name)
    agent.search(PlainEnv([3, 3]), budget=4)
    agent.save(tmp_path / "state.npz")
    others = [other for other in kdnas_env.agent_names() if other != name]
    with pytest.raises(RunError, match=rf"agent '{type(agent).__name__}', but this agent has"):
        make(others[0]).load(tmp_path / "state.npz")
    with pytest.raises(RunError, match="cannot be read as the saved state of an agent"):
        make(name).load(tmp_path / "missing.npz")


# Bad input ------------------------------------------------------------------------------------------------------


@every_agent
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.Box(0, 1, (2,)),
        spaces.MultiDiscrete([[2, 2], [2, 2]]),
        spaces.MultiDiscrete([2, 2], start=[1, 0]),
    ],
    ids=str,
)
def test_other_action_spaces_are_refused(name: str, space: Any) -> None:
    env = PlainEnv([2])
    env.action_space = space
    with pytest.raises(KDNASError, match="expected a one-dimensional MultiDiscrete that starts at 0"):
        make(name).search(env, budget=2)


@every_agent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the environment has no attribute 'budget'; pass budget="),
        ({"budget": 0}, "budget is 0; expected a whole number, at least 1"),
        ({"budget": 2.5}, "budget is 2.5"),
        ({"budget": "ten"}, "budget is 'ten'"),
        ({"budget": 2, "round_size": 0}, "round_size is 0"),
        ({"budget": 2, "round_size": True}, "round_size is True"),
        ({"budget": 2, "seed": -1}, "seed is -1; expected a whole number, at least 0"),
    ],
)
def test_malformed_arguments_are_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        make(name).search(PlainEnv([3]), **arguments)


@every_agent
def test_a_configuration_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(KDNASError, match=r"takes a \w+Config, not 'fast'"):
        type(make(name))("fast")


@every_agent
def test_an_agent_can_be_pickled(name: str) -> None:
    agent = pickle.loads(pickle.dumps(make(name)))
    assert agent.config == make(name).config
