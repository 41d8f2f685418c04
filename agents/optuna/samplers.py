"""Optuna's samplers, with reproducible proposals and bounded time per proposal, and its pruners.

- Each trial has its own sampler, seeded by the trial's number (:class:`TrialSampler`).
- In a long study, samplers learn from the newest and the best trials (:class:`RecentTrials`).
- TPE and the Gaussian process propose only points that may still be proposed (:class:`RemainingSampler`). Otherwise
  most of their proposals would soon be known or forbidden.
- CMA-ES stores its state as JSON instead of a pickle (:class:`JSONCmaEsSampler`).
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
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
from optuna.trial import FrozenTrial, TrialState

from kdnas_env.agents.optuna.storage import optimizer_to_json, quiet, restore_optimizer
from kdnas_env.core.grid import LISTABLE, Grid, Seen
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.support.arrays import Ints
from kdnas_env.support.checks import check_choice
from kdnas_env.support.untrusted import parse_json, typed_arguments

SamplerMaker = Callable[[int], BaseSampler]
"""Creates the sampler of a trial from the trial's number."""

T = TypeVar("T")

WHOLE_SPACE = 100_000
"""Grids up to this many points are listed; the Gaussian process scores all their remaining points."""

_BEST_COUNT = 50
"""Number of best trials to keep in addition to the newest. TPE counts at most the 25 best trials as good ones."""

_CHUNK = 2048
"""Points per evaluation of the acquisition function; limits memory, because each point is sampled jointly with all
running trials."""


