"""Projections from a student's hidden states to its teacher's, learnt by gradient or solved in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from kdnas_env.distillation.training.recipe import Ridge
from kdnas_env.errors import KDNASError

_LEAST_RIDGE = 1e-5
_PENALTIES = tuple(10 ** (power / 6) for power in range(-30, 25))
_INFLATION = 1.4
_RIDGE_FACTOR = 100.0
_RIDGE_ATTEMPTS = 5
_RESIDUAL_TOLERANCE = 1e-6


class Projection(nn.Module):
    """One affine map per layer pair, or one shared by all pairs: ``states @ weight + bias``.

    Attributes:
        weight: ``(maps, student_width, target_width)``.
        bias: ``(maps, target_width)``.
    """

    def __init__(self, pairs: int, student_width: int, target_width: int, *, shared: bool) -> None:
        super().__init__()
        maps = 1 if shared else pairs
        self.weight = nn.Parameter(torch.zeros(maps, student_width, target_width))
        self.bias = nn.Parameter(torch.zeros(maps, target_width))

    @property
    def maps(self) -> int:
        """Number of maps."""
        return self.weight.shape[0]

    def map_of(self, pair: int) -> int:
        """Return the index of the map for a layer pair."""
        return min(pair, self.maps - 1)

    @torch.no_grad()
    def randomise(self, generator: torch.Generator) -> Self:
        """Draw weights as ``nn.Linear`` does: uniform, bounded by one over the square root of the student's width."""
        bound = self.weight.shape[1] ** -0.5
        self.weight.uniform_(-bound, bound, generator=generator)
        self.bias.uniform_(-bound, bound, generator=generator)
        return self

    @torch.no_grad()
    def assign(self, fits: list[LinearFit]) -> None:
        """Set each map to its solution."""
        for index, fit in enumerate(fits):
            self.weight[index] = fit.weight.to(self.weight)
            self.bias[index] = fit.bias.to(self.bias)

    def forward(self, states: Tensor, pair: int) -> Tensor:
        """Map the student states of a layer pair, ``(tokens, student_width)`` to ``(tokens, target_width)``."""
        index = self.map_of(pair)
        return torch.addmm(self.bias[index], states, self.weight[index])


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A least-squares map ``inputs @ weight + bias``.

    Attributes:
        weight: float64 ``(inputs, targets)``.
        bias: float64 ``(targets,)``.
        squared_error: Sum of squared residuals over the tokens it was fitted to.
        count: Tokens it was fitted to.
    """

    weight: Tensor
    bias: Tensor
    squared_error: float
    count: int


class CrossMoments:
    """Sums over tokens that determine the covariance of inputs and targets.

    Chunks are centred on the mean of the first chunk to avoid cancellation, multiplied in float32, and summed in
    float64.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origins: tuple[Tensor, Tensor] | None = None

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add some tokens.

        Args:
            inputs: float32 ``(tokens, inputs)``.
            targets: float32 ``(tokens, targets)``.
        """
        if self._origins is None:
            self._origins = inputs.mean(0), targets.mean(0)
            self._begin(inputs.shape[1], targets.shape[1], inputs.device)
        self._sum(inputs - self._origins[0], targets - self._origins[1])

    def cross(self) -> Tensor:
        """Return the centred products of inputs and targets, ``(inputs, targets)``, float64."""
        self._check()
        return self._cross_gram - torch.outer(self._input_sum, self._target_sum) / self.count

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the means of inputs and targets, float64."""
        inputs, targets = self._check()
        return inputs + self._input_sum / self.count, targets + self._target_sum / self.count

    def _begin(self, wide: int, tall: int, device: torch.device) -> None:
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self._input_sum, self._target_sum, self._cross_gram = zeros(wide), zeros(tall), zeros(wide, tall)

    def _sum(self, inputs: Tensor, targets: Tensor) -> None:
        self.count += inputs.shape[0]
        self._input_sum += inputs.sum(0, dtype=torch.float64)
        self._target_sum += targets.sum(0, dtype=torch.float64)
        self._cross_gram += inputs.T @ targets

    def _check(self) -> tuple[Tensor, Tensor]:
        if self._origins is None:
            raise KDNASError("no token was added, so there is nothing to fit; add() some first")
        return self._origins


