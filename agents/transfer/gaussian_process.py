"""A Gaussian process whose prior mean comes from other tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from kdnas_env.agents.ask_tell import Proposal
from kdnas_env.agents.predicting import WHOLE_SPACE, Scale, candidate_pool, replay_indices
from kdnas_env.agents.regression.posterior import Posterior, cholesky_factor, most_promising, whitened
from kdnas_env.agents.transfer.base import ExperiencedAgent
from kdnas_env.agents.transfer.experience import Experience
from kdnas_env.core.grid import Grid
from kdnas_env.envs.task_features import Features
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.settings import Settings

LENGTHS = (0.3, 0.8, 2.0)
"""Candidate length scales of the kernel; a dimension has length 1."""

AMPLITUDES = (0.1, 0.3, 1.0)
"""Candidate standard deviations of a task's difference from the prior mean, in units of the targets."""

NOISES = (0.03, 0.1, 0.3)
"""Candidate standard deviations of the noise, in units of the targets."""

OFFSET, SLOPE = 2.0, 0.5
"""Prior standard deviations of a task's mean reward, and of the factor by which its rewards differ from the mean."""


@dataclass(frozen=True)
class TransferGPConfig(Settings):
    """Hyper-parameters of the Gaussian process.

    Attributes:
        experience: File of experience (``kdnas bench train transfer-gp``). None for that of the package.
        pool_size: Number of random candidates to score, in addition to neighbours of the best ones, if the space is too
            large to score completely.
        replay_size: Number of newest evaluations to condition on, plus the best.
    """

    experience: str | None = None
    pool_size: int = 2_000
    replay_size: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("pool_size", "replay_size", at_least=1)


class TransferGPAgent(ExperiencedAgent):
    """Proposes the points with the highest expected improvement of a Gaussian process with a mean from other tasks.

    The prior mean of a candidate is its mean reward on the training tasks, weighted by their similarity to the task of
    the search. The reward is ``offset + slope * mean + difference + noise``; offset and slope have normal priors, and
    the difference has a squared-exponential kernel over the positions of the choices. The marginal likelihood selects
    the variances and the length scale. This is a simple form of transfer in Bayesian optimisation, in which the source
    tasks determine the mean (compare Google Vizier's stacked residuals: Golovin et al. 2017). Without experience in the
    space, the mean is 0, and the first candidates are random.
    """

    Config = TransferGPConfig
    _known_mean: _Mean | None

    def _start(self) -> None:
        super()._start()
        self._known_mean = None  # the description of the task is read later

    @property
    def _mean(self) -> _Mean:
        """The prior mean; computed once in a search."""
        if self._known_mean is None:
            self._known_mean = _Mean.of(self._experience, self._task, self.grid)
        return self._known_mean

    def _propose(self, n: int) -> Proposal:
        seen, best = self.seen, self.ranking.global_best
        if best is None and self._experience is None:
            drawn = self.grid.draw(self.rng, n, seen)
            return Proposal(drawn, random=np.ones(len(drawn), dtype=np.bool_), exploration=1.0)
        config, mean = self.config, self._mean
        pool = candidate_pool(self.grid, self.ranking, self.rng, seen, whole_space=WHOLE_SPACE, size=config.pool_size)
        points = mean.described(np.concatenate([pool, self.pending]))
        known, targets, unit = self._evaluated[:0], np.empty(0), _Unit(0.0, 1.0)
        if best is not None:
            positions = replay_indices(self.ranking, config.replay_size)
            rewards, usable = self.ranking.rewards[positions], self.ranking.usable[positions]
            scale = Scale.of(rewards, usable)
            unit = _Unit(scale.mean, self._experience.mean_scale if self._experience else scale.deviation)
            known, targets = self._evaluated[positions], (scale.clipped(rewards, usable) - scale.mean) / unit.size
        inputs = mean.described(known)
        differences = targets - inputs[:, -1]
        posterior = Posterior.of(_most_likely(self.grid.nvec, inputs, differences), inputs, differences, points)
        posterior = replace(posterior, mean=posterior.mean + points[:, -1])
        # Before any evaluation, candidates are compared with the best expected reward.
        incumbent = targets.max() if best is not None else posterior.mean.max()
        places = most_promising(posterior, pool, known, self.pending, float(incumbent), self.grid.nvec, n)
        predicted = unit.centre + unit.size * posterior.mean[places]
        return Proposal(pool[places], predicted=None if best is None else predicted)