class StudyView(Study):
    """A study that shows only some of its trials; writing to it changes the study itself.

    Args:
        study: The study.
        trials: Returns the visible trials, ordered by number; called at each access.
    """

    def __init__(self, study: Study, trials: Callable[[], Sequence[FrozenTrial]]) -> None:
        vars(self).update(vars(study))
        self._visible = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._visible() if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class RecentTrials:
    """The newest finished trials of a study, plus the best ones (with several objectives, the Pareto front).

    Args:
        size: Number of newest trials to keep, and maximum number of best trials.
        directions: Directions of the objectives.
    """

    def __init__(self, size: int, directions: Sequence[StudyDirection]) -> None:
        self._signs = [1.0 if direction is StudyDirection.MAXIMIZE else -1.0 for direction in directions]
        self._newest: deque[FrozenTrial] = deque(maxlen=size)
        self._best: list[FrozenTrial] = []
        self._best_count = min(size, _BEST_COUNT) if len(self._signs) == 1 else size

    def add(self, trial: FrozenTrial) -> None:
        """Add a finished trial; failed ones are ignored, because samplers do not learn from them."""
        if trial.state is TrialState.COMPLETE and not any(violation > 0 for violation in trial.constraints.values()):
            self._add_best(trial)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._newest.append(trial)

    def with_running(self, running: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the kept trials and the given running trials, ordered by number."""
        kept = {trial.number: trial for trial in chain(self._best, self._newest, running)}
        return [kept[number] for number in sorted(kept)]

    def _add_best(self, trial: FrozenTrial) -> None:
        if len(self._signs) == 1:
            self._best.append(trial)
            if len(self._best) > 2 * self._best_count:
                self._best = sorted(self._best, key=lambda best: -self._scores(best)[0])[: self._best_count]
        elif not any(self._dominates(best, trial) for best in self._best):
            not_dominated = [best for best in self._best if not self._dominates(trial, best)]
            self._best = [*not_dominated, trial][-self._best_count :]

    def _dominates(self, first: FrozenTrial, second: FrozenTrial) -> bool:
        pairs = [*zip(self._scores(first), self._scores(second), strict=True)]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    def _scores(self, trial: FrozenTrial) -> list[float]:
        return [sign * value for sign, value in zip(self._signs, trial.values, strict=True)]


class TrialSampler(BaseSampler):
    """Creates a new sampler for each trial, seeded by the trial's number.

    Optuna stores trials, but not the random state of its samplers. Here, a proposal depends only on the seed, the
    number of the trial and the earlier trials. Therefore a loaded study continues exactly, and processes that share a
    study and a seed draw different candidates.

    Attributes:
        fixed: Values of the next suggestions, by parameter; None to sample them.
        recent: Returns the trials to learn from.
        taken: Flat indices of the points that are evaluated or pending.
    """

    def __init__(self, make: SamplerMaker) -> None:
        self.fixed: Mapping[str, int] | None = None
        self.recent: Callable[[], Sequence[FrozenTrial]] = tuple
        self.taken = Seen()
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
            self._sampler.taken = self.taken
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


class RemainingSampler(BaseSampler):
    """Base class of samplers that propose only allowed points that are neither evaluated nor pending.

    Attributes:
        taken: Flat indices of the points that are evaluated or pending.

    Args:
        names: Names of the parameters, in the order of the action's dimensions.
        grid: The grid.
        options: Keyword arguments of Optuna's sampler.
    """

    def __init__(self, names: Sequence[str], grid: Grid, **options: Any) -> None:
        super().__init__(**options)
        self.taken = Seen()
        self._names = tuple(names)
        self._grid = grid


class RemainingTPESampler(RemainingSampler, TPESampler):
    """Tree-structured Parzen estimator (Bergstra et al. 2011) that proposes its best remaining candidate.

    If none of its candidates remains, it proposes a known point. If it samples parameters one by one, as with
    ``multivariate=False``, it works like Optuna's sampler.
    """

    def _compute_acquisition_func(
        self, samples: dict[str, npt.NDArray[np.float64]], mpe_below: Any, mpe_above: Any
    ) -> npt.NDArray[np.float64]:
        acquisition: npt.NDArray[np.float64] = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        if any(count > 1 and name not in samples for name, count in zip(self._names, self._grid.nvec, strict=True)):
            return acquisition
        constant = np.zeros_like(acquisition)
        actions = np.stack([np.rint(samples.get(name, constant)) for name in self._names], axis=-1)
        return np.where(self._grid.are_left(actions.astype(np.int64), self.taken), acquisition, -np.inf)


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
        if self._grid.size > WHOLE_SPACE:
            return super()._optimize_acqf(acqf, best_params)
        actions = self._grid.actions(self._grid.remaining(self.taken))
        normalised = self._normalised(acqf.search_space, actions)
        chunks = np.array_split(normalised, -(-len(normalised) // _CHUNK))
        acquisition = np.concatenate([acqf.eval_acqf_no_grad(chunk) for chunk in chunks])
        best: npt.NDArray[np.float64] = normalised[np.argmax(acquisition)]
        return best

    def _normalised(self, space: Any, actions: Ints) -> npt.NDArray[np.float64]:
        """Return actions as inputs of the Gaussian process, float64 of shape ``(n, varying parameters)``."""
        columns = [self._names.index(name) for name in self._varying]
        highest = actions.max(axis=0)
        rows = [
            dict(zip(self._names, np.minimum(row, highest).tolist(), strict=True)) for row in range(highest.max() + 1)
        ]
        levels = space.get_normalized_params([None] * len(rows), rows)
        normalised: npt.NDArray[np.float64] = levels[actions[:, columns], np.arange(len(columns))]
        return normalised


class JSONCmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES sampler (Hansen 2016, arXiv:1604.00772) with the same proposals, but without pickles.

    It ignores pickled states that Optuna's own sampler has written to a study, and begins a new state in this case.
    """

    _optimizer: Any = None
    _stored: tuple[int, str] | None = None  # number of the trial that holds the state, and the state as JSON

    @property
    def _attr_key_optimizer(self) -> str:
        return f"{self._attr_prefix}plain"

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """Return the attributes that store the state; Optuna's pickle (``optimizer_str``) is discarded."""
        return super()._split_optimizer_str(json.dumps(optimizer_to_json(self._optimizer)))

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """Find the stored state; :meth:`_init_optimizer`, which Optuna calls next, restores it."""
        prefix, self._stored = f"{self._attr_key_optimizer}:", None
        for trial in reversed(completed_trials):
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            if parts:
                text = "".join(str(parts.get(f"{prefix}{part}")) for part in range(len(parts)))
                self._stored = trial.number, text
                break
        return None

    def _init_optimizer(self, trans: Any, direction: StudyDirection) -> Any:
        generator = self._cma_rng.rng
        before = generator.get_state()
        self._optimizer = super()._init_optimizer(trans, direction)
        if self._stored is not None:
            # Optuna's sampler creates no optimizer here, so it draws no random numbers.
            generator.set_state(before)
            number, text = self._stored
            try:
                restore_optimizer(self._optimizer, parse_json(text))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RunError(
                    f"the state of CMA-ES in trial {number} of the study is damaged: {error}; use another study_name, "
                    "to start a new study"
                ) from error
        return self._optimizer


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


def sampler_maker(
    name: str, options: Mapping[str, Any], names: Sequence[str], grid: Grid, seed_of: Callable[[int], int]
) -> SamplerMaker:
    """Return a function that creates the sampler of each trial.

    Args:
        name: One of :data:`kdnas_env.agents.optuna.SAMPLERS`.
        options: Keyword arguments of Optuna's class.
        names: Names of the parameters, in the order of the action's dimensions.
        grid: The grid.
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
        make = partial(make, names, grid)
    if name == "grid":
        if grid.points > LISTABLE:
            raise KDNASError(
                f"sampler 'grid' lists the whole space, which has {grid.points} points; expected at most {LISTABLE}. "
                "Use sampler 'qmc' or 'random'"
            )
        make = partial(make, {name: [*range(count)] for name, count in zip(names, grid.nvec.tolist(), strict=True)})
    if name in _SHARED:
        shared = _built("sampler", name, partial(make, seed=seed_of(0)), options)
        return lambda number: shared
    return lambda number: _built("sampler", name, partial(make, seed=seed_of(number)), options)


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


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Create a pruner.

    Args:
        name: One of :data:`kdnas_env.agents.optuna.PRUNERS`.
        options: Keyword arguments of Optuna's class. ``patient`` takes its own arguments, ``wrapped`` (the name of
            another pruner; default: none), and the keyword arguments of the wrapped pruner.

    Raises:
        KDNASError: If the name or an option is unknown or malformed.
    """
    check_choice("pruner", name, _PRUNERS)
    return _built("pruner", name, _PRUNERS[name], options)


def _built(kind: str, name: str, make: Callable[..., T], options: Mapping[str, Any]) -> T:
    """Create an object of Optuna from plain options.

    Args:
        kind: ``sampler`` or ``pruner``, for messages.
        name: Name of the sampler or pruner.
        make: Its class, or a function with the same keyword arguments.
        options: Keyword arguments.

    Raises:
        KDNASError: If an option is unknown or malformed.
    """
    try:
        with quiet():
            return make(**typed_arguments(make, options))
    except KDNASError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise KDNASError(f"{kind}_options of {kind} {name!r} are {dict(options)!r}: {error}") from error
