"""Optuna's samplers and pruners, made reproducible and fast.

- Every trial gets its own sampler, seeded by the trial's number (:class:`TrialSampler`).
- It learns from the newest and the best trials of a long study
  (:class:`~kdnas_env.agents.optuna.storages.RecentTrials`).
- TPE and the Gaussian process propose only unevaluated points of a grid (:class:`LeftSampler`): in the whole box, most
  of their proposals would soon be known or forbidden.
- CMA-ES keeps its state in the study as JSON (:class:`PlainCmaEsSampler`): a pickle, as Optuna writes it, can run code
  when it is loaded.
"""

from __future__ import annotations

import json
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
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    TPESampler,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from kdnas_env.agents.optuna.storages import StudyOf
from kdnas_env.agents.ranking import Bools
from kdnas_env.core.grid import LISTABLE, Grid, Ints, Seen
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.checks import check_choice
from kdnas_env.support.untrusted import is_number, parse_json, shown, typed_arguments

SamplerMaker = Callable[[int], BaseSampler]
"""Makes the sampler of a trial from the trial's number."""

T = TypeVar("T")

WHOLE_SPACE = 100_000
"""Grids up to this many points are listed to choose from."""

_CHUNK = 2048
"""Points whose acquisition is computed at once: of each there is a joint sample with all that are running."""

_LEARNT = ("_g", "_sigma", "_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma")
"""Numbers that change as an optimiser learns, beside its arrays; all others follow from the options."""

_GENERATOR = "_rng"
"""Attribute of the optimisers of cmaes that is no part of their state: it is seeded anew for every trial."""


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

    Optuna stores trials, but not the random state of its samplers. Here a proposal depends only on the seed, the number
    of the trial and the study before it. A loaded study therefore continues exactly, and processes that share a study
    and a seed draw different candidates.

    Attributes:
        fixed: Values of the next suggestions, by parameter; None to sample them.
        recent: Returns the trials to learn from.
        left: The points that may be proposed.
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
        """Return a trial of each state, which suffices for the parameters, since all trials have the same."""
        return [*{trial.state: trial for trial in self.recent()}.values()]


def _shortened(study: Study, trials: Callable[[], Sequence[FrozenTrial]]) -> Study:
    # What the pruner hyperband hands over shows the trials of one bracket only.
    return StudyOf(study, trials) if type(study) is Study else study


class _Genetic(BaseGASampler):
    """Looks up the parents of a generation by name: they may be older than the trials that a sampler is shown."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Return the parents of a generation, in the order of their numbers."""
        known = study._storage.get_study_system_attrs(study._study_id)
        parents = known.get(f"{self._get_parent_cache_key_prefix()}{generation}")
        if generation == 0 or parents is None:
            return super().get_parent_population(study, generation)
        return [study._storage.get_trial(parent) for parent in sorted(parents)]


class RecentNSGAIISampler(_Genetic, NSGAIISampler):
    """NSGA-II (Deb et al. 2002, doi:10.1109/4235.996017) that can be shown a part of a study."""


class RecentNSGAIIISampler(_Genetic, NSGAIIISampler):
    """NSGA-III (Deb and Jain 2014, doi:10.1109/TEVC.2013.2281535) that can be shown a part of a study."""


@dataclass(frozen=True, eq=False)
class Left:
    """The points that may be proposed.

    Attributes:
        grid: The grid.
        taken: Flat indices of the points that must not be proposed again.
    """

    grid: Grid
    taken: Seen

    def listed(self) -> Ints | None:
        """Return the points, int64 of shape ``(n, dims)``; None if the grid is too large to list."""
        small = self.grid.size <= WHOLE_SPACE
        return self.grid.actions(self.grid.remaining(self.taken)) if small else None

    def among(self, actions: Ints) -> Bools:
        """Return which of the actions may be proposed, bool of shape ``(n,)``."""
        return self.grid.are_left(actions, self.taken)


