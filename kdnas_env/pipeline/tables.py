"""Export of builds as tables, verification of tables, and the fit of surrogates to tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from kdnas_env.errors import KDNASError, TableError
from kdnas_env.evaluators.surrogate import surrogate_space
from kdnas_env.pipeline.inspecting import ExternalInspection, Inspection
from kdnas_env.pipeline.options import CacheOption, DeviceOption, options_of
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tables.archive import checked_path
from kdnas_env.tables.external import write_external
from kdnas_env.tables.storage import checksum, load_table, write_table
from kdnas_env.tables.surrogates.card import judge, judge_parts
from kdnas_env.tables.surrogates.storage import fitted, write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import Table
from kdnas_env.tabulation.merge import merge_builds
from kdnas_env.tabulation.nas_bench_bert import import_nas_bench_bert
from kdnas_env.tabulation.verify import Replayed, draw_cells, find_faults, open_live, replay


@dataclass(frozen=True)
class TableExportOptions:
    """Make a table of the results of one or more builds of the same distillations."""

    folders: tyro.conf.Positional[tuple[str, ...]]
    """Folders of kdnas table build."""
    to: str
    """Path of the table, an npz file; a JSON file of the same name is written beside it."""


@dataclass(frozen=True)
class ImportNasBenchBertOptions:
    """Make an external table of NAS-Bench-BERT, to race agents on: 500 BERTs with heterogeneous layers and GLUE scores.

    The authors publish the file as data/BERT_benchmark.json of github.com/aaronserianni/training-free-nas.
    """

    file: tyro.conf.Positional[str]
    """The file BERT_benchmark.json."""
    to: str
    """Path of the table, an npz file; a JSON file of the same name is written beside it."""
    metric: Literal["glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts"] = "glue"
    """The score that is the reward; glue is the mean of the others."""


@dataclass(frozen=True)
class TableFitOptions:
    """Fit a surrogate to a table, for spaces that are too large to tabulate, and write it to a file."""

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Name or npz file of a table. Further tables of the same workload, such as of students between those of the first,
    improve the predictions there."""
    to: str
    """Path of the surrogate, an npz file; a JSON file of the same name is written beside it."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise KDNASError("there is no table to fit to; name a table, or the npz file of one")


@dataclass(frozen=True, kw_only=True)
class TableVerifyOptions(DeviceOption, CacheOption):
    """Check that a table is complete, that its values are plausible, and that distillation reproduces them."""

    table: tyro.conf.Positional[str]
    """Name of a table of the package, or an npz file."""
    replay: int = 0
    """Number of random cells that are distilled again and compared."""
    seed: int = 0
    """Seed of the choice of cells."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the training: that of the table's build."""

    def __post_init__(self) -> None:
        check_whole("replay", self.replay, of="cells", at_least=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = "without `replay`: nothing is distilled anew"
        return {} if self.replay else dict.fromkeys(("seed", "device", "precision", "cache_dir"), why)


@dataclass(frozen=True, eq=False)
class Fit:
    """A surrogate that was fitted.

    Attributes:
        path: Its file.
        surrogate: The surrogate.
        points: Number of points of the space that it predicts.
        gains: For every table but the first: its name, how well a fit to the first table alone predicts its held-out
            losses, and how well a fit to both does. Each student is predicted from a fit that excludes it.
    """

    path: Path
    surrogate: Surrogate
    points: int
    gains: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per added table: agreement of predicted and true held-out losses, without and with it."""
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
        """Return one row per cell that was distilled again, with the difference of its losses."""
        return [
            {**replayed.cell.student.to_dict(), "seed": replayed.cell.seed, "difference": replayed.difference}
            for replayed in self.replayed
        ]


def export_table(folders: Sequence[str | os.PathLike[str]], to: str | os.PathLike[str]) -> Inspection:
    """Make a table of the results of builds of the same distillations, and write it.

    Args:
        folders: Folders of the builds.
        to: Path of the npz file; a JSON file is written beside it.

    Raises:
        KDNASError: If there is no build, they are of different distillations or disagree, or it cannot be written.
    """
    table = merge_builds(folders)
    write_table(table, to)
    return Inspection(table, checksum(to))


def import_table(file: str | os.PathLike[str] | ImportNasBenchBertOptions, **settings: Any) -> ExternalInspection:
    """Write NAS-Bench-BERT as an external table.

    Args:
        file: Its file ``BERT_benchmark.json``; or all options.
        **settings: Options of :class:`ImportNasBenchBertOptions` by name: ``to`` and ``metric``.

    Raises:
        KDNASError: If the file cannot be read or is malformed, or the table cannot be written.
    """
    options = options_of(ImportNasBenchBertOptions, settings, file=file)
    table, target = import_nas_bench_bert(options.file, options.metric), expanded(options.to)
    write_external(table, target)
    return ExternalInspection(table, checksum(target))


def fit_surrogate(
    tables: Sequence[str | os.PathLike[str]], to: str | os.PathLike[str], *, progress: Progress = SILENT
) -> Fit:
    """Fit a surrogate to tables of one workload, and write it.

    Args:
        tables: Names or npz files of the tables, the main one first.
        to: The npz file; a JSON file comes beside it.
        progress: Receives the progress.

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
    """Check that a table is complete, that its values are plausible, and that distillation reproduces them.

    Args:
        table: Name or npz file of the table; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`TableVerifyOptions` by name, such as ``replay=5``.

    Raises:
        KDNASError: If there is no such table, or its teacher or text is not available.
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
