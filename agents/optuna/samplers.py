"""Optuna's samplers and pruners, with reproducible proposals and bounded time per proposal.

- Each trial has its own sampler, seeded by the trial's number (:class:`TrialSampler`).
- In a long study, samplers learn from the newest and the best trials
  (:class:`~kdnas_env.agents.optuna.trials.RecentTrials`).
- TPE and the Gaussian process propose only points that may still be proposed (:class:`RemainingSampler`). Otherwise
  most of their proposals would soon be known or forbidden.
- CMA-ES stores its state as JSON instead of a pickle (:class:`~kdnas_env.agents.optuna.cmaes.JSONCmaEsSampler`).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from kdnas_env.agents.optuna.cmaes import JSONCmaEsSampler
from kdnas_env.agents.optuna.trials import StudyView
from kdnas_env.agents.ranking import Bools
from kdnas_env.core.grid import LISTABLE, Grid, Ints, Seen
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.checks import check_choice
from kdnas_env.support.untrusted import typed_arguments

SamplerMaker = Callable[[int], BaseSampler]
"""Creates the sampler of a trial from the trial's number."""

T = TypeVar("T")

WHOLE_SPACE = 100_000
"""Grids up to this many points are listed; the Gaussian process scores all their remaining points."""

_CHUNK = 2048
"""Points per evaluation of the acquisition function; limits memory, because each point is sampled jointly with all
running trials."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log messages and its warnings about experimental features inside the block.

    Raises:
        RunError: If a storage fails.
    """
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    except StorageInternalError as error:
        raise RunError(f"the storage of the study cannot be used: {error}") from error
    finally:
        logger.setLevel(level)


