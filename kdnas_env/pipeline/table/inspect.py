"""Figures of a table, a surrogate or an external table, and how hard it is to search."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from kdnas_env.bench.hardness import hardness
from kdnas_env.bench.needs import MODELS, evaluations_needed
from kdnas_env.bench.structure import compare_tasks, describe_rewards
from kdnas_env.bench.truth import Truth
from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.pareto import pareto_front
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import TableError
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.support.checks import check_whole
from kdnas_env.support.figures import ORANGE
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tables.external import ExternalTable, is_external, read_external
from kdnas_env.tables.storage import checksum, load_table, table_names, table_path
from kdnas_env.tables.surrogates.card import surrogate_card
from kdnas_env.tables.surrogates.storage import load_source
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import MISSING, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TableInspectOptions:
    """List the tables of the package, or show the content of one, its noise and how hard it is to search."""

    table: tyro.conf.Positional[str | None] = None
    """Name of a table of the package, or an npz file of a table, an external table or a surrogate. A table with
    settings is a task of kdnas bench, such as NAME:speedup=8; its hardness then covers only students within the
    limits."""
    to: str | None = None
    """Draw its students to this PNG, SVG or PDF file: loss against latency."""
    surrogate: bool = False
    """Evaluate the surrogate that is fitted to it, on students outside its fit; takes some seconds."""
    against: tuple[str, ...] = ()
    """Other tables or tasks of the same space, to compare rewards and best students with."""
    points: int = 5_000
    """Number of sampled points of a surrogate's space for the report of hardness."""
    searches: int = 0
    """Number of searches with a random forest and with a Gaussian process (extras forest and optuna), to measure how
    many evaluations they need; takes minutes."""
    budget: int = 200
    """Number of evaluations per search."""
    json: str | None = None
    """JSON file for all figures."""

    def __post_init__(self) -> None:
        check_whole("searches", self.searches, at_least=0)
        check_whole("budget", self.budget, at_least=1)
        check_whole("points", self.points, at_least=2)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        if self.table is None:
            why = "without a table: the tables of the package are listed; name one"
            return dict.fromkeys(("to", "surrogate", "against", "points", "searches", "budget", "json"), why)
        return {} if self.searches else {"budget": "without `searches`: nothing is searched"}


