"""Put a live search together from its settings: evaluator, worker processes and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import Evaluator, Fidelity
from kdnas_env.core.reward import IMITATION, TASK, KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.book import Stopping
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.layout import checked_count
from kdnas_env.envs.making import SpaceSource, resolve_space
from kdnas_env.errors import KDNASError

if TYPE_CHECKING:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
    from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
    from kdnas_env.execution.backend import Backend
    from kdnas_env.execution.worker_pool import WorkerPool


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search that distils students, as plain data.

    :class:`kdnas_env.envs.mini_kd.MiniKDEnv` explains each.

    Raises:
        KDNASError: If workers, fidelity or reward are malformed.
    """

    teacher: str = "demo"
    corpus: str | Mapping[str, Any] = "demo"
    space: SpaceSource = None
    families: Sequence[str] | str | None = None
    max_parameters: int | None = None
    budget: float = 16
    budget_unit: str = "evaluations"
    round_size: int = 4
    epochs: int = 1
    data_fraction: float = 0.2
    seed: int = 0
    recipe: str | Mapping[str, Any] = "default"
    latency: str | Mapping[str, Any] = "torch"
    alpha: float = KDReward.alpha
    beta: float = KDReward.beta
    penalty: float | None = None
    loss: str | None = None
    task: str | Mapping[str, Any] | None = None
    quality: str = KDReward.quality
    duplicates: str = "charge"
    limits: Mapping[str, Any] | None = None
    constraints: str = "reward"
    infeasible: str = "free"
    store: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    device: str | None = None
    threads: int | None = None
    workers: int = 1
    ray: str | None = None
    gpus_per_worker: float = 0.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        checked_count("workers", self.workers, "processes")
        _ = self.fidelity, self.reward

    @cached_property
    def search_space(self) -> SearchSpace:
        """The search space.

        Raises:
            KDNASError: If the teacher or file does not exist, or the space is malformed.
        """
        from kdnas_env.distillation.teacher.loading import load_teacher_architecture
        from kdnas_env.distillation.training.recipe import check_recipe_choices

        teacher = load_teacher_architecture(self.teacher)
        space = resolve_space(self.space, teacher, self.families, self.max_parameters)
        check_recipe_choices(space.recipe_choices)
        return space

    @property
    def reward(self) -> KDReward:
        """The reward; for the recipe of the paper by the training loss, as there, unless by the task.

        Raises:
            KDNASError: If it goes by a task, but no task is given.
        """
        from kdnas_env.distillation.training.recipe import PAPER

        if self.quality == TASK and self.task is None:
            raise KDNASError(f"quality is {TASK}, but there is no task to measure it on; name it with `task`")
        loss = self.loss or ("train_raw" if self.recipe in PAPER and self.quality == IMITATION else "heldout")
        return KDReward(self.alpha, self.beta, loss=loss, penalty=self.penalty, quality=self.quality)

    @property
    def fidelity(self) -> Fidelity:
        """The fidelity of an evaluation."""
        return Fidelity(epochs=self.epochs, data_fraction=self.data_fraction, seed=self.seed)

    @property
    def threads_each(self) -> int:
        """Threads that train each student: this process' threads divided by its workers."""
        if self.threads is not None:
            return self.threads
        import torch

        return 1 if self.ray is not None else max(1, torch.get_num_threads() // self.workers)

    @property
    def mini_kd(self) -> MiniKDSettings:
        """The settings of the distillations."""
        from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings

        corpus = {"source": self.corpus} if isinstance(self.corpus, str) else self.corpus
        return MiniKDSettings(
            teacher=self.teacher,
            corpus={"seed": self.seed, **corpus},
            recipe=self.recipe,
            latency=self.latency,
            cache_dir=self.cache_dir,
            device=self.device,
            threads=self.threads_each,
            # A student that breaks a limit is distilled only if the limit does not change the reward.
            limits=self.limits if self.constraints == "reward" else None,
            task=self.task,
        )

    @property
    def episode(self) -> dict[str, Any]:
        """The arguments of :class:`kdnas_env.envs.kdnas.KDNASEnv` other than space and evaluator."""
        return {
            "reward": self.reward,
            "fidelity": self.fidelity,
            "budget": self.budget,
            "budget_unit": self.budget_unit,
            "round_size": self.round_size,
            "duplicates": self.duplicates,
            "limits": self.limits,
            "constraints": self.constraints,
            "infeasible": self.infeasible,
        }


def make_env(settings: SearchSettings, evaluator: Evaluator, *, stop: Stopping | None = None) -> KDNASEnv:
    """Make the environment of a search.

    Args:
        settings: The settings of the search.
        evaluator: Evaluates its students.
        stop: Early stopping; see :class:`kdnas_env.envs.kdnas.KDNASEnv`.

    Raises:
        KDNASError: If a setting is malformed.
    """
    return KDNASEnv(settings.search_space, evaluator, **settings.episode, stop=stop)


def assemble(
    settings: SearchSettings, mini_kd: MiniKDEvaluator, *, in_workers: bool = False
) -> tuple[Evaluator, WorkerPool | None]:
    """Open the evaluator of a search.

    Args:
        settings: The settings of the search.
        mini_kd: The evaluator of this process, made from ``settings.mini_kd``.
        in_workers: Whether a single worker also runs in a separate process.

    Returns:
        The evaluator of the search, which the caller must close: the store if there is one, else the workers or
        ``mini_kd``. And the workers; None if this process distils the students itself.

    Raises:
        RunError: If the store cannot be opened, or no Ray cluster is found at the address.
    """
    from kdnas_env.evaluators.parallel import ParallelEvaluator
    from kdnas_env.evaluators.stored import StoredEvaluator

    pool = _pool(settings, mini_kd) if in_workers or settings.workers > 1 or settings.ray is not None else None
    evaluator: Evaluator = mini_kd if pool is None else ParallelEvaluator(pool)
    if settings.store is not None:
        evaluator = StoredEvaluator(evaluator, settings.store, limits=Constraints.of(settings.limits))
    return evaluator, pool


def _pool(settings: SearchSettings, mini_kd: MiniKDEvaluator) -> WorkerPool:
    from kdnas_env.execution.backend import Ready
    from kdnas_env.execution.processes import LocalBackend
    from kdnas_env.execution.worker_pool import WorkerPool

    make_evaluator = partial(type(mini_kd), mini_kd.settings, best=mini_kd.best)
    backend: Backend
    if settings.ray is None:
        backend = LocalBackend(make_evaluator, mini_kd.MODULES)
    else:
        from kdnas_env.execution.ray import RayBackend

        backend = RayBackend(
            make_evaluator, address=settings.ray, cpus=settings.threads_each, gpus=settings.gpus_per_worker
        )
    identity = Ready(mini_kd.fingerprint, mini_kd.deterministic)
    return WorkerPool(backend, settings.workers, identity=identity, timeout=settings.timeout)
