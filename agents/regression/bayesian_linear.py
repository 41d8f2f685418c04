"""A Bayesian linear model of choices and of pairs of choices, with expected improvement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from kdnas_env.agents.ranking import Floats, Ints
from kdnas_env.agents.regression.base import RegressionAgent, RegressionConfig, expected_improvement
from kdnas_env.core.wide_dimensions import Spacing, bumps, is_wide

PAIR_SHARES = (0.1, 0.3, 0.6)
"""Shares of the prior variance that pairs may have."""

NOISES = (1e-3, 1e-2, 1e-1)
"""Variances that the noise may have, as multiples of the prior variance."""


class BayesianLinearAgent(RegressionAgent[RegressionConfig]):
    """Proposes the points of the highest expected improvement by a Bayesian linear model of choices and their pairs.

    The features are one-hot: the choice in each dimension, and the pair of choices in each pair of dimensions, as in
    BOCS (Baptista and Poloczek 2018, arXiv:1806.08838); of a wide dimension they are bumps along the scale. The weights
    have normal priors, whose variances, and that of the noise, are chosen by the marginal likelihood. The candidates of
    a round are chosen one after the other, each as if those before it, and those that are pending, had earned what is
    predicted.
    """

    Config = RegressionConfig

    def _choose(self, known: Ints, targets: Floats, pool: Ints, n: int) -> tuple[Ints, Floats]:
        similarity = _Similarity.of(self.grid.nvec)
        prior = _most_likely(similarity, known, targets)
        posterior = _Posterior.of(prior, known, targets, np.concatenate([pool, self.pending]))
        for place in range(len(pool), len(posterior.points)):
            posterior = posterior.believing(place)
        spacing = Spacing(pool, np.concatenate([known, self.pending]), self.grid.nvec)
        free, places = np.ones(len(pool), dtype=np.bool_), list[int]()
        for _ in range(min(n, len(pool))):
            deviation = np.sqrt(posterior.variance)
            improvement = expected_improvement(posterior.mean, deviation, targets.max())[: len(pool)]
            place = int(np.where(spacing.keeping(free), improvement, -np.inf).argmax())
            places.append(place)
            free[place] = False
            spacing.take(place)
            posterior = posterior.believing(place)
        return np.array(places, dtype=np.int64), posterior.mean[places]


@dataclass(frozen=True, eq=False)
class _Similarity:
    """Inner products of the features of points, without listing the features, of which there are many.

    Attributes:
        bumps: Bumps of the choices of each wide dimension, float64 ``(choices, knots)``; None: one-hot.
    """

    bumps: tuple[Floats | None, ...]

    @classmethod
    def of(cls, nvec: Ints) -> _Similarity:
        return cls(tuple(bumps(count) if wide else None for count, wide in zip(nvec, is_wide(nvec), strict=True)))

    def __call__(self, left: Ints, right: Ints) -> tuple[Floats, Floats]:
        """Return how alike points are in choices, and in pairs of them, both float64 ``(left, right)`` in [0, 1]."""
        total, squares = np.zeros((2, len(left), len(right)))
        for axis, rows in enumerate(self.bumps):
            one, other = left[:, axis], right[:, axis]
            alike = 1.0 * (one[:, None] == other) if rows is None else rows[one] @ rows[other].T
            total += alike
            squares += alike**2
        dims = len(self.bumps)
        # Of all products of two dimensions each pair is half, once those of a dimension with itself are taken away.
        return total / dims, (total**2 - squares) / max(dims * (dims - 1), 1)


@dataclass(frozen=True, eq=False)
class _Prior:
    """Variances of the weights and of the noise.

    Attributes:
        similarity: Inner products of features.
        pairs: Share of the pairs in the variance of the weights.
        noise: Variance of the noise, as a multiple of that of the weights.
        amplitude: Variance of the weights; the intercept has as much.
    """

    similarity: _Similarity
    pairs: float
    noise: float
    amplitude: float = 1.0

    def covariance(self, left: Ints, right: Ints) -> Floats:
        """Return the covariance of the rewards of points but for the noise, float64 ``(left, right)``."""
        choices, pairs = self.similarity(left, right)
        covariance: Floats = self.amplitude * (1 + (1 - self.pairs) * choices + self.pairs * pairs)
        return covariance

    def factor(self, known: Ints) -> Floats:
        """Return the Cholesky factor of the covariance of noisy rewards, float64 ``(known, known)``."""
        noise = self.amplitude * self.noise * np.eye(len(known))
        return np.asarray(np.linalg.cholesky(self.covariance(known, known) + noise), dtype=np.float64)


def _most_likely(similarity: _Similarity, known: Ints, targets: Floats) -> _Prior:
    """Return the prior of the highest marginal likelihood; the best amplitude of the others has a closed form."""

    def fitted(pairs: float, noise: float) -> tuple[float, _Prior]:
        prior = _Prior(similarity, pairs, noise)
        factor = prior.factor(known)
        amplitude = max(float(np.square(_whitened(factor, targets)).mean()), 1e-9)
        likelihood = -0.5 * len(targets) * np.log(amplitude) - np.log(np.diag(factor)).sum()
        return float(likelihood), replace(prior, amplitude=amplitude)

    return max((fitted(*variances) for variances in product(PAIR_SHARES, NOISES)), key=lambda pair: pair[0])[1]


@dataclass(frozen=True, eq=False)
class _Posterior:
    """What is predicted of points.

    Attributes:
        prior: The prior.
        points: int64 ``(points, dims)``.
        mean: Predictions, float64 ``(points,)``.
        variance: Of the predictions, float64 ``(points,)``.
        whitened: Covariances of what is known, whitened, with the points, float64 ``(known, points)``.
    """

    prior: _Prior
    points: Ints
    mean: Floats
    variance: Floats
    whitened: Floats

    @classmethod
    def of(cls, prior: _Prior, known: Ints, targets: Floats, points: Ints) -> _Posterior:
        factor = prior.factor(known)
        whitened = _whitened(factor, prior.covariance(known, points))
        # All points have the same variance beforehand, since rows of features have the same norm.
        before = prior.covariance(known[:1], known[:1])[0, 0]
        variance = np.maximum(before - np.square(whitened).sum(axis=0), 0)
        return cls(prior, points, whitened.T @ _whitened(factor, targets), variance, whitened)

    def believing(self, place: int) -> _Posterior:
        """Return the posterior as if a point had earned what is predicted, which changes no prediction."""
        own = self.prior.covariance(self.points[place : place + 1], self.points)[0]
        left = own - self.whitened[:, place] @ self.whitened
        row = left / np.sqrt(self.variance[place] + self.prior.amplitude * self.prior.noise)
        return replace(
            self,
            variance=np.maximum(self.variance - row**2, 0),
            whitened=np.vstack([self.whitened, row]),
        )


def _whitened(factor: Floats, values: Floats) -> Floats:
    from scipy.linalg import solve_triangular

    whitened: Floats = solve_triangular(factor, values, lower=True)
    return whitened
