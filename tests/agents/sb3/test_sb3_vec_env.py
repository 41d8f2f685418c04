from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import MultiDiscrete
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.environment import split_infos
from kdnas_env.agents.sb3.vec_env import BatchVecEnv
from kdnas_env.errors import KDNASError
from kdnas_env.wrappers import SequentialChoice

MODES = ["NextStep", "SameStep", "Disabled"]
ALONE = MODES[1:]
"""Modes in which a sub-environment may end before the others."""


class Walk(gym.Env[Any, Any]):
    """A random walk that ends, or is cut off, at a time of its own."""

    action_space = gym.spaces.Discrete(3)
    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(-100, 100, (2,)), "steps": gym.spaces.Discrete(100), "seen": gym.spaces.MultiBinary(3)}
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.normal(size=2), 0
        return self.observe(), {"begin": float(self.place[0]), "options": str(options or {})}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = self.place + action + self.np_random.normal(size=2)
        self.steps += 1
        ended, cut = bool(self.np_random.random() < 0.2), bool(self.np_random.random() < 0.2)
        info = {"steps": self.steps, "even": self.steps % 2 == 0, "name": f"step {self.steps}", "place": self.place}
        if self.steps > 2:
            info["late"] = {"place": float(self.place[1])}
        return self.observe(), float(self.place[0]), ended, cut, info

    def observe(self) -> dict[str, Any]:
        place = self.place.astype(np.float32)
        return {"place": place, "steps": np.int64(self.steps), "seen": np.array([1, 0, self.steps % 2], dtype=np.int8)}

    def double(self, value: int) -> int:
        return 2 * value


def sync(make: Callable[[], gym.Env[Any, Any]], mode: str, count: int = 4) -> SyncVectorEnv:
    return SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode(mode))


def planted(mode: str = "NextStep", **options: Any) -> VectorEnv[Any, Any, Any]:
    return gym.make_vec("kdnas/Planted-v0", num_envs=4, autoreset_mode=mode, **{"budget": 8, **options})


def draw(env: BatchVecEnv, rng: np.random.Generator) -> np.ndarray:
    assert isinstance(env.action_space, MultiDiscrete)
    return rng.integers(env.action_space.nvec, size=(env.num_envs, len(env.action_space.nvec)))


# What Stable-Baselines3 expects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ALONE)
def test_it_does_what_the_vector_environment_of_stable_baselines_does(mode: str) -> None:
    ours: Any = BatchVecEnv(sync(Walk, mode))
    theirs: Any = DummyVecEnv([Walk] * 4)
    for env in (ours, theirs):
        env.seed(3)
        env.set_options({"far": True})
    assert data_equivalence(ours.reset(), dict(theirs.reset()))
    assert ours.reset_infos == theirs.reset_infos
    rng, ends = np.random.default_rng(0), 0
    for _ in range(60):
        actions = rng.integers(3, size=4)
        one, other = ours.step(actions), theirs.step(actions)
        assert data_equivalence(one[0], dict(other[0]))
        for part in (1, 2):
            assert one[part].dtype == other[part].dtype
            assert one[part].tolist() == other[part].tolist()
        assert data_equivalence(one[3], other[3])
        assert ours.reset_infos == theirs.reset_infos
        ends += int(one[2].sum())
    assert ends > 40


@pytest.mark.parametrize("mode", MODES)
def test_a_search_ends_in_all_seats_and_another_begins(mode: str) -> None:
    env: Any = BatchVecEnv(planted(mode))
    env.seed(0)
    assert not env.reset()["progress"].any()
    rng = np.random.default_rng(1)
    for _ in range(3):
        observations, rewards, ended, infos = env.step(draw(env, rng))
        assert not ended.any()
        assert observations["progress"].ravel().tolist() == [0.5] * 4
        assert [info["evaluations"] for info in infos] == [4] * 4
        assert "terminal_observation" not in infos[0]
        actions = draw(env, rng)
        observations, rewards, ended, infos = env.step(actions)
        assert ended.all()
        assert not observations["progress"].any()
        for seat, info in enumerate(infos):
            assert info["terminal_observation"] in env.observation_space
            assert info["terminal_observation"]["last"].tolist() == (actions[seat] + 1).tolist()
            assert info["terminal_observation"]["last_reward"] == pytest.approx(rewards[seat])
            assert info["evaluations"] == 8
            assert info["status"] == "ok"
            assert info["TimeLimit.truncated"] is False
            assert type(info["loss"]) is float
            assert not any(name.startswith(("_", "final")) for name in info)
        assert [info["evaluations"] for info in env.reset_infos] == [0] * 4