@dataclass(frozen=True)
class _Unit:
    """The map from targets to rewards.

    Attributes:
        centre: Reward of target 0.
        size: Reward difference of one unit.
    """

    centre: float
    size: float


@dataclass(frozen=True, eq=False)
class _Mean:
    """The prior mean, a function of points.

    Attributes:
        grid: The grid of the search.
        numbers: Flat indices of the points with experience, ascending, int64 ``(points,)``.
        values: Expected targets of these points, float64 ``(points,)``. Other points get the lowest of them, because
            they were invalid on the training tasks. Without experience, the mean is 0.
    """

    grid: Grid
    numbers: Ints
    values: Floats

    @classmethod
    def of(cls, experience: Experience | None, task: Features, grid: Grid) -> _Mean:
        if experience is None:
            return cls(grid, np.empty(0, dtype=np.int64), np.empty(0))
        numbers = grid.flat(experience.actions)
        order = np.argsort(numbers)
        return cls(grid, numbers[order], experience.expected(task)[order])

    def __call__(self, points: Ints) -> Floats:
        if not len(self.numbers):
            return np.zeros(len(points))
        numbers = self.grid.flat(points)
        places = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        means: Floats = np.where(self.numbers[places] == numbers, self.values[places], self.values.min())
        return means

    def described(self, points: Ints) -> Floats:
        """Return points as :class:`_Prior` takes them: choices and prior mean, float64 ``(points, dims + 1)``."""
        return np.column_stack([points, self(points)])


@dataclass(frozen=True, eq=False)
class _Prior:
    """Covariance of the difference of rewards from the prior mean, in units of the targets.

    Points are those of :meth:`_Mean.described`.

    Attributes:
        nvec: Choices per dimension, int64 ``(dims,)``.
        length: Length scale; a dimension has length 1.
        amplitude: Standard deviation of the difference.
        noise: Standard deviation of the noise.
    """

    nvec: Ints
    length: float
    amplitude: float
    noise: float

    @property
    def noise_variance(self) -> float:
        """Variance of the noise."""
        return self.noise**2

    def covariance(self, left: Floats, right: Floats) -> Floats:
        """Return the covariance of points, float64 ``(left, right)``."""
        size = np.maximum(self.nvec - 1, 1) * self.length
        ours, theirs = left[:, :-1] / size, right[:, :-1] / size
        squares = np.square(ours).sum(axis=1)[:, None] + np.square(theirs).sum(axis=1)
        difference = self.amplitude**2 * np.exp(-0.5 * np.maximum(squares - 2 * ours @ theirs.T, 0))
        covariance: Floats = OFFSET**2 + SLOPE**2 * np.outer(left[:, -1], right[:, -1]) + difference
        return covariance

    def variances(self, points: Floats) -> Floats:
        """Return the variances of points, float64 ``(points,)``."""
        variances: Floats = OFFSET**2 + np.square(SLOPE * points[:, -1]) + self.amplitude**2
        return variances


def _most_likely(nvec: Ints, known: Floats, differences: Floats) -> _Prior:
    """Return the prior with the highest marginal likelihood; without evaluations, the middle one."""

    def likelihood(prior: _Prior) -> float:
        factor = cholesky_factor(prior, known)
        return float(-0.5 * np.square(whitened(factor, differences)).sum() - np.log(np.diag(factor)).sum())

    if not len(known):
        return _Prior(nvec, LENGTHS[1], AMPLITUDES[1], NOISES[1])
    return max((_Prior(nvec, *sizes) for sizes in product(LENGTHS, AMPLITUDES, NOISES)), key=likelihood)
