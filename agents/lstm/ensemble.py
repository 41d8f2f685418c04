"""Ensemble of LSTMs that read a candidate choice by choice, with Bayesian heads that estimate uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kdnas_env.agents.lstm.choice_rows import ChoiceRows
from kdnas_env.agents.lstm.common import Features
from kdnas_env.support.arrays import Ints

_LINEAR, _QUADRATIC, _DEEP = range(3)
_NOISE_PRIOR = -1.5
"""Mean, under the prior, of the logarithm of the noise's deviation, in deviations of the reward."""
_LEAST_NOISE = 0.01
SCORED_TOGETHER = 4096
"""Candidates per forward pass when a space is scored; limits memory use."""


class Ensemble(nn.Module):
    """Independent LSTMs, computed together, that read the choices of an action dimension by dimension.

    The input of a choice is its position among the choices of its dimension (evenly spaced, mean 0) times a direction
    vector of the dimension, plus its own embedding. Knowledge about a choice therefore transfers to its neighbours. In
    a wide dimension the embedding is a smooth function of the position (:mod:`kdnas_env.core.wide_dimensions`). The
    features of an action are the last hidden state of the LSTM, plus the positions and their squares, because a
    few rewards determine little more than a slope ("wide and deep", Cheng et al. 2016, arXiv:1606.07792). The head is
    the :class:`Posterior` of a linear model of these features.

    Args:
        nvec: Choices per dimension.
        members: Number of LSTMs; they differ in their initial weights.
        embedding_size: Width of the embedding of a choice.
        hidden_size: Width of an LSTM.
        features: Hidden states (``deep``), positions and their squares (``wide``), or ``both``.
        generator: Draws the initial weights. The global generator is neither read nor seeded.
    """

    offsets: Tensor
    places: Tensor

    def __init__(
        self,
        nvec: Ints,
        *,
        members: int,
        embedding_size: int,
        hidden_size: int,
        features: Features = "both",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        counts = torch.from_numpy(nvec)
        self.register_buffer("offsets", counts.cumsum(0) - counts)
        self.register_buffer("places", torch.cat([even_positions(int(count)) for count in nvec]))
        self._wide, self._deep = features != "deep", features != "wide"

        def normal(*shape: int, deviation: float) -> nn.Parameter:
            return nn.Parameter(deviation * torch.randn(members, *shape, generator=generator))

        gates = 4 * hidden_size
        self._rows = ChoiceRows(nvec)
        self.embedding = normal(sum(self._rows.counts), embedding_size, deviation=math.sqrt(0.5))
        self.direction = normal(len(nvec), embedding_size, deviation=math.sqrt(0.5))
        self.input_weight = normal(embedding_size, gates, deviation=1 / math.sqrt(embedding_size))
        self.hidden_weight = normal(hidden_size, gates, deviation=1 / math.sqrt(hidden_size))
        self.gate_bias = nn.Parameter(
            torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(hidden_size).repeat(members, 1, 1)
        )
        self.log_scales = nn.Parameter(torch.zeros(members, 3))
        self.log_noise = nn.Parameter(torch.full((members,), _NOISE_PRIOR))

    def forward(self, actions: Tensor) -> Tensor:
        """Return the features of actions.

        Args:
            actions: int64 of shape ``(n, dims)``.

        Returns:
            float32 of shape ``(members, n, features)``.
        """
        places = self.places[actions + self.offsets]
        scales = self.log_scales.exp()[:, :, None, None]
        features = [torch.ones(len(self.log_noise), len(actions), 1)]
        if self._wide:
            features += [0.5 * scales[:, _LINEAR] * places, 0.3 * scales[:, _QUADRATIC] * (places**2 - 1)]
        if self._deep:
            hidden = self._read(actions, places)
            features.append(3 / math.sqrt(hidden.shape[2]) * scales[:, _DEEP] * hidden)
        return torch.cat(features, dim=2)

    def _read(self, actions: Tensor, places: Tensor) -> Tensor:
        """Return the last hidden states, float32 of shape ``(members, n, hidden_size)``."""
        embedded = self._rows(self.embedding)[:, actions + self.offsets]
        tokens = embedded + places[..., None] * self.direction[:, None]
        inputs = torch.einsum("mnde,meg->dmng", tokens, self.input_weight) + self.gate_bias
        hidden = cell = inputs.new_zeros(*inputs.shape[1:3], self.hidden_weight.shape[1])
        for step in inputs:
            enter, keep, value, leave = torch.baddbmm(step, hidden, self.hidden_weight).chunk(4, dim=2)
            cell = keep.sigmoid() * cell + enter.sigmoid() * value.tanh()
            hidden = leave.sigmoid() * cell.tanh()
        return hidden

    def posterior(self, features: Tensor, targets: Tensor) -> Posterior:
        """Return the posterior of every member's head, given features of :meth:`forward` and rewards."""
        return Posterior.of(features, targets, (2 * self.log_noise).exp() + _LEAST_NOISE**2)

    def loss(self, actions: Tensor, targets: Tensor) -> Tensor:
        """Return the negative logarithm of evidence and priors, up to a constant, float32 ``(members,)``."""
        features = self(actions)
        evidence = self.posterior(features, targets).log_evidence(features, targets)
        prior = (self.log_noise - _NOISE_PRIOR) ** 2 + 0.5 * (self.log_scales**2).sum(dim=1)
        return 0.5 * prior - evidence


@dataclass(frozen=True, eq=False)
class Posterior:
    """Bayesian linear regression, one per member: weights that are standard normal a priori, and normal noise.

    Attributes:
        weights: Posterior mean, float32 of shape ``(members, features)``.
        factor: Cholesky factor of their posterior precision, float32 of shape ``(members, features, features)``.
        noise: Variance of the noise, float32 of shape ``(members,)``.
    """

    weights: Tensor
    factor: Tensor
    noise: Tensor

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, noise: Tensor) -> Posterior:
        """Fit to features ``(members, n, features)``, targets ``(n,)`` and variances of the noise ``(members,)``."""
        precision = torch.eye(features.shape[2]) + features.mT @ features / noise[:, None, None]
        factor = torch.linalg.cholesky(precision)
        moment = features.mT @ targets[:, None] / noise[:, None, None]
        return cls(torch.cholesky_solve(moment, factor)[..., 0], factor, noise)

    def log_evidence(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the logarithm of the density of the targets, up to a constant, float32 ``(members,)``."""
        residuals = targets - self.mean(features)
        fit = (residuals**2).sum(dim=1) / self.noise + (self.weights**2).sum(dim=1)
        log_volume = 2 * self.factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return -0.5 * (fit + log_volume + len(targets) * self.noise.log())

    def mean(self, features: Tensor) -> Tensor:
        """Return the expected rewards, float32 of shape ``(members, n)``."""
        return (features @ self.weights[..., None])[..., 0]

    def deviation(self, features: Tensor) -> Tensor:
        """Return the standard deviations of the rewards without their noise, float32 of shape ``(members, n)``."""
        whitened: Tensor = torch.linalg.solve_triangular(self.factor, features.mT, upper=False)
        deviation: Tensor = whitened.norm(dim=1)
        return deviation

    def believing(self, features: Tensor) -> Posterior:
        """Return the posterior if further points, ``(members, n, features)``, earned their expected rewards."""
        precision = self.factor @ self.factor.mT + features.mT @ features / self.noise[:, None, None]
        return replace(self, factor=torch.linalg.cholesky(precision))


def fit(
    ensemble: Ensemble, actions: Tensor, targets: Tensor, *, steps: int, learning_rate: float, weight_decay: float
) -> None:
    """Train all members on all evaluations, by maximising the evidence of their heads.

    Integrating out the heads' weights favours features that explain the rewards with few of them (deep kernel learning,
    Wilson et al. 2016, arXiv:1511.02222, with a linear kernel).

    Args:
        ensemble: Trained in place.
        actions: int64 of shape ``(n, dims)``.
        targets: Standardised rewards, float32 of shape ``(n,)``.
        steps: Steps of AdamW.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
    """
    priors = {"log_scales", "log_noise"}
    groups = [
        {
            "params": [value for name, value in ensemble.named_parameters() if (name in priors) == has_prior],
            "weight_decay": decay,
        }
        for has_prior, decay in ((False, weight_decay), (True, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(ensemble.loss(actions, targets).sum() / len(targets))
        optimizer.step()


@torch.no_grad()
def features_of(ensemble: Ensemble, actions: Tensor) -> Tensor:
    """Return the features of many actions without gradients, float32 of shape ``(members, n, features)``."""
    return torch.cat([ensemble(chunk) for chunk in torch.split(actions, SCORED_TOGETHER)], dim=1)


def expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """Return the expected improvement of normal rewards over the best (Jones et al. 1998).

    Args:
        mean: Expected rewards, float32 ``(..., n)``.
        deviation: Their standard deviations, of the same shape.
        best: Reward to improve on, scalar tensor.

    Returns:
        Of the same shape as the means.
    """
    ahead = (mean - best) / deviation
    density = torch.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
    expected: Tensor = deviation * (ahead * torch.special.ndtr(ahead) + density)
    return expected


def even_positions(choices: int) -> Tensor:
    """Return the positions of choices on their scale, evenly spaced, with mean 0 and deviation about 1.

    The result is float32 of shape ``(choices,)``.
    """
    return torch.linspace(-1.7, 1.7, choices) if choices > 1 else torch.zeros(1)
