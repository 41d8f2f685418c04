"""A Bayesian linear model of choices and of pairs of choices, with expected improvement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from kdnas_env.agents.regression.base import RegressionAgent, RegressionConfig
from kdnas_env.agents.regression.posterior import Posterior, cholesky_factor, most_promising, whitened
from kdnas_env.core.wide_dimensions import bumps, is_wide
from kdnas_env.support.arrays import Floats, Ints

PAIR_SHARES = (0.1, 0.3, 0.6)
"""Candidate fractions of the prior variance for pairs."""

NOISES = (1e-3, 1e-2, 1e-1)
"""Candidate noise variances, as multiples of the prior variance."""


class BayesianLinearAgent(RegressionAgent[RegressionConfig]):
    """Proposes the points with the highest expected improvement of a Bayesian linear model of choices and their pairs.

    The features are one-hot: the choice in each dimension, and the pair of choices in each pair of dimensions, as in
    BOCS (Baptista and Poloczek 2018, arXiv:1806.08838); a wide dimension uses bump functions along the scale. The
    weights have normal priors; the marginal likelihood selects the variances of weights and noise. The candidates of a
    round are chosen one by one, assuming that earlier and pending candidates earn their predicted rewards.
    """

    Config = RegressionConfig

    def _choose(self, known: Ints, targets: Floats, pool: Ints, n: int) -> tuple[Ints, Floats]:
        similarity = _Similarity.of(self.grid.nvec)
        prior = _most_likely(similarity, known, targets)
        posterior = Posterior.of(prior, known, targets, np.concatenate([pool, self.pending]))
        places = most_promising(posterior, pool, known, self.pending, float(targets.max()), self.grid.nvec, n)
        return places, posterior.mean[places]


@dataclass(frozen=True, eq=False)
class _Similarity:
    """Inner products of the features of points, computed without the many features themselves.

    Attributes:
        bumps: Bumps of the choices of each wide dimension, float64 ``(choices, knots)``; None: one-hot.
    """

    bumps: tuple[Floats | None, ...]

    @classmethod
    def of(cls, nvec: Ints) -> _Similarity:
        return cls(tuple(bumps(count) if wide else None for count, wide in zip(nvec, is_wide(nvec), strict=True)))

    def __call__(self, left: Ints, right: Ints) -> tuple[Floats, Floats]:
        """Return the similarity of points in choices, and in pairs of choices, float64 ``(left, right)`` in [0, 1]."""
        total, squares = np.zeros((2, len(left), len(right)))
        for axis, rows in enumerate(self.bumps):
            ours, theirs = left[:, axis], right[:, axis]
            similarity = 1.0 * (ours[:, None] == theirs) if rows is None else rows[ours] @ rows[theirs].T
            total += similarity
            squares += similarity**2
        dims = len(self.bumps)
        # The square of the sum counts each pair twice and each dimension with itself once.
        return total / dims, (total**2 - squares) / max(dims * (dims - 1), 1)


@dataclass(frozen=True, eq=False)
class _Prior:
    """Variances of the weights and of the noise.

    Attributes:
        similarity: Inner products of features.
        pairs: Fraction of the weights' variance that belongs to pairs.
        noise: Variance of the noise, as a multiple of the weights' variance.
        amplitude: Variance of the weights, and of the intercept.
    """

    similarity: _Similarity
    pairs: float
    noise: float
    amplitude: float = 1.0

    def covariance(self, left: Ints, right: Ints) -> Floats:
        """Return the covariance of the rewards of points, without noise, float64 ``(left, right)``."""
        choices, pairs = self.similarity(left, right)
        covariance: Floats = self.amplitude * (1 + (1 - self.pairs) * choices + self.pairs * pairs)
        return covariance

    def variances(self, points: Ints) -> Floats:
        """Return the variances of the rewards of points, float64 ``(points,)``; feature vectors have equal norms."""
        return np.repeat(self.covariance(points[:1], points[:1]).ravel(), len(points))

    @property
    def noise_variance(self) -> float:
        """Variance of the noise."""
        return self.amplitude * self.noise


def _most_likely(similarity: _Similarity, known: Ints, targets: Floats) -> _Prior:
    """Return the prior with the highest marginal likelihood; the best amplitude has a closed form."""

    def fitted(pairs: float, noise: float) -> tuple[float, _Prior]:
        prior = _Prior(similarity, pairs, noise)
        factor = cholesky_factor(prior, known)
        amplitude = max(float(np.square(whitened(factor, targets)).mean()), 1e-9)
        likelihood = -0.5 * len(targets) * np.log(amplitude) - np.log(np.diag(factor)).sum()
        return float(likelihood), replace(prior, amplitude=amplitude)

    return max((fitted(*variances) for variances in product(PAIR_SHARES, NOISES)), key=lambda pair: pair[0])[1]
