"""Unexpected actions, options and arguments of environments, vector environments and wrappers.

Besides ``KDNASError``, two errors of Gymnasium are documented: ``ResetNeeded`` if no episode is running, and ``Error``
for an invalid seed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fuzzing import BATCH, ODD, fuzz, survive
from gymnasium.error import Error, ResetNeeded

import kdnas_env  # noqa: F401
from kdnas_env.wrappers import (
    ActionMasks,
    FlatDiscrete,
    ImprovementReward,
    LinearReward,
    LocalMoves,
    MultiFidelity,
    MultiObjectiveReward,
    SequentialChoice,
)

SPACE = {"num_hidden_layers": [3, 6], "num_attention_heads": [4, 5, 12], "hidden_act": ["gelu", "relu"]}

WRAPPERS: tuple[Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]], ...] = (
    ActionMasks,
    FlatDiscrete,
    SequentialChoice,
    LocalMoves,
    MultiFidelity,
    lambda env: SequentialChoice(ImprovementReward(env)),
    lambda env: LinearReward(MultiObjectiveReward(env), [1, 2]),
)


class Odd:
    """An object that raises an error on comparison, conversion to an array, and ``len``."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise self._error("no")

    def __len__(self) -> int:
        raise self._error("no")

    def __eq__(self, other: object) -> bool:
        raise self._error("no")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Odd({self._error.__name__})"


OBJECTS = (*ODD, Odd(TypeError), Odd(RuntimeError), Odd(KeyError), {1, 2}, range(3), b"abc", object(), 1j, ..., len)

NUMBERS = (*range(-3, 8), 0.5, 255, 2.0**31, 2.0**63, 1e300, np.inf, np.nan)
WHOLE = ("i1", "u1", "i2", ">i4", "u4", "i8", "u8")
DTYPES = (*WHOLE, "?", "f2", "f4", ">f8", "c16", "M8[s]", "m8[ns]", "U3", "S2", "i8,f4", "O")


def odd_action(rng: Random, shape: tuple[int, ...] = (3,)) -> Any:
    """Return an array of this shape or another one, or any other object."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.choice(OBJECTS)
    if kind == 1:
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]
    if kind == 2:
        return np.array(rng.choices(range(-1, 4), k=math.prod(shape))).reshape(shape).astype(rng.choice(WHOLE))
    if rng.random() < 0.5:
        shape = tuple(rng.randrange(5) for _ in range(rng.randrange(4)))
    if kind == 3:
        with np.errstate(all="ignore"):
            return np.array(rng.choices(NUMBERS, k=math.prod(shape))).reshape(shape).astype(rng.choice(DTYPES))
    objects = np.empty(math.prod(shape), dtype=np.object_)
    for place in range(len(objects)):
        objects[place] = rng.choice(OBJECTS)
    return objects.reshape(shape)


def make(**given: Any) -> gym.Env[Any, Any]:
    return gym.make("kdnas/Planted-v0", disable_env_checker=True, space=SPACE, **{"budget": 50, **given})


def step(env: Any, action: Any) -> None:
    """Take a step; reset the environment if needed."""
    try:
        env.step(action)
    except ResetNeeded:
        env.reset(seed=0)


@fuzz("actions")
def test_actions(rng: Random) -> None:
    env = make()
    for _ in range(BATCH):
        survive(step, env, odd_action(rng))
    env.reset(seed=0)
    env.step(env.action_space.sample())


@pytest.mark.parametrize("dtype", WHOLE)
def test_what_is_a_whole_number_is_an_action_however_wide(dtype: str) -> None:
    env = make()
    env.reset(seed=0)
    assert env.step(np.array([1, 0, 1]).astype(dtype))[4]["index"] == 7


@fuzz("vector actions")
def test_actions_of_vector_environments(rng: Random) -> None:
    env = gym.make_vec("kdnas/Planted-v0", 2, vectorization_mode="vector_entry_point", space=SPACE, budget=40)
    for _ in range(BATCH):
        survive(step, env, odd_action(rng, (2, 3)))
    env.reset(seed=0)
    assert env.step(np.array([[0, 0, 0], [1, 0, 1]]))[0]["last"].tolist() == [[1, 1, 1], [2, 1, 2]]


@fuzz("wrapped actions")
def test_actions_of_wrapped_environments(rng: Random) -> None:
    env = rng.choice(WRAPPERS)(make(budget_unit="epochs", epochs=4))
    for _ in range(BATCH):
        survive(step, env, odd_action(rng, env.action_space.shape or ()))
    env.reset(seed=0)
    env.step(env.action_space.sample())


@fuzz("options")
def test_options_of_reset(rng: Random) -> None:
    scalar = make()
    vector = gym.make_vec("kdnas/Planted-v0", 2, vectorization_mode="vector_entry_point", space=SPACE, budget=40)
    for _ in range(BATCH // 2):
        for reader, env in (("scalar", scalar), ("vector", vector)):
            name = rng.choice(("budget", "reset_mask", "x", "", 3, None))
            options = rng.choice(({name: rng.choice(OBJECTS)}, {name: rng.choice(OBJECTS)}, rng.choice(OBJECTS)))
            survive(_reset, env, rng.choice((None, None, 0, *ODD)), options, reader=reader)


@fuzz("arguments of environments", batch=10)
def test_arguments(rng: Random) -> None:
    names = (
        "epochs",
        "noise",
        "failures",
        "budget",
        "budget_unit",
        "round_size",
        "alpha",
        "beta",
        "duplicates",
        "seed",
    )
    for _ in range(10):
        survive(_made, rng.choice(names), rng.choice(ODD))


def test_seeds_and_ends_are_documented() -> None:
    env = make()
    with pytest.raises(ResetNeeded):
        env.unwrapped.__class__.step(make().unwrapped, np.zeros(3, dtype=np.int64))
    with pytest.raises(Error, match="Seed"):
        env.reset(seed=-1)


def _reset(env: Any, seed: Any, options: Any) -> None:
    try:
        env.reset(seed=seed, options=options)
    except Error:
        assert not isinstance(seed, int) or seed < 0


def _made(name: str, value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = make(**{name: value})
        env.reset(seed=0)
        env.step(env.action_space.sample())
