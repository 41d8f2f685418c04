from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from grid_envs import GridEnv, planted
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from kdnas_env.errors import KDNASError
from kdnas_env.wrappers import OrdinalObservation, SequentialChoice


def test_a_choice_is_its_place() -> None:
    env = OrdinalObservation(planted())
    nothing, _ = env.reset()
    assert nothing.tolist() == [0.0] * len(nothing)
    nvec = env.get_wrapper_attr("search_space").nvec
    action = np.array([0, 2, 1, 7, 1])
    observation, reward, *_ = env.step(action)
    inner = env.env.observation_space
    assert isinstance(inner, spaces.Dict)
    names, start = list(inner), 0
    for name in names[: names.index("last")]:
        start += math.prod(inner[name].shape or ())
    np.testing.assert_allclose(observation[start : start + 5], (action + 1) / nvec, rtol=1e-6)
    assert np.float32(reward) in observation
    assert observation in env.observation_space


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_gymnasium_checker_has_no_complaint_on_a_wide_space() -> None:
    env = OrdinalObservation(gym.make("kdnas/Surrogate-v0"))
    assert env.observation_space.shape == (67,)
    narrow = OrdinalObservation(SequentialChoice(planted(budget=8)))
    assert narrow.observation_space.shape == (5 * 11 + 3 + 8 + 1 + 5 + 1,)
    check_env(narrow, skip_render_check=True)


def test_other_observations_are_taken_as_they_are_or_refused() -> None:
    env: Any = GridEnv([4])
    assert OrdinalObservation(env).observation_space == spaces.Box(0.0, 1.0, (1,), np.float32)
    env.observation_space = spaces.Dict(text=spaces.Text(3))
    with pytest.raises(KDNASError, match=r"the observation has the part Text.* expected a Dict of MultiDiscrete"):
        OrdinalObservation(env)


def test_bounds_of_choices_that_begin_elsewhere() -> None:
    env: Any = GridEnv([4])
    env.observation_space = spaces.Dict(
        a=spaces.Discrete(3, start=5), b=spaces.MultiDiscrete([1, 5], start=[2, -2]), c=spaces.MultiBinary(2)
    )
    wrapped = OrdinalObservation(env)
    seen = wrapped.observation({"a": 6, "b": np.array([2, 2]), "c": np.array([0, 1])})
    assert seen.tolist() == [0.5, 0.0, 1.0, 0.0, 1.0]
    assert seen in wrapped.observation_space
