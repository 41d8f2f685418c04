"""Training of a policy by PPO over recorded tasks, with Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from kdnas_env.agents.sb3.learners import seeded_globals
from kdnas_env.agents.training import UnfinishedTraining, half_cosine, moving_average
from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.agents.transfer.history import RecordedSearchEnv
from kdnas_env.support.cpu_lock import pinned_threads

OnUpdate = Callable[[int, int, float], object]
"""Called with the finished updates, all updates, and the mean gap of the last searches."""

SEARCHES = 16
"""Parallel searches."""

EVALUATIONS = 25
"""Evaluations of a search in the training."""

LEARNING_RATE = 1e-3
"""Peak learning rate; it falls to 0 as a half cosine."""

_SAVED_EVERY = 10
_POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "RecurrentPPO": ("MlpLstmPolicy", {"lstm_hidden_size": 64, "net_arch": [64]}),
    "MaskablePPO": ("MlpPolicy", {"net_arch": [64, 64]}),
}


def untrained(algorithm: str, env: RecordedSearchEnv, *, seed: int, searches: int = 1) -> Any:
    """Return an algorithm with random weights.

    Args:
        algorithm: ``RecurrentPPO`` or ``MaskablePPO``.
        env: Pattern of the environments of the training; the algorithm gets new ones of the same kind.
        seed: Seed of the weights.
        searches: Parallel searches.
    """
    policy, kwargs = _POLICIES[algorithm]
    steps = EVALUATIONS * env.steps
    envs = DummyVecEnv([partial(type(env), env.experience, env.evaluations) for _ in range(searches)])
    with seeded_globals(np.random.default_rng([seed, 0]), torch.device("cpu")):
        model = getattr(sb3_contrib, algorithm)(
            policy,
            envs,
            n_steps=steps,
            batch_size=max(2, steps * searches // 4),
            n_epochs=4,
            gamma=1.0,
            gae_lambda=0.95,
            ent_coef=0.01,
            policy_kwargs=kwargs,
            device="cpu",
        )
    model.set_logger(Logger(None, []))
    return model


def train(
    algorithm: str,
    recorded: Callable[[Experience, int], RecordedSearchEnv],
    experience: Experience,
    path: Path,
    *,
    steps: int,
    seed: int,
    on_update: OnUpdate,
    save: Callable[[Any], None],
) -> float:
    """Train a policy, or resume an interrupted training; equal calls give equal policies.

    Args:
        algorithm: ``RecurrentPPO`` or ``MaskablePPO``.
        recorded: Creates the environment of the training.
        experience: The tasks.
        path: File of the policy. Until the training ends, its state is in a file with the additional suffix
            ``.training``.
        steps: Evaluations of each parallel search, rounded up to whole searches.
        seed: Seed of weights, tasks and proposals.
        on_update: Called after every update.
        save: Called with the trained policy, before the state of the training is removed.

    Returns:
        Mean gap of the last searches, in standard deviations of the rewards.
    """
    with pinned_threads(1):
        model = untrained(algorithm, recorded(experience, EVALUATIONS), seed=seed, searches=SEARCHES)
        updates = math.ceil(steps / EVALUATIONS)
        identity = {"algorithm": algorithm, "updates": updates, "seed": seed, "tasks": experience.tasks.tobytes()}
        unfinished = UnfinishedTraining(path, identity, model.policy, model.policy.optimizer)
        done, average = unfinished.restore()
        for update in range(done, updates):
            rate = LEARNING_RATE * half_cosine(update, updates)
            gap = _update(model, np.random.default_rng([seed, 1, update]), rate)
            average = moving_average(average, gap, share=0.1)
            on_update(update + 1, updates, average)
            if (update + 1) % _SAVED_EVERY == 0:
                unfinished.save(update + 1, average)
        save(model.policy)
        unfinished.remove()
    return average


def _update(model: Any, rng: np.random.Generator, learning_rate: float) -> float:
    """Search ``SEARCHES`` tasks and train on the searches; return their mean gap."""
    gaps = _Gaps()
    model.lr_schedule = lambda _: learning_rate
    model.env.seed(int(rng.integers(2**31)))
    model._last_obs = None  # every update begins with new episodes
    with seeded_globals(rng, torch.device("cpu")):
        model.learn(model.n_steps * model.n_envs, callback=gaps, reset_num_timesteps=False)
    return float(np.mean(gaps.values))


class _Gaps(BaseCallback):
    """Collects the gaps of finished searches."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def _on_step(self) -> bool:
        self.values += [
            info["gap"] for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True) if done
        ]
        return True
