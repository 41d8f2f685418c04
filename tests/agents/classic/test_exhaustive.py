from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.classic.exhaustive import ExhaustiveAgent
from kdnas_env.testing.bowl import BowlEnv


@given(nvec=st.lists(st.integers(1, 4), min_size=1, max_size=4), round_size=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_every_point_comes_once_and_in_order(nvec: list[int], round_size: int) -> None:
    env = BowlEnv(nvec)
    result = ExhaustiveAgent().search(env, budget=1000, round_size=round_size)
    assert result.actions.tolist() == [list(index) for index in np.ndindex(*nvec)]


def test_it_finds_the_optimum() -> None:
    env = gym.make("kdnas/Planted-v0", budget=1200)
    result = ExhaustiveAgent().search(env, round_size=100)
    optimum = env.get_wrapper_attr("evaluator").optimum()
    assert len(result.actions) == 1200
    assert result.best_reward == env.get_wrapper_attr("reward_function")(optimum).reward


def test_only_what_may_be_proposed_is() -> None:
    agent = ExhaustiveAgent()
    agent.reset([3, 3, 3], budget=27, round_size=2, candidates=[20, 3, 4, 9])
    numbers = [number for _ in range(3) for number in agent.grid.numbers(agent.ask(2))]
    assert numbers == [3, 4, 9, 20]


def test_it_counts_on_where_64_bits_end() -> None:
    agent = ExhaustiveAgent()
    agent.reset([10] * 30, budget=100, round_size=10)
    numbers = [number for _ in range(4) for number in agent.grid.numbers(agent.ask(25))]
    assert numbers == list(range(100))

    state = agent.state_dict()
    late = ExhaustiveAgent()
    late.load_state_dict({**state, "place": 10**25 - 2})
    assert late.grid.numbers(late.ask(4)) == [10**25 - 2, 10**25 - 1, 10**25, 10**25 + 1]


@pytest.mark.parametrize("nvec", [[5, 4], [100] * 4])
def test_what_was_told_without_being_asked_is_left_out(nvec: list[int]) -> None:
    agent = ExhaustiveAgent()
    agent.reset(nvec, budget=20, round_size=4)
    foreign = np.zeros((2, len(nvec)), dtype=np.int64)
    foreign[:, -1] = [1, 3]
    agent.ask(1)
    agent.tell(foreign, [0.0, 0.0])
    assert agent.grid.numbers(agent.ask(4)) == [2, 4, 5, 6]
    assert agent.grid.numbers(agent.ask(3)) == [7, 8, 9]


def test_a_loaded_search_goes_on_where_it_was(tmp_path: Path) -> None:
    def interrupt(step: int, action: list[int]) -> None:
        if step == 17:
            raise KeyboardInterrupt

    agent, loaded = ExhaustiveAgent(), ExhaustiveAgent()
    with pytest.raises(KeyboardInterrupt):
        agent.search(BowlEnv([6, 5], interrupt), budget=30, round_size=4)
    agent.save(tmp_path / "state.npz")
    loaded.load(tmp_path / "state.npz")
    env = BowlEnv([6, 5])
    result = loaded.resume(env)
    everything = [list(index) for index in np.ndindex(6, 5)]
    assert env.actions == everything[17:]
    assert result.actions.tolist() == everything
