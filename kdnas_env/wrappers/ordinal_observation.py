"""Observations as a short vector instead of a dict of choices."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from kdnas_env.errors import KDNASError
from kdnas_env.support.arrays import Floats32


class OrdinalObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Return observations as a flat vector with one number per choice: its relative index.

    ## Description

    `FlattenObservation` of Gymnasium encodes every choice one-hot. With wide dimensions this is a long vector: 15,192
    numbers on `kdnas/Surrogate-v0`, compared with 67 here. The order of the choices is that of the space: ascending for
    layers, heads and sizes, and without meaning for categories such as activations.

    ## Action Space, Rewards, Episode End and Information

    As in the wrapped environment.

    ## Observation Space

    `Box(low, high, (n,), float32)`: the parts of a `Dict` in the order of its keys. A choice `i` of `MultiDiscrete` or
    `Discrete` becomes `(i - start) / (n - 1)` in [0, 1]; for `KDNASEnv`, 0 means "none yet" and 1 the last choice. A
    `Box` or `MultiBinary` is not changed.

    Raises:
        KDNASError: If the observation has a part of another type.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        bounds = [_bounds(part) for part in _parts(env.observation_space)]
        low, high = (np.concatenate(bound).astype(np.float32) for bound in zip(*bounds, strict=True))
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> Floats32:
        """Return an observation of the wrapped environment as a vector, float32 ``(n,)``."""
        return np.concatenate(_scaled(self.env.observation_space, observation), dtype=np.float32)


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """Return the spaces that a space consists of, in the order of their numbers."""
    if isinstance(space, spaces.Dict):
        return [part for subspace in space.values() for part in _parts(subspace)]
    return [space]


def _bounds(space: spaces.Space[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the minimum and the maximum of each number."""
    if isinstance(space, spaces.Box):
        return space.low.ravel(), space.high.ravel()
    if isinstance(space, spaces.MultiDiscrete | spaces.Discrete | spaces.MultiBinary):
        size = int(np.prod(space.shape or (1,)))
        return np.zeros(size), np.ones(size)
    raise KDNASError(
        f"the observation has the part {space}; expected a Dict of MultiDiscrete, Discrete, MultiBinary and Box"
    )


def _scaled(space: spaces.Space[Any], observation: Any) -> list[npt.NDArray[Any]]:
    """Return the numbers of an observation, part by part, each of shape ``(n,)``."""
    if isinstance(space, spaces.Dict):
        return [part for name, subspace in space.items() for part in _scaled(subspace, observation[name])]
    numbers = np.ravel(observation)
    if isinstance(space, spaces.MultiDiscrete):
        numbers = (numbers - space.start.ravel()) / np.maximum(space.nvec.ravel() - 1, 1)
    elif isinstance(space, spaces.Discrete):
        numbers = (numbers - space.start) / max(int(space.n) - 1, 1)
    return [numbers]
