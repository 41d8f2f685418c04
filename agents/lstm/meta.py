"""An LSTM that reads a task, then a candidate, with a prior over rewards learnt on other tasks."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kdnas_env.agents.lstm.ensemble import evenly
from kdnas_env.agents.ranking import Ints
from kdnas_env.errors import RunError

_NOISE_PRIOR = -1.5
_LEAST_NOISE = 0.02
_SCORED_TOGETHER = 4096
_EXPECTED, _MOST_SURPRISE = 4.0, 5.0
"""Weight, in evaluations, of the expectation that a task is like those of the training; and the bound of a surprise."""
_FORMAT = "kdnas meta controller 1"


class MetaController(nn.Module):
    """Predicts the rewards of candidates on a task before any is evaluated, and learns from evaluations in closed form.

    One LSTM reads the task's features as its first token, then the choices of a candidate. From its last hidden state
    follow a mean and features ``phi``, to which the places of the choices and their squares are added, so that what no
    training task has shown can be learnt as well. Rewards, in units of the task, are ``mean + w . phi + noise`` with
    standard normal ``w``: a Gaussian process whose mean and kernel are learnt across tasks (deep kernel transfer;
    Patacchiola et al. 2020, arXiv:1910.05199). On a new task only the posterior of ``w`` changes, so a search trains
    nothing.

    Args:
        nvec: Choices per dimension.
        task_features: Length of the description of a task.
        embedding_size: Width of a token.
        hidden_size: Width of the LSTM.
        features: Number of ``phi``.
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
        self.register_buffer("places", torch.cat([evenly(count) for count in self.nvec]), persistent=False)
        # Reward that one unit stands for in the mean of the training tasks.
        self.register_buffer("usual", torch.ones(()))
        # On no device at first, since the usual initialisation reads the global generator.
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
        """Return what is expected of candidates, and their features.

        Args:
            task: float32 of shape ``(task_features,)``, or ``(n, task_features)``, one a candidate.
            actions: int64 of shape ``(n, dims)``.

        Returns:
            Means, float32 ``(n,)``, and features, float32 ``(n, features + 2 * dims)``.
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
        """Variance of a reward beside what its features say."""
        return (2 * self.log_noise).exp() + _LEAST_NOISE**2

    @torch.no_grad()
    def read(self, task: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return :meth:`forward` of many candidates of one task, without gradients."""
        parts = [self(task, part) for part in torch.split(actions, _SCORED_TOGETHER)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([phi for _, phi in parts])


@dataclass(frozen=True, eq=False)
class Belief:
    """The posterior of the weights of one task.

    Attributes:
        weights: Their mean, ``(features,)``.
        factor: Cholesky factor of their precision, ``(features, features)``.
        noise: Variance of a reward.
    """

    weights: Tensor
    factor: Tensor
    noise: Tensor

    @classmethod
    def of(cls, mean: Tensor, phi: Tensor, targets: Tensor, noise: Tensor) -> Belief:
        """Learn from evaluations: their prior means and features, and what they earned, in units of the task."""
        precision = torch.eye(phi.shape[1], dtype=phi.dtype) + phi.mT @ phi / noise
        factor = torch.linalg.cholesky(precision)
        weights = torch.cholesky_solve((phi.mT @ (targets - mean) / noise)[:, None], factor)[:, 0]
        return cls(weights, factor, noise)

    def predict(self, mean: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Return expected rewards and the deviations of what is not noise, each ``(n,)``."""
        whitened = torch.linalg.solve_triangular(self.factor, phi.mT, upper=False)
        return mean + phi @ self.weights, whitened.norm(dim=0)

    def believing(self, phi: Tensor) -> Belief:
        """Return the posterior if candidates with features ``(n, features)`` earned what is expected of them."""
        return replace(self, factor=torch.linalg.cholesky(self.factor @ self.factor.mT + phi.mT @ phi / self.noise))


@dataclass(frozen=True)
class Unit:
    """The affine map from what the controller predicts to the rewards of a task: ``offset + scale * prediction``.

    Attributes:
        offset: Reward that is predicted as 0.
        scale: Reward that one unit stands for.
        surprise: How many times as far from the predictions rewards are as on the training tasks (at least 1).
    """

    offset: float
    scale: float
    surprise: float = 1.0

    @classmethod
    def of(cls, mean: Tensor, phi: Tensor, rewards: Tensor, noise: Tensor, usual: float) -> Unit:
        """Fit to evaluations, by the evidence of a grid of scales around the usual one, each with its best offset.

        Args:
            mean: Prior means, float64 ``(n,)``.
            phi: Features, float64 ``(n, features)``.
            rewards: What was earned, float64 ``(n,)``; n is at least 1.
            noise: Variance of the noise, in units.
            usual: Scale that is expected, the mean of the training tasks.
        """
        n = len(rewards)
        covariance = phi @ phi.mT + noise * torch.eye(n, dtype=phi.dtype)
        factor = torch.linalg.cholesky(covariance)
        ones = torch.ones(n, 1, dtype=phi.dtype)

        def whitened(values: Tensor) -> Tensor:
            solved: Tensor = torch.linalg.solve_triangular(factor, values, upper=False)
            return solved

        one, prior, earned = whitened(ones)[:, 0], whitened(mean[:, None])[:, 0], whitened(rewards[:, None])[:, 0]
        best, found = -math.inf, cls(float(rewards.mean()), usual)
        for step in range(-8, 9):
            scale = usual * math.exp(step / 4)
            offset = float(one @ (earned - scale * prior) / (one @ one))
            error = (earned - offset * one - scale * prior) / scale
            evidence = -0.5 * float(error @ error) - n * math.log(scale) - 0.5 * (step / 4) ** 2
            if evidence > best:
                surprise = math.sqrt((_EXPECTED + float(error @ error)) / (_EXPECTED + n))
                best, found = evidence, cls(offset, scale, min(max(surprise, 1.0), _MOST_SURPRISE))
        return found


def save_controller(controller: MetaController, path: Path) -> None:
    """Write a controller to a safetensors file."""
    from safetensors.torch import save

    from kdnas_env.support.atomic import replacing

    made_of = {"nvec": controller.nvec, "task_features": controller.task.in_features, "sizes": controller.sizes}
    # One entry, since the order of several differs from file to file.
    metadata = {_FORMAT: json.dumps(made_of)}
    state = {name: value.detach().contiguous() for name, value in controller.state_dict().items()}
    with replacing(path) as file:
        file.write(save(state, metadata))


def load_controller(path: str | os.PathLike[str]) -> MetaController:
    """Read a controller of :func:`save_controller`.

    Raises:
        RunError: If the file cannot be read, or is of something else.
    """
    import numpy as np
    from safetensors import safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if _FORMAT not in metadata:
                raise ValueError("it is not of a controller")
            made_of = json.loads(metadata[_FORMAT])
            controller = MetaController(
                np.array(made_of["nvec"], dtype=np.int64),
                made_of["task_features"],
                **made_of["sizes"],
                generator=torch.Generator(),
            )
            controller.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except Exception as error:  # whatever a damaged file does to what is made of it
        raise RunError(
            f"{os.fspath(path)!r} is no controller that kdnas bench train has written: {error}; name another file"
        ) from error
    return controller.requires_grad_(False).eval()
