"""Conformance tests of environments; subclass them in your tests. Needs pytest.

    class TestMine(EnvironmentConformance):
        @pytest.fixture
        def make_env(self):
            return partial(gym.make, "my/Environment-v0")

Treat warnings as errors (``filterwarnings = ["error"]``), because the checkers of Gymnasium and Stable-Baselines3
report some faults as warnings.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence

from kdnas_env.core.grid import Grid
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.testing.clauses import clause, global_states, shaken_generators

Env = gym.Env[Any, Any]
MakeEnv = Callable[..., Env]


class EnvironmentConformance:
    """The contract of an architecture search as an environment, clause by clause.

    A step evaluates one candidate; an episode is one search of ``budget`` evaluations. A subclass provides the fixture
    ``make_env`` and may set the class attributes.

    Attributes:
        BUDGET: Evaluations of an episode; ``make_env`` is called with ``budget=BUDGET``.
    """

    BUDGET = 6

    @pytest.fixture
    def make_env(self) -> MakeEnv:
        """A function that makes the environment from keyword arguments ``budget`` and ``render_mode``."""
        raise NotImplementedError("provide a fixture 'make_env'")

    @pytest.fixture
    def env(self, make_env: MakeEnv) -> Any:
        """A fresh environment."""
        env = make_env(budget=self.BUDGET)
        yield env
        env.close()

    def test_gymnasium_checker(self, env: Env) -> None:
        """Clause *gymnasium*: its checker finds no fault."""
        check_env(env.unwrapped)

    def test_stable_baselines3_checker(self, env: Env) -> None:
        """Clause *stable-baselines3*: its checker finds no fault."""
        checker = pytest.importorskip("stable_baselines3.common.env_checker")
        checker.check_env(env.unwrapped, skip_render_check=True)

    def test_equal_seeds(self, make_env: MakeEnv) -> None:
        """Clause *deterministic*, unless the specification says ``nondeterministic``."""
        one, other = make_env(budget=self.BUDGET), make_env(budget=self.BUDGET)
        if one.spec is not None and one.spec.nondeterministic:
            pytest.skip("the environment does not claim to be deterministic")
        same = data_equivalence(one.reset(seed=3), other.reset(seed=3), exact=True)
        clause("deterministic", same, "equal seeds give different first observations or infos")
        for action in _actions(one, self.BUDGET):
            same = data_equivalence(one.step(action), other.step(action), exact=True)
            clause("deterministic", same, f"equal steps {action} give different answers")
        one.close()
        other.close()

    def test_pickled_in_mid_search(self, env: Env) -> None:
        """Clause *pickle*: a pickled environment continues its search."""
        env.reset(seed=1)
        first, second = _actions(env, 2)
        env.step(first)
        copy = pickle.loads(pickle.dumps(env))
        ours, theirs = env.step(second), copy.step(second)
        if env.spec is not None and env.spec.nondeterministic:
            clause("pickle", ours[4]["evaluations"] == theirs[4]["evaluations"], "a pickled copy forgets its search")
        else:
            clause("pickle", data_equivalence(ours, theirs, exact=True), "a pickled copy continues differently")
        copy.close()

    def test_made_again_from_its_specification(self, env: Env) -> None:
        """Clause *spec*: the specification survives JSON and makes an equal environment."""
        if env.spec is None:
            pytest.skip("the environment was not made by gymnasium.make")
        spec = EnvSpec.from_json(env.spec.to_json())
        again = gym.make(spec)
        clause("spec", again.action_space == env.action_space, "made again, it has other actions")
        clause("spec", again.observation_space == env.observation_space, "made again, it has other observations")
        again.close()

    def test_render_modes(self, make_env: MakeEnv) -> None:
        """Clause *render*: each render mode returns a frame of its type."""
        for mode in make_env(budget=self.BUDGET).metadata["render_modes"]:
            env = make_env(budget=self.BUDGET, render_mode=mode)
            env.reset(seed=0)
            for action in [None, *_actions(env, 1)]:
                if action is not None:
                    env.step(action)
                frame: Any = env.render()
                if mode == "ansi":
                    clause("render", isinstance(frame, str) and bool(frame), f"mode 'ansi' returned {frame!r}")
                if mode == "rgb_array":
                    fits = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)
                    clause("render", fits, f"mode 'rgb_array' returned {type(frame).__name__}")
            env.close()

    def test_every_answer_is_in_its_space(self, env: Env) -> None:
        """Clause *answers*: answers are in their spaces, finite, and of constant types."""
        observation, info = env.reset(seed=2)
        kinds = {name: type(value) for name, value in info.items()}
        clause("answers", observation in env.observation_space, "the first observation is not in its space")
        for action in _actions(env, self.BUDGET):
            observation, reward, terminated, truncated, info = env.step(action)
            clause("answers", observation in env.observation_space, f"after {action}: observation not in its space")
            clause("answers", type(reward) is float and math.isfinite(reward), f"the reward is {reward!r}")
            plain = type(terminated) is type(truncated) is bool
            clause("answers", plain, f"terminated and truncated are {terminated!r} and {truncated!r}")
            now = {name: type(value) for name, value in info.items()}
            clause("answers", now == kinds, f"the info has other keys or types than that of reset: {now}, {kinds}")
            loose = [name for name, value in info.items() if isinstance(value, float) and not math.isfinite(value)]
            clause("answers", not loose, f"not finite in the info: {loose}")
            if terminated or truncated:
                break

    def test_the_budget(self, env: Env) -> None:
        """Clause *budget*: an episode ends exactly with the evaluation that spends the budget."""
        env.reset(seed=0)
        for place, action in enumerate(_actions(env, self.BUDGET), start=1):
            _, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            clause("budget", ended == (place == self.BUDGET), f"ended: {ended} after {place} of {self.BUDGET}")
        try:
            env.step(action)
        except ResetNeeded:
            return
        clause("budget", False, "a step after the end of the episode did not raise ResetNeeded")

    def test_actions_outside_the_space(self, env: Env) -> None:
        """Clause *actions*: an action outside the space raises ``ValueError`` and costs nothing."""
        with pytest.raises(ResetNeeded):
            env.unwrapped.step(_actions(env, 1)[0])
        env.reset(seed=0)
        space = env.action_space
        if not isinstance(space, spaces.MultiDiscrete):
            pytest.skip("the actions are not MultiDiscrete")
        for bad in (space.nvec, -np.ones_like(space.nvec), np.zeros(len(space.nvec)), np.zeros(1, dtype=np.int64)):
            try:
                env.step(bad)
            except ValueError:
                continue
            clause("actions", False, f"action {bad} is not in {space}, but was answered")
        info = env.step(_actions(env, 1)[0])[4]
        clause("actions", info.get("evaluations", 1) == 1, "refused actions were counted")

    def test_arrays_belong_to_the_caller(self, make_env: MakeEnv) -> None:
        """Clause *copies*: a caller may modify an answer without effect on later answers."""
        env, spoilt = make_env(budget=self.BUDGET), make_env(budget=self.BUDGET)
        if env.spec is not None and env.spec.nondeterministic:
            pytest.skip("the environment does not claim to be deterministic")
        env.reset(seed=0)
        spoilt.reset(seed=0)
        for action in _actions(env, 3):
            ours, theirs = env.step(action), spoilt.step(action)
            clause("copies", data_equivalence(ours, theirs, exact=True), "changing an answer changed the next one")
            for array in _arrays([theirs[0], theirs[4]]):
                array[...] = 0
        env.close()
        spoilt.close()

    def test_global_generators(self, env: Env) -> None:
        """Clause *generators*: the environment neither reads nor seeds global random generators."""
        with shaken_generators():
            before = global_states()
            env.reset(seed=0)
            env.step(_actions(env, 1)[0])
            clause("generators", global_states()[:2] == before[:2], "a global random generator was read or seeded")


def _actions(env: Env, count: int) -> list[Any]:
    """Draw different actions, from the valid ones if the environment lists them."""
    valid = env_attribute(env, "valid_action_indices")
    space = env.action_space
    if valid is not None and isinstance(space, spaces.MultiDiscrete):
        chosen = np.random.default_rng(7).permutation(valid)[:count]
        return [*Grid.of(space.nvec).actions(chosen)]
    space.seed(7)
    return [space.sample() for _ in range(count)]


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [array for part in parts for array in _arrays(part)]