def test_a_search_that_is_cut_off_says_so() -> None:
    env = BatchVecEnv(planted(duplicates="free", budget=8))
    env.reset()
    for step in range(1, 21):
        _, _, ended, infos = env.step(np.zeros((4, 5), dtype=np.int64))
        assert ended.all() == (step == 20)
        assert infos[0]["TimeLimit.truncated"] is (step == 20)


def test_the_seed_is_used_once() -> None:
    env = BatchVecEnv(sync(Walk, "SameStep"))
    env.seed(7)
    first, second = env.reset()["place"].tolist(), env.reset()["place"].tolist()
    env.seed(7)
    assert env.reset()["place"].tolist() == first != second


@pytest.mark.parametrize("mode", MODES)
def test_its_observations_stay_as_they_were(mode: str) -> None:
    env = BatchVecEnv(planted(mode))
    env.reset()
    rng = np.random.default_rng(0)
    kept = [env.step(draw(env, rng)) for _ in range(4)]
    copied = [
        [info.get("terminal_observation", {}).get("last", np.zeros(0)).tolist() for info in one[3]] for one in kept
    ]
    env.step(draw(env, rng))
    env.step(draw(env, rng))
    again = [
        [info.get("terminal_observation", {}).get("last", np.zeros(0)).tolist() for info in one[3]] for one in kept
    ]
    assert copied == again


def test_infos_are_split() -> None:
    infos = {
        "loss": np.array([0.5, 0.0]),
        "_loss": np.array([True, False]),
        "curve": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "late": {"round": np.array([3, 4]), "_round": np.array([True, True])},
        "_late": np.array([False, True]),
        "_private": np.array(["x", "y"], dtype=object),
    }
    one, other = split_infos(infos, 2)
    assert one.pop("curve").tolist() == [1.0, 2.0]
    assert one == {"loss": 0.5, "_private": "x"}
    assert other["late"] == {"round": 4}
    assert "loss" not in other


# Attributes and methods -----------------------------------------------------------------------------------------


def test_attributes_and_methods_of_sub_environments() -> None:
    env = BatchVecEnv(sync(lambda: Monitor(Walk()), "SameStep"))
    env.reset()
    assert env.get_attr("steps") == [0] * 4
    env.set_attr("steps", 5, indices=[1, 3])
    assert env.get_attr("steps") == [0, 5, 0, 5]
    assert env.get_attr("steps", indices=3) == [5]
    assert env.env_method("double", 4, indices=[0, 2]) == [8, 8]
    assert env.env_is_wrapped(Monitor) == [True] * 4
    assert not env.has_attr("action_masks")
    env.close()


def test_attributes_and_methods_of_other_processes() -> None:
    env = BatchVecEnv(AsyncVectorEnv([Walk] * 2, context="fork", autoreset_mode=AutoresetMode.SAME_STEP))
    try:
        env.reset()
        env.set_attr("steps", 5)
        assert env.get_attr("steps", indices=1) == [5]
        assert env.env_method("double", 4) == [8, 8]
        assert env.env_is_wrapped(Monitor) == [False] * 2
        with pytest.raises(KDNASError, match=r"indices are \[1\]; this environment only supports all 2 sub"):
            env.set_attr("steps", 6, indices=1)
    finally:
        env.close()


