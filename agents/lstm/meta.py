"""The network of the meta-learnt controller, its Bayesian head, the scale of the rewards, and its file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kdnas_env.agents.lstm.ensemble import SCORED_TOGETHER, even_positions
from kdnas_env.agents.transfer.learnt_file import read_learnt, write_learnt
from kdnas_env.support.arrays import Ints

_NOISE_PRIOR = -1.5
"""Initial logarithm of the noise's deviation, in units of the task."""

_LEAST_NOISE = 0.02
"""Lower bound of the noise's deviation, in units of the task."""

_PRIOR_COUNT, _MOST_SURPRISE = 4.0, 5.0
"""Weight of the prior that a task is like the training tasks, in evaluations; and the upper bound of the surprise."""

_KIND = "meta controller"


class MetaController(nn.Module):
    """Predicts the rewards of candidates on a task before any is evaluated, and learns from evaluations in closed form.

    An LSTM reads the task's features as its first token, then the choices of a candidate. Its last hidden state gives a
    mean and features. ``phi`` consists of these features, the positions of the choices, and their squares; with the
    positions, a search can also learn effects that no training task has. A reward, in units of the task, is
    ``mean + w . phi + noise`` with standard normal weights ``w``. This is a Gaussian process whose mean and kernel are
    learnt across tasks (deep kernel transfer; Patacchiola et al. 2020, arXiv:1910.05199). On a new task, only the
    posterior of ``w`` changes (:class:`Belief`); the network stays fixed.

    Args:
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        task_features: Length of the description of a task.
        embedding_size: Width of a token.
        hidden_size: Width of the LSTM.
        features: Number of features that the hidden state gives.
        generator: Draws the initial weights. The global generator is neither read nor seeded.
    """

    offsets: Tensor
    places: Tensor
    usual: Tensor

    def __init__(
        self,
        nvec: Ints,
        task_features: int,
        *,
        embedding_size: int = 24,
        hidden_size: int = 64,
        features: int = 32,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.nvec = tuple(int(count) for count in nvec)
        self.sizes = {"embedding_size": embedding_size, "hidden_size": hidden_size, "features": features}
        counts = torch.tensor(self.nvec)
        self.register_buffer("offsets", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("places", torch.cat([even_positions(count) for count in self.nvec]), persistent=False)
        # Mean, over the training tasks, of the reward difference of one unit.
        self.register_buffer("usual", torch.ones(()))
        # Created without values, so that the layers' initialisation does not use the global generator.
        with torch.device("meta"):
            self.task = nn.Linear(task_features, embedding_size)
            self.choices = nn.Embedding(sum(self.nvec), embedding_size)
            self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
            self.mean = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))
            self.phi = nn.Linear(hidden_size, features)
        for module in (self.task, self.choices, self.lstm, self.mean, self.phi):
            module.to_empty(device="cpu")
        self.log_scales = nn.Parameter(torch.tensor([-0.5, -1.0, -1.5]))
        self.log_noise = nn.Parameter(torch.tensor(_NOISE_PRIOR))
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[1]))
                elif parameter is not self.log_scales and parameter.ndim == 1:
                    parameter.zero_()

    def forward(self, task: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the prior means and the features of candidates.

        Args:
            task: Description of the task, float32 of shape ``(task_features,)``, or one for each candidate, of shape
                ``(n, task_features)``.
            actions: The candidates, int64 of shape ``(n, dims)``.

        Returns:
            Prior means in units of the task, float32 ``(n,)``, and ``phi``, float32 ``(n, features + 2 * dims)``.
        """
        first = self.task(task).expand(len(actions), -1)[:, None]
        _, (hidden, _) = self.lstm(torch.cat([first, self.choices(actions + self.offsets)], dim=1))
        last = hidden[-1]
        deep, linear, quadratic = self.log_scales.exp()
        places = self.places[actions + self.offsets]
        phi = [deep * math.sqrt(3 / last.shape[1]) * self.phi(last), linear * places, quadratic * (places**2 - 1)]
        return self.mean(last)[:, 0], torch.cat(phi, dim=1)

    @property
    def noise(self) -> Tensor:
        """Variance of the noise, in squared units of the task; scalar tensor."""
        return (2 * self.log_noise).exp() + _LEAST_NOISE**2

    @torch.no_grad()
    def read(self, task: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`forward` for many candidates of one task, without gradients; the shapes are the same."""
        parts = [self(task, part) for part in torch.split(actions, SCORED_TOGETHER)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([phi for _, phi in parts])


@dataclass(frozen=True, eq=False)
class Belief:
    """The posterior of the head's weights on one task: Bayesian linear regression with unit prior variances.

    Attributes:
        weights: Posterior mean, ``(features,)``.
        factor: Lower Cholesky factor of the posterior precision, ``(features, features)``.
        noise: Variance of the noise, scalar.
    """

    weights: Tensor
    factor: Tensor
    noise: Tensor

    @classmethod
    def of(cls, mean: Tensor, phi: Tensor, targets: Tensor, noise: Tensor) -> Belief:
        """Fit to evaluations.

        Args:
            mean: Prior means of the candidates, ``(n,)``.
            phi: Features of the candidates, ``(n, features)``.
            targets: Rewards in units of the task, ``(n,)``.
            noise: Variance of the noise, scalar.
        """
        precision = torch.eye(phi.shape[1], dtype=phi.dtype) + phi.mT @ phi / noise
        factor = torch.linalg.cholesky(precision)
        weights = torch.cholesky_solve((phi.mT @ (targets - mean) / noise)[:, None], factor)[:, 0]
        return cls(weights, factor, noise)

    def predict(self, mean: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected rewards of candidates and their standard deviations without noise, each ``(n,)``."""
        whitened = torch.linalg.solve_triangular(self.factor, phi.mT, upper=False)
        return mean + phi @ self.weights, whitened.norm(dim=0)

    def believing(self, phi: Tensor) -> Belief:
        """Return the posterior if candidates with features ``(n, features)`` earned their expected rewards."""
        return replace(self, factor=torch.linalg.cholesky(self.factor @ self.factor.mT + phi.mT @ phi / self.noise))


@dataclass(frozen=True)
class Unit:
    """The affine map from the controller's predictions to the rewards of a task: ``offset + scale * prediction``.

    Attributes:
        offset: Reward of a prediction of 0.
        scale: Reward difference of one unit of prediction.
        surprise: Ratio of the prediction errors on this task to those on the training tasks; at least 1.
    """

    offset: float
    scale: float
    surprise: float = 1.0

    @classmethod
    def of(cls, mean: Tensor, phi: Tensor, rewards: Tensor, noise: Tensor, usual: float) -> Unit:
        """Fit to evaluations: maximise the evidence over a grid of scales, each with its best offset.

        The logarithm of the scale has a standard normal prior around the logarithm of the usual scale.

        Args:
            mean: Prior means, float64 ``(n,)``.
            phi: Features, float64 ``(n, features)``.
            rewards: Rewards, float64 ``(n,)``; n is at least 1.
            noise: Variance of the noise, in squared units, scalar.
            usual: Expected scale: the mean over the training tasks.
        """
        n = len(rewards)
        covariance = phi @ phi.mT + noise * torch.eye(n, dtype=phi.dtype)
        factor = torch.linalg.cholesky(covariance)
        ones = torch.ones(n, 1, dtype=phi.dtype)

        def whitened(values: Tensor) -> Tensor:
            solved: Tensor = torch.linalg.solve_triangular(factor, values, upper=False)
            return solved

        constant, prior, earned = (whitened(column)[:, 0] for column in (ones, mean[:, None], rewards[:, None]))
        highest, unit = -math.inf, cls(float(rewards.mean()), usual)
        for step in range(-8, 9):
            scale = usual * math.exp(step / 4)
            offset = float(constant @ (earned - scale * prior) / (constant @ constant))
            error = (earned - offset * constant - scale * prior) / scale
            evidence = -0.5 * float(error @ error) - n * math.log(scale) - 0.5 * (step / 4) ** 2
            if evidence > highest:
                surprise = math.sqrt((_PRIOR_COUNT + float(error @ error)) / (_PRIOR_COUNT + n))
                highest, unit = evidence, cls(offset, scale, min(max(surprise, 1.0), _MOST_SURPRISE))
        return unit


def save_controller(controller: MetaController, path: Path) -> None:
    """Write a controller to a file.

    Raises:
        RunError: If the file cannot be written.
    """
    description = {"nvec": controller.nvec, "task_features": controller.task.in_features, "sizes": controller.sizes}
    state = {name: values.detach().numpy() for name, values in controller.state_dict().items()}
    write_learnt(path, _KIND, description, state)


def load_controller(path: str | os.PathLike[str]) -> MetaController:
    """Read a controller written by :func:`save_controller`, for inference.

    Raises:
        RunError: If the file cannot be read, or does not contain a controller.
    """
    with read_learnt(path, _KIND, framework="pt") as (description, weights):
        controller = MetaController(
            np.array(description["nvec"], dtype=np.int64),
            description["task_features"],
            **description["sizes"],
            generator=torch.Generator(),
        )
        controller.load_state_dict(weights)
    return controller.requires_grad_(False).eval()
