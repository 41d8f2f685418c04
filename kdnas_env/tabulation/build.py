"""Build a table: distil every student of a space with every seed, and store each result at once."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import RunError, TableError
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.execution.backend import Ready
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.support.atomic import expanded, read_json, write_json
from kdnas_env.support.identity import check_same
from kdnas_env.support.places import found_again, with_places
from kdnas_env.support.progress import OnProgress
from kdnas_env.tables.storage import load_table, table_names
from kdnas_env.tables.table import FILE_NAME, MISSING, Table, TableMetadata
from kdnas_env.tabulation.latencies import LatencyFile, read_all_latencies

if TYPE_CHECKING:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
    from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings


STORE, WORKLOAD = "evaluations.sqlite", "workload.json"
"""Files in the folder of a build: the evaluations, and the metadata of their workload."""

FACTS = "facts"
"""Key of the corpus report in a table's corpus; all other keys are arguments of ``load_corpus``."""

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")


@dataclass(frozen=True)
class Cell:
    """One distillation of a table."""

    student: StudentConfig
    seed: int


@dataclass(frozen=True, eq=False)
class TableBuild:
    """A table under construction.

    Attributes:
        settings: Settings of the distillations; the latency is ``analytic``, so that equal builds give equal
            evaluations.
        epochs: Epochs of every distillation.
        folder: Folder of the evaluations.
    """

    settings: MiniKDSettings
    epochs: int
    folder: str

    def store(self, evaluator: MiniKDEvaluator) -> StoredEvaluator:
        """Open the store; it calls the evaluator for missing evaluations."""
        return StoredEvaluator(evaluator, Path(self.folder) / STORE)

    def fidelity(self, cell: Cell) -> Fidelity:
        """Return the fidelity of a distillation."""
        return Fidelity(epochs=self.epochs, seed=cell.seed)


def check_name(name: str) -> str:
    """Check and return the name of a table.

    Raises:
        TableError: If the name is invalid.
    """
    if not FILE_NAME.fullmatch(name):
        raise TableError(
            f"name is {name!r}; expected letters, digits, '-', '_' and '.', because it becomes a file name"
        )
    return name


def parse_shard(text: str) -> tuple[int, int]:
    """Parse a shard ``I/N``: part I (from 1) of N.

    Raises:
        TableError: If the text is malformed.
    """
    match = _SHARD.fullmatch(text)
    part, parts = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise TableError(f"shard is {text!r}; expected I/N with I from 1 to N, such as 1/4 for the first of four")
    return part, parts


def planned_students(space: SearchSpace, sample: int | None = None) -> list[StudentConfig]:
    """Return the students of a table in random order, so that an unfinished table is a fair sample.

    Args:
        space: The space.
        sample: Number of students, drawn uniformly; a larger sample begins with the smaller ones. None for all.

    Raises:
        TableError: If the space is too large to list completely, or has fewer students than ``sample``.
    """
    rng = np.random.default_rng(0)
    if space.listable:
        order = rng.permutation(space.valid_indices)
        if sample is not None and sample > len(order):
            raise TableError(f"sample is {sample}; the space has {len(order)} valid students")
        return [space.decode(space.from_index(index)) for index in order[:sample].tolist()]
    if sample is None:
        raise TableError(f"the space has {space.size:,} points, too many for a table of all; set sample")
    drawn: dict[StudentConfig, None] = {}
    while len(drawn) < sample:
        drawn.setdefault(space.decode(space.sample(rng)))
    return [*drawn]


def networks(students: Iterable[StudentConfig]) -> list[StudentConfig]:
    """Return the distinct networks of students, without their recipe changes, for latency measurements."""
    return [*dict.fromkeys(student.network for student in students)]


def planned_cells(
    students: Sequence[StudentConfig], seeds: Sequence[int], shard: tuple[int, int] = (1, 1)
) -> list[Cell]:
    """Return the distillations of a table, or of a shard, in order: all with the first seed come first."""
    part, parts = shard
    return [Cell(student, seed) for seed in seeds for student in students][part - 1 :: parts]


