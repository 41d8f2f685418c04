"""How agents use an environment: its action space, budget and round size, and a round of evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.checks import check_whole
from kdnas_env.support.env_attributes import Environment as Environment
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.support.untrusted import is_integer, shown

Info = Mapping[str, Any]
Tell = Callable[[Ints, npt.ArrayLike, Sequence[Info]], None]

DEFAULT_ROUND_SIZE = 8
"""Default number of candidates per round."""


def action_counts(env: Environment) -> Ints:
    """Return the choices per dimension of an environment's actions, int64 of shape ``(dims,)``.

    Raises:
        KDNASError: If the actions are not a one-dimensional ``MultiDiscrete`` that starts at 0.
    """
    space = env.single_action_space if isinstance(env, gym.vector.VectorEnv) else getattr(env, "action_space", None)
    if not isinstance(space, spaces.MultiDiscrete) or space.nvec.ndim != 1 or np.any(space.start):
        raise KDNASError(
            f"the action space is {space}; expected a one-dimensional MultiDiscrete that starts at 0. Wrap the "
            "environment with an action wrapper that offers one"
        )
    return space.nvec.astype(np.int64)


def check_scalar(reward: Any) -> None:
    """Check that a reward is a scalar.

    Raises:
        KDNASError: If it is a vector.
    """
    if getattr(reward, "ndim", 0) or isinstance(reward, Sequence):
        raise KDNASError(
            f"the reward is {shown(reward)}; expected a number. Wrap the environment with LinearReward, which weights "
            "the parts of a vector"
        )


def is_usable(info: Info) -> bool:
    """Return whether an evaluation succeeded and broke no limit, according to its info."""
    return bool(info.get("status", "ok") == "ok" and not info.get("cost", 0) > 0)


def is_free(info: Info) -> bool:
    """Return whether an evaluation broke a limit and was not charged to the budget, according to its info."""
    return info.get("status") == "infeasible" and not info.get("counted", True)


def checked_answers(count: int, rewards: npt.ArrayLike, infos: Sequence[Info] | None) -> tuple[Floats, Sequence[Info]]:
    """Check the rewards and infos of some candidates, and return them.

    Args:
        count: Number of candidates.
        rewards: Rewards, shape ``(count,)``.
        infos: The environment's info for each candidate; None for empty ones.

    Returns:
        Rewards, float64 of shape ``(count,)``, and infos.

    Raises:
        KDNASError: If ``count`` is 0, or there is not one number and one mapping per candidate.
    """
    try:
        earned = np.asarray(rewards, dtype=np.float64)
        infos = [{} for _ in range(count)] if infos is None else list(infos)
    except (TypeError, ValueError, OverflowError) as error:
        raise KDNASError(f"rewards or infos are malformed: {error}; expected a number and a mapping each") from error
    if earned.ndim == 2 and len(earned) and earned.shape[1] > 1:
        check_scalar(earned[0])
    if not all(isinstance(info, Mapping) for info in infos):
        raise KDNASError("an info is not a mapping; expected the info that the environment returned for each candidate")
    if not count or earned.shape != (count,) or len(infos) != count:
        raise KDNASError(
            f"received {count} action(s), rewards of shape {earned.shape} and {len(infos)} info(s); expected the same "
            "number of each, at least one"
        )
    return earned, infos


def split_infos(infos: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Split the infos of a vector environment into one info per environment.

    Args:
        infos: Arrays with one entry per environment, or mappings of such arrays; the key with a leading ``_`` holds the
            mask of environments that have the entry.
        count: Number of environments.

    Returns:
        One info per environment, with Python numbers.
    """
    split: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue
        entries = split_infos(values, count) if isinstance(values, Mapping) else values
        present = infos.get(f"_{name}", np.ones(count, dtype=np.bool_))
        for position in np.flatnonzero(present):
            entry = entries[position]
            split[position][name] = entry.item() if isinstance(entry, np.generic) else deepcopy(entry)
    return split


def prefetch(env: gym.Env[Any, Any], actions: Ints) -> None:
    """Announce the next actions to an environment, if it supports that and no wrapper changes actions.

    Args:
        env: The environment; if it evaluates several actions at once, it has a method ``prefetch(actions)``.
        actions: The actions, int64 of shape ``(n, dims)``.
    """
    inner: gym.Env[Any, Any] = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.ActionWrapper):
            return
        inner = inner.env
    method = getattr(inner, "prefetch", None)
    if callable(method) and inner.action_space == env.action_space:
        method(actions.copy())


def evaluate_round(env: Environment, actions: Ints, tell: Tell) -> bool:
    """Evaluate a round of candidates and tell their rewards; return whether the episode ended.

    A vector environment evaluates the round in one step. Otherwise each candidate takes a step; if one raises, or ends
    the episode, the finished ones are told.

    Args:
        env: A running environment.
        actions: The candidates, int64 of shape ``(n, dims)``; n is ``num_envs`` of a vector environment.
        tell: Receives the evaluated actions, their rewards and their infos.

    Raises:
        KDNASError: If a reward is not a number.
    """
    if isinstance(env, gym.vector.VectorEnv):
        _, batch, terminations, truncations, answers = env.step(actions.copy())
        ended = bool(np.any(terminations) or np.any(truncations))
        tell(actions, batch, split_infos(answers.get("final_info", answers) if ended else answers, len(actions)))
        return ended
    rewards: list[float] = []
    infos: list[Info] = []
    prefetch(env, actions)
    try:
        for action in actions:
            _, reward, terminated, truncated, info = env.step(action.copy())
            check_scalar(reward)
            rewards.append(float(reward))
            infos.append(dict(info))
            if terminated or truncated:
                return True
        return False
    finally:
        if rewards:
            tell(actions[: len(infos)], rewards[: len(infos)], infos)


def evaluation_limit(env: Environment, budget: int | None) -> int:
    """Return the number of evaluations of a search: the environment's limit, but at most ``budget``.

    Raises:
        KDNASError: If neither is given.
    """
    allowed = env_number(env, "max_evaluations") or env_number(env, "budget")
    limits = [check_whole("budget", limit, at_least=1) for limit in (budget, allowed) if limit is not None]
    if not limits:
        raise KDNASError("the environment has no attribute 'budget'; pass budget=, the evaluations to spend")
    return min(limits)


def env_number(env: Environment, name: str) -> int | None:
    """Return an attribute of an environment through all wrappers if it is an integer, else None."""
    value = env_attribute(env, name)
    return int(value) if is_integer(value) else None


def round_size_of(env: Environment, wanted: int | None) -> int:
    """Return the candidates per round: ``wanted``, else the environment's number, else the default.

    Raises:
        KDNASError: If ``wanted`` differs from ``num_envs`` of a vector environment.
    """
    if isinstance(env, gym.vector.VectorEnv):
        if wanted not in (None, env.num_envs):
            raise KDNASError(
                f"round_size is {wanted!r}, but a round of a vector environment is one step of its {env.num_envs} "
                "sub-environments"
            )
        return env.num_envs
    size = env_number(env, "round_size") if wanted is None else wanted
    return DEFAULT_ROUND_SIZE if size is None else size
