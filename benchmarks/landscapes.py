"""Landscapes of about 100,000 points that are answered in microseconds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.testing.bowl import BowlEnv

SPACE = {
    "num_hidden_layers": list(range(1, 13)),
    "num_attention_heads": [2, 4, 8, 12],
    "hidden_size": list(range(96, 769, 48))[:14],
    "intermediate_size": list(range(128, 3073, 64))[:50],
    "hidden_act": ["gelu", "relu", "silu"],
}
"""About 100,000 students."""

HILL_CHOICES = (10,) * 5
"""Choices per dimension of the hidden hill: 100,000 points."""

_HILL = 3
_HILL_RADIUS = 2


def hidden_hill(step: int, action: list[int]) -> tuple[float, dict[str, Any]]:
    """A broad hill, and far from it, on 3 % of the points, a higher one: who does not explore never sees it."""
    away = np.array(action) - _HILL
    if np.abs(away).max() <= _HILL_RADIUS:
        return 2.5 - 0.05 * float(np.sum(away**2)), {}
    return 1.0 - float(np.sum(((np.array(action) + 0.5) / 10 - 0.8) ** 2)), {}


@cache
def planted(budget: int) -> gym.Env[Any, Any]:
    """Return the planted landscape; listing the space takes some tenths of a second, so that it is made once."""
    return gym.make("kdnas/Planted-v0", space=SPACE, budget=budget)


def hill(budget: int) -> gym.Env[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the landscape of the hidden hill, whose best reward is 2.5."""
    return BowlEnv(HILL_CHOICES, hidden_hill)


LANDSCAPES: dict[str, Callable[[int], gym.Env[Any, Any]]] = {"planted": planted, "hidden-hill": hill}
"""Makers of environments by name; each takes the budget."""
