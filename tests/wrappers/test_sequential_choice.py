from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, GridEnv, planted
from gymnasium.error import ResetNeeded

from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.wrappers import SequentialChoice


def sequence(**options: Any) -> SequentialChoice:
    """Return an environment in which (0, 1), (1, 0) and (1, 2) are allowed; the reward is the sum of the choices."""
    env = SequentialChoice(GridEnv([2, 3], valid=[1, 3, 5]), **options)
    env.reset(seed=0)
    return env


def test_a_candidate_is_put_together_choice_by_choice() -> None:
    env = SequentialChoice(planted(budget=2))
    observation, info = env.reset(seed=0)
    candidate = [4, 0, 1, 7, 2]
    for dimension, choice in enumerate(candidate):
        assert observation["dimension"] == dimension
        assert observation["partial"].tolist() == [*(np.array(candidate[:dimension]) + 1), *[0] * (5 - dimension)]
        assert (info["complete"], info["evaluations"]) == (False, 0)
        observation, reward, terminated, _, info = env.step(choice)
        assert (reward != 0.0) == (dimension == 4)
        assert not terminated
    plain = planted(budget=2)
    plain.reset(seed=0)
    _, expected, *_, plain_info = plain.step(np.array(candidate))
    assert reward == expected
    assert info["config"] == plain_info["config"]
    assert (info["complete"], info["evaluations"]) == (True, 1)
    assert observation["last"].tolist() == (np.array(candidate) + 1).tolist()
    assert (observation["dimension"], observation["partial"].tolist()) == (0, [0] * 5)
    assert [env.step(0)[2] for _ in range(5)] == [False] * 4 + [True]


def test_between_candidates_the_last_answer_is_repeated() -> None:
    env = SequentialChoice(planted(budget=5))
    env.reset(seed=0)
    for choice in (1, 1, 1, 1, 1):
        observation, _, _, _, answered = env.step(choice)
    waiting, reward, _, _, info = env.step(0)
    assert reward == 0.0
    assert (waiting["last"] == observation["last"]).all()
    differ = {key for key in info if not np.array_equal(info[key], answered[key])}
    assert differ <= {"action_mask", "complete"}
    assert not info["complete"]


def test_what_is_repeated_is_a_copy() -> None:
    env = SequentialChoice(planted(budget=5))
    env.reset(seed=0)
    for choice in (1, 1, 1, 1, 1):
        observation, _, _, _, info = env.step(choice)
    observation["last"][:] = 0
    info["heldout_curve"][:] = 0
    observation, _, _, _, info = env.step(0)
    assert observation["last"].tolist() == [2] * 5
    assert info["heldout_curve"].all()


def test_masks_follow_the_earlier_choices() -> None:
    env = sequence()
    assert env.action_masks().tolist() == [True, True, False]
    *_, info = env.step(0)
    assert info["action_mask"].tolist() == [0, 1, 0]
    assert info["action_mask"].dtype == np.int8
    env.step(1)
    assert env.action_masks().tolist() == [False, True, False]
    env.step(1)
    assert env.action_masks().tolist() == [True, False, True]
    env.reset()
    assert env.action_masks().tolist() == [True, True, False]


def test_evaluated_candidates_may_be_left_open() -> None:
    env = sequence(exclude_evaluated=False)
    for choice in (0, 1):
        env.step(choice)
    assert env.action_masks().tolist() == [True, True, False]


def test_masked_candidates_can_all_be_built_and_are_new() -> None:
    """In a third of this space, the heads do not divide the width."""
    env = SequentialChoice(planted(space=HEADS_AND_WIDTHS, budget=18, duplicates="reject"))
    valid = env.env.get_wrapper_attr("valid_action_indices")
    assert len(valid) < 18
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    seen: list[Any] = []
    while len(seen) < len(valid):
        *_, info = env.step(rng.choice(np.flatnonzero(env.action_masks())))
        assert not info["rejected"]
        if info["complete"]:
            assert (info["status"], info["duplicate"]) == ("ok", False)
            seen.append(info["index"])
    assert sorted(seen) == valid.tolist()


