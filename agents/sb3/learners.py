"""Learners: Stable-Baselines3 algorithms that train on candidates which were evaluated elsewhere.

An algorithm of Stable-Baselines3 collects experience from an environment, then trains on it. A learner replaces the
collection: it samples candidates from the policy and writes their rewards to the algorithm's buffer when they are
known. Networks, buffers, losses and updates are those of Stable-Baselines3.
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

from kdnas_env.agents.ranking import Ranking
from kdnas_env.agents.sb3.episodes import (
    Episodes,
    SpacesEnv,
    close,
    closed_points,
)
from kdnas_env.core.grid import Grid, Seen
from kdnas_env.support.arrays import Ints
from kdnas_env.support.cpu_lock import pinned_threads

_logger = logging.getLogger(__name__)


class Learner(ABC):
    """An algorithm whose policy proposes candidates and learns from their rewards.

    Args:
        algorithm: Class of the algorithm.
        grid: The allowed points.
        update_every: Evaluations between updates.
        arguments: Keyword arguments of the algorithm.
        device: Device of the networks.
        tensorboard_log: Folder for a new TensorBoard run; None to log nothing.
        rng: Source of randomness for the initial weights.

    Attributes:
        model: The algorithm, a ``stable_baselines3.common.base_class.BaseAlgorithm``.
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
        self._taken = 0  # number of taken points that are in the closed points
        with seeded_globals(rng, self._device):
            # Any, because the base class of the algorithms lacks the attributes that are used here.
            self.model: Any = algorithm(
                self.policy_name,
                SpacesEnv(self._episodes),
                **{"gamma": 1.0, "device": device, **self._sizes(algorithm), **arguments},
            )
        # Without a folder, Stable-Baselines3 would create a temporary folder for each search and not delete it.
        silent = tensorboard_log is None
        self.model.set_logger(Logger(None, []) if silent else configure_logger(0, tensorboard_log, algorithm.__name__))

    def sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        """Sample distinct new candidates from the policy.

        Args:
            n: Maximum number of candidates.
            taken: Flat indices of the points that are evaluated or pending.
            progress: Spent fraction of the budget, in [0, 1].
            rng: Source of randomness.

        Returns:
            int64 of shape ``(m, dims)``; m is less than n if the policy finds fewer new candidates.
        """
        self.model.policy.set_training_mode(False)
        with seeded_globals(rng, self._device), pinned_threads(1), torch.no_grad():
            return self._sample(n, taken, progress, rng)

    def learn(self, ranking: Ranking, rng: np.random.Generator) -> None:
        """Train if there are enough new evaluations.

        Args:
            ranking: The search so far. Each call must have one more round than the call before.
            rng: Source of randomness.
        """
        if ranking.evaluations - self._used < self._update_every or ranking.global_best is None:
            return
        with seeded_globals(rng, self._device), pinned_threads(1):
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
        """Return consistent arguments for the sizes of buffer and batches; each update replaces both."""

    @abstractmethod
    def _sample(self, n: int, taken: Seen, progress: float, rng: np.random.Generator) -> Ints:
        """Implement :meth:`sample`; the global random generators are seeded."""

    @abstractmethod
    def _train(self, ranking: Ranking) -> bool:
        """Train; the global random generators are seeded. Return False to wait for more evaluations."""

    def _closed_by(self, taken: Seen) -> list[int]:
        """Return :func:`closed_points`, updated with the points taken since the last call."""
        new = [*islice(reversed(taken), len(taken) - self._taken)]
        close(self._closed, closed_points(self._grid, new))
        self._taken = len(taken)
        return self._closed

    def _observed(self, actions: Ints, step: int) -> Tensor:
        return torch.as_tensor(self._episodes.observe(actions, step), device=self._device)

    def _chosen(self, actions: Ints, step: int) -> Tensor:
        return torch.as_tensor(self._episodes.chosen(actions, step), device=self._device)


@contextmanager
def undone_if_diverged(model: Any) -> Iterator[None]:
    """Undo the update inside the block if it leaves non-finite weights, so that the search can continue."""
    policy = model.policy
    before = deepcopy(policy.state_dict()), deepcopy(policy.optimizer.state_dict())

    def is_finite() -> bool:
        return all(bool(weights.isfinite().all()) for weights in policy.parameters())

    try:
        yield
    except ZeroDivisionError:  # TRPO divides by the curvature along its step, which is 0 for a deterministic policy
        pass
    except ValueError:  # raised by a distribution with NaN parameters
        if is_finite():
            raise
    if not is_finite():
        policy.load_state_dict(before[0])
        policy.optimizer.load_state_dict(before[1])
        name = type(model).__name__
        _logger.warning("an update of %s was undone, because its weights diverged; lower the learning rate", name)


def with_activation(policy_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a policy in which the name of the activation function is replaced by its class.

    Raises:
        AttributeError: If ``torch.nn`` has no class of that name.
    """
    names = {name: getattr(torch.nn, str(value)) for name, value in policy_kwargs.items() if name == "activation_fn"}
    return {**policy_kwargs, **names}


@contextmanager
def seeded_globals(rng: np.random.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global random generators inside the block, and restore their states afterwards.

    Stable-Baselines3 draws from the global generators of PyTorch and NumPy.
    """
    on_device = device.type == "cuda"
    seed = int(rng.integers(2**32))
    numpy_state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[device] if on_device else []):
        try:
            np.random.seed(seed)  # noqa: NPY002
            # Not torch.manual_seed, which also seeds all other devices.
            torch.default_generator.manual_seed(seed)
            if on_device:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
