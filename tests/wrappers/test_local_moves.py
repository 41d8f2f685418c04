from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, GridEnv, planted
from gymnasium.error import ResetNeeded

from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.wrappers import LocalMoves


def at(env: LocalMoves, *point: int) -> LocalMoves:
    """Reset with successive seeds until the walk starts at the given point."""
    for seed in range(1000):
        env.reset(seed=seed)
        if tuple(env.current) == point:
            return env
    raise AssertionError(f"never began at {point}")


def test_a_move_changes_one_dimension_by_one_choice() -> None:
    env = at(LocalMoves(GridEnv([4, 4])), 1, 2)
    for move, expected in ((0, [0, 2]), (1, [1, 2]), (2, [1, 1]), (3, [1, 2]), (3, [1, 3])):
        observation, reward, *_, info = env.step(move)
        assert observation["current"].tolist() == expected
        assert env.unwrapped.get_wrapper_attr("actions")[-1] == expected
        assert reward == sum(expected)
        assert info["moved"] is True


def test_a_move_off_the_grid_stays_and_evaluates() -> None:
    env = at(LocalMoves(GridEnv([4, 4])), 0, 3)
    for move in (0, 3):
        observation, reward, *_, info = env.step(move)
        assert observation["current"].tolist() == [0, 3]
        assert reward == 3.0
        assert info["moved"] is False
    assert env.unwrapped.get_wrapper_attr("actions") == [[0, 3], [0, 3]]
    assert env.action_masks().tolist() == [False, True, True, False]


def test_cyclic_dimensions_go_round() -> None:
    env = at(LocalMoves(GridEnv([4, 4]), cyclic=[1]), 0, 3)
    assert env.action_masks().tolist() == [False, True, True, True]
    assert env.step(3)[0]["current"].tolist() == [0, 0]
    assert env.step(2)[0]["current"].tolist() == [0, 3]


def test_names_go_round_by_default() -> None:
    assert LocalMoves(planted(families=["bert", "albert"])).cyclic == {4, 5}
    assert LocalMoves(planted(), cyclic=[]).cyclic == set()
    assert LocalMoves(GridEnv([4, 4])).cyclic == set()


def test_masks_forbid_what_cannot_be_built() -> None:
    env = LocalMoves(planted(space=HEADS_AND_WIDTHS, budget=200))
    observation, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert info["action_mask"].dtype == np.int8
        assert info["action_mask"].tolist() == env.action_masks().tolist()
        before = observation["current"]
        observation, _, _, _, info = env.step(rng.choice(np.flatnonzero(info["action_mask"])))
        assert info["moved"]
        assert info["status"] == "ok"
        assert (observation["current"] != before).sum() == 1
        assert env.get_wrapper_attr("history").last.action == tuple(observation["current"])


def test_a_candidate_without_neighbours_stays() -> None:
    env = LocalMoves(GridEnv([3, 3], valid=[4]))
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 1, 1, 1]
    for move in range(4):
        observation, *_, info = env.step(move)
        assert observation["current"].tolist() == [1, 1]
        assert not info["moved"]


def test_the_start_is_drawn_from_the_allowed_by_the_seed() -> None:
    env = LocalMoves(GridEnv([2, 3], valid=[1, 3, 5]))
    starts = [tuple(env.reset(seed=seed)[0]["current"].tolist()) for seed in range(60)]
    assert set(starts) == {(0, 1), (1, 0), (1, 2)}
    assert starts == [tuple(env.reset(seed=seed)[0]["current"].tolist()) for seed in range(60)]
    env.reset(seed=3)
    following = [tuple(env.reset()[0]["current"].tolist()) for _ in range(10)]
    assert len(set(following)) > 1
    env.action_space.seed(9)
    env.reset(seed=3)
    assert following == [tuple(env.reset()[0]["current"].tolist()) for _ in range(10)]


def test_the_start_is_not_evaluated() -> None:
    env = LocalMoves(planted(budget=3))
    _, info = env.reset(seed=0)
    assert info["evaluations"] == 0
    assert len(env.get_wrapper_attr("history")) == 0


def test_forbidden_moves_cannot_go_on_for_ever() -> None:
    env = at(LocalMoves(planted(space={"hidden_size": [96, 192]}, budget=2, duplicates="free")), 0)
    ends = [env.step(0)[3] for _ in range(20)]
    assert ends == [False] * 19 + [True]


def test_an_interrupted_step_does_not_move() -> None:
    env = at(LocalMoves(planted(space={"hidden_size": [96, 192]})), 0)

    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    env.set_wrapper_attr("on_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        env.step(1)
    assert env.current.tolist() == [0]


@pytest.mark.parametrize("bad", [4, -1, 1.0, [1], None])
def test_actions_outside_the_space_raise(bad: Any) -> None:
    env = LocalMoves(GridEnv([2, 3]))
    env.reset()
    with pytest.raises(SpaceError, match="expected a whole number from 0 to 3"):
        env.step(bad)


def test_steps_before_a_reset_raise() -> None:
    with pytest.raises(ResetNeeded, match="there is no current candidate"):
        LocalMoves(GridEnv([2, 3])).step(0)


@pytest.mark.parametrize("bad", [[2], [-1], ["hidden_act"]])
def test_bad_cyclic_dimensions_are_refused(bad: Any) -> None:
    with pytest.raises(KDNASError, match="cyclic has the dimension"):
        LocalMoves(GridEnv([2, 3]), cyclic=bad)
