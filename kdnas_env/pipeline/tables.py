"""Tables: made of builds, looked at, verified, and surrogates fitted to them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from kdnas_env.bench.hardness import hardness
from kdnas_env.bench.needs import MODELS, evaluations_needed
from kdnas_env.bench.structure import compare_tasks, describe_rewards
from kdnas_env.bench.truth import Truth
from kdnas_env.core.evaluation import Evaluation
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.task import Task
from kdnas_env.errors import KDNASError, TableError
from kdnas_env.evaluators.surrogate import surrogate_space
from kdnas_env.pipeline.options import CacheOption, DeviceOption, options_of
from kdnas_env.support.checks import check_whole
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tables.archive import checked_path
from kdnas_env.tables.external import ExternalTable, is_external, read_external
from kdnas_env.tables.storage import checksum, load_table, table_path, write_table
from kdnas_env.tables.surrogates.card import judge, judge_parts, surrogate_card
from kdnas_env.tables.surrogates.storage import fitted, load_source, write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import MISSING, Table
from kdnas_env.tabulation.merge import merge_builds
from kdnas_env.tabulation.picture import draw_table, mean_students
from kdnas_env.tabulation.verify import Replayed, draw_cells, find_faults, open_live, replay

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TableExportOptions:
    """Make a table of what one or more builds of the same distillations have found."""

    folders: tyro.conf.Positional[tuple[str, ...]]
    """Folders of kdnas table build."""
    to: str
    """The table, an npz file; a JSON file of the same name comes beside it."""


@dataclass(frozen=True)
class ImportNasBenchBertOptions:
    """Make an external table of NAS-Bench-BERT: 500 BERTs whose layers differ, with scores of GLUE, to race agents on.

    The file comes from its authors: data/BERT_benchmark.json of github.com/aaronserianni/training-free-nas.
    """

    file: tyro.conf.Positional[str]
    """The file BERT_benchmark.json."""
    to: str
    """The table, an npz file; a JSON file of the same name comes beside it."""
    metric: Literal["glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts"] = "glue"
    """The score that agents are rewarded with; glue is the mean of the others."""


@dataclass(frozen=True)
class TableInspectOptions:
    """List the tables of the package, or tell what one holds, how noisy it is and how hard to search."""

    table: tyro.conf.Positional[str | None] = None
    """Name of a table of the package, or an npz file of a table, an external table or a surrogate. A table with
    settings is a task of kdnas bench, such as NAME:speedup=8, and its hardness that among the students that keep the
    limits."""
    to: str | None = None
    """Draw its students to this PNG, SVG or PDF file: loss against latency."""
    surrogate: bool = False
    """Judge the surrogate that is fitted to it, by students it has not seen; takes some seconds."""
    against: tuple[str, ...] = ()
    """Other tables or tasks of the same space: how alike their rewards and their best students are."""
    points: int = 5_000
    """Points of a surrogate's space that are drawn to tell how hard it is."""
    searches: int = 0
    """Search it so often with a random forest, and with a Gaussian process (extras forest and optuna), and tell how
    many evaluations they need; takes minutes."""
    budget: int = 200
    """Evaluations of such a search."""
    json: str | None = None
    """Write all figures to this file."""

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


@dataclass(frozen=True)
class TableFitOptions:
    """Fit a surrogate to a table, for spaces that are too large to tabulate, and write it to a file."""

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Name or npz file of a table; further ones of the same workload, such as of students between those of the first,
    make it better there."""
    to: str
    """The surrogate, an npz file; a JSON file of the same name comes beside it."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise KDNASError("there is nothing to fit to; name a table, or the npz file of one")


