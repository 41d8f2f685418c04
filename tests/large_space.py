"""A planted landscape of 36,720 points, too large for random search."""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from scipy.stats import wilcoxon

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.base import Agent
from kdnas_env.agents.classic.random import RandomAgent

LARGE_SPACE: dict[str, list[Any]] = {
    "num_hidden_layers": list(range(1, 13)),
    "num_attention_heads": [1, 2, 3, 4, 6, 12],
    "hidden_size": list(range(120, 769, 72)),
    "intermediate_size": list(range(128, 3073, 184)),
    "hidden_act": ["gelu", "relu", "silu"],
}
BUDGET = 200
SEEDS = range(8)


def chance_of_luck(agent: Agent[Any]) -> float:
    """Return the p-value of "finds no more than random search", paired over seeds (Wilcoxon's signed ranks)."""
    return float(wilcoxon(best_rewards(agent), by_chance(), alternative="greater", zero_method="zsplit").pvalue)


def best_rewards(agent: Agent[Any]) -> np.ndarray:
    """Return the best reward of one search per seed."""
    return np.array([agent.search(environment(), seed=seed).best_reward for seed in SEEDS])


@cache
def by_chance() -> np.ndarray:
    """Return the best rewards of random search."""
    return best_rewards(RandomAgent())


@cache
def environment() -> gym.Env:
    """Return the environment; it is made once, because listing the space takes some tenths of a second."""
    return gym.make("kdnas/Planted-v0", space=LARGE_SPACE, budget=BUDGET)
