"""Algorithms of Stable-Baselines3 that learn from candidates which were evaluated elsewhere.

An algorithm of Stable-Baselines3 collects experience from an environment, then trains on it. This module replaces the
collection: it samples candidates from the policy and puts their rewards into the algorithm's buffer, however
and whenever they were evaluated. Networks, buffers, losses and updates are unchanged.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import configure_logger
from torch import Tensor

from kdnas_env.agents.ranking import Ints, Ranking
from kdnas_env.agents.sb3.episodes import (
    Episodes,
    SpacesEnv,
    close,
    closed_points,
)
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.support.cpu_lock import pinned_threads

_logger = logging.getLogger(__name__)


class Learner(ABC):
    """An algorithm with its policy, which proposes candidates and learns from their rewards.

    Args:
        algorithm: Class of the algorithm.
        grid: The allowed points.
        update_every: Evaluations between updates.
        arguments: Keyword arguments of the algorithm.
        device: Device of the networks.
        tensorboard_log: Folder of TensorBoard, in which a run is begun; None: nothing is logged.
        rng: Draws the initial weights.

    Attributes:
        model: The algorithm.
    """

    episodes_class: ClassVar[type[Episodes]]
    policy_name: ClassVar[str] = "MlpPolicy"

    def __init__(
        self,
        algorithm: type[BaseAlgorithm],
        grid: Grid,
        *,
        update_every: int,
        arguments: Mapping[str, Any],
        device: str,
        tensorboard_log: str | None,
        rng: np.random.Generator,
    ) -> None:
        self._grid = grid
        self._episodes = self.episodes_class(grid.nvec)
        self._update_every = update_every
        self._device = torch.device(device)
        self._used = 0
        self._closed: list[int] = []
        self._taken = 0  # how many numbers the closed points follow from
        with borrowed_generators(rng, self._device):
            # Any, since what is used of the algorithms is not part of their base class.
            self.model: Any = algorithm(
                self.policy_name,
                SpacesEnv(self._episodes),
                **{"gamma": 1.0, "device": device, **self._sizes(algorithm), **arguments},
            )
        # Without a folder Stable-Baselines3 makes one among the temporary files for every search, and leaves it there.
        silent = tensorboard_log is None
        self.model.set_logger(Logger(None, []) if silent else configure_logger(0, tensorboard_log, algorithm.__name__))

    def sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        """Return candidates that may be proposed and are not taken, each once.

        Args:
            n: How many at most.
            taken: Numbers of the points that were evaluated or are pending.
            progress: Share of the budget that is spent, in [0, 1].
            rng: The source of all randomness.

        Returns:
            int64 of shape ``(m, dims)``; m is less than n if the policy has nothing new to propose.
        """
        self.model.policy.set_training_mode(False)
        with borrowed_generators(rng, self._device), pinned_threads(1), torch.no_grad():
            return self._sample(n, taken, progress, rng)

    def learn(self, ranking: Ranking, rng: np.random.Generator) -> None:
        """Train on a ranking if enough of it is new.

        Args:
            ranking: The search up to now. Calls have to follow each other round by round.
            rng: The source of all randomness.
        """
        if ranking.evaluations - self._used < self._update_every or ranking.global_best is None:
            return
        with borrowed_generators(rng, self._device), pinned_threads(1):
            trained = self._train(ranking)
        if trained:
            self._log(ranking)
            self._used = ranking.evaluations

    def _log(self, ranking: Ranking) -> None:
        logger, earned = self.model.logger, ranking.rewards[self._used :][ranking.usable[self._used :]]
        if len(earned):
            logger.record("search/reward_mean", float(earned.mean()))
        if ranking.global_best is not None:
            logger.record("search/reward_best", ranking.global_best.reward)
        logger.dump(ranking.evaluations)

    @abstractmethod
    def _sizes(self, algorithm: type[BaseAlgorithm]) -> dict[str, int]:
        """Return sizes of the algorithm's buffer and batches that agree; both are replaced for each update."""

    @abstractmethod
    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        """Sample as :meth:`sample` has it, with the global generators seeded."""

    @abstractmethod
    def _train(self, ranking: Ranking) -> bool:
        """Train, with the global generators seeded; return False to wait for more evaluations."""

    def _closed_by(self, taken: Seen) -> list[int]:
        """Return what :func:`closed_points` does; only what was taken since the last call is sorted in."""
        new = [*islice(reversed(taken), len(taken) - self._taken)]
        close(self._closed, closed_points(self._grid, new))
        self._taken = len(taken)
        return self._closed

    def _observed(self, actions: Ints, step: int) -> Tensor:
        return torch.as_tensor(self._episodes.observe(actions, step), device=self._device)

    def _chosen(self, actions: Ints, step: int) -> Tensor:
        return torch.as_tensor(self._episodes.chosen(actions, step), device=self._device)


@contextmanager
def unbroken(model: Any) -> Iterator[None]:
    """Train in the block; an update that leaves weights which are not finite is undone, so that the search goes on."""
    policy = model.policy
    before = deepcopy(policy.state_dict()), deepcopy(policy.optimizer.state_dict())

    def whole() -> bool:
        return all(bool(weights.isfinite().all()) for weights in policy.parameters())

    try:
        yield
    except ZeroDivisionError:  # by the curvature along TRPO's step, which is 0 where the policy has become certain
        pass
    except ValueError:  # from a distribution over what is not a number
        if whole():
            raise
    if not whole():
        policy.load_state_dict(before[0])
        policy.optimizer.load_state_dict(before[1])
        name = type(model).__name__
        _logger.warning("an update of %s is undone, since its weights diverged; lower the learning rate", name)


def with_functions(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a policy with the activation function in the place of its name.

    Raises:
        AttributeError: If ``torch.nn`` has no such function.
    """
    names = {name: getattr(torch.nn, str(value)) for name, value in policy_kwargs.items() if name == "activation_fn"}
    return {**policy_kwargs, **names}


@contextmanager
def borrowed_generators(rng: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Seed the libraries' global random generators in the block, and restore their state afterwards."""
    on_device = device.type == "cuda"
    seed = int(rng.integers(2**32))
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if on_device else []):
        try:
            np.random.seed(seed)  # noqa: NPY002
            # Not torch.manual_seed, which seeds devices that are none of ours too.
            torch.default_generator.manual_seed(seed)
            if on_device:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