@dataclass(frozen=True, kw_only=True)
class TableVerifyOptions(DeviceOption, CacheOption):
    """Check that a table is whole, that its numbers make sense, and that distillation finds them again."""

    table: tyro.conf.Positional[str]
    """Name of a table of the package, or an npz file."""
    replay: int = 0
    """Distil so many random cells anew and compare."""
    seed: int = 0
    """Seed of the draw of the cells."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the training: that of the table's build."""

    def __post_init__(self) -> None:
        check_whole("replay", self.replay, of="cells", at_least=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = "without `replay`: nothing is distilled anew"
        return {} if self.replay else dict.fromkeys(("seed", "device", "precision", "cache_dir"), why)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What there is to say of a table.

    Attributes:
        source: The table.
        sha256: Its checksum (hex).
        task: How its students are rewarded, and the limits that they have to keep; None: as by default.
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
        """The student of the highest reward that keeps the limits; None if no student has both loss and latency."""
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
        """Return how alike another task of the same space is; see :func:`kdnas_env.bench.structure.compare_tasks`.

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
            searches: Searches of each model.
            budget: Evaluations of a search.
            progress: Receives what is done.

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
        """How good the surrogate is that is fitted to it, by students that it has not seen; takes some seconds.

        Raises:
            TableError: If the table has too few students.
        """
        return surrogate_card(self.source)

    def measured(self, device: int) -> int:
        """Return how many students have a latency on a device."""
        return int(np.isfinite(self.source.latencies[:, device]).all(axis=-1).sum())

    def table(self) -> list[dict[str, Any]]:
        """Return a row a student: its choices, mean loss and latency, parameters, and reward."""
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

    def to_dict(self, *, surrogate: bool = False) -> dict[str, Any]:
        """Return all figures as plain data; those of the surrogate only where they are asked for."""
        meta = self.source.metadata
        figures = {"table": meta.name, "sha256": self.sha256, "noise": dict(meta.noise), "hardness": self.hardness}
        return {**figures, "surrogate": self.surrogate} if surrogate else figures


@dataclass(frozen=True, eq=False)
class Fit:
    """A surrogate that was fitted.

    Attributes:
        path: Its file.
        surrogate: The surrogate.
        points: Points of the space that it answers for.
        gains: Of every table but the first, its name, how well the first alone predicts its held-out losses, and how
            well both do, each student without having been seen.
    """

    path: Path
    surrogate: Surrogate
    points: int
    gains: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...]

    def table(self) -> list[dict[str, Any]]:
        """Return a row a table that was added: agreement of predicted and true held-out losses, without it and with."""
        return [
            {"table": name, **{f"{key}_without": value for key, value in alone.items()}, **both}
            for name, alone, both in self.gains
        ]


@dataclass(frozen=True, eq=False)
class Verification:
    """What a check of a table found.

    Attributes:
        source: The table.
        faults: What is wrong with it, in words.
        replayed: Cells that were distilled anew.
        allowed: Relative difference that their losses may have; None where nothing was distilled anew.
    """

    source: Table
    faults: tuple[str, ...]
    replayed: tuple[Replayed, ...] = field(default=())
    allowed: float | None = None

    def table(self) -> list[dict[str, Any]]:
        """Return a row a cell that was distilled anew: how much its losses differ."""
        return [
            {**replayed.cell.student.to_dict(), "seed": replayed.cell.seed, "difference": replayed.difference}
            for replayed in self.replayed
        ]


def inspect_table(name: str | os.PathLike[str]) -> Inspection | Surrogate | ExternalTable:
    """Return what there is to say of a table, or the surrogate or external table that a file holds.

    Args:
        name: Name of a table of the package, or an npz file of a table, an external table or a surrogate; or a task of
            a table, such as ``rotten-tomatoes:speedup=8``.

    Raises:
        TableError: If there is none, or it is damaged or of a newer version.
        KDNASError: If the task is malformed, or no student keeps its limits.
    """
    text = os.fspath(name)
    # A file may have a name that no task can have.
    task = None if os.path.exists(text) and ":" in text else Task.parse(text)
    table = text if task is None else task.table
    if is_external(table):
        return read_external(table_path(table))
    source, digest = load_source(table), checksum(table_path(table))
    return source if isinstance(source, Surrogate) else Inspection(source[0], digest, task)


def sampled_hardness(name: str, *, against: Sequence[str] = (), points: int = 5_000) -> dict[str, Any]:
    """Return how hard the space of a surrogate is, by random points of it: of the same space always the same.

    Args:
        name: The npz file of the surrogate, or a task of it, such as ``S.npz:speedup=8``.
        against: Other tasks of the space that it is compared with.
        points: Points that are drawn.

    Returns:
        What :func:`kdnas_env.bench.structure.describe_rewards` says, and ``against``, a list of what
        :func:`kdnas_env.bench.structure.compare_tasks` does.

    Raises:
        KDNASError: If there is no such surrogate, or a task is malformed or of another space.
    """
    first, *others = [Truth.sampled(Task.parse(task), points, np.random.default_rng(0)) for task in (name, *against)]
    return {**describe_rewards(first), "against": [compare_tasks(first, other) for other in others]}


def export_table(folders: Sequence[str | os.PathLike[str]], to: str | os.PathLike[str]) -> Inspection:
    """Make a table of what builds of the same distillations have found, and write it.

    Args:
        folders: Folders of the builds.
        to: The npz file; a JSON file comes beside it.

    Raises:
        KDNASError: If there is no build, they are of different distillations or disagree, or it cannot be written.
    """
    table = merge_builds(folders)
    write_table(table, to)
    return Inspection(table, checksum(to))


def fit_surrogate(
    tables: Sequence[str | os.PathLike[str]], to: str | os.PathLike[str], *, progress: Progress = SILENT
) -> Fit:
    """Fit a surrogate to tables of one workload, and write it.

    Args:
        tables: Names or npz files of the tables, the main one first.
        to: The npz file; a JSON file comes beside it.
        progress: Receives what is done.

    Raises:
        KDNASError: If there is no such table, it has too few students, or the tables are of different workloads.
    """
    target = checked_path(to, "surrogate")
    first, *further = [load_table(table) for table in tables]
    progress.begin(f"fitting a surrogate to {len(tables)} table(s)")
    surrogate, alone = fitted((first, *further)), fitted((first,))
    gains = tuple((table.metadata.name, judge(alone, table), judge_parts(first, table)) for table in further)
    write_surrogate(surrogate, target)
    return Fit(target, surrogate, surrogate_space(surrogate.metadata, surrogate.range).size, gains)


def verify_table(table: str | TableVerifyOptions, *, progress: Progress = SILENT, **settings: Any) -> Verification:
    """Check that a table is whole, that its numbers make sense, and that distillation finds them again.

    Args:
        table: Name or npz file of the table; or all options.
        progress: Receives what is done.
        **settings: Options of :class:`TableVerifyOptions` by name, such as ``replay=5``.

    Raises:
        KDNASError: If there is no such table, or what it was distilled from cannot be had.
    """
    options = options_of(TableVerifyOptions, settings, table=table)
    source = load_table(options.table)
    faults = find_faults(source)
    if not options.replay:
        return Verification(source, tuple(faults))
    cells = draw_cells(source, options.replay, np.random.default_rng(options.seed))
    progress.begin(f"distilling {len(cells)} cells anew")
    try:
        live, allowed = open_live(
            source, device=options.device, precision=options.precision, cache_dir=options.cache_dir
        )
    except TableError as error:
        return Verification(source, (*faults, str(error)))
    replayed = tuple(replay(source, live, cells, progress.advance))
    faults += [
        f"{anew.cell.student} with seed {anew.cell.seed} differs by {anew.difference:.1e} when distilled anew"
        for anew in replayed
        if anew.difference > allowed
    ]
    return Verification(source, tuple(faults), replayed, allowed)