class LeftSampler(BaseSampler):
    """Base class of samplers that propose only unevaluated points.

    Attributes:
        left: The points that may be proposed; None to sample the whole box.

    Args:
        names: The parameters, in the order of the action's dimensions.
        options: Options of Optuna's sampler.
    """

    left: Left | None = None

    def __init__(self, names: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._names = tuple(names)


class LeftTPESampler(LeftSampler, TPESampler):
    """Tree-structured Parzen estimator that proposes its best unevaluated candidate.

    If all its candidates are known, it proposes a known one. Parameters sampled one by one use Optuna's implementation.
    """

    def _compute_acquisition_func(
        self, samples: dict[str, npt.NDArray[np.float64]], mpe_below: Any, mpe_above: Any
    ) -> npt.NDArray[np.float64]:
        acquisition: npt.NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        left = self.left
        if left is None or any(
            count > 1 and name not in samples for name, count in zip(self._names, left.grid.nvec, strict=True)
        ):
            return acquisition
        constant = np.zeros_like(acquisition)
        actions = np.stack([np.rint(samples.get(name, constant)) for name in self._names], axis=-1)
        return np.where(left.among(actions.astype(np.int64)), acquisition, -np.inf)


class LeftGPSampler(LeftSampler, GPSampler):
    """Gaussian process that proposes the unevaluated point with the highest acquisition value.

    If the points are too many to list, it searches the whole box, like Optuna's sampler.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample parameters together."""
        self._searched = search_space
        return super().sample_relative(study, trial, search_space)

    def _optimize_acqf(self, acqf: Any, best_params: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        actions = None if self.left is None else self.left.listed()
        if actions is None:
            return super()._optimize_acqf(acqf, best_params)
        normalised = self._normalised(acqf.search_space, actions)
        chunks = np.array_split(normalised, -(-len(normalised) // _CHUNK))
        acquisition = np.concatenate([acqf.eval_acqf_no_grad(chunk) for chunk in chunks])
        best: npt.NDArray[np.float64] = normalised[np.argmax(acquisition)]
        return best

    def _normalised(self, space: Any, actions: Ints) -> npt.NDArray[np.float64]:
        """Return actions as the Gaussian process sees them, float64 of shape ``(n, parameters that vary)``."""
        columns = [self._names.index(name) for name in self._searched]
        most = actions.max(axis=0)
        rows = [dict(zip(self._names, np.minimum(row, most).tolist(), strict=True)) for row in range(most.max() + 1)]
        levels = space.get_normalized_params([None] * len(rows), rows)
        normalised: npt.NDArray[np.float64] = levels[actions[:, columns], np.arange(len(columns))]
        return normalised


class PlainCmaEsSampler(CmaEsSampler):
    """Makes the proposals of Optuna's sampler (Hansen 2016, arXiv:1604.00772), without unpickling anything.

    What Optuna's own sampler has written into a study is left alone, so that the strategy starts afresh there.
    """

    _optimizer: Any = None
    _known: tuple[int, str] | None = None  # the number of the trial that has the state, and the state

    @property
    def _attr_key_optimizer(self) -> str:
        return f"{self._attr_prefix}plain"

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """Return the attributes to keep; what Optuna has pickled is dropped."""
        return super()._split_optimizer_str(json.dumps(_plain(self._optimizer)))

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """Find the state; what it is restored to is made by :meth:`_init_optimizer`, which Optuna calls next."""
        prefix, self._known = f"{self._attr_key_optimizer}:", None
        for trial in reversed(completed_trials):
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            if parts:
                text = "".join(str(parts.get(f"{prefix}{part}")) for part in range(len(parts)))
                self._known = trial.number, text
                break
        return None

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        generator = self._cma_rng.rng
        before = generator.get_state()
        self._optimizer = super()._init_optimizer(trans, direction)
        if self._known is not None:
            generator.set_state(before)  # as if none had been made
            number, text = self._known
            try:
                _restore(self._optimizer, parse_json(text))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RunError(
                    f"the state of CMA-ES in trial {number} of the study is damaged: {error}; start another"
                ) from error
        return self._optimizer


def _state(optimizer: Any) -> dict[str, Any]:
    return {name: value for name, value in optimizer.__getstate__().items() if name != _GENERATOR}


def _plain(value: Any) -> Any:
    """Return an optimiser, or a part of its state, as JSON holds it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {name: _plain(part) for name, part in _state(value).items()}


def _restore(optimizer: Any, state: Any) -> None:
    """Give an optimiser the state of another, each part of the kind and shape that it has now.

    Raises:
        ValueError: If a part is missing or of another kind or shape.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"it is {shown(state)}")
    parts = {name: _restored(name, now, state.get(name)) for name, now in _state(optimizer).items()}
    if hasattr(type(optimizer), "__setstate__"):
        optimizer.__setstate__(parts)
    else:
        vars(optimizer).update(parts)


def _restored(name: str, now: Any, value: Any) -> Any:
    """Return a part of a state: what it is now, unless it is learnt."""
    if isinstance(now, np.ndarray) and now.size:
        array = np.array(value if isinstance(value, Sequence) else [], dtype=now.dtype)
        if array.shape != now.shape:
            raise ValueError(f"{name} has the shape {array.shape}, expected {now.shape}")
        return array
    if name in _LEARNT:
        if not is_number(value):
            raise ValueError(f"{name} is {shown(value)}")
        return type(now)(value)
    if hasattr(now, "__dict__"):  # an optimiser within another
        _restore(now, value)
    return now


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


def sampler_maker(
    name: str, options: Mapping[str, Any], space: Mapping[str, int], seed_of: Callable[[int], int]
) -> SamplerMaker:
    """Return what makes the sampler of each trial.

    Args:
        name: One of ``kdnas_env.agents.optuna.SAMPLERS``.
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
        name: One of ``kdnas_env.agents.optuna.PRUNERS``.
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
