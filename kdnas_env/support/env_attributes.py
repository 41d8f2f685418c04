"""Attributes of Gymnasium environments, through all wrappers; of a vector environment, those of the unwrapped one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

Environment = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]


def has_env_attribute(env: Environment, name: str) -> bool:
    """Return whether an environment has an attribute."""
    return hasattr(env.unwrapped, name) if isinstance(env, gym.vector.VectorEnv) else env.has_wrapper_attr(name)


def env_attribute(env: Environment, name: str) -> Any:
    """Return an attribute of an environment, or None if it has no such attribute."""
    if isinstance(env, gym.vector.VectorEnv):
        return getattr(env.unwrapped, name, None)
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def set_env_attribute(env: Environment, name: str, value: Any) -> None:
    """Set an attribute where the environment has it."""
    if isinstance(env, gym.vector.VectorEnv):
        setattr(env.unwrapped, name, value)
    else:
        env.set_wrapper_attr(name, value)
