"""Contracts that every wrapper satisfies."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, GridEnv, planted
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

from kdnas_env.errors import KDNASError
from kdnas_env.wrappers import (
    ActionMasks,
    FlatDiscrete,
    ImprovementReward,
    LinearReward,
    LocalMoves,
    MultiObjectiveReward,
    NumericInfo,
    OrdinalObservation,
    SequentialChoice,
)

Env = gym.Env[Any, Any]
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "stable_baselines3", "pandas", "scipy")

STACKS: dict[str, list[tuple[Callable[..., Env], dict[str, Any]]]] = {
    "sequential": [(SequentialChoice, {"exclude_evaluated": False, "penalty": -0.5, "max_rejections": 30})],
    "sequential-defaults": [(SequentialChoice, {})],
    "flat": [(FlatDiscrete, {"max_actions": 1200})],
    "masks": [(ActionMasks, {"exclude_evaluated": False})],
    "improvement": [(ImprovementReward, {"start": 0.2})],
    "improvement-defaults": [(ImprovementReward, {})],
    "moves": [(LocalMoves, {"cyclic": [0, 2]})],
    "moves-defaults": [(LocalMoves, {})],
    "ordinal": [(OrdinalObservation, {})],
    "numeric": [(NumericInfo, {})],
    "linear": [
        (MultiObjectiveReward, {"objectives": {"loss": (1, 0), "speedup": (0, 50)}}),
        (LinearReward, {"weights": [0.7, 0.01]}),
    ],
    "all": [
        (MultiObjectiveReward, {}),
        (LinearReward, {"weights": [1, 1]}),
        (ImprovementReward, {}),
        (SequentialChoice, {}),
        (OrdinalObservation, {}),
        (NumericInfo, {}),
    ],
}
VECTOR: list[Any] = [(MultiObjectiveReward, {})]
SPACES: list[dict[str, Any]] = [{}, {"space": HEADS_AND_WIDTHS, "duplicates": "reject", "budget": 9, "failures": 0.2}]
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def wrap(env: Env, stack: list[tuple[Callable[..., Env], dict[str, Any]]]) -> Env:
    for wrapper, arguments in stack:
        env = wrapper(env, **arguments)
    return env


def assert_equal_episodes(one: Env, other: Env) -> None:
    assert one.action_space == other.action_space
    assert one.observation_space == other.observation_space
    one.action_space.seed(3)
    assert data_equivalence(one.reset(seed=1), other.reset(seed=1), exact=True)
    for _ in range(30):
        action = one.action_space.sample()
        answer = one.step(action)
        assert data_equivalence(answer, other.step(action), exact=True)
        if answer[2] or answer[3]:
            return


@stacks
@pytest.mark.parametrize("options", SPACES, ids=["derived", "awkward"])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_checker_has_no_complaint(stack: Any, options: dict[str, Any]) -> None:
    check_env(wrap(planted(**options), stack), skip_render_check=True)


@stacks
@pytest.mark.parametrize("options", SPACES, ids=["derived", "awkward"])
def test_stable_baselines3_checker_has_no_complaint(stack: Any, options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    sb3_check_env(wrap(planted(render_mode="ansi", **options), stack), skip_render_check=False)


@pytest.mark.parametrize("stack", [*STACKS.values(), VECTOR], ids=[*STACKS, "vector"])
def test_the_spec_makes_an_equal_environment(stack: Any) -> None:
    env = wrap(gym.make("kdnas/Planted-v0", budget=20, noise=0.1), stack)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec is not None
    assert [spec.name for spec in again.spec.additional_wrappers] == [wrapper.__name__ for wrapper, _ in stack]
    assert_equal_episodes(env, again)


@pytest.mark.parametrize("stack", [*STACKS.values(), VECTOR], ids=[*STACKS, "vector"])
def test_additional_wrappers_make_an_equal_environment(stack: Any) -> None:
    wrappers: tuple[WrapperSpec, ...] = tuple(wrapper.wrapper_spec(**arguments) for wrapper, arguments in stack)
    spec = replace(gym.spec("kdnas/Planted-v0"), additional_wrappers=wrappers)
    assert_equal_episodes(gym.make(spec, budget=20), wrap(gym.make("kdnas/Planted-v0", budget=20), stack))


@stacks
def test_every_step_is_in_its_space_and_plain(stack: Any) -> None:
    env = wrap(planted(space=HEADS_AND_WIDTHS, budget=18, failures=0.2, duplicates="free"), stack)
    env.action_space.seed(0)
    observation, first_info = env.reset(seed=0)
    ended = False
    while not ended:
        assert observation in env.observation_space
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert type(reward) is float
        assert np.isfinite(reward)
        assert type(terminated) is type(truncated) is bool
        assert {key: type(value) for key, value in info.items()} == {
            key: type(value) for key, value in first_info.items()
        }
        ended = terminated or truncated
    assert observation in env.observation_space
    env.reset()
    env.step(env.action_space.sample())


@stacks
def test_what_is_returned_is_the_callers_own(stack: Any) -> None:
    one, other = (wrap(planted(budget=30), stack) for _ in range(2))
    one.action_space.seed(0)
    answers: Any = (one.reset(seed=0), other.reset(seed=0))
    for _ in range(12):
        observation, *_, info = answers[1]
        observed = observation.values() if isinstance(observation, dict) else [observation]
        for data in (*observed, *info.values()):
            if isinstance(data, np.ndarray):
                data[:] = 0
        action = one.action_space.sample()
        answers = one.step(action), other.step(action)
        assert data_equivalence(answers[0], answers[1], exact=True)


@stacks
def test_an_environment_can_be_pickled_within_an_episode(stack: Any) -> None:
    env = wrap(planted(budget=30), stack)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    again = pickle.loads(pickle.dumps(env))
    for _ in range(8):
        action = env.action_space.sample()
        assert data_equivalence(env.step(action), again.step(action), exact=True)


@stacks
def test_vectors_of_environments_step(stack: Any) -> None:
    env = gym.vector.SyncVectorEnv([lambda: wrap(planted(budget=3), stack)] * 2)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(20):
        _, rewards, *_ = env.step(env.action_space.sample())
        assert rewards.shape == (2,)


@pytest.mark.parametrize("wrapper", [SequentialChoice, FlatDiscrete, ActionMasks, LocalMoves])
def test_the_actions_to_wrap_must_be_a_grid(wrapper: Callable[..., Env]) -> None:
    with pytest.raises(KDNASError, match=r"the action space is Discrete\(1200\); expected a one-dimensional MultiDisc"):
        wrapper(FlatDiscrete(planted()))
    refused: list[tuple[Any, str]] = [
        ([], r"valid_action_indices is \[\]; expected the numbers of one or more points"),
        ([0.5], "expected the numbers of one or more points"),
        ([0, 6], "range from 0 to 6, but the grid has 6 points, numbered from 0"),
        ([-1], "range from -1 to -1"),
    ]
    for bad, message in refused:
        with pytest.raises(KDNASError, match=message):
            wrapper(GridEnv([2, 3], valid=bad))


@pytest.mark.parametrize("wrapper", [SequentialChoice, FlatDiscrete, LocalMoves])
def test_other_actions_have_no_list_of_the_inner_ones(wrapper: Callable[..., Env]) -> None:
    env = gym.wrappers.TimeLimit(wrapper(gym.wrappers.TimeLimit(planted(budget=7), 50)), 50)
    assert env.get_wrapper_attr("valid_action_indices") is None
    assert env.get_wrapper_attr("budget") == 7
    assert ActionMasks(planted()).get_wrapper_attr("valid_action_indices").tolist() == list(range(1200))


def test_importing_the_wrappers_loads_nothing_heavy() -> None:
    code = f"import sys, kdnas_env.wrappers; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    code = "import sys, kdnas_env; print([name for name in sys.modules if name.startswith('kdnas_env.wrappers')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
