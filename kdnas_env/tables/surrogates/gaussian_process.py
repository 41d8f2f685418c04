"""Multi-output Gaussian-process regression in pure NumPy.

The kernel is a second-order polynomial for the trend, plus a Matérn-5/2 kernel with a length scale per group of inputs
for the residuals (Rasmussen and Williams 2006, chapters 4 and 5). Outputs share the kernel; each has its own mean and
scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from kdnas_env.support.arrays import Floats
from kdnas_env.tables.archive import check_arrays

_STEPS = 60
_LARGEST_STEP = 0.5
_LARGEST_TREND = 6.0
_LEAST_NOISE = -12.0


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """A fitted process, defined by its arrays.

    Attributes:
        inputs: Training inputs, standardised, float64 ``(n, d)``.
        centre: Offset of the standardisation, float64 ``(d,)``.
        spread: Scale of the standardisation, float64 ``(d,)``.
        groups: Index of each input's length scale, int64 ``(d,)``; -1: only the trend uses the input.
        hyper: Logarithms of the trend's variance, the noise's variance and the length scales, float64
            ``(2 + scales,)``; variances are relative to that of the Matérn part.
        weights: ``inverse(K + noise) @ (targets - offset)``, float64 ``(n, k)``.
        offset: Mean of each output, float64 ``(k,)``.
        scale: Standard deviation of the Matérn part of each output, calibrated on the leave-one-out errors (Bachoc
            2013), float64 ``(k,)``.
    """

    inputs: Floats
    centre: Floats
    spread: Floats
    groups: npt.NDArray[np.int64]
    hyper: Floats
    weights: Floats
    offset: Floats
    scale: Floats

    ARRAYS = ("inputs", "centre", "spread", "groups", "hyper", "weights", "offset", "scale")

    @classmethod
    def fit(
        cls,
        inputs: Floats,
        targets: Floats,
        groups: Sequence[int],
        *,
        hyper: Floats | None = None,
        most: int = 200,
    ) -> GaussianProcess:
        """Fit to data.

        Args:
            inputs: float64 ``(n, d)``.
            targets: float64 ``(n, k)``.
            groups: Index of each input's length scale, of length ``d``; -1: only the trend uses the input.
            hyper: Hyper-parameters of an earlier fit; None to maximise the marginal likelihood.
            most: Maximum number of rows for fitting hyper-parameters; the selection is fixed.
        """
        # One thread: for matrices of a few hundred rows, more threads are slower, and round differently.
        with threadpool_limits(1, user_api="blas"):
            return cls._fit(inputs, targets, groups, hyper, most)

    @classmethod
    def _fit(
        cls, inputs: Floats, targets: Floats, groups: Sequence[int], hyper: Floats | None, most: int
    ) -> GaussianProcess:
        centre, spread = inputs.mean(axis=0), inputs.std(axis=0)
        spread = np.where(spread > 1e-12, spread, 1.0)
        x, kinds = (inputs - centre) / spread, np.asarray(groups, dtype=np.int64)
        offset = targets.mean(axis=0)
        y = targets - offset
        if hyper is None:
            part = np.random.default_rng(0).permutation(len(x))[:most]
            hyper = _fitted_hyper(x[part], y[part], kinds)
        inverse = _inverse(_covariance(x, kinds, hyper))
        weights = inverse @ y
        scale = np.sqrt((weights**2 / np.diag(inverse)[:, None]).mean(axis=0))
        return cls(x, centre, spread, kinds, hyper, weights, offset, scale)

    def check(self, width: int, outputs: int) -> None:
        """Check that the arrays are consistent.

        Args:
            width: Expected number of inputs.
            outputs: Expected number of outputs.

        Raises:
            ValueError: If they are not.
        """
        rows, scales = len(self.inputs), len(self.hyper) - 2
        shapes = {
            "inputs": (rows, width),
            **dict.fromkeys(("centre", "spread", "groups"), (width,)),
            "hyper": (scales + 2,),
            "weights": (rows, outputs),
            **dict.fromkeys(("offset", "scale"), (outputs,)),
        }
        check_arrays({name: getattr(self, name) for name in shapes}, shapes, {"groups": np.int64})
        if np.any((self.groups < -1) | (self.groups >= scales)):
            raise ValueError("groups hold indices of length scales that do not exist")

    def mean(self, inputs: Floats) -> Floats:
        """Return the posterior mean, float64 ``(m, k)``."""
        return self.offset + self._against(inputs) @ self.weights

    def deviation(self, inputs: Floats) -> Floats:
        """Return the posterior standard deviation of the function, without noise, float64 ``(m, k)``."""
        x = (inputs - self.centre) / self.spread
        cross = _kernel(x, self.inputs, self.groups, self.hyper)
        own = np.exp(self.hyper[0]) * (1 + (x * x).mean(axis=1)) ** 2 + 1.0
        variance: Floats = np.maximum(own - ((cross @ self._inverse) * cross).sum(axis=1), 0)
        return np.sqrt(variance)[:, None] * self.scale

    @property
    def noise(self) -> Floats:
        """Standard deviation of each output's noise, float64 ``(k,)``."""
        noise: Floats = np.exp(self.hyper[1] / 2) * self.scale
        return noise

    def _against(self, inputs: Floats) -> Floats:
        return _kernel((inputs - self.centre) / self.spread, self.inputs, self.groups, self.hyper)

    @cached_property
    def _inverse(self) -> Floats:
        return _inverse(_covariance(self.inputs, self.groups, self.hyper))


