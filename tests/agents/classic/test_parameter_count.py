from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas_env.agents.base import SearchResult
from kdnas_env.agents.classic.parameter_count import ParameterCountAgent, ParameterCountConfig
from kdnas_env.core import grid as grid_module
from kdnas_env.core.architecture import count_parameters
from kdnas_env.errors import KDNASError
from kdnas_env.testing.bowl import BowlEnv


class CountedEnv(BowlEnv):
    """An environment with the parameter counts of its points."""

    def __init__(self, nvec: Sequence[int], counts: Any, valid: Any = None) -> None:
        super().__init__(nvec)
        self.parameter_counts = counts
        self.valid_action_indices = valid


def numbers(result: SearchResult, nvec: Sequence[int]) -> list[int]:
    listed: list[int] = np.ravel_multi_index(tuple(result.actions.T), tuple(nvec)).tolist()
    return listed


def sums(actions: np.ndarray, nvec: Sequence[int]) -> np.ndarray:
    summed: np.ndarray = (actions / np.maximum(np.array(nvec) - 1, 1)).sum(axis=1)
    return summed


@pytest.mark.parametrize("largest_first", [True, False])
def test_points_come_in_the_order_of_their_counts(largest_first: bool) -> None:
    counts = np.random.default_rng(0).permutation(30) * 10**12
    agent = ParameterCountAgent(ParameterCountConfig(largest_first=largest_first))
    result = agent.search(gym.wrappers.TimeLimit(CountedEnv([5, 3, 2], counts), 100), budget=30)
    found = counts[numbers(result, [5, 3, 2])]
    assert found.tolist() == sorted(counts.tolist(), reverse=largest_first)


def test_counts_belong_to_the_points_that_may_be_proposed() -> None:
    valid, counts = np.array([17, 2, 11, 5]), np.array([300, 100, 400, 200])
    result = ParameterCountAgent().search(CountedEnv([5, 4], counts, valid), budget=20, round_size=3)
    assert numbers(result, [5, 4]) == [11, 17, 5, 2]

    agent = ParameterCountAgent()
    agent.reset([5, 4], budget=20, round_size=3, candidates=valid, parameter_counts=counts)
    assert agent.grid.numbers(agent.ask(4)) == [11, 17, 5, 2]


def test_equals_come_in_an_order_of_the_seed() -> None:
    counts = np.repeat([3, 1, 2], 10)
    orders = [
        numbers(ParameterCountAgent().search(CountedEnv([30], counts), budget=30, seed=seed), [30])
        for seed in (1, 1, 2, 3)
    ]
    assert orders[0] == orders[1]
    assert len({*map(tuple, orders)}) == 3
    for order in orders:
        assert counts[order].tolist() == [3] * 10 + [2] * 10 + [1] * 10
        assert order[:10] != sorted(order[:10])


def test_the_largest_students_of_kdnas_come_first() -> None:
    result = ParameterCountAgent().search(gym.make("kdnas/Planted-v0", budget=60), seed=1)
    parameters = [info["parameters"] for info in result.infos]
    assert parameters == sorted(parameters, reverse=True)
    env = gym.make("kdnas/Planted-v0")
    largest = max(info["parameters"] for info in result.infos)
    assert largest == env.get_wrapper_attr("parameter_counts").max()


def test_the_largest_come_first_without_rounds() -> None:
    env = gym.make("kdnas/Planted-v0", budget=60)
    agent = ParameterCountAgent()
    agent.start(env, round_size=1, seed=1)
    space = env.get_wrapper_attr("search_space")
    asked = [space.decode(agent.ask(1)[0]) for _ in range(60)]
    parameters = [count_parameters(config, space.teacher) for config in asked]
    assert parameters == sorted(parameters, reverse=True)


def test_of_a_space_too_large_to_list_the_largest_that_can_be_built_come_first() -> None:
    env = gym.make("kdnas/Surrogate-v0", budget=24)
    agent = ParameterCountAgent()
    result = agent.search(env, seed=1)
    assert {info["status"] for info in result.infos} == {"ok"}
    parameters = [info["parameters"] for info in result.infos]
    assert parameters == sorted(parameters, reverse=True)
    assert parameters[-1] > 0.99 * env.get_wrapper_attr("search_space").max_parameters
    again = ParameterCountAgent()
    again.load_state_dict(agent.state_dict())
    assert again.ask(3).tolist() == agent.ask(3).tolist()


# Without counts -------------------------------------------------------------------------------------------------


@given(
    nvec=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    listable=st.booleans(),
    largest_first=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_without_counts_the_sum_of_the_choices_counts(
    nvec: list[int], listable: bool, largest_first: bool, seed: int
) -> None:
    agent = ParameterCountAgent(ParameterCountConfig(largest_first=largest_first))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_module, "LISTABLE", 10**6 if listable else 0)
        size = int(np.prod(nvec))
        agent.reset(nvec, budget=size, round_size=5, seed=seed)
        actions = np.concatenate([agent.ask(5) for _ in range(-(-size // 5))])
    assert len(np.unique(actions, axis=0)) == len(actions) == size
    steps = np.diff(sums(actions, nvec))
    assert (steps <= 1e-6 if largest_first else steps >= -1e-6).all()


@pytest.mark.parametrize("nvec", [[2] * 10, [2] * 30], ids=["listed", "too large to list"])
def test_equal_sums_come_in_an_order_of_the_seed(nvec: list[int]) -> None:
    def second_to_last(seed: int) -> list[int]:
        agent = ParameterCountAgent()
        agent.reset(nvec, budget=100, round_size=1, seed=seed)
        actions = agent.ask(1 + len(nvec))
        assert actions[0].tolist() == [1] * len(nvec)
        order: list[int] = np.argmin(actions[1:], axis=1).tolist()
        return order

    orders = [second_to_last(seed) for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len({*map(tuple, orders)}) == 3
    assert all(sorted(order) == list(range(len(nvec))) != order for order in orders)


def test_an_environment_may_not_know_its_counts() -> None:
    result = ParameterCountAgent().search(CountedEnv([4, 4], None), budget=3)
    assert result.actions[0].tolist() == [3, 3]
    assert sorted(result.actions[1:].tolist()) == [[2, 3], [3, 2]]


# Resuming -------------------------------------------------------------------------------------------------------


def test_a_loaded_search_keeps_its_counts() -> None:
    counts = np.random.default_rng(0).permutation(20)
    agent, loaded = ParameterCountAgent(), ParameterCountAgent()
    agent.reset([5, 4], budget=20, round_size=4, parameter_counts=counts)
    actions = agent.ask(4)
    agent.tell(actions, np.zeros(4))
    loaded.load_state_dict(agent.state_dict())
    result = loaded.resume(CountedEnv([5, 4], counts[::-1].copy()))
    assert counts[numbers(result, [5, 4])].tolist() == list(range(20))[::-1]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 2, 3], r"parameter_counts are int64 of shape \(3,\); expected a finite number for each of the 4 points"),
        (np.ones((4, 1)), r"parameter_counts are float64 of shape \(4, 1\)"),
        ([1, 2, 3, np.nan], "expected a finite number"),
        (["a", "b", "c", "d"], "parameter_counts are <U1"),
    ],
)
def test_malformed_counts_are_named(counts: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        ParameterCountAgent().search(CountedEnv([2, 2], counts), budget=2)