class Moments(CrossMoments):
    """Sums over tokens that determine the least-squares map from inputs to targets."""

    def _begin(self, wide: int, tall: int, device: torch.device) -> None:
        super()._begin(wide, tall, device)
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self._target_square, self._input_gram = zeros(()), zeros(wide, wide)

    def _sum(self, inputs: Tensor, targets: Tensor) -> None:
        super()._sum(inputs, targets)
        self._target_square += targets.square().sum(dtype=torch.float64)
        self._input_gram += inputs.T @ inputs

    def centred(self) -> tuple[Tensor, Tensor, float]:
        """Return the centred input and input-target products (float64), and the targets' centred sum of squares."""
        cross = self.cross()
        gram = self._input_gram - torch.outer(self._input_sum, self._input_sum) / self.count
        square = self._target_square - self._target_sum.square().sum() / self.count
        return gram, cross, max(float(square), 0.0)

    def solve(self, ridge: Ridge) -> LinearFit:
        """Solve ``min |inputs weight + bias - targets|^2 + penalty |weight|^2`` by Cholesky factorisation in float64.

        Args:
            ridge: Penalty as a fraction of the inputs' mean variance, or ``gcv``; at least 1e-5, because float32
                products cannot separate smaller directions from rounding errors. It is multiplied by 100, up to five
                times, if the factorisation fails or its solution does not satisfy the normal equations.

        Raises:
            KDNASError: If no token was added.
            FloatingPointError: If inputs or targets were not finite.
        """
        gram, cross, square = self.centred()
        if not (bool(torch.isfinite(gram).all()) and bool(torch.isfinite(cross).all())):
            raise FloatingPointError("hidden states are not finite, so no projection fits them")
        mean_input, mean_target = self.means()
        width = gram.shape[0]
        scale = float(gram.diagonal().mean()) or 1.0
        if isinstance(ridge, str):
            ridge = _cross_validated(gram / scale, cross / scale**0.5, square, self.count)
        penalty = max(ridge, _LEAST_RIDGE) * scale
        for _ in range(_RIDGE_ATTEMPTS):
            system = gram + penalty * torch.eye(width, dtype=gram.dtype, device=gram.device)
            factor, failed = torch.linalg.cholesky_ex(system)
            if not int(failed):
                weight = torch.cholesky_solve(cross, factor)
                residual = torch.linalg.matrix_norm(system @ weight - cross)
                if bool(residual <= _RESIDUAL_TOLERANCE * torch.linalg.matrix_norm(cross)):
                    break
            penalty *= _RIDGE_FACTOR
        else:
            weight = torch.zeros_like(cross)
        explained = float(2 * (weight * cross).sum() - (weight * (gram @ weight)).sum())
        return LinearFit(
            weight=weight,
            bias=mean_target - mean_input @ weight,
            squared_error=max(square - explained, 0.0),
            count=self.count,
        )


def _cross_validated(gram: Tensor, cross: Tensor, square: float, count: int) -> float:
    """Return the penalty with the least error by generalised cross-validation.

    The score of a penalty is its squared error over ``(1 - 1.4 p / n)^2``, with ``p`` effective parameters and ``n``
    tokens (Craven and Wahba 1979). Tokens of a text depend on each other, so that plain cross-validation chooses
    penalties that are too small; the factor 1.4 of Kim and Gu (2004) corrects this.

    Args:
        gram: Centred products of the inputs, ``(inputs, inputs)``, float64, of mean diagonal 1.
        cross: Centred products of inputs and targets, ``(inputs, targets)``, float64.
        square: The targets' centred sum of squares.
        count: Number of tokens.
    """
    values, axes = torch.linalg.eigh(gram)
    values = values.clamp_min(0)
    energies = (axes.T @ cross).square().sum(1)
    best, least = _PENALTIES[-1], float("inf")
    for penalty in _PENALTIES:
        shrunk = 1 / (values + penalty)
        error = square - float((energies * shrunk * (2 - values * shrunk)).sum())
        left = 1 - _INFLATION * (1 + float((values * shrunk).sum())) / count
        score = max(error, 0.0) / left**2 if left > 0 else float("inf")
        if score < least:
            best, least = penalty, score
    return float(best)