def _inverse(matrix: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _covariance(x: Floats, groups: npt.NDArray[np.int64], hyper: Floats) -> Floats:
    covariance = _kernel(x, x, groups, hyper)
    covariance[np.diag_indices_from(covariance)] += np.exp(hyper[1])
    return covariance


def _distances(a: Floats, b: Floats, groups: npt.NDArray[np.int64], count: int) -> Floats:
    """Return squared distances by group of inputs, float64 ``(count, len(a), len(b))``."""
    parts = []
    for group in range(count):
        u, v = a[:, groups == group], b[:, groups == group]
        parts.append(np.maximum((u * u).sum(axis=1)[:, None] + (v * v).sum(axis=1) - 2 * u @ v.T, 0))
    return np.stack(parts)


def _matern(squared: Floats) -> Floats:
    """Return the Matérn-5/2 kernel of squared distances."""
    # In place where possible: allocating temporary arrays takes most of the time of large batches.
    r: Floats = 5 * squared
    np.sqrt(r, out=r)
    kernel: Floats = r * r
    kernel /= 3
    decay = np.exp(-r)
    r += 1
    kernel += r
    kernel *= decay
    return kernel


def _matern_slope(squared: Floats) -> Floats:
    """Return the kernel's derivative by a log length scale, without the factor of the squared distance along it."""
    r: Floats = np.sqrt(5 * squared)
    return 5 / 3 * (1 + r) * np.exp(-r)


def _kernel(a: Floats, b: Floats, groups: npt.NDArray[np.int64], hyper: Floats) -> Floats:
    scaled = np.exp(-hyper[2:])[groups] * (groups >= 0)
    u, v = a * scaled, b * scaled
    squared: Floats = 2 * u @ v.T
    np.subtract((u * u).sum(axis=1)[:, None] + (v * v).sum(axis=1), squared, out=squared)
    np.maximum(squared, 0, out=squared)
    trend: Floats = a @ b.T
    trend /= a.shape[1]
    trend += 1
    trend *= trend
    trend *= np.exp(hyper[0])
    trend += _matern(squared)
    return trend


def _fitted_hyper(x: Floats, y: Floats, groups: npt.NDArray[np.int64]) -> Floats:
    """Maximise the marginal likelihood with profiled output scales (Rprop; Riedmiller and Braun 1993)."""
    count = int(groups.max()) + 1
    parts = _distances(x, x, groups, count)
    trend = (1 + x @ x.T / x.shape[1]) ** 2
    # Weakly informative start: a strong trend, little noise, length scales of a few input deviations.
    centre = np.concatenate([[2.0, -6.0], np.full(count, 1.0)])
    width = np.concatenate([[3.0, 3.0], np.full(count, 1.0)])
    hyper, best = centre.copy(), centre.copy()
    step, last, highest = np.full(len(centre), 0.2), np.zeros(len(centre)), -np.inf
    for _ in range(_STEPS):
        value, slope = _evidence(hyper, trend, parts, y)
        value -= 0.5 * float((((hyper - centre) / width) ** 2).sum())
        slope -= (hyper - centre) / width**2
        if value > highest:
            highest, best = value, hyper.copy()
        agree = np.sign(slope) * np.sign(last)
        step = np.clip(np.where(agree > 0, 1.2 * step, np.where(agree < 0, 0.5 * step, step)), 1e-3, _LARGEST_STEP)
        hyper, last = hyper + np.sign(slope) * step, slope
        # Beyond these the covariance is singular in double precision.
        hyper[0], hyper[1] = min(hyper[0], _LARGEST_TREND), max(hyper[1], _LEAST_NOISE)
    return best


def _evidence(hyper: Floats, trend: Floats, parts: Floats, y: Floats) -> tuple[float, Floats]:
    """Return the log marginal likelihood, averaged over outputs, and its gradient."""
    n = len(y)
    squared = np.tensordot(np.exp(-2 * hyper[2:]), parts, axes=1)
    smooth, slopes = _matern(squared), _matern_slope(squared)
    polynomial = np.exp(hyper[0]) * trend
    noise = np.exp(hyper[1])
    covariance = polynomial + smooth
    covariance[np.diag_indices(n)] += noise
    factor = np.linalg.cholesky(covariance)
    inverse = _inverse(covariance)
    weights = inverse @ y
    size = np.maximum((y * weights).sum(axis=0), 1e-300)
    value = -0.5 * n * float(np.log(size / n).mean()) - float(np.log(np.diag(factor)).sum())
    # d value = sum(pull * d covariance) / 2
    pull = n * (weights / size) @ weights.T / y.shape[1] - inverse
    by_scale = [(pull * slopes * part).sum() * np.exp(-2 * h) for part, h in zip(parts, hyper[2:], strict=True)]
    return value, 0.5 * np.array([(pull * polynomial).sum(), noise * np.trace(pull), *by_scale])
