"""Shared code of the wrappers: the grid of actions, checked actions, extended observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kdnas_env.core.grid import Grid
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.support.env_attributes import env_attribute
from kdnas_env.support.untrusted import as_array, is_whole, shown

Step = tuple[Any, Any, bool, bool, dict[str, Any]]


def action_grid(env: gym.Env[Any, Any]) -> Grid:
    """Return the grid of an environment's actions; only points in ``valid_action_indices``, if any, are allowed.

    Raises:
        KDNASError: If the actions are not a one-dimensional ``MultiDiscrete`` that starts at 0, or the allowed points
            are not numbers of its points.
    """
    space = env.action_space
    if not isinstance(space, spaces.MultiDiscrete) or space.nvec.ndim != 1 or np.any(space.start):
        raise KDNASError(
            f"the action space is {space}; expected a one-dimensional MultiDiscrete that starts at 0. Apply the "
            "wrapper before those that change the action"
        )
    return Grid.of(space.nvec, env_attribute(env, "valid_action_indices"))


def failure_reward(env: gym.Env[Any, Any]) -> float | None:
    """Return the reward of a failure in an environment, or None if it declares none."""
    failure = getattr(env_attribute(env, "reward_function"), "failure", None)
    return None if failure is None else float(failure)


def wrapped_identity(wrapper: gym.Wrapper[Any, Any, Any, Any], **settings: Any) -> dict[str, Any] | None:
    """Return the ``identity`` of an environment under a wrapper that changes its rewards or actions.

    Args:
        wrapper: The wrapper.
        settings: Settings of the wrapper, as plain data.

    Returns:
        Plain data; None if the wrapped environment has no identity.
    """
    identity = env_attribute(wrapper.env, "identity")
    if identity is None:
        return None
    return {**identity, "wrappers": {**identity.get("wrappers", {}), type(wrapper).__name__: settings}}


def checked_choice(action: object, count: int) -> int:
    """Return a ``Discrete(count)`` action as int.

    Raises:
        SpaceError: If it is not a whole number from 0 to ``count - 1``.
    """
    array = as_array(action)
    if array.shape != () or not is_whole(array) or not 0 <= array < count:
        raise SpaceError(f"action is {shown(action)}; expected a whole number from 0 to {count - 1}")
    return int(array)


def extended_space(space: spaces.Space[Any], extra: Mapping[str, spaces.Space[Any]]) -> spaces.Dict:
    """Return an observation space with more keys; one that is not a ``Dict`` goes under ``observation``.

    Raises:
        KDNASError: If the space has one of the keys already.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
    clash = sorted(parts.keys() & extra.keys())
    if clash:
        raise KDNASError(f"the observation already has the key(s) {clash}; apply the wrapper once, or rename them")
    return spaces.Dict({**parts, **extra})


def extended_observation(observation: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return an observation of :func:`extended_space`."""
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    return {**parts, **extra}
