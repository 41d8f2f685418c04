"""The number of epochs as an additional choice, with a budget of epochs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

import kdnas_env
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.wrappers.multi_fidelity import MultiFidelity


def make(choices: Any = None, **options: Any) -> MultiFidelity:
    env = gym.make("kdnas/Planted-v0", **{"budget": 20, "budget_unit": "epochs", "epochs": 4, **options})
    return MultiFidelity(env, epochs=choices)


def action(env: MultiFidelity, index: int, choice: int) -> np.ndarray:
    return np.append(env.get_wrapper_attr("search_space").from_index(index), choice)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_both_checkers_have_no_complaint() -> None:
    from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines3

    check_env(make(), skip_render_check=True)
    check_for_stable_baselines3(make())


@pytest.mark.parametrize(
    ("longest", "epochs", "expected"),
    [(4, None, (1, 2, 4)), (6, None, (1, 2, 4, 6)), (1, None, (1,)), (4, (0, 3), (0, 3))],
)
def test_the_choices(longest: int, epochs: Any, expected: tuple[int, ...]) -> None:
    env = make(epochs, epochs=longest)
    assert env.epochs == expected
    assert env.action_space == gym.spaces.MultiDiscrete([5, 5, 2, 8, 3, len(expected)])


def test_epochs_are_what_is_evaluated_and_what_it_costs() -> None:
    env = make()
    observation, info = env.reset(seed=0)
    assert observation["last_epochs"].tolist() == [0]
    assert info["budget_left"] == 20
    losses = []
    for choice, left in ((0, 19), (1, 17), (2, 13)):
        observation, _, _, _, info = env.step(action(env, 7, choice))
        assert observation["last_epochs"].tolist() == [choice + 1]
        assert observation in env.observation_space
        assert info["epochs"] == env.epochs[choice]
        assert info["budget_left"] == left
        assert info["duplicate"] is False
        assert (info["heldout_curve"] >= 0).sum() == env.epochs[choice] + 1
        losses.append(info["loss"])
    assert losses == sorted(losses, reverse=True)
    assert env.step(action(env, 7, 1))[4]["duplicate"] is True


@settings(max_examples=30, deadline=None)
@given(budget=st.integers(1, 15), seed=st.integers(0, 1000), duplicates=st.sampled_from(["charge", "free"]))
def test_the_budget_is_spent_to_the_last_epoch_and_no_further(budget: int, seed: int, duplicates: str) -> None:
    env = make(budget=budget, duplicates=duplicates)
    env.reset(seed=0)
    assert isinstance(env.action_space, gym.spaces.MultiDiscrete)
    nvec = env.action_space.nvec
    rng, spent, terminated = np.random.default_rng(seed), 0, False
    while not terminated:
        _, _, terminated, truncated, info = env.step(rng.integers(nvec))
        spent += info["epochs"] * info["counted"]
        assert spent + info["budget_left"] == budget
        assert not truncated
    assert spent == budget


def test_closed_forms_cost_one_epoch() -> None:
    env = make((0, 4))
    env.reset(seed=0)
    assert env.step(action(env, 7, 0))[4]["budget_left"] == 19
    assert env.max_evaluations == 20
    assert make((2, 4)).max_evaluations == 10


def test_agents_search_it() -> None:
    env = make(max_parameters=60_000_000, budget=30)
    result = kdnas_env.make_agent("random").search(env, seed=0)
    points = [tuple(row) for row in result.actions.tolist()]
    assert len(set(points)) == len(points)
    assert {info["status"] for info in result.infos} == {"ok"}
    assert sum(info["epochs"] for info in result.infos) == 30
    assert env.parameter_counts is not None
    assert env.valid_action_indices is not None
    assert env.parameter_counts.shape == env.valid_action_indices.shape


def test_made_again_from_its_spec() -> None:
    env = make((1, 3))
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for one in (env, again):
        one.reset(seed=0)
    step = action(env, 9, 1)
    assert data_equivalence(env.step(step), again.step(step), exact=True)


@pytest.mark.parametrize(
    ("epochs", "message"),
    [
        ((), "expected whole numbers, 0 or more, in ascending order"),
        ((2, 1), "ascending"),
        ((1, 1), "ascending"),
        ((-1, 2), r"epochs is \(-1, 2\)"),
        ((1.5,), "whole"),
        ((1, 8), "epochs go up to 8, but the environment was made for 4 at most"),
    ],
)
def test_bad_choices_are_refused(epochs: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        make(epochs)


def test_other_budgets_are_refused() -> None:
    with pytest.raises(KDNASError, match="make it with budget_unit='epochs'"):
        MultiFidelity(gym.make("kdnas/Planted-v0"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(5, dtype=np.int64), r"of shape \(5,\); expected integers of shape \(6,\)"),
        (np.zeros(6), "float64"),
        (np.array([0, 0, 0, 0, 0, 3]), "epochs is 3, expected 0 to 2"),
        (np.array([9, 0, 0, 0, 0, 0]), "num_hidden_layers is 9"),
    ],
)
def test_bad_actions_cost_nothing(bad: Any, message: str) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(SpaceError, match=message):
        env.step(bad)
    assert env.step(action(env, 1, 0))[4]["evaluations"] == 1
