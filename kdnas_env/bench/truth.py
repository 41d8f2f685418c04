"""The true values of a race's task, by which the searches of agents are judged.

A table or a surrogate gives the noise-free reward of every student, and so the optimum, also under limits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.bench.listing import Listing, list_students, sample_students
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import AT_LEAST, LEAST_QUALITY, Constraints
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.grid_space import GridSpace
from kdnas_env.core.pareto import hypervolume, pareto_front
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.external import ExternalEvaluator
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.progress import OnProgress
from kdnas_env.support.statistics import random_search_quantile, top_threshold
from kdnas_env.tables.external import is_external, read_external
from kdnas_env.tables.storage import checksum, table_path
from kdnas_env.tables.surrogates.storage import load_source
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import LATENCIES, MISSING, Table

TARGETS = {"top_1_percent": 0.01, "top_0.1_percent": 0.001, "optimum": 0.0}
"""Targets of a search, as the best share of the students; 0 is the optimum, or a student within the noise of it."""

NOISE_STUDENTS, NOISE_SEEDS = 250, 8
"""Numbers of students and seeds from which the noise of a surrogate is estimated."""


@dataclass(frozen=True, eq=False)
class Truth:
    """True values of a task's students: means over the seeds after the last epoch, from a table or a surrogate.

    Students that break a limit are left out, and students that a table has no evaluation of. A surrogate has values for
    all students of its space.

    Attributes:
        task: The task.
        title: Title of the table or the surrogate.
        space: The space of the table or the surrogate.
        epochs: Epochs of every evaluation.
        index: Flat index of each student in the space, ascending, int64 ``(n,)``.
        reward: Its reward, float64 ``(n,)``.
        costs: Its loss and its latency over the teacher's, float64 ``(n, 2)``; NaN for a student that failed.
        seconds: Simulated seconds of its evaluation at the epochs of the task, float64 ``(n,)``.
        tolerance: Standard deviation of one student's reward between seeds (root mean square); rewards closer than
            that to the optimum tie with it.
        infeasible: Number of students that are left out because they break a limit.
    """

    task: Task
    title: str
    space: GridSpace[Any]
    epochs: int
    index: Ints
    reward: Floats
    costs: Floats
    seconds: Floats
    tolerance: float
    infeasible: int

    @classmethod
    def of(cls, task: Task, on_progress: OnProgress = lambda done, total: None) -> Truth:
        """Compute the true values of a task.

        This takes hundredths of a second for a table, and a minute or two for a surrogate. The predictions of a
        surrogate are cached on disk (:mod:`kdnas_env.bench.listing`), so that it takes seconds the next time.

        Args:
            task: The task.
            on_progress: Called with the number of points of a surrogate's space that are listed, and the number of all.

        Raises:
            KDNASError: If there is no such table, it lacks data that the task needs, no student in it was evaluated
                successfully or keeps the limits, or the space of the surrogate is too large.
        """
        if is_external(task.table):
            return _of_external(task)
        source = load_source(task.table)
        if isinstance(source, Surrogate):
            return _of_surrogate(_Question(task, checksum(table_path(task.table)), source, on_progress))
        (table,) = source
        table.check_whole()
        return cls.of_table(task, table)

    @classmethod
    def of_table(cls, task: Task, table: Table) -> Truth:
        """Compute the true values of a task from a loaded table; see :meth:`of`.

        The table may hold a sample of its space.
        """
        return _of_table(task, table)

    @classmethod
    def sampled(cls, task: Task, points: int, rng: np.random.Generator) -> Truth:
        """Compute the true values of random students of a surrogate's space; of a table, those of all its students.

        This takes seconds for a space of any size. The optimum is then the best of the sample.

        Args:
            task: The task.
            points: Number of points to draw; invalid points are left out.
            rng: Generator that draws them.

        Raises:
            KDNASError: As :meth:`of`.
        """
        source = load_source(task.table)
        if not isinstance(source, Surrogate):
            return cls.of_table(task, *source)
        mean, short = _mean_of(task, source)
        return _of_listing(task, mean, short, sample_students(mean, task.reward.curve, short.epochs, points, rng))

    @property
    def best(self) -> float:
        """The highest reward."""
        return float(self.reward.max())

    @property
    def optima(self) -> Ints:
        """Flat indices of the students that tie with the best, int64."""
        return self.index[self.reward >= self.threshold(0.0)]

    @property
    def floor(self) -> float:
        """Reward of a failure."""
        return self.task.reward.floor

    def threshold(self, share: float) -> float:
        """Return the lowest reward of the best share of the students; share 0 means ties with the optimum."""
        return top_threshold(self.reward, share) if share else self.best - self.tolerance

    def random_median(self, evaluations: int) -> float:
        """Return the exact median of the best reward of random search without noise."""
        return random_search_quantile(self._ordered, min(max(1, evaluations), len(self.reward)))

    def affordable(self, budget: Budget) -> int:
        """Return the number of students of mean cost that a budget pays for, at least 1."""
        if budget.unit == "evaluations":
            return int(budget.amount)
        each = float(self.seconds.mean()) if budget.unit == "seconds" else float(max(1, self.epochs))
        return max(1, int(budget.amount / each)) if each > 0 else len(self.reward)

    def evaluation_limit(self, budget: Budget) -> int:
        """Return the largest number of evaluations that a budget pays for."""
        if budget.unit == "seconds":
            taking = self.seconds[self.seconds > 0]  # failures may take no time
            if not len(taking):
                return len(self.reward)
            most = math.ceil(budget.amount / float(taking.min())) + len(self.seconds) - len(taking)
            # The seconds of students that break a limit are not known here.
            charged = self.task.infeasible == "charge" or self.task.constraints == "cost" or self.task.limits.keep
            return min(self.space.size, most + (self.infeasible if charged else 0))
        evaluations = budget.evaluations(Fidelity(epochs=self.epochs))
        assert evaluations is not None
        return evaluations

    def index_of(self, config: StudentConfig) -> int:
        """Return the flat index of a student; always the same index if several points of the space are this student."""
        return self.space.index(self.space.encode(config))

    def rewards_of(self, index: npt.ArrayLike) -> Floats:
        """Return the true rewards of flat indices, float64; that of a failure for those without a student here."""
        return np.where(self._there(index), self.reward[self._place(index)], self.floor)

    def costs_of(self, index: npt.ArrayLike) -> Floats:
        """Return true loss and latency ratio of flat indices, float64 ``(n, 2)``; NaN if there is no student here."""
        return np.asarray(np.where(self._there(index)[..., None], self.costs[self._place(index)], np.nan))

    @cached_property
    def front(self) -> Ints:
        """Flat indices of the students that no other beats in both loss and latency, fastest last, int64."""
        ended = np.flatnonzero(np.isfinite(self.costs).all(axis=1))
        return self.index[ended[pareto_front(*self.costs[ended].T)]]

    @property
    def reference(self) -> tuple[float, float]:
        """Reference point of the hypervolume: the largest loss and latency ratio of the table."""
        worst = np.nanmax(self.costs, axis=0)
        return float(worst[0]), float(worst[1])

    @cached_property
    def volume(self) -> float:
        """Hypervolume of the front."""
        return hypervolume(self.costs_of(self.front), self.reference)

    @cached_property
    def _ordered(self) -> Floats:
        return np.sort(self.reward)

    def _place(self, index: npt.ArrayLike) -> Ints:
        return np.minimum(np.searchsorted(self.index, np.asarray(index, dtype=np.int64)), len(self.index) - 1)

    def _there(self, index: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        return np.asarray(self.index[self._place(index)] == np.asarray(index, dtype=np.int64))


def _of_table(task: Task, table: Table) -> Truth:
    TabularEvaluator(table, task.seed, task.device)  # checks them
    reward, whole = task.reward, Fidelity(epochs=table.metadata.epochs)
    epochs = whole.epochs if task.epochs is None else task.epochs
    mean = TabularEvaluator(table, "mean", task.device, missing="failed")
    # Several points can be the same student; the table may use another of them than the canonical one.
    index = np.sort(table.space.canonical(table.index[(table.status != MISSING).any(axis=1)]))
    cells = mean.look_up(index, whole)
    if not cells.ok.any():
        raise KDNASError(f"table {task.table!r} has no student that ended well; there is nothing to search")
    students = len(index)
    index = index[
        _feasible(
            task,
            cells.ok,
            parameters=cells.parameters,
            latency_ms=cells.latencies[:, LATENCIES.index("median_ms")],
            ratio=cells.ratios,
            loss=cells.losses(reward.curve),
        )
    ]
    cells = mean.look_up(index, whole)
    costs = np.column_stack([cells.losses(reward.curve), np.clip(cells.ratios, reward.MIN_RATIO, reward.MAX_RATIO)])
    seeds = [replace(mean, seed=seed).look_up(index, whole) for seed in table.metadata.seeds]
    return Truth(
        task,
        table.metadata.title,
        table.space,
        epochs,
        index,
        cells.rewards(reward),
        np.where(cells.ok[:, None], costs, np.nan),
        mean.look_up(index, Fidelity(epochs=epochs)).wall_seconds,
        _deviation(np.array([cells.rewards(reward) for cells in seeds]), np.array([cells.ok for cells in seeds])),
        students - len(index),
    )


def _of_external(task: Task) -> Truth:
    table = read_external(table_path(task.table))
    ExternalEvaluator(table, task.external["seed"])  # checks it
    first, count = table.trainings.T

    def mean(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values, first) / count)

    score, seconds = mean(table.score), mean(table.seconds)
    return Truth(
        task,
        table.title,
        table.space,
        0,
        table.space.valid_indices,
        score,
        np.column_stack([1.0 - score, seconds / table.seconds.max()]),
        seconds,
        table.noise,
        0,
    )


def _feasible(
    task: Task,
    ok: npt.NDArray[np.bool_],
    *,
    parameters: npt.ArrayLike,
    latency_ms: Floats,
    ratio: Floats,
    loss: Floats,
) -> npt.NDArray[np.bool_]:
    """Return which students break no limit, bool ``(n,)``. A failed student can break only limits on known figures.

    Args:
        task: The task.
        ok: Whether the evaluations succeeded, bool ``(n,)``.
        parameters: Parameters, integers ``(n,)``.
        latency_ms: Latencies, ``(n,)``; in these and the next two arrays, NaN means unknown.
        ratio: Latencies over the teacher's, ``(n,)``.
        loss: Losses of the reward, ``(n,)``.

    Raises:
        KDNASError: If no student keeps all limits; the message gives the figures.
    """
    limits = task.limits
    values: dict[str, Floats] = {
        "speedup": 1.0 / ratio,
        "latency_ms": latency_ms,
        "size_mb": limits.megabytes(np.asarray(parameters)),
        "parameters": np.asarray(parameters),
        "keep": np.where(ok, np.maximum(1.0 - loss, LEAST_QUALITY), np.nan),
    }
    broken = {name: limits.excess(name, values[name]) > 0 for name in limits.names}
    feasible = ~np.any([np.zeros(len(ok), dtype=np.bool_), *broken.values()], axis=0)
    if not (feasible & ok).any():
        raise KDNASError(f"no student of {task.table!r} keeps the limits: {_figures(limits, values, broken, ok)}")
    return np.asarray(feasible)


def _figures(
    limits: Constraints,
    values: Mapping[str, Floats],
    broken: Mapping[str, npt.NDArray[np.bool_]],
    ok: npt.NDArray[np.bool_],
) -> str:
    """Return a text that says how many students keep each limit, and the best value of each figure."""
    words = []
    for name, breaks in broken.items():
        known = values[name][ok & np.isfinite(values[name])]
        best = ("highest", known.max()) if name in AT_LEAST else ("least", known.min())
        kept = int((ok & ~breaks).sum())
        words.append(
            f"{name} {getattr(limits, name):g} is kept by {kept} of {int(ok.sum())}, the {best[0]} is {best[1]:.4g}"
        )
    return "; ".join(words)


@dataclass(frozen=True)
class _Question:
    """Key of the cache of :func:`_of_surrogate`: a task, and the checksum of its file."""

    task: Task
    checksum: str
    surrogate: Surrogate = field(compare=False)
    on_progress: OnProgress = field(compare=False)


@lru_cache(maxsize=4)  # a process of a race asks again for every block of searches
def _of_surrogate(question: _Question) -> Truth:
    task = question.task
    mean, short = _mean_of(task, question.surrogate)
    return _of_listing(task, mean, short, list_students(mean, task.reward.curve, short.epochs, question.on_progress))


def _mean_of(task: Task, surrogate: Surrogate) -> tuple[SurrogateEvaluator, Fidelity]:
    """Return an evaluator of a surrogate's means, and the fidelity of the task's evaluations."""
    SurrogateEvaluator(surrogate, task.seed, task.device)  # checks them
    short = Fidelity(epochs=surrogate.metadata.epochs if task.epochs is None else task.epochs)
    surrogate.metadata.check_fidelity(short)
    return SurrogateEvaluator(surrogate, "mean", task.device), short


def _of_listing(task: Task, mean: SurrogateEvaluator, short: Fidelity, listing: Listing) -> Truth:
    reward, whole = task.reward, Fidelity(epochs=mean.surrogate.metadata.epochs)
    everyone = np.ones(len(listing.index), dtype=np.bool_)
    figures = {name: getattr(listing, name) for name in ("parameters", "latency_ms", "ratio", "loss")}
    feasible, students = _feasible(task, everyone, **figures), len(listing.index)
    listing = listing.only(feasible)
    ratio = np.clip(listing.ratio, reward.MIN_RATIO, reward.MAX_RATIO)
    places = np.unique(np.linspace(0, len(listing.index) - 1, NOISE_STUDENTS).astype(np.int64))
    space = mean.space
    sample = [space.decode(space.from_index(index)) for index in listing.index[places].tolist()]
    seeds = [replace(mean, seed=seed).evaluate(sample, whole) for seed in range(NOISE_SEEDS)]
    return Truth(
        task,
        f"surrogate of {mean.surrogate.metadata.title}",
        space,
        short.epochs,
        listing.index,
        np.array([reward.score(*pair) for pair in zip(listing.loss.tolist(), ratio.tolist(), strict=True)]),
        np.column_stack([listing.loss, ratio]),
        listing.seconds,
        _deviation(
            np.array([[reward(evaluation).reward for evaluation in row] for row in seeds]),
            np.array([[evaluation.ok for evaluation in row] for row in seeds]),
        ),
        students - len(listing.index),
    )


def _deviation(rewards: Floats, ended: npt.NDArray[np.bool_]) -> float:
    """Return the standard deviation of a student's reward between seeds (root mean square).

    Args:
        rewards: float64 ``(seeds, students)``.
        ended: Whether the evaluations succeeded, bool of the same shape. Students that failed with a seed are ignored.
    """
    whole = ended.all(axis=0)
    return float(np.sqrt(rewards[:, whole].var(axis=0, ddof=1).mean())) if len(rewards) > 1 and whole.any() else 0.0