@pytest.mark.parametrize("choices", [[0, 0], [0, 2], [2], [1, 1]])
def test_a_forbidden_choice_rejects_the_candidate(choices: list[int]) -> None:
    env = sequence()
    for choice in choices[:-1]:
        assert env.step(choice)[1] == 0.0
    observation, reward, terminated, truncated, info = env.step(choices[-1])
    assert reward == -1.0
    assert (terminated, truncated) == (False, False)
    assert info["rejected"]
    assert not info["complete"]
    assert observation["partial"].tolist() == [0, 0]
    assert observation["dimension"] == 0
    assert env.unwrapped.get_wrapper_attr("actions") == []
    assert not env.step(0)[4]["rejected"]


def test_a_candidate_that_was_evaluated_is_rejected() -> None:
    env = SequentialChoice(planted(budget=9))
    env.reset()
    rewards = [env.step(0)[1] for _ in range(10)]
    assert rewards[-1] == -1.0
    assert len(env.get_wrapper_attr("history")) == 1


def test_the_penalty_is_the_floor_or_what_is_asked_for() -> None:
    assert SequentialChoice(planted()).penalty == planted().get_wrapper_attr("reward_function").floor == -1.0
    env = sequence(penalty=-7)
    assert env.step(2)[1] == -7.0


def test_rejections_end_an_episode() -> None:
    env = sequence(max_rejections=3)
    assert [env.step(2)[3] for _ in range(2)] == [False, False]
    env.step(0)
    *_, truncated, info = env.step(0)
    assert truncated is True
    assert info["rejected"]
    with pytest.raises(ResetNeeded, match="no episode is running"):
        env.step(0)
    env.reset()
    assert [env.step(2)[3] for _ in range(3)] == [False, False, True]


def test_steps_outside_an_episode_raise() -> None:
    env = SequentialChoice(GridEnv([2, 2], budget=1))
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    env.step(0)
    assert env.step(0)[2] is True
    with pytest.raises(ResetNeeded):
        env.step(0)


@pytest.mark.parametrize("bad", [3, -1, 0.0, [0], np.array([1]), "0", None, True])
def test_actions_outside_the_space_raise(bad: Any) -> None:
    env = sequence()
    with pytest.raises(SpaceError, match="expected a whole number from 0 to 2"):
        env.step(bad)


def test_an_interrupted_evaluation_can_be_chosen_again() -> None:
    env = SequentialChoice(planted(budget=5))
    env.reset()

    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    env.set_wrapper_attr("on_epoch", interrupt)
    for _ in range(4):
        env.step(0)
    with pytest.raises(KeyboardInterrupt):
        env.step(0)
    env.set_wrapper_attr("on_epoch", None)
    assert env.step(0)[4]["complete"]


def test_an_observation_that_is_no_dict_gets_a_key() -> None:
    env = sequence()
    assert isinstance(env.observation_space, gym.spaces.Dict)
    assert set(env.observation_space.spaces) == {"observation", "partial", "dimension"}
    observation, _ = env.reset()
    assert observation["observation"].tolist() == [0.0]
    taken = gym.wrappers.TransformObservation(
        GridEnv([2, 3]),
        lambda value: {"partial": value},
        gym.spaces.Dict({"partial": gym.spaces.Box(0.0, 1.0, (1,))}),
    )
    with pytest.raises(KDNASError, match=r"the observation already has the key\(s\) \['partial'\]"):
        SequentialChoice(taken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rejections": 1}, "max_rejections is 1; expected a whole number, at least 2"),
        ({"max_rejections": 2.5}, "max_rejections is 2.5"),
        ({"penalty": float("nan")}, "penalty is nan; expected a finite number"),
        ({"penalty": "low"}, "penalty is 'low'"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        sequence(**options)


def test_maskable_ppo_learns_on_it() -> None:
    """The reward is the share of right choices: an untrained policy earns about 0.33."""
    from sb3_contrib import MaskablePPO
    from sb3_contrib.common.maskable.evaluation import evaluate_policy

    target = [2, 0, 1]
    reward = lambda action: sum(map(int.__eq__, action, target)) / 3  # noqa: E731
    env = SequentialChoice(GridEnv([3, 3, 3], reward=reward, budget=1), exclude_evaluated=False)
    model = MaskablePPO(
        "MultiInputPolicy", env, n_steps=192, batch_size=64, learning_rate=3e-3, gamma=1.0, seed=0, device="cpu"
    )
    model.learn(192 * 5)
    mean: Any = evaluate_policy(model, env, n_eval_episodes=20, deterministic=False, warn=False)[0]
    assert mean > 0.9