LEAST_AGREEMENT = 0.95
"""Kendall's tau between seeds, below which a table hardly separates its best students."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """Figures of a table.

    Attributes:
        source: The table.
        sha256: Its checksum (hex).
        task: Reward and limits of its students; None for the default.
    """

    source: Table
    sha256: str
    task: Task | None = None

    @property
    def reward(self) -> KDReward:
        """The reward of a student."""
        return KDReward() if self.task is None else self.task.reward

    @cached_property
    def students(self) -> list[Evaluation]:
        """The mean over seeds of every student that has a loss and, on the first device, a latency."""
        return mean_students(self.source)

    @property
    def best(self) -> Evaluation | None:
        """The student with the highest reward within the limits; None if no student has both loss and latency."""
        if self.task is not None and self.task.limits:
            truth = Truth.of_table(self.task, self.source)
            config = truth.space.decode(truth.space.from_index(int(truth.index[truth.reward.argmax()])))
            return next((student for student in self.students if student.config == config), None)
        return max(self.students, key=lambda student: self.reward(student).reward, default=None)

    @cached_property
    def hardness(self) -> dict[str, Any] | None:
        """How hard it is to search; None if it has fewer than two students."""
        if (self.source.status != MISSING).any(axis=1).sum() < 2:
            return None
        return hardness(self.source, np.random.default_rng(0), task=self.task)

    def against(self, other: str) -> dict[str, Any]:
        """Compare it with another task of the same space; see :func:`kdnas_env.bench.structure.compare_tasks`.

        Args:
            other: Name or npz file of its table, with settings as in ``NAME:speedup=8``.

        Raises:
            KDNASError: If there is no such table, or it is of another space.
        """
        task = Task.parse(other)
        source = load_source(task.table)
        theirs = Truth.of(task) if isinstance(source, Surrogate) else Truth.of_table(task, *source)
        return compare_tasks(Truth.of_table(self._task, self.source), theirs)

    def searches(
        self, searches: int, *, budget: int = 200, progress: Progress = SILENT
    ) -> dict[str, dict[str, Mapping[str, Any]]]:
        """Search it with models, and return how many evaluations they need.

        See :func:`kdnas_env.bench.needs.evaluations_needed`.

        Args:
            searches: Number of searches per model.
            budget: Number of evaluations per search.
            progress: Receives the progress.

        Raises:
            KDNASError: If a model is not installed.
        """
        progress.begin(f"searching {self._task} with {' and '.join(MODELS)}, {searches} times each")
        return evaluations_needed(
            self._task, searches=searches, budget=budget, workers=os.cpu_count() or 1, on_progress=progress.advance
        )

    @property
    def _task(self) -> Task:
        return Task(self.source.metadata.name) if self.task is None else self.task

    @cached_property
    def surrogate(self) -> dict[str, Any]:
        """Accuracy of the surrogate that is fitted to it, on students outside the fit; takes some seconds.

        Raises:
            TableError: If the table has too few students.
        """
        return surrogate_card(self.source)

    @property
    def missing(self) -> int:
        """Cells without an evaluation."""
        return int((self.source.status == MISSING).sum())

    @property
    def agreement(self) -> float | None:
        """Kendall's tau between seeds after the last epoch; None if it is unknown."""
        return _agreement(self.source)

    def measured(self, device: int) -> int:
        """Return the number of students with a latency on a device."""
        return int(np.isfinite(self.source.latencies[:, device]).all(axis=-1).sum())

    def table(self) -> list[dict[str, Any]]:
        """Return one row per student: its choices, mean loss and latency, parameters, and reward."""
        return [
            {
                **student.config.to_dict(),
                "loss": student.heldout_unexplained[-1],
                "latency_ratio": None if student.latency is None else student.latency.ratio,
                "parameters": student.parameters,
                "reward": self.reward(student).reward,
            }
            for student in self.students
        ]

    def plot(self) -> Figure:
        """Draw its students: held-out loss against latency, by depth and width, with the Pareto front."""
        return draw_table(self.source)

    def to_dict(
        self,
        *,
        surrogate: bool = False,
        searches: Mapping[str, Any] | None = None,
        against: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """Return all figures as plain data.

        Args:
            surrogate: Whether to include those of the surrogate.
            searches: Result of :meth:`searches`; left out if empty.
            against: Results of :meth:`against`, one per other task; left out if empty.
        """
        meta = self.source.metadata
        figures: dict[str, Any] = {
            "table": meta.name,
            "sha256": self.sha256,
            "noise": dict(meta.noise),
            "hardness": self.hardness,
        }
        if surrogate:
            figures["surrogate"] = self.surrogate
        if searches:
            figures["searches"] = dict(searches)
        if against:
            figures["against"] = list(against)
        return figures


@dataclass(frozen=True, eq=False)
class SurrogateInspection:
    """Figures of a surrogate.

    Attributes:
        source: The surrogate.
        sha256: Checksum of its file (hex).
        task: The file, with reward and limits of its students.
    """

    source: Surrogate
    sha256: str
    task: Task

    def hardness(self, *, against: Sequence[str] = (), points: int = 5_000) -> dict[str, Any]:
        """Estimate how hard its space is to search from random points, which are the same in every call.

        Args:
            against: Other tasks of the space, to compare it with.
            points: Number of points.

        Returns:
            The result of :func:`kdnas_env.bench.structure.describe_rewards`, and under ``against`` a list of the
            results of :func:`kdnas_env.bench.structure.compare_tasks`.

        Raises:
            KDNASError: If a task is malformed or of another space.
        """
        tasks = (self.task, *map(Task.parse, against))
        first, *others = [Truth.sampled(task, points, np.random.default_rng(0)) for task in tasks]
        return {**describe_rewards(first), "against": [compare_tasks(first, other) for other in others]}


@dataclass(frozen=True, eq=False)
class ExternalInspection:
    """Figures of an external table.

    Attributes:
        source: The table.
        sha256: Its checksum (hex).
    """

    source: ExternalTable
    sha256: str

    @property
    def best(self) -> tuple[Any, float]:
        """The candidate with the best training, and its score."""
        space, best = self.source.space, int(self.source.score.argmax())
        return space.decode(space.from_index(int(self.source.index[best]))), float(self.source.score[best])

    @property
    def median(self) -> float:
        """The median score of all trainings."""
        return float(np.median(self.source.score))

    @property
    def repeated(self) -> int:
        """Candidates that were trained more than once."""
        return int((self.source.trainings[:, 1] > 1).sum())


AnyInspection = Inspection | SurrogateInspection | ExternalInspection


def inspect_table(name: str | os.PathLike[str]) -> AnyInspection:
    """Return the figures of a table, a surrogate or an external table.

    Args:
        name: Name of a table of the package, or an npz file of a table, an external table or a surrogate; or a task of
            a table, such as ``rotten-tomatoes:speedup=8``.

    Raises:
        TableError: If there is none, or it is damaged or of a newer version.
        KDNASError: If the task is malformed, or no student keeps its limits.
    """
    text = os.fspath(name)
    # The name of a file may contain a colon, which separates the settings of a task.
    task = None if os.path.exists(text) and ":" in text else Task.parse(text)
    table = text if task is None else task.table
    if is_external(table):
        return ExternalInspection(read_external(table_path(table)), checksum(table_path(table)))
    source, digest = load_source(table), checksum(table_path(table))
    if isinstance(source, Surrogate):
        return SurrogateInspection(source, digest, task or Task.parse(text))
    return Inspection(source[0], digest, task)


def check_asked(options: TableInspectOptions, inspection: AnyInspection) -> None:
    """Refuse requests for figures that a surrogate or an external table does not have.

    Raises:
        TableError: If such a figure is requested.
    """
    drawn_or_judged = options.to or options.surrogate or options.searches
    if isinstance(inspection, ExternalInspection) and (drawn_or_judged or options.json or options.against):
        raise TableError(f"{options.table!r} is an external table, which has no distillations to draw or to judge")
    if isinstance(inspection, SurrogateInspection) and drawn_or_judged:
        raise TableError(f"{options.table!r} is a surrogate: draw and judge the table that it was fitted to")


def shipped_tables() -> list[dict[str, Any]]:
    """Return one row per table of the package: its size, the share of evaluated cells, and the agreement of its seeds.

    ``tau`` is Kendall's, between seeds after the last epoch; None if it is unknown.
    """
    names = table_names()
    return [
        {
            "table": name,
            "students": len(table),
            "seeds": len(table.metadata.seeds),
            "epochs": table.metadata.epochs,
            "complete": table.complete,
            "tau": _agreement(table),
            "of": table.metadata.title,
        }
        for name, table in zip(names, map(load_table, names), strict=True)
    ]


def _agreement(table: Table) -> float | None:
    taus = table.metadata.noise.get("tau")
    return taus[-1] if taus else None


def mean_students(table: Table) -> list[Evaluation]:
    """Return the mean over seeds of every student with a loss and a latency on the first device."""
    cells = TabularEvaluator(table, missing="failed").look_up(table.index, Fidelity(epochs=table.metadata.epochs))
    return [cells.record(place) for place in np.flatnonzero(cells.ok).tolist()]


def draw_table(table: Table) -> Figure:
    """Plot all students of a table: held-out loss against latency, by depth and width, with the Pareto front.

    Returns:
        A matplotlib figure outside pyplot's global state, 8 by 5 inches.
    """
    from matplotlib.figure import Figure

    students = mean_students(table)
    ratio = np.array([student.latency.ratio for student in students if student.latency])
    loss = np.array([student.heldout_unexplained[-1] for student in students])
    layers = np.array([student.config.num_hidden_layers for student in students])
    widths = np.array([student.config.hidden_size for student in students])
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{table.metadata.name}: {len(students)} students")
    axes.set_xlabel(f"latency ({table.metadata.devices[0].name}), share of the teacher's")
    axes.set_ylabel("held-out unexplained variance")
    for marker, width in zip("osD^vP*X", np.unique(widths), strict=False):
        chosen = widths == width
        points = axes.scatter(
            ratio[chosen],
            loss[chosen],
            c=layers[chosen],
            vmin=layers.min(),
            vmax=layers.max(),
            marker=marker,
            cmap="viridis",
            s=18,
            alpha=0.8,
            linewidths=0,
            label=f"{width} wide",
        )
    front = pareto_front(ratio, loss)
    axes.step(ratio[front], loss[front], where="post", color=ORANGE, linewidth=1.4, label="Pareto front")
    if len(students):
        figure.colorbar(points, ax=axes, pad=0.02, ticks=np.unique(layers)).set_label("layers")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure
