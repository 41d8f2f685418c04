"""Odd actions, options and arguments of environments, vector environments and wrappers.

Beside what kdnas raises, Gymnasium's ``ResetNeeded`` is documented where no episode is running, and its ``Error`` where
a seed is none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fuzzing import BATCH, ODD, fuzz, survive, tries
from gymnasium.error import Error, ResetNeeded
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

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
    """Answers every question with an error."""

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

shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
kinds = arrays.scalar_dtypes() | st.just(np.dtype("i8,f4"))
objects = st.sampled_from(OBJECTS)
anything = arrays.arrays(kinds, shapes) | arrays.arrays(np.dtype("O"), shapes, elements=objects) | objects
small = st.integers(-3, 7)
actions = (
    anything
    | arrays.arrays(arrays.integer_dtypes(), shapes, elements=small)
    | st.lists(small | st.floats(), max_size=5)
)
widths = st.sampled_from(
    [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64, np.dtype(">i4"), np.bool_, np.float32]
)


def make(**given: Any) -> gym.Env[Any, Any]:
    return gym.make("kdnas/Planted-v0", disable_env_checker=True, space=SPACE, **{"budget": 50, **given})


def step(env: Any, action: Any) -> None:
    """Take a step; begin anew if there is need."""
    try:
        env.step(action)
    except ResetNeeded:
        env.reset(seed=0)


@pytest.mark.slow
@tries("actions", batch=10)
@given(st.lists(actions, min_size=10, max_size=10), widths)
def test_actions(given: list[Any], width: Any) -> None:
    env = make()
    for action in given:
        survive(step, env, action)
    # What is a whole number is an action, however wide.
    env.reset(seed=0)
    action = np.array([1, 0, 1]).astype(width)
    if np.dtype(width).kind in "iu":
        assert env.step(action)[4]["index"] == 7
    else:
        survive(step, env, action)


@tries("vector actions", batch=10)
@given(st.lists(actions | arrays.arrays(arrays.integer_dtypes(), (2, 3), elements=small), min_size=10, max_size=10))
def test_actions_of_vector_environments(given: list[Any]) -> None:
    env = gym.make_vec("kdnas/Planted-v0", 2, vectorization_mode="vector_entry_point", space=SPACE, budget=40)
    for action in given:
        survive(step, env, action)
    env.reset(seed=0)
    assert env.step(np.array([[0, 0, 0], [1, 0, 1]]))[0]["last"].tolist() == [[1, 1, 1], [2, 1, 2]]


@tries("wrapped actions", batch=10)
@given(st.sampled_from(WRAPPERS), st.lists(actions, min_size=10, max_size=10))
def test_actions_of_wrapped_environments(wrap: Callable[[Any], Any], given: list[Any]) -> None:
    env = wrap(make(budget_unit="epochs", epochs=4))
    for action in given:
        survive(step, env, action)
    env.reset(seed=0)
    env.step(env.action_space.sample())


@fuzz("options")
def test_options_of_reset(rng: Random) -> None:
    scalar = make()
    vector = gym.make_vec("kdnas/Planted-v0", 2, vectorization_mode="vector_entry_point", space=SPACE, budget=40)
    for _ in range(BATCH // 2):
        for env in (scalar, vector):
            name = rng.choice(("budget", "reset_mask", "x", "", 3, None))
            options = rng.choice(({name: rng.choice(OBJECTS)}, {name: rng.choice(OBJECTS)}, rng.choice(OBJECTS)))
            survive(_reset, env, rng.choice((None, None, 0, *ODD)), options)


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
