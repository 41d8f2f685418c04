"""Optuna as an agent: hyper-parameters and study identity; fast to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from kdnas_env.errors import KDNASError
from kdnas_env.support.settings import Settings
from kdnas_env.support.untrusted import is_integer

Sampler = Literal["tpe", "gp", "cmaes", "nsgaii", "nsgaiii", "qmc", "grid", "random"]
Pruner = Literal["none", "median", "percentile", "successive-halving", "hyperband", "threshold", "patient"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
PRUNERS: tuple[Pruner, ...] = get_args(Pruner)
CONSTRAINED = ("tpe", "gp", "nsgaii", "nsgaiii")
"""Samplers that support constraints."""
FORGETFUL = ("qmc", "grid", "random")
"""Samplers that do not learn from trials."""
JOURNALS = (".log", ".journal")
"""File suffixes of journals."""

STATUS, DISMISSED, DRAWN, WORKER = "status", "dismissed", "drawn", "worker"
"""User attributes of a trial: how its evaluation ended; why it was not evaluated; whether it was drawn at random in the
place of the sampler; who asked for it."""


@dataclass(frozen=True)
class OptunaConfig(Settings):
    """Hyper-parameters of the Optuna agent.

    Attributes:
        sampler: ``tpe`` (tree-structured Parzen estimator), ``gp`` (Gaussian process), ``cmaes``, ``nsgaii``,
            ``nsgaiii``, ``qmc`` (quasi-Monte Carlo), ``grid`` or ``random``. ``cmaes``
            needs the package of that name.
        sampler_options: Keyword arguments of the sampler's class in Optuna, plain data; the seed is the search's. The
            ``population_size`` of the genetic ones is 50, too many for a budget of a hundred.
        choices: How the sampler sees the choices of a dimension: ``ordinal`` (whole numbers, of which neighbours are
            alike) or ``categorical`` (labels).
        pruner: ``none``, ``median``, ``percentile``, ``successive-halving``, ``hyperband``, ``threshold`` or
            ``patient``. It compares ``1 - loss`` after each epoch, not the reward, since the latency is measured at
            the end.
        pruner_options: Keyword arguments of the pruner's class in Optuna, plain data. Those of ``patient`` are
            ``patience``, ``min_delta``, ``wrapped`` (the name of the pruner that it restrains; default: none), and the
            keyword arguments of that one.
        objectives: Names of entries of the info, two or more, which are optimised together in the place of the reward.
            They are minimised, or with a leading ``-`` maximised, as in ``("loss", "-speedup")``.
        failures: How a failed evaluation enters the study: ``fail`` (the sampler learns nothing from it) or ``reward``
            (as an evaluation with the reward that the environment gave).
        limits: How a sampler learns that a candidate breaks limits: by the ``reward`` alone, which environments lower
            for it, or by ``constraints`` of Optuna too, which are the ``costs`` of the info (``tpe``, ``gp``,
            ``nsgaii`` and ``nsgaiii``). Where the info has no costs, nothing differs.
        duplicates: How a sampler is answered that proposes a known point: ``value`` (with what the point earned, where
            that is known) or ``fail`` (it learns nothing, and may propose the point again and again).
        retries: How often a sampler may try again after a point that is known or not allowed, until one is drawn at
            random in its place.
        replay_size: Youngest trials that samplers and pruners look at, beside the best, so that a proposal of a long
            search takes no longer than one before it. Of samplers that evolve a population, four generations at least.
        storage: Where the study is kept: None for memory, the URL of a database such as ``sqlite:///search.db``, or
            the path of a journal, which ends in ``.log`` or ``.journal``. Journals are several times faster than
            SQLite, which takes tenths of a second per trial.
        study_name: A study of the storage, made if there is none, which several processes may share; None: every
            search makes a new one.
        worker: Name of this process in a shared study. The trials that the study has under this name are proposed
            again first, so that a search that is started again ends like one that was not interrupted. Processes that
            run at the same time need different names. None: a new name, so that a search goes on from what is there.
        stale_after: Seconds after which a process of a shared study that gives no sign of life is taken for dead, so
            that what it was evaluating is proposed again. Signs are given every 30 seconds at least.
    """

    sampler: Sampler = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    choices: Literal["ordinal", "categorical"] = "ordinal"
    pruner: Pruner = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    objectives: Sequence[str] = ()
    failures: Literal["fail", "reward"] = "fail"
    limits: Literal["reward", "constraints"] = "reward"
    duplicates: Literal["value", "fail"] = "value"
    retries: int = 10
    replay_size: int = 1_000
    storage: str | None = None
    study_name: str | None = None
    worker: str | None = None
    stale_after: float = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_plain("sampler_options", "pruner_options")
        self.check_numbers("retries", at_least=0)
        self.check_numbers("replay_size", at_least=1)
        self.check_numbers("stale_after", above=0)
        if self.sampler in FORGETFUL and self.pruner == "none":
            self.check_idle("replay_size", because=f"sampler {self.sampler!r} learns nothing from trials")
        if self.sampler not in CONSTRAINED:
            self.check_idle("limits", because=f"sampler {self.sampler!r} knows no constraints")
        if self.sampler == "cmaes" and self.choices == "categorical":
            raise KDNASError("sampler 'cmaes' cannot search categorical choices; use choices='ordinal'")
        self._check_objectives()
        self._check_place()

    @property
    def targets(self) -> tuple[str, ...]:
        """Entries of the info that are optimised; none if it is the reward."""
        return tuple(name.removeprefix("-") for name in self.objectives)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Directions of the objectives, or of the reward."""
        if not self.objectives:
            return ["maximize"]
        return ["maximize" if name.startswith("-") else "minimize" for name in self.objectives]

    @property
    def population(self) -> int:
        """Population that a sampler evolves, if the options say how many; else 0."""
        sizes = [self.sampler_options.get(name) for name in ("population_size", "popsize")]
        return max((size for size in sizes if isinstance(size, int)), default=0)

    def values_of(self, info: Mapping[str, Any]) -> list[float]:
        """Return the objectives of an evaluation; none if the reward is optimised.

        Raises:
            KDNASError: If its info lacks one, or that is no number.
        """
        for name in self.targets:
            if not isinstance(info.get(name), float | np.floating) and not is_integer(info.get(name)):
                numbers = [key for key, value in info.items() if isinstance(value, int | float | np.number)]
                raise KDNASError(
                    f"objective {name!r} is {info.get(name)!r} in the info; expected one of its numbers, {numbers}"
                )
        return [float(info[name]) for name in self.targets]

    def _check_objectives(self) -> None:
        names = self.objectives
        if not names:
            return
        if len(names) < 2 or len({*self.targets}) < len(names) or "" in self.targets:
            raise KDNASError(
                f"objectives is {names!r}; expected two or more different entries of the info, or none to optimise the "
                "reward"
            )
        for name, value, reason in (
            ("sampler", "cmaes", "optimises a single number"),
            ("failures", "reward", "tells a single number"),
        ):
            if getattr(self, name) == value:
                raise KDNASError(f"{name} {value!r} {reason}, but there are several objectives, {names!r}")
        if self.pruner != "none":
            raise KDNASError(f"pruner {self.pruner!r} compares a single number, but there are several objectives")

    def _check_place(self) -> None:
        for name in ("storage", "study_name", "worker"):
            value = getattr(self, name)
            if value == "":
                raise KDNASError(f"{name} is ''; expected a text, or None")
        if self.storage is not None and "://" not in self.storage and not self.storage.endswith(JOURNALS):
            raise KDNASError(
                f"storage is {self.storage!r}; expected the URL of a database, such as sqlite:///search.db, or the "
                f"path of a journal, which ends in {' or '.join(JOURNALS)}"
            )
        if self.study_name is None:
            self.check_idle("stale_after", because="without a study_name nobody shares the study")
        for name, place in (("study_name", "storage"), ("worker", "study_name")):
            if getattr(self, name) is not None and getattr(self, place) is None:
                raise KDNASError(f"{name} is {getattr(self, name)!r} without a {place}; set both, or neither")


@dataclass(frozen=True)
class Identity:
    """What is known of a study before it is opened.

    Attributes:
        names: Names of the parameters; None: ``dim_0``, ``dim_1``, and so on.
        study_name: Name of a study that must exist; None: as configured.
        worker: Name of this process in it; None: as configured.
        content: What decides the rewards, by part, as plain data; None: the environment does not say.
    """

    names: tuple[str, ...] | None = None
    study_name: str | None = None
    worker: str | None = None
    content: Mapping[str, Any] | None = None
