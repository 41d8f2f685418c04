from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, GridEnv, planted
from gymnasium import spaces
from gymnasium.wrappers import TransformReward

from kdnas_env.errors import KDNASError
from kdnas_env.wrappers import LinearReward, MultiObjectiveReward


class Told(GridEnv):
    """Returns ``told`` as the info of every step."""

    told: dict[str, Any]

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return *super().step(action)[:4], dict(self.told)


def answer(told: dict[str, Any], objectives: Any = None) -> list[float]:
    inner = Told([2, 2])
    inner.told = told
    env = MultiObjectiveReward(inner, objectives=objectives)
    env.reset()
    _, reward, *_ = env.step(np.array([0, 0]))
    assert reward in env.reward_space
    rewards: list[float] = reward.tolist()
    return rewards


def test_the_reward_is_quality_and_speed() -> None:
    env, plain = MultiObjectiveReward(planted()), planted()
    assert env.reward_names == ("quality", "-latency_ratio")
    assert env.reward_dim == 2
    assert env.reward_space == spaces.Box(np.array([-1, -1], np.float32), np.array([1, 0], np.float32))
    for one in (env, plain):
        one.reset(seed=0)
    rewards = []
    for index in (0, 500, 1199):
        action = plain.get_wrapper_attr("search_space").from_index(index)
        _, reward, *_, info = env.step(action)
        _, scalar, *_ = plain.step(action)
        assert reward.dtype == np.float32
        assert reward in env.reward_space
        assert reward.tolist() == pytest.approx([info["quality"], -info["latency_ratio"]])
        assert info["scalar_reward"] == scalar
        rewards.append(reward)
    assert len({id(reward) for reward in rewards}) == 3
    assert rewards[0][0] < rewards[2][0]
    assert rewards[0][1] > rewards[2][1]


def test_it_is_declared_where_mo_gymnasium_looks() -> None:
    inner = planted()
    env = MultiObjectiveReward(inner)
    assert env.unwrapped is inner
    assert env.unwrapped.get_wrapper_attr("reward_space") == env.reward_space
    assert env.unwrapped.get_wrapper_attr("reward_dim") == 2


def test_values_are_clipped_and_never_missing() -> None:
    objectives = {"gain": (0.0, 10.0), "cost": (5.0, 1.0)}
    assert answer({"gain": 4, "cost": 2}, objectives) == [4.0, -2.0]
    assert answer({"gain": 99, "cost": 0}, objectives) == [10.0, -1.0]
    assert answer({"gain": -99, "cost": 9}, objectives) == [0.0, -5.0]
    assert answer({"gain": float("nan"), "cost": float("inf")}, objectives) == [0.0, -5.0]
    assert answer({"gain": 4, "cost": 2, "status": "ok"}, objectives) == [4.0, -2.0]
    assert answer({"gain": 4, "cost": 2, "status": "diverged"}, objectives) == [0.0, -5.0]
    with pytest.raises(KDNASError, match=r"the information lacks the objective 'gain'; it has \['cost'\]"):
        answer({"cost": 2}, objectives)


def test_failures_and_rejected_repetitions_get_the_worst() -> None:
    env = MultiObjectiveReward(planted(space=HEADS_AND_WIDTHS, duplicates="reject", budget=9))
    env.reset()
    _, reward, *_, info = env.step(np.array([0, 1, 0]))
    assert info["status"] == "invalid"
    assert reward.tolist() == [-1.0, -1.0]
    assert info["scalar_reward"] == -1.0
    reward[:] = 0
    assert env.step(np.array([0, 1, 0]))[1].tolist() == [-1.0, -1.0]
    assert env.step(np.array([0, 0, 0]))[1][0] > 0
    assert env.step(np.array([0, 0, 0]))[1].tolist() == [-1.0, -1.0]
    charging = MultiObjectiveReward(planted())
    charging.reset()
    answers = [charging.step(np.zeros(5, dtype=np.int64))[1] for _ in range(2)]
    assert answers[0].tolist() == answers[1].tolist()


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, r"objectives is \{\}; expected a mapping of at least one name to \(worst, best\)"),
        (["quality"], r"objectives is \['quality'\]"),
        ({"quality": 1}, "objective 'quality' has the bounds 1; expected its worst and its best value"),
        ({"quality": (0, 1, 2)}, "expected its worst and its best value"),
        ({"quality": (1, 1)}, r"objective 'quality' has 1.0 as worst and best value; expected two different values"),
        ({"quality": (0, float("inf"))}, "a bound of objective 'quality' is inf; expected a finite number"),
    ],
)
def test_bad_objectives_are_refused(objectives: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        MultiObjectiveReward(planted(), objectives=objectives)


def test_a_weighted_sum_keeps_the_vector() -> None:
    env = LinearReward(MultiObjectiveReward(planted()), [2.0, 0.5])
    _, info = env.reset()
    assert info["vector_reward"].tolist() == [0.0, 0.0]
    _, reward, *_, info = env.step(np.array([1, 1, 1, 1, 1]))
    assert reward == pytest.approx(2 * info["quality"] - 0.5 * info["latency_ratio"])
    assert info["vector_reward"].tolist() == pytest.approx([info["quality"], -info["latency_ratio"]])
    assert info["reward_weights"].tolist() == [2.0, 0.5]
    info["reward_weights"][:] = 0
    assert env.step(np.array([1, 1, 1, 1, 1]))[1] == reward


def test_a_weighted_sum_reads_other_vector_rewards() -> None:
    inner: Any = GridEnv([2, 2])
    vector = TransformReward(inner, lambda reward: np.array([reward, 1.0, 2.0], dtype=np.float32))
    inner.reward_space = spaces.Box(0.0, 5.0, (3,))
    env = LinearReward(vector, (1, 10, 100))
    env.reset()
    assert env.step(np.array([1, 1]))[1] == 212.0


@pytest.mark.parametrize(
    ("env", "weights", "message"),
    [
        (planted(), [1.0], "the reward_space of the environment is None; expected a one-dimensional Box. Apply Multi"),
        (MultiObjectiveReward(planted()), [1.0], r"weights has 1 number\(s\); expected 2"),
        (MultiObjectiveReward(planted()), [1.0, float("nan")], "a weight is nan; expected a finite number"),
    ],
)
def test_bad_weights_are_refused(env: Any, weights: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        LinearReward(env, weights)