def describe_workload(
    evaluator: MiniKDEvaluator, space: SearchSpace, *, name: str, title: str, seeds: Sequence[int], epochs: int
) -> TableMetadata:
    """Return the metadata of a future table, without devices and noise."""
    from kdnas_env.support.machine import processor_name
    from kdnas_env.support.packages import installed_versions

    settings, workload = evaluator.settings, evaluator.workload
    corpus = {"source": settings.corpus} if isinstance(settings.corpus, str) else dict(settings.corpus)
    lengths = workload.corpus.lengths
    facts = {
        "train_sentences": len(workload.train),
        "heldout_sentences": len(workload.heldout),
        "train_tokens": int(lengths[workload.train].sum()),
        "heldout_tokens": int(lengths[workload.heldout].sum()),
        **workload.corpus.report.to_dict(),
    }
    machine = processor_name()
    if workload.device.type == "cuda":
        import torch

        machine = torch.cuda.get_device_name(workload.device)
    return TableMetadata(
        name=name,
        title=title,
        workload=evaluator.fingerprint,
        teacher=settings.teacher,
        architecture=asdict(workload.teacher.architecture),
        space=space.to_dict(),
        seeds=tuple(seeds),
        epochs=epochs,
        devices=(),
        corpus={**corpus, FACTS: facts},
        recipe=evaluator.recipe.to_dict(),
        trained_on=f"{machine}, {evaluator.threads} thread{'s' if evaluator.threads > 1 else ''}",
        versions=installed_versions("kdnas", "torch", "transformers", "tokenizers", "numpy", "onnxruntime"),
        alike=evaluator.alike,
    )


def record_workload(folder: Path, described: TableMetadata) -> None:
    """Record the workload of a build; when a build resumes, check that the workload is unchanged.

    Raises:
        RunError: If the workload differs, or cannot be written.
    """
    path = folder / WORKLOAD
    if path.exists():
        before, now = ({"workload": metadata.workload} for metadata in (read_workload(folder), described))
        check_same(before, now, f"the build {str(folder)!r} cannot be resumed", "start a new build")
        return
    write_json(path, with_places(described.to_dict(), TableMetadata.PATHS, folder))


def read_workload(folder: str | os.PathLike[str]) -> TableMetadata:
    """Return the workload of a build folder.

    Raises:
        RunError: If the folder is not that of a build.
        TableError: If the recorded workload is malformed.
    """
    path = expanded(folder) / WORKLOAD
    if not os.path.isfile(path):
        raise RunError(f"{str(folder)!r} has no {WORKLOAD}; name a folder of kdnas table build")
    return TableMetadata.from_dict(found_again(read_json(path), path.parent))


