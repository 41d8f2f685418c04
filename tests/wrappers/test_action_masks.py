from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, GridEnv, planted

from kdnas_env.wrappers import ActionMasks, FlatDiscrete, SequentialChoice


def masks(**options: Any) -> ActionMasks:
    env = ActionMasks(GridEnv([2, 3], [1, 3, 5]), **options)
    env.reset()
    return env


def test_a_choice_is_allowed_while_an_open_candidate_has_it() -> None:
    env = masks()
    assert env.action_masks().tolist() == [True, True, True, True, True]
    *_, info = env.step(np.array([0, 1]))
    assert info["action_mask"].tolist() == [0, 1, 1, 0, 1]
    assert info["action_mask"].dtype == np.int8
    env.step(np.array([1, 0]))
    assert env.action_masks().tolist() == [False, True, False, False, True]
    env.reset()
    assert env.action_masks().all()


def test_only_the_first_evaluation_of_an_allowed_candidate_counts() -> None:
    env = masks()
    for action in ([1, 2], [1, 2], [0, 2], [0, 0]):
        env.step(np.array(action))
    assert env.action_masks().tolist() == [True, True, True, True, False]


def test_once_all_are_evaluated_all_are_allowed_again() -> None:
    env = ActionMasks(GridEnv([2, 3], [1, 2]))
    env.reset()
    for action in ([0, 1], [0, 2], [0, 2]):
        env.step(np.array(action))
        assert env.action_masks()[0]
    assert env.action_masks().tolist() == [True, False, False, True, True]


def test_evaluated_candidates_may_be_left_open() -> None:
    env = masks(exclude_evaluated=False)
    env.step(np.array([0, 1]))
    assert env.action_masks().all()


def test_actions_are_sampled_within_the_mask() -> None:
    env = masks()
    env.step(np.array([0, 1]))
    env.action_space.seed(0)
    samples = {tuple(env.action_space.sample(mask=env.sample_mask()).tolist()) for _ in range(50)}
    assert samples == {(1, 0), (1, 2)}


def test_a_mask_per_dimension_lets_joint_constraints_through() -> None:
    """Why SequentialChoice exists: 3 heads and a width of 256 are each allowed, but not together."""
    env = ActionMasks(planted(space=HEADS_AND_WIDTHS))
    env.reset()
    assert env.action_masks().all()
    *_, info = env.step(np.array([0, 1, 0]))
    assert info["status"] == "invalid"


@pytest.mark.parametrize("wrapper", [ActionMasks, FlatDiscrete, SequentialChoice])
def test_maskable_ppo_survives_the_end_of_the_open_candidates(wrapper: Any) -> None:
    """Only seven candidates can be built and the budget is 30: most steps have no unevaluated candidate."""
    from sb3_contrib import MaskablePPO

    space = {**HEADS_AND_WIDTHS, "hidden_act": ["gelu"]}
    env = wrapper(planted(space=space, budget=30))
    model = MaskablePPO("MultiInputPolicy", env, n_steps=40, batch_size=20, n_epochs=1, seed=0, device="cpu")
    model.learn(80)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
