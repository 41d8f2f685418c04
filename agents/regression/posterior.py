"""Posterior of a Gaussian process on a set of points, and the choice of a round of points by expected improvement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kdnas_env.agents.predicting import choose_one_by_one
from kdnas_env.agents.regression.base import expected_improvement
from kdnas_env.support.arrays import Floats, Ints

Inputs = npt.NDArray[Any]
"""Points as a prior takes them: their choices, int64 ``(n, dims)``, or numbers that describe them, ``(n, inputs)``."""


class Prior(Protocol):
    """A Gaussian process with mean 0."""

    @property
    def noise_variance(self) -> float:
        """Variance of the noise of an evaluation."""

    def covariance(self, left: Inputs, right: Inputs) -> Floats:
        """Return the covariance of the rewards of points, without noise, float64 ``(left, right)``."""

    def variances(self, points: Inputs) -> Floats:
        """Return the diagonal of the covariance of points with themselves, float64 ``(points,)``."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Predictions for points.

    Attributes:
        prior: The prior.
        points: The points, as the prior takes them.
        mean: Predictions, float64 ``(points,)``.
        variance: Variances of the predictions, float64 ``(points,)``.
        whitened: Whitened covariances of the known points with the points, float64 ``(known, points)``.
    """

    prior: Prior
    points: Inputs
    mean: Floats
    variance: Floats
    whitened: Floats

    @classmethod
    def of(cls, prior: Prior, known: Inputs, targets: Floats, points: Inputs) -> Posterior:
        """Condition a prior on evaluations.

        Args:
            prior: The prior.
            known: Evaluated points, as the prior takes them; there may be none.
            targets: Their rewards minus the prior mean, float64 of shape ``(known,)``.
            points: Points to predict, as the prior takes them.
        """
        factor = cholesky_factor(prior, known)
        shared = whitened(factor, prior.covariance(known, points))
        variance = np.maximum(prior.variances(points) - np.square(shared).sum(axis=0), 0)
        return cls(prior, points, shared.T @ whitened(factor, targets), variance, shared)

    def believing(self, place: int) -> Posterior:
        """Return the posterior as if a point earned its predicted reward; predictions stay unchanged."""
        own = self.prior.covariance(self.points[place : place + 1], self.points)[0]
        left = own - self.whitened[:, place] @ self.whitened
        row = left / np.sqrt(self.variance[place] + self.prior.noise_variance)
        return replace(
            self,
            variance=np.maximum(self.variance - row**2, 0),
            whitened=np.vstack([self.whitened, row]),
        )


def most_promising(
    posterior: Posterior, pool: Ints, known: Ints, pending: Ints, best: float, nvec: Ints, n: int
) -> Ints:
    """Choose points one by one by expected improvement, assuming that earlier ones earn their predicted rewards.

    Args:
        posterior: Predictions for the pool, followed by the pending points.
        pool: Points to choose from, int64 of shape ``(points, dims)``.
        known: Evaluated points, int64 of shape ``(known, dims)``.
        pending: Proposed points without a reward, int64 of shape ``(pending, dims)``.
        best: Reward to improve on, in the units of the posterior.
        nvec: Choices per dimension, int64 of shape ``(dims,)``.
        n: Number of points to choose.

    Returns:
        Indices in the pool, int64 of shape ``(min(n, points),)``.
    """
    for place in range(len(pool), len(posterior.points)):
        posterior = posterior.believing(place)

    def acquisition(belief: Posterior) -> Floats:
        return expected_improvement(belief.mean, np.sqrt(belief.variance), best)[: len(pool)]

    return choose_one_by_one(
        pool,
        np.concatenate([known, pending]),
        nvec,
        n,
        posterior,
        acquisition=acquisition,
        believing=Posterior.believing,
    )


def cholesky_factor(prior: Prior, known: Inputs) -> Floats:
    """Return the Cholesky factor of the covariance of noisy rewards, float64 ``(known, known)``."""
    noise = prior.noise_variance * np.eye(len(known))
    return np.asarray(np.linalg.cholesky(prior.covariance(known, known) + noise), dtype=np.float64)


def whitened(factor: Floats, values: Floats) -> Floats:
    """Return the solution of ``factor @ x = values``, of the shape of the values, for a lower triangular factor."""
    from scipy.linalg import solve_triangular

    solved: Floats = solve_triangular(factor, values, lower=True)
    return solved
