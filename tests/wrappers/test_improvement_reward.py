from __future__ import annotations

import numpy as np
import pytest
from grid_envs import GridEnv, planted
from hypothesis import given, settings
from hypothesis import strategies as st

from kdnas_env.errors import KDNASError
from kdnas_env.wrappers import ImprovementReward


def episode(env: ImprovementReward, actions: list[list[int]]) -> list[float]:
    env.reset(seed=0)
    return [env.step(np.array(action))[1] for action in actions]


def test_only_a_new_best_is_rewarded() -> None:
    env = ImprovementReward(GridEnv([10]), start=2.0)
    assert episode(env, [[1], [5], [5], [4], [9], [0]]) == [0.0, 3.0, 0.0, 0.0, 4.0, 0.0]
    assert episode(env, [[5]]) == [3.0]


def test_the_start_is_the_floor_or_else_the_first_candidate() -> None:
    env, plain = ImprovementReward(planted()), planted()
    plain.reset()
    action = [1, 1, 1, 1, 1]
    floor = plain.get_wrapper_attr("reward_function").floor
    assert episode(env, [action]) == [float(plain.step(np.array(action))[1]) - floor]
    assert episode(ImprovementReward(GridEnv([10])), [[4], [3], [6]]) == [0.0, 0.0, 2.0]


def test_a_failure_is_no_improvement_where_it_costs_little() -> None:
    env = ImprovementReward(planted(space={"num_attention_heads": [5, 12], "hidden_size": [384]}, penalty=0.2))
    assert episode(env, [[0, 0]]) == [0.0]


@settings(max_examples=40)
@given(st.lists(st.integers(0, 1199), min_size=1, max_size=20), st.none() | st.floats(-1, 0.5), st.integers(0, 3))
def test_the_rewards_of_an_episode_sum_to_the_best_less_the_start(
    indices: list[int], start: float | None, seed: int
) -> None:
    env = ImprovementReward(planted(failures=0.3, seed=seed, duplicates="reject"), start=start)
    actions = [env.get_wrapper_attr("search_space").from_index(index).tolist() for index in indices]
    rewards = episode(env, actions)
    best = max(record.reward.reward for record in env.get_wrapper_attr("history"))
    begin = -1.0 if start is None else start
    assert min(rewards) >= 0
    assert sum(rewards) == pytest.approx(max(best, begin) - begin)


def test_the_information_keeps_the_reward() -> None:
    env = ImprovementReward(GridEnv([10]))
    _, info = env.reset()
    assert (info["candidate_reward"], info["best_reward"]) == (0.0, 0.0)
    answers = []
    for action in (4, 3):
        *_, info = env.step(np.array([action]))
        answers.append((info["candidate_reward"], info["best_reward"]))
    assert answers == [(4.0, 4.0), (3.0, 4.0)]
    assert ImprovementReward(planted()).reset()[1]["best_reward"] == -1.0


def test_a_bad_start_is_refused() -> None:
    with pytest.raises(KDNASError, match="start is nan; expected a finite number"):
        ImprovementReward(planted(), start=float("nan"))
