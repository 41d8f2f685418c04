"""An environment of many tasks: the seed draws one, the observation describes it, and the answers are that task's."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

import kdnas_env
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task_distribution import SPLITS, split_tasks
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.errors import KDNASError

NAMES = ["rotten-tomatoes", "imdb:alpha=-0.2,speedup=6", "rotten-tomatoes:device=onnxruntime,parameters=9000000"]


@pytest.fixture(scope="module")
def env() -> gym.Env[Any, Any]:
    return gym.make("kdnas/Tasks-v0", tasks=NAMES, budget=5)


def feature(observation: dict[str, NDArray[Any]], name: str) -> float:
    return float(observation["task"][FEATURES.index(name)])


def test_tasks_are_drawn_by_the_seed(env: gym.Env[Any, Any]) -> None:
    drawn = [env.reset(seed=seed)[1]["task"] for seed in range(30)]
    assert set(drawn) == {str(Task.parse(name)) for name in NAMES}
    assert drawn == [env.reset(seed=seed)[1]["task"] for seed in range(30)]
    env.reset(seed=0)
    following = [env.reset()[1]["task"] for _ in range(20)]
    assert len(set(following)) > 1


def test_the_observation_describes_the_task(env: gym.Env[Any, Any]) -> None:
    plain, _ = env.reset(options={"task": "rotten-tomatoes"})
    assert feature(plain, "alpha") == pytest.approx(-0.6)
    assert feature(plain, "has_speedup") == 0
    limited, info = env.reset(options={"task": NAMES[1]})
    assert info["task"] == NAMES[1]
    assert feature(limited, "alpha") == pytest.approx(-2)
    assert (feature(limited, "has_speedup"), feature(limited, "has_parameters")) == (1, 0)
    assert feature(limited, "log_text_length") > feature(plain, "log_text_length")
    other, _ = env.reset(options={"task": NAMES[2]})
    assert feature(other, "log_teacher_ms") != feature(plain, "log_teacher_ms")
    assert len({env.reset(options={"task": str(name)})[0]["task"].tobytes() for name in NAMES}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_that_of_the_task(name: str, env: gym.Env[Any, Any]) -> None:
    env.reset(seed=3, options={"task": str(Task.parse(name))})
    inner = env.unwrapped.env  # type: ignore[attr-defined]
    alone = Task.parse(name).make_env(Budget(5), round_size=8)
    alone.reset(seed=0)
    alone.unwrapped.fidelity = inner.fidelity  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    for _ in range(4):
        action = rng.integers(env.action_space.nvec)  # type: ignore[attr-defined]
        observation, reward, _, _, info = env.step(action)
        _, _, _, _, expected = alone.step(action)
        assert {**info, "task": None}["loss"] == expected["loss"]
        assert env.observation_space.contains(observation)
        assert np.isfinite(float(reward))


def test_agents_search_it(env: gym.Env[Any, Any]) -> None:
    result = kdnas_env.make_agent("local-search").search(env, seed=1)
    assert len(result.rewards) >= 5
    assert {info["task"] for info in result.infos} <= {str(Task.parse(name)) for name in NAMES}


def test_splits_share_no_task_and_no_text() -> None:
    training, held_out = split_tasks("training"), split_tasks("held-out")
    assert (len(training), len(held_out)) == (200, 36)
    assert {Task.parse(name).table for name in training} == set(SPLITS["training"]["table"])
    assert not {Task.parse(name).table for name in training} & {Task.parse(name).table for name in held_out}
    assert not {Task.parse(name).alpha for name in training} & {Task.parse(name).alpha for name in held_out}


@pytest.mark.parametrize("tasks", ["nothing", [], [3], ["no-such-table"], ["imdb:alpha=x"]])
def test_what_is_no_task_is_refused(tasks: Any) -> None:
    with pytest.raises(KDNASError):
        gym.make("kdnas/Tasks-v0", tasks=tasks)


def test_a_task_of_others_is_refused(env: gym.Env[Any, Any]) -> None:
    with pytest.raises(KDNASError, match="expected one of the environment's 3"):
        env.reset(options={"task": "imdb"})
    with pytest.raises(KDNASError, match="unknown reset option"):
        env.reset(options={"tasks": "imdb"})
