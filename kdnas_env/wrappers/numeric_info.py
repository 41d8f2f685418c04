"""Infos without texts, for libraries that store infos as arrays or tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.core.evaluation import Status
from kdnas_env.wrappers.common import Step


class NumericInfo(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Return numbers in infos as NumPy scalars or arrays, and remove texts.

    ## Description

    Some libraries, such as TorchRL, copy infos into tensors. This fails for Python numbers, which have no `dtype`, and
    for texts (`config`, `status`, `error`). Apply this wrapper last, because other wrappers and the agents of this
    package read `status`. `NumericVectorInfo` does the same for vector environments.

    ## Action Space, Observation Space, Rewards and Episode End

    As in the wrapped environment.

    ## Information

    As in the wrapped environment, with the same keys in every step, but without texts. `status` is replaced by:

    | Key  | Type | Meaning                                                          |
    |------|------|------------------------------------------------------------------|
    | `ok` | bool | the evaluation succeeded; false if nothing was evaluated         |
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, numeric(info)

    def step(self, action: Any) -> Step:
        """Take a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, numeric(info)


class NumericVectorInfo(gym.vector.VectorWrapper):
    """Return numbers in infos of a vector environment as arrays, and remove texts; see `NumericInfo`.

    `final_info` of the autoreset mode `SameStep` is converted in the same way. Masks (keys with a leading `_`) are kept
    or removed together with their keys.
    """

    @property
    def autoreset_mode(self) -> Any:
        """The autoreset mode of the wrapped environment."""
        return self.metadata["autoreset_mode"]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the wrapped environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, numeric(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in all sub-environments."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        return observations, rewards, terminations, truncations, numeric(infos)


def numeric(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return an info, of one environment or of a vector, without texts; see :class:`NumericInfo`."""
    numbers: dict[str, Any] = {}
    for name, value in info.items():
        if name == "status":
            numbers["ok"] = (np.asarray(value) == str(Status.OK))[()]
        elif name == "_status":
            numbers["_ok"] = value
        elif isinstance(value, Mapping):
            numbers[name] = numeric(value)
        elif not _is_text(value) and not _is_text(info.get(name.removeprefix("_"))):
            numbers[name] = np.asarray(value)[()]
    return numbers


def _is_text(value: Any) -> bool:
    """Return whether a value is a text, or an array of texts."""
    if isinstance(value, np.ndarray) and value.dtype == object and value.size:
        value = value.flat[0]
    return isinstance(value, str)
