"""Scoring rows on tasks, cell by cell: every cell is kept as it ends, and never computed twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdnas_env.core.evaluation import Latency, Status
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.libraries import is_out_of_memory, one_line
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.finetuning import FinetuneSettings, finetune
from kdnas_env.tasks.probing import linear_probe
from kdnas_env.tasks.rows import MAJORITY, TEACHER, Row, student_shape
from kdnas_env.tasks.scores import CONSTANT, FINETUNED, PROBED, TaskScore, majority_class
from kdnas_env.tasks.specs import TaskData

StepProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Cell:
    """One score that is wanted.

    Attributes:
        row: Name of the row.
        task: Name of the task.
        seed: Seed.
    """

    row: str
    task: str
    seed: int


@dataclass(frozen=True)
class CellStore:
    """Cells and latencies as small files of a folder, each written whole as it is found.

    Attributes:
        folder: The folder; made when it is needed.
    """

    folder: Path

    def get(self, cell: Cell) -> TaskScore | None:
        """Return a score that was kept, or None.

        Raises:
            RunError: If its file is malformed.
        """
        data = self._read(self._path(cell))
        return None if data is None else TaskScore.from_dict(data)

    def put(self, cell: Cell, score: TaskScore) -> None:
        """Keep a score.

        Raises:
            RunError: If it cannot be written.
        """
        self._write(self._path(cell), score.to_dict())

    def get_latency(self, row: str) -> Latency | None:
        """Return the latency of a row that was kept, or None.

        Raises:
            RunError: If its file is malformed.
        """
        path = self.folder / f"latency-{row}.json"
        data = self._read(path)
        try:
            return None if data is None else restore(Latency, data)
        except ValueError as error:
            raise RunError(f"the recorded latency {str(path)!r} is malformed: {error}; delete the file") from error

    def put_latency(self, row: str, latency: Latency) -> None:
        """Keep the latency of a row.

        Raises:
            RunError: If it cannot be written.
        """
        self._write(self.folder / f"latency-{row}.json", asdict(latency))

    def checkpoints(self, cell: Cell) -> Path:
        """Return the folder of the checkpoints of a fine-tuning that is not finished."""
        return self._path(cell).with_suffix(".checkpoints")

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.row}-{cell.task}-{cell.seed}.json"

    def _write(self, path: Path, data: Any) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{str(self.folder)!r} cannot be made: {error}") from error
        write_json(path, data)

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        return read_json(path) if path.exists() else None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows, tasks and seeds.

    Attributes:
        rows: The rows.
        tasks: The tasks.
        seeds: The seeds; the majority class needs the first only.
        settings: How each task is fine-tuned, by name; None for a linear probe.
        store: Where scores are kept.
        max_length: Longest sequence of the linear probe.
        pooling: Pooling of the linear probe.
        device: Where models are run; None for the first GPU, or the CPU where there is none.
    """

    rows: Sequence[Row]
    tasks: Sequence[TaskData]
    seeds: Sequence[int]
    settings: dict[str, FinetuneSettings] | None
    store: CellStore
    max_length: int = 128
    pooling: str = "mean"
    device: str | None = None

    @property
    def method(self) -> str:
        """How models are scored."""
        return PROBED if self.settings is None else FINETUNED

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order they are computed: task by task, so that a first table is there early."""
        return [
            Cell(row.name, task.name, seed)
            for task in self.tasks
            for row in self.rows
            for seed in (self.seeds[:1] if row.encoder is None else self.seeds)
        ]

    def run(
        self, on_cell: Callable[[Cell], None] | None = None, on_progress: StepProgress | None = None
    ) -> Iterator[tuple[Cell, TaskScore]]:
        """Yield every cell with its score: kept ones as they are, the others computed and kept.

        A fine-tuning keeps a checkpoint an epoch, from which it goes on if it was killed.

        What goes wrong with a model is a score with a status; what the caller must put right is raised.

        Args:
            on_cell: Called before a cell is computed.
            on_progress: Called while a model is fine-tuned.

        Raises:
            KDNASError: If a teacher or corpus that a row is started from cannot be had, a library is missing, or the
                store cannot be written.
        """
        rows = {row.name: row for row in self.rows}
        tasks = {task.name: task for task in self.tasks}
        for cell in self.cells:
            score = self.store.get(cell)
            if score is None:
                if on_cell is not None:
                    on_cell(cell)
                score = self._score(rows[cell.row], tasks[cell.task], cell, on_progress)
                self.store.put(cell, score)
            shutil.rmtree(self.store.checkpoints(cell), ignore_errors=True)
            yield cell, score

    def latencies(self, settings: LatencySettings) -> dict[str, Latency]:
        """Return the latency of every row beside the teacher's; empty if there is no teacher.

        Rows of one shape share a measurement.

        Raises:
            LatencyError: If the probe cannot be set up.
        """
        teacher = next((row.shape for row in self.rows if row.name == TEACHER), None)
        if teacher is None:
            return {}
        found: dict[int, Latency] = {}
        latencies = {}
        probe = None
        for row in self.rows:
            if row.shape is None or row.name == TEACHER:
                continue
            latency = found.get(id(row.shape)) or self.store.get_latency(row.name)
            if latency is None:
                probe = probe or LatencyProbe(teacher.encoder.model, teacher.encoder.architecture, settings)
                latency = probe.measure(row.shape.encoder.model, student_shape(row.shape))
                self.store.put_latency(row.name, latency)
            found[id(row.shape)] = latencies[row.name] = latency
        return latencies

    def _score(self, row: Row, task: TaskData, cell: Cell, on_progress: StepProgress | None) -> TaskScore:
        seed = cell.seed
        try:
            if row.encoder is None:
                return majority_class(task)
            encoder = row.encoder(seed)
            if self.settings is None:
                return linear_probe(
                    encoder,
                    row.tokenizer,
                    task,
                    seed,
                    max_length=self.max_length,
                    pooling=self.pooling,
                    device=self.device,
                )
            return finetune(
                encoder,
                row.tokenizer,
                task,
                self.settings[task.name],
                seed,
                checkpoints=self.store.checkpoints(cell),
                on_progress=on_progress,
            )
        except KDNASError:
            raise
        except Exception as error:
            method = CONSTANT if row.name == MAJORITY else self.method
            return TaskScore(task.name, method, seed, status=_status_of(error), error=one_line(error))


def _status_of(error: Exception) -> Status:
    if isinstance(error, FloatingPointError):
        return Status.DIVERGED
    return Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAILED
