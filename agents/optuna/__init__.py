"""Optuna as an agent: samplers, pruners and studies of Optuna search an environment.

This file defines the hyper-parameters: ``OptunaConfig`` is public under this name. It can be imported without Optuna,
which may not be installed and is slow to import. ``agent`` imports the other modules only when it is used.

- ``agent``: The agent.
- ``study``: An Optuna study whose trials are points of a grid, and how an evaluation ends a trial.
- ``samplers``: Samplers, CMA-ES among them, the trials that they see in a long study, and pruners.
- ``storage``: Storages of studies, heartbeats of processes, and checks before a search joins a study.
"""

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
NON_LEARNING = ("qmc", "grid", "random")
"""Samplers that do not learn from trials."""
JOURNAL_SUFFIXES = (".log", ".journal")

STATUS, DISMISSED, DRAWN, WORKER = "status", "dismissed", "drawn", "worker"
"""User attributes of a trial: status of its evaluation; reason why it was not evaluated; whether its point was drawn at
random instead of by the sampler; name of the process that created it."""


@dataclass(frozen=True)
class OptunaConfig(Settings):
    """Hyper-parameters of the Optuna agent.

    Attributes:
        sampler: Optuna's sampler: ``tpe`` (tree-structured Parzen estimator), ``gp`` (Gaussian process), ``cmaes``
            (needs the package ``cmaes``), ``nsgaii``, ``nsgaiii``, ``qmc`` (quasi-Monte Carlo), ``grid`` or ``random``.
        sampler_options: Keyword arguments of the sampler's class in Optuna, plain data, without ``seed``. The genetic
            samplers' default ``population_size`` of 50 is too large for a budget of about 100.
        choices: Type of the parameters: ``ordinal`` (integers; neighbouring choices are similar) or ``categorical``
            (unordered labels).
        pruner: Optuna's pruner: ``none``, ``median``, ``percentile``, ``successive-halving``, ``hyperband``,
            ``threshold`` or ``patient``. It compares ``1 - loss`` after each epoch, not the reward, because the latency
            is only measured at the end.
        pruner_options: Keyword arguments of the pruner's class in Optuna, plain data. ``patient`` takes ``patience``,
            ``min_delta``, ``wrapped`` (the name of another pruner; default: none), and the keyword arguments of the
            wrapped pruner.
        objectives: Two or more names of numbers in the info, which are optimised together instead of the reward. Each
            is minimised, or maximised if it has a leading ``-``, as in ``("loss", "-speedup")``.
        failures: How a failed evaluation enters the study: ``fail`` (as a failed trial, which samplers ignore) or
            ``reward`` (as a completed trial with the environment's reward).
        limits: How the sampler learns that a candidate breaks limits: by its ``reward`` alone, which environments lower
            in this case, or also by Optuna's ``constraints``, with the values of ``costs`` in the info (``tpe``,
            ``gp``, ``nsgaii`` and ``nsgaiii``). Both are the same if the info has no ``costs``.
        duplicates: How a trial ends if the sampler proposes a known point: ``value`` (with the value of the point, if
            it has one) or ``fail`` (as a failed trial, so that the sampler may propose the point again).
        retries: Number of further proposals by the sampler if a point is known or forbidden; after that, a random point
            replaces them.
        replay_size: Number of newest trials that samplers and pruners see, in addition to the best trials; limits the
            time of a proposal. A sampler with a population sees at least four generations.
        storage: Where the study is stored: None for memory, the URL of a database such as ``sqlite:///search.db``, or
            the path of a journal file, which ends in ``.log`` or ``.journal``. A journal is several times faster than
            SQLite, which takes tenths of a second per trial.
        study_name: Name of a study in the storage, which several processes can share; it is created if it does not
            exist. None: each search creates a new study.
        worker: Name of this process in a shared study. A restarted search with the same name first proposes its
            earlier trials again, and so ends like an uninterrupted one. Concurrent processes need different names.
            None: a new name, so that the search only adds trials.
        stale_after: Seconds without a heartbeat after which a process of a shared study counts as dead, so that its
            pending points can be proposed again. Processes send a heartbeat at least every 30 seconds.
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
        if self.sampler in NON_LEARNING and self.pruner == "none":
            self.check_idle("replay_size", because=f"sampler {self.sampler!r} does not learn from trials")
        if self.sampler not in CONSTRAINED:
            self.check_idle("limits", because=f"sampler {self.sampler!r} does not support constraints")
        if self.sampler == "cmaes" and self.choices == "categorical":
            raise KDNASError("sampler 'cmaes' cannot search categorical choices; use choices='ordinal'")
        self._check_objectives()
        self._check_storage()

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the optimised numbers in the info; empty if the reward is optimised."""
        return tuple(name.removeprefix("-") for name in self.objectives)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Directions of the objectives, or of the reward."""
        if not self.objectives:
            return ["maximize"]
        return ["maximize" if name.startswith("-") else "minimize" for name in self.objectives]

    @property
    def population(self) -> int:
        """Population size in the sampler's options, or 0."""
        sizes = [self.sampler_options.get(name) for name in ("population_size", "popsize")]
        return max((size for size in sizes if isinstance(size, int)), default=0)

    def values_of(self, info: Mapping[str, Any]) -> list[float]:
        """Return the objective values in an evaluation's info; empty if the reward is optimised.

        Raises:
            KDNASError: If the info lacks an objective, or its value is not a number.
        """
        for name in self.targets:
            if not isinstance(info.get(name), float | np.floating) and not is_integer(info.get(name)):
                numbers = [key for key, value in info.items() if isinstance(value, int | float | np.number)]
                raise KDNASError(
                    f"objective {name!r} is {info.get(name)!r} in the info; expected the name of one of its numbers, "
                    f"{numbers}"
                )
        return [float(info[name]) for name in self.targets]

    def _check_objectives(self) -> None:
        names = self.objectives
        if not names:
            return
        if len(names) < 2 or len({*self.targets}) < len(names) or "" in self.targets:
            raise KDNASError(
                f"objectives is {names!r}; expected two or more different names of numbers in the info, or none to "
                "optimise the reward"
            )
        for name, value, reason in (
            ("sampler", "cmaes", "optimises a single objective"),
            ("failures", "reward", "gives a single value"),
        ):
            if getattr(self, name) == value:
                raise KDNASError(f"{name} {value!r} {reason}, but there are several objectives, {names!r}")
        if self.pruner != "none":
            raise KDNASError(
                f"pruner {self.pruner!r} compares a single value, but there are several objectives, {names!r}"
            )

    def _check_storage(self) -> None:
        for name in ("storage", "study_name", "worker"):
            value = getattr(self, name)
            if value == "":
                raise KDNASError(f"{name} is ''; expected a non-empty text, or None")
        if self.storage is not None and "://" not in self.storage and not self.storage.endswith(JOURNAL_SUFFIXES):
            raise KDNASError(
                f"storage is {self.storage!r}; expected the URL of a database, such as sqlite:///search.db, or the "
                f"path of a journal file, which ends in {' or '.join(JOURNAL_SUFFIXES)}"
            )
        if self.study_name is None:
            self.check_idle("stale_after", because="a study without a study_name is not shared")
        for name, place in (("study_name", "storage"), ("worker", "study_name")):
            if getattr(self, name) is not None and getattr(self, place) is None:
                raise KDNASError(f"{name} is {getattr(self, name)!r}, but {place} is not set; set both, or neither")


@dataclass(frozen=True)
class Identity:
    """Properties of a study that are known before it is opened.

    Attributes:
        names: Names of the parameters; None for ``dim_0``, ``dim_1``, and so on.
        study_name: Name of a study that must exist; None to use the configured name.
        worker: Name of this process in the study; None to use the configured name.
        content: The data that determine the rewards, by part, as plain data; None if the environment does not offer
            them.
    """

    names: tuple[str, ...] | None = None
    study_name: str | None = None
    worker: str | None = None
    content: Mapping[str, Any] | None = None
