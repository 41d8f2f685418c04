from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from grid_envs import HEADS_AND_WIDTHS, planted

from kdnas_env.wrappers import ImprovementReward, NumericInfo, NumericVectorInfo, SequentialChoice

TEXTS = {"config", "status", "error"}


def assert_numbers(info: dict[str, Any]) -> None:
    for name, value in info.items():
        assert isinstance(value, np.generic | np.ndarray), name
        assert value.dtype.kind in "biuf", name


def test_all_that_is_told_is_a_number() -> None:
    env, plain = NumericInfo(planted(budget=20)), planted(budget=20)
    plain.action_space.seed(0)
    answers: list[Any] = [(env.reset(), plain.reset())]
    for _ in range(5):
        action = plain.action_space.sample()
        answers.append((env.step(action), plain.step(action)))
    for (*_, told), (*_, info) in answers:
        assert_numbers(told)
        assert told.keys() == info.keys() - TEXTS | {"ok"}
        assert all(np.all(told[name] == info[name]) for name in told.keys() - {"ok"})
        assert told["ok"] == (info["status"] == "ok")


def test_what_failed_is_still_told() -> None:
    env = NumericInfo(planted(space=HEADS_AND_WIDTHS))
    assert not env.reset()[1]["ok"]
    told = {bool(env.step(np.array([heads, width, 0]))[-1]["ok"]) for heads in range(3) for width in range(3)}
    assert told == {True, False}


def test_what_other_wrappers_tell_is_numbers_too() -> None:
    env = NumericInfo(SequentialChoice(ImprovementReward(planted(budget=20))))
    assert_numbers(env.reset()[1])
    for _ in range(6):
        info = env.step(0)[-1]
        assert_numbers(info)
    assert {"action_mask", "complete", "best_reward"} <= info.keys()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_tells_numbers(mode: str) -> None:
    envs = NumericVectorInfo(
        gym.make_vec("kdnas/Planted-v0", num_envs=4, budget=8, autoreset_mode=mode, space=HEADS_AND_WIDTHS)
    )
    inner: Any = envs.unwrapped
    assert envs.autoreset_mode is inner.autoreset_mode
    envs.action_space.seed(0)
    told = [envs.reset(seed=0)[1]]
    told += [envs.step(envs.action_space.sample())[-1] for _ in range(2)]
    for infos in told:
        final = infos.pop("final_info", {})
        assert bool(final) == (mode == "SameStep" and infos is told[-1])
        for part in (infos, final):
            part.pop("final_obs", None)
            assert_numbers(part)
            assert not TEXTS & part.keys()
            assert {f"_{name}" for name in part if not name.startswith("_")} <= part.keys() | {"_final_obs"}