@dataclass
class RecordedEvaluator:
    """Placeholder for the inner evaluator of a read-only store; evaluates nothing.

    Attributes:
        fingerprint: Fingerprint of the evaluator that filled the store.
        deterministic: Whether equal calls return equal results.
    """

    fingerprint: str
    deterministic: bool = True

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Raise an error, because the store has no such evaluation.

        Raises:
            RunError: Always.
        """
        raise RunError(f"the store has no evaluation of {configs[0]} with {fidelity}")


def read_evaluations(folder: Path, workload: str) -> list[Evaluation]:
    """Return all evaluations of a workload in a build folder.

    Raises:
        RunError: If the store is missing or damaged.
    """
    if not os.path.isfile(folder / STORE):
        raise RunError(f"{str(folder)!r} has no {STORE}; distil its students first, by kdnas table build")
    with StoredEvaluator(RecordedEvaluator(workload), folder / STORE) as store:
        return store.records()


def adopt_evaluations(source: str | os.PathLike[str], folder: Path) -> None:
    """Start a build from a copy of a store, unless the build has one; other processes may write to the source.

    Raises:
        RunError: If the store cannot be copied.
    """
    given, target = expanded(source), folder / STORE
    if target.exists():
        return
    if not os.path.isfile(given):
        raise RunError(f"there is no store {str(given)!r}; name the {STORE} of a build or a search")
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        theirs, ours = sqlite3.connect(given), sqlite3.connect(partial)
        try:
            theirs.backup(ours)
        finally:
            theirs.close()
            ours.close()
        partial.replace(target)
    except (sqlite3.Error, OSError) as error:
        raise RunError(f"store {str(given)!r} cannot be copied: {error}") from error


def adopt_latencies(source: str | os.PathLike[str], folder: Path) -> None:
    """Copy the latencies of another build for devices that this build lacks.

    Raises:
        RunError: If the source is not a build, or its teacher has another architecture.
    """
    ours, theirs = read_workload(folder), read_workload(source)
    if ours.architecture != theirs.architecture:
        raise RunError(
            f"{str(source)!r} has latencies relative to teacher {theirs.teacher!r}, whose architecture differs from "
            f"{ours.teacher!r} of this build; name a build whose teacher has the same architecture"
        )
    for measured in read_all_latencies(expanded(source)):
        file = LatencyFile.open(folder, measured.device)
        if not file.latencies:
            file.append(measured.latencies)


def distil_all(
    build: TableBuild,
    evaluator: MiniKDEvaluator,
    cells: Sequence[Cell],
    *,
    workers: int = 1,
    on_progress: OnProgress,
) -> dict[Status, int]:
    """Distil the missing cells; every evaluation is on disk before the next begins.

    Args:
        build: The build.
        evaluator: The evaluator, with computed hidden states, which workers read.
        cells: Cells to distil, in order.
        workers: Number of processes; 1 for this process.
        on_progress: Called with the number of finished cells and the total.

    Returns:
        Number of cells by status.

    Raises:
        RunError: If the store cannot be read or written.
    """
    with build.store(evaluator) as store:
        known = {
            Cell(evaluation.config, evaluation.fidelity.seed): evaluation.status
            for evaluation in store.records()
            if _counts(build, evaluation)
        }
    ended = {cell: known[cell] for cell in cells if cell in known}
    on_progress(len(ended), len(cells))
    for cell, status in _distil_missing(build, evaluator, [cell for cell in cells if cell not in ended], workers):
        ended[cell] = status
        on_progress(len(ended), len(cells))
    return {status: list(ended.values()).count(status) for status in Status}


def _counts(build: TableBuild, evaluation: Evaluation) -> bool:
    whole = evaluation.fidelity == Fidelity(epochs=build.epochs, seed=evaluation.fidelity.seed)
    return whole and evaluation.status is not Status.STOPPED


def _distil_missing(
    build: TableBuild, evaluator: MiniKDEvaluator, missing: Sequence[Cell], workers: int
) -> Iterator[tuple[Cell, Status]]:
    with build.store(evaluator) as store:
        if workers == 1 or len(missing) < 2:
            for cell in missing:
                yield cell, store.evaluate([cell.student], build.fidelity(cell))[0].status
            return
        with _open_pool(build, evaluator, workers) as pool:
            waiting = {pool.submit(cell.student, build.fidelity(cell)): cell for cell in missing}
            while waiting:
                for done in pool.wait():
                    yield waiting.pop(done.ticket), store.add(done.evaluation).status


def _open_pool(build: TableBuild, evaluator: MiniKDEvaluator, workers: int) -> WorkerPool:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator

    identity = Ready(evaluator.fingerprint, evaluator.deterministic)
    backend = LocalBackend(partial(MiniKDEvaluator, build.settings), MiniKDEvaluator.MODULES)
    return WorkerPool(backend, workers, identity=identity)


def corpus_arguments(metadata: TableMetadata) -> Mapping[str, Any]:
    """Return the corpus of a table's distillations, in the form of ``MiniKDSettings``."""
    return {name: value for name, value in metadata.corpus.items() if name != FACTS}


def is_table(source: str | os.PathLike[str]) -> bool:
    """Return whether a source of evaluations is a table (by its name or npz file) rather than a store."""
    return os.fspath(source) in table_names() or Path(source).suffix == ".npz"


def adopt_table(source: str | os.PathLike[str], folder: Path) -> None:
    """Write the cells of a table to the store of a build that has none, so that the build continues the table.

    Args:
        source: Name or npz file of the table.
        folder: Folder of the build, with its recorded workload.

    Raises:
        TableError: If the table cannot be read, or is of another workload.
        RunError: If the store cannot be written.
    """
    if (folder / STORE).exists():
        return
    table, described = load_table(source), read_workload(folder)
    if table.metadata.workload != described.workload:
        difference = table.metadata.difference(described, ("teacher", "architecture", "corpus", "recipe"))
        raise TableError(
            f"the evaluations of table {table.metadata.name!r} are of another workload than this build's: "
            f"{difference or 'teacher, text or version of the results differ'}. Build with the table's own settings"
        )
    with StoredEvaluator(RecordedEvaluator(described.workload), folder / STORE) as store:
        for evaluation in _cells(table):
            store.add(evaluation)


def _cells(table: Table) -> Iterator[Evaluation]:
    configs = table.configs()
    # The last device is the modelled one, which has a latency for all students; without a latency, a cell would fail.
    device = table.metadata.devices[-1].name
    for column, seed in enumerate(table.metadata.seeds):
        evaluator = TabularEvaluator(table, seed=seed, device=device, missing="failed")
        fidelity = Fidelity(epochs=table.metadata.epochs, seed=seed)
        known = [config for config, code in zip(configs, table.status[:, column], strict=True) if code != MISSING]
        yield from evaluator.evaluate(known, fidelity)