class TrialSampler(BaseSampler):
    """Creates a new sampler for each trial, seeded by the trial's number.

    Optuna stores trials, but not the random state of its samplers. Here, a proposal depends only on the seed, the
    number of the trial and the earlier trials. Therefore a loaded study continues exactly, and processes that share a
    study and a seed draw different candidates.

    Attributes:
        fixed: Values of the next suggestions, by parameter; None to sample them.
        recent: Returns the trials to learn from.
        remaining: The points that may be proposed; None for all points.
    """

    def __init__(self, make: SamplerMaker) -> None:
        self.fixed: Mapping[str, int] | None = None
        self.recent: Callable[[], Sequence[FrozenTrial]] = tuple
        self.remaining: RemainingPoints | None = None
        self._make = make
        self._sampler = make(0)

    # The inherited after_trial does nothing, which is right for all samplers: after a trial they only evaluate a
    # constraints function, which is not used here, or stop the optimization loop of a grid, which does not run here.

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Create the sampler of a trial."""
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        if self.fixed is not None:
            return {}
        return self._sampler.infer_relative_search_space(_shortened(study, self._examples), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample parameters together."""
        if self.fixed is not None:
            return {}
        if isinstance(self._sampler, RemainingSampler):
            self._sampler.remaining = self.remaining
        return self._sampler.sample_relative(_shortened(study, self.recent), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample one parameter."""
        if self.fixed is not None:
            return self.fixed[param_name]
        shortened = _shortened(study, self.recent)
        return self._sampler.sample_independent(shortened, trial, param_name, param_distribution)

    def _examples(self) -> list[FrozenTrial]:
        """Return one trial of each state; they suffice to infer the parameters, because all trials have the same."""
        return [*{trial.state: trial for trial in self.recent()}.values()]


def _shortened(study: Study, trials: Callable[[], Sequence[FrozenTrial]]) -> Study:
    # The pruner hyperband passes its own view of a study, with the trials of one bracket.
    return StudyView(study, trials) if type(study) is Study else study


class _GeneticSampler(BaseGASampler):
    """Base class that reads the parents of a generation from the study, because the sampler may not see old trials."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the parents of a generation, ordered by trial number."""
        known = study._storage.get_study_system_attrs(study._study_id)
        parents = known.get(f"{self._get_parent_cache_key_prefix()}{generation}")
        if generation == 0 or parents is None:
            return super().get_parent_population(study, generation)
        return [study._storage.get_trial(parent) for parent in sorted(parents)]


class RecentNSGAIISampler(_GeneticSampler, NSGAIISampler):
    """NSGA-II (Deb et al. 2002, doi:10.1109/4235.996017) in which the sampler sees only recent trials."""


class RecentNSGAIIISampler(_GeneticSampler, NSGAIIISampler):
    """NSGA-III (Deb and Jain 2014, doi:10.1109/TEVC.2013.2281535) in which the sampler sees only recent trials."""


@dataclass(frozen=True, eq=False)
class RemainingPoints:
    """The points that may still be proposed.

    Attributes:
        grid: The grid.
        taken: Flat indices of the points that are evaluated or pending.
    """

    grid: Grid
    taken: Seen

    def listed(self) -> Ints | None:
        """Return the points, int64 of shape ``(n, dims)``; None if the grid is too large to list."""
        small = self.grid.size <= WHOLE_SPACE
        return self.grid.actions(self.grid.remaining(self.taken)) if small else None

    def contains(self, actions: Ints) -> Bools:
        """Return whether each action may be proposed, bool of shape ``(n,)``."""
        return self.grid.are_left(actions, self.taken)


class RemainingSampler(BaseSampler):
    """Base class of samplers that propose only remaining points.

    Attributes:
        remaining: The points that may be proposed; None for all points.

    Args:
        names: Names of the parameters, in the order of the action's dimensions.
        options: Keyword arguments of Optuna's sampler.
    """

    remaining: RemainingPoints | None = None

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._names = tuple(names)


class RemainingTPESampler(RemainingSampler, TPESampler):
    """Tree-structured Parzen estimator (Bergstra et al. 2011) that proposes its best remaining candidate.

    If none of its candidates remains, it proposes a known point. If it samples parameters one by one, as with
    ``multivariate=False``, it works like Optuna's sampler.
    """

    def _compute_acquisition_func(
        self, samples: dict[str, npt.NDArray[np.float64]], mpe_below: Any, mpe_above: Any
    ) -> npt.NDArray[np.float64]:
        acquisition: npt.NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        remaining = self.remaining
        if remaining is None or any(
            count > 1 and name not in samples for name, count in zip(self._names, remaining.grid.nvec, strict=True)
        ):
            return acquisition
        constant = np.zeros_like(acquisition)
        actions = np.stack([np.rint(samples.get(name, constant)) for name in self._names], axis=-1)
        return np.where(remaining.contains(actions.astype(np.int64)), acquisition, -np.inf)


class RemainingGPSampler(RemainingSampler, GPSampler):
    """Gaussian process that proposes the remaining point with the highest acquisition value.

    If the grid is too large to list, it optimises the acquisition function over the whole box, like Optuna's sampler.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample parameters together."""
        self._varying = search_space
        return super().sample_relative(study, trial, search_space)

    def _optimize_acqf(self, acqf: Any, best_params: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        actions = None if self.remaining is None else self.remaining.listed()
        if actions is None:
            return super()._optimize_acqf(acqf, best_params)
        normalised = self._normalised(acqf.search_space, actions)
        chunks = np.array_split(normalised, -(-len(normalised) // _CHUNK))
        acquisition = np.concatenate([acqf.eval_acqf_no_grad(chunk) for chunk in chunks])
        best: npt.NDArray[np.float64] = normalised[np.argmax(acquisition)]
        return best

    def _normalised(self, space: Any, actions: Ints) -> npt.NDArray[np.float64]:
        """Return actions as inputs of the Gaussian process, float64 of shape ``(n, varying parameters)``."""
        columns = [self._names.index(name) for name in self._varying]
        most = actions.max(axis=0)
        rows = [dict(zip(self._names, np.minimum(row, most).tolist(), strict=True)) for row in range(most.max() + 1)]
        levels = space.get_normalized_params([None] * len(rows), rows)
        normalised: npt.NDArray[np.float64] = levels[actions[:, columns], np.arange(len(columns))]
        return normalised


_SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": RemainingTPESampler,
    "gp": partial(RemainingGPSampler, warn_independent_sampling=False),
    "cmaes": partial(JSONCmaEsSampler, warn_independent_sampling=False),
    "nsgaii": RecentNSGAIISampler,
    "nsgaiii": RecentNSGAIIISampler,
    "qmc": partial(samplers.QMCSampler, warn_independent_sampling=False),
    "grid": samplers.GridSampler,
    "random": samplers.RandomSampler,
}
_SHARED = ("qmc", "grid")
"""Samplers with one sequence of points for all trials, chosen by the seed."""


def _patient(wrapped: str = "none", patience: int = 1, min_delta: float = 0.0, **options: Any) -> BasePruner:
    inner = None if wrapped == "none" else make_pruner(wrapped, options)
    return pruners.PatientPruner(inner, patience=patience, min_delta=min_delta)


_PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "none": pruners.NopPruner,
    "median": pruners.MedianPruner,
    "percentile": pruners.PercentilePruner,
    "successive-halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
    "threshold": pruners.ThresholdPruner,
    "patient": _patient,
}


def sampler_maker(
    name: str, options: Mapping[str, Any], space: Mapping[str, int], seed_of: Callable[[int], int]
) -> SamplerMaker:
    """Return a function that creates the sampler of each trial.

    Args:
        name: One of :data:`kdnas_env.agents.optuna.config.SAMPLERS`.
        options: Keyword arguments of Optuna's class.
        space: Number of choices of each parameter.
        seed_of: Maps a trial's number to a seed in ``[0, 2**32)``.

    Raises:
        KDNASError: If an option is unknown or malformed, or the space is too large for the sampler ``grid``.
        DependencyError: If the sampler needs a package that is not installed.
    """
    if name == "cmaes" and find_spec("cmaes") is None:
        raise DependencyError(
            "sampler 'cmaes' needs the package 'cmaes', which is not installed: pip install 'kdnas[optuna]'"
        )
    if "seed" in options:
        raise KDNASError("sampler_options has a 'seed'; leave it out, because the seed of the search is used")
    make = _SAMPLERS[name]
    if name in ("tpe", "gp"):
        make = partial(make, tuple(space))
    if name == "grid":
        if (points := math.prod(space.values())) > LISTABLE:
            raise KDNASError(
                f"sampler 'grid' lists the whole space, which has {points} points; expected at most {LISTABLE}. Use "
                "sampler 'qmc' or 'random'"
            )
        make = partial(make, {parameter: [*range(count)] for parameter, count in space.items()})
    if name in _SHARED:
        shared = _built("sampler", name, partial(make, seed=seed_of(0)), options)
        return lambda number: shared
    return lambda number: _built("sampler", name, partial(make, seed=seed_of(number)), options)


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Create a pruner.

    Args:
        name: One of :data:`kdnas_env.agents.optuna.config.PRUNERS`.
        options: Keyword arguments of Optuna's class. ``patient`` takes its own arguments, ``wrapped`` (the name of
            another pruner; default: none), and the keyword arguments of the wrapped pruner.

    Raises:
        KDNASError: If the name or an option is unknown or malformed.
    """
    check_choice("pruner", name, _PRUNERS)
    return _built("pruner", name, _PRUNERS[name], options)


def _built(kind: str, name: str, make: Callable[..., T], options: Mapping[str, Any]) -> T:
    try:
        with quiet():
            return make(**typed_arguments(make, options))
    except KDNASError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise KDNASError(f"{kind}_options of {kind} {name!r} are {dict(options)!r}: {error}") from error
