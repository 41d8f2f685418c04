from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, GridEnv, grid_points, planted
from gymnasium import spaces
from gymnasium.spaces import Discrete

from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.wrappers import FlatDiscrete

LARGE = {"intermediate_size": list(range(8, 8008, 8)), "hidden_size": list(range(12, 1224, 12))}


def test_every_action_is_a_candidate_that_can_be_built() -> None:
    env = FlatDiscrete(planted(space=HEADS_AND_WIDTHS, budget=40))
    valid = env.env.get_wrapper_attr("valid_action_indices").tolist()
    assert env.action_space == spaces.Discrete(len(valid))
    env.reset(seed=0)
    for number, index in enumerate(valid):
        *_, info = env.step(number)
        assert (info["status"], info["index"]) == ("ok", index)


def test_without_a_list_the_whole_grid_is_numbered() -> None:
    env = FlatDiscrete(GridEnv([2, 3]))
    env.reset()
    for number in range(6):
        env.step(np.int64(number))
    assert env.unwrapped.get_wrapper_attr("actions") == list(map(list, grid_points([2, 3])))


@pytest.mark.parametrize("valid", [None, [1, 3, 5], [5, 1, 3, 3]])
def test_numbers_translate_both_ways(valid: list[int] | None) -> None:
    env = FlatDiscrete(GridEnv([2, 3], valid))
    assert isinstance(env.action_space, Discrete)
    for number in range(int(env.action_space.n)):
        action = env.action(number)
        assert action.dtype == np.int64
        assert env.reverse_action(action) == env.reverse_action(action.tolist()) == number
    if valid is not None:
        assert [env.action(number).tolist() for number in range(3)] == [[0, 1], [1, 0], [1, 2]]
        with pytest.raises(SpaceError, match=r"action \[0, 0\] is not valid: valid_action_indices does not"):
            env.reverse_action([0, 0])
    for bad in ([0, 3], [0], [0.5, 1.0], 4):
        with pytest.raises(SpaceError, match="is not in the wrapped action space"):
            env.reverse_action(bad)


def test_masks_forbid_what_was_evaluated() -> None:
    env = FlatDiscrete(GridEnv([2, 3], [1, 3, 5]))
    _, info = env.reset()
    assert info["action_mask"].tolist() == [1, 1, 1]
    *_, info = env.step(1)
    assert info["action_mask"].tolist() == [1, 0, 1]
    assert info["action_mask"].dtype == np.int8
    assert env.action_masks().tolist() == [True, False, True]
    assert env.action_space.sample(mask=info["action_mask"]) in (0, 2)
    env.step(0)
    assert env.action_masks().tolist() == [False, False, True]
    env.step(2)
    assert env.action_masks().all()
    env.reset()
    env.step(2)
    assert env.action_masks().tolist() == [True, True, False]


def test_evaluated_candidates_may_be_left_open() -> None:
    env = FlatDiscrete(planted(), exclude_evaluated=False)
    env.reset()
    assert env.step(3)[4]["action_mask"].all()


def test_a_masked_action_is_a_duplicate() -> None:
    env = FlatDiscrete(planted(duplicates="reject"))
    env.reset()
    env.step(3)
    _, reward, *_, info = env.step(3)
    assert info["duplicate"]
    assert reward == -1.0


@pytest.mark.parametrize("bad", [6, -1, 1.0, [1], None, True])
def test_actions_outside_the_space_raise(bad: Any) -> None:
    env = FlatDiscrete(GridEnv([2, 3]))
    env.reset()
    with pytest.raises(SpaceError, match="expected a whole number from 0 to 5"):
        env.step(bad)
    assert env.unwrapped.get_wrapper_attr("actions") == []


def test_too_many_actions_are_refused() -> None:
    with pytest.raises(KDNASError, match="the environment has 101000 actions to number, but max_actions is 100000"):
        FlatDiscrete(planted(space=LARGE))
    assert FlatDiscrete(planted(space=LARGE), max_actions=101_000).action_space == Discrete(101_000)


def test_dqn_runs_on_it() -> None:
    from stable_baselines3 import DQN

    env = FlatDiscrete(planted(budget=8))
    DQN("MultiInputPolicy", env, learning_starts=8, batch_size=8, buffer_size=64, seed=0, device="cpu").learn(20)
    assert len(env.get_wrapper_attr("history")) == 20 - 2 * 8