def test_seats_share_attributes_and_methods() -> None:
    env = BatchVecEnv(planted(render_mode="rgb_array"))
    env.reset()
    assert env.get_attr("round_size") == [4] * 4
    assert env.has_attr("history")
    assert not env.has_attr("action_masks")
    env.set_attr("marked", True)
    assert env.env_method("__repr__") == [repr(env.env)] * 4
    assert env.get_attr("marked", indices=[0]) == [True]
    with pytest.raises(KDNASError, match="sub-environments together"):
        env.env_method("close", indices=0)
    env.step(np.zeros((4, 5), dtype=np.int64))
    assert env.render_mode == "rgb_array"
    assert [image is not None and image.dtype for image in env.get_images()] == [np.uint8] * 4


# Training -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_algorithm_learns_on_it() -> None:
    """A policy that is not trained earns 0.43 a candidate; the best candidate 0.49."""

    def earned(model: PPO) -> float:
        rewards: list[float] = []
        env: Any = model.get_env()
        observations = env.reset()
        for _ in range(10):
            actions, _ = model.predict(observations)
            observations, step, *_ = env.step(actions)
            rewards.extend(step)
        return float(np.mean(rewards))

    env = VecMonitor(BatchVecEnv(gym.make_vec("kdnas/Planted-v0", num_envs=8, budget=64)))
    model = PPO("MultiInputPolicy", env, n_steps=4, batch_size=32, gamma=0.0, learning_rate=6e-3, seed=0, device="cpu")
    before = earned(model)
    model.learn(800)
    assert model.num_timesteps == 800
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) == 800 // 64 * 8
    assert before < 0.45
    assert earned(model) > 0.47


def test_masks_reach_an_algorithm() -> None:
    made: list[SequentialChoice] = []

    def make() -> SequentialChoice:
        made.append(SequentialChoice(gym.make("kdnas/Planted-v0", budget=4)))
        return made[-1]

    env = BatchVecEnv(sync(make, "SameStep", 2))
    model = MaskablePPO("MultiInputPolicy", env, n_steps=20, batch_size=20, gamma=1.0, seed=0, device="cpu")
    model.learn(80)
    assert sum(one.get_wrapper_attr("history").evaluations for one in made) == 0  # both have ended two searches
    assert model.num_timesteps == 80


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
def test_a_policy_can_be_evaluated_on_it() -> None:
    env = BatchVecEnv(planted())
    model = PPO("MultiInputPolicy", env, n_steps=2, batch_size=4, seed=0, device="cpu")
    mean: Any = evaluate_policy(model, env, n_eval_episodes=4)[0]
    assert 2 * 0.2 < mean < 2 * 0.5


# Bad input ------------------------------------------------------------------------------------------------------


def test_single_environments_are_refused() -> None:
    with pytest.raises(KDNASError, match=r"expected a vector environment of Gymnasium, such as gym.make_vec returns"):
        BatchVecEnv(Walk())  # type: ignore[arg-type]


def test_an_environment_has_to_say_how_it_resets() -> None:
    env = planted()
    env.metadata = {}
    with pytest.raises(KDNASError, match="metadata has the autoreset_mode None; expected one of"):
        BatchVecEnv(env)


def test_ends_that_cannot_be_reset_alone_are_refused() -> None:
    env = BatchVecEnv(sync(Walk, "NextStep"))
    env.reset()
    with pytest.raises(KDNASError, match=r"of 4 ended before the others, .* make the environment with SameStep"):  # noqa: PT012
        for _ in range(20):
            env.step(np.zeros(4, dtype=np.int64))


def test_options_are_the_same_for_all() -> None:
    env = BatchVecEnv(planted())
    env.set_options([{"budget": 4}, {}, {}, {}])
    with pytest.raises(KDNASError, match=r"options are .*; a vector environment needs the same options"):
        env.reset()


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from kdnas_env.errors import DependencyError\n"
        "try:\n    import kdnas_env.agents.sb3.vec_env\n"
        "except DependencyError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "BatchVecEnv needs Stable-Baselines3" in said
    assert "pip install 'kdnas[sb3]'" in said
