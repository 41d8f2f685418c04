"""The samplers and pruners of Optuna, and how a sampler is kept reproducible."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from kdnas_env.agents.optuna.cmaes import PlainCmaEsSampler
from kdnas_env.agents.optuna.recent import RecentNSGAIIISampler, RecentNSGAIISampler, StudyOf
from kdnas_env.agents.optuna.unevaluated import Left, LeftGPSampler, LeftSampler, LeftTPESampler
from kdnas_env.core.grid import LISTABLE
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.checks import check_choice
from kdnas_env.support.untrusted import typed_arguments

SamplerMaker = Callable[[int], BaseSampler]
"""Makes the sampler of a trial from the trial's number."""

T = TypeVar("T")

_SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": LeftTPESampler,
    "gp": partial(LeftGPSampler, warn_independent_sampling=False),
    "cmaes": partial(PlainCmaEsSampler, warn_independent_sampling=False),
    "nsgaii": RecentNSGAIISampler,
    "nsgaiii": RecentNSGAIIISampler,
    "qmc": partial(samplers.QMCSampler, warn_independent_sampling=False),
    "grid": samplers.GridSampler,
    "random": samplers.RandomSampler,
}
_ONE_SEQUENCE = ("qmc", "grid")
"""Samplers whose seed chooses a sequence that all trials share."""


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's messages and its warnings about experimental features inside the block, and only there.

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
    """A sampler that is made afresh for each trial, seeded by the trial's number.

    Optuna stores what was tried, but not the random numbers of its samplers. Here a proposal follows from the seed,
    the number of the trial and the study before it: a study that is loaded goes on as if it had never been left, and
    processes that share a study and a seed do not draw the same candidates.

    Attributes:
        fixed: What the coming suggestions are, by parameter; None: they are sampled.
        recent: Gives the trials that are learnt from.
        left: What may be proposed.
    """

    def __init__(self, make: SamplerMaker) -> None:
        self.fixed: Mapping[str, int] | None = None
        self.recent: Callable[[], Sequence[FrozenTrial]] = tuple
        self.left: Left | None = None
        self._make = make
        self._sampler = make(0)

    # After a trial the samplers look at constraints only, of which there are none here; but that of grids would stop a
    # loop that does not run. So the inherited after_trial, which does nothing, is right for all.

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of a trial."""
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
        if isinstance(self._sampler, LeftSampler):
            self._sampler.left = self.left
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
        """Return a trial of each state: since all have the same parameters, that tells them."""
        return [*{one.state: one for one in self.recent()}.values()]


def _shortened(study: Study, trials: Callable[[], Sequence[FrozenTrial]]) -> Study:
    # What the pruner hyperband hands over shows the trials of one bracket only.
    return StudyOf(study, trials) if type(study) is Study else study


def sampler_maker(
    name: str, options: Mapping[str, Any], space: Mapping[str, int], seed_of: Callable[[int], int]
) -> SamplerMaker:
    """Return what makes the sampler of each trial.

    Args:
        name: One of ``kdnas_env.agents.optuna.agent.SAMPLERS``.
        options: Keyword arguments of Optuna's class.
        space: Choices of each parameter.
        seed_of: Gives each trial's number a seed in ``[0, 2**32)``.

    Raises:
        KDNASError: If an option is unknown or malformed, or the space is too large for a grid.
        DependencyError: If the sampler needs a package that is not installed.
    """
    if name == "cmaes" and find_spec("cmaes") is None:
        raise DependencyError(
            "sampler 'cmaes' needs the package 'cmaes', which is not installed: pip install 'kdnas[optuna]'"
        )
    if "seed" in options:
        raise KDNASError("sampler_options has a 'seed'; leave it out, the seed of the search is used")
    make = _SAMPLERS[name]
    if name in ("tpe", "gp"):
        make = partial(make, tuple(space))
    if name == "grid":
        if (points := math.prod(space.values())) > LISTABLE:
            raise KDNASError(
                f"sampler 'grid' lists the whole space, which has {points} points; expected at most {LISTABLE}. Use "
                "'qmc' or 'random'"
            )
        make = partial(make, {parameter: [*range(count)] for parameter, count in space.items()})
    if name in _ONE_SEQUENCE:
        shared = _built("sampler", name, partial(make, seed=seed_of(0)), options)
        return lambda number: shared
    return lambda number: _built("sampler", name, partial(make, seed=seed_of(number)), options)


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Make a pruner.

    Args:
        name: One of ``kdnas_env.agents.optuna.agent.PRUNERS``.
        options: Keyword arguments of Optuna's class. Those of ``patient`` are its own, ``wrapped``, the name of the
            pruner that it makes patient (default: none), and the keyword arguments of that one.

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
