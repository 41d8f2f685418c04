"""Scoring rows on tasks, cell by cell. Each score is stored as soon as it is known, and never computed twice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdnas_env.core.evaluation import Latency, Status
from kdnas_env.errors import KDNASError, RunError, is_out_of_memory, one_line
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.finetuning import FinetuneSettings, finetune
from kdnas_env.tasks.probing import linear_probe
from kdnas_env.tasks.rows import MAJORITY, TEACHER, Row, student_shape
from kdnas_env.tasks.scores import CONSTANT, FINETUNED, PROBED, TaskScore, majority_class
from kdnas_env.tasks.specs import TaskData


@dataclass(frozen=True)
class Cell:
    """One score to compute.

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
    """Stores scores and latencies as small files in a folder, each written atomically.

    Attributes:
        folder: The folder; created when needed.
    """

    folder: Path

    def get(self, cell: Cell) -> TaskScore | None:
        """Return a stored score; None if there is none.

        Raises:
            RunError: If its file is malformed.
        """
        data = self._read(self._path(cell))
        return None if data is None else TaskScore.from_dict(data)

    def put(self, cell: Cell, score: TaskScore) -> None:
        """Store a score.

        Raises:
            RunError: If it cannot be written.
        """
        self._write(self._path(cell), score.to_dict())

    def get_latency(self, row: str) -> Latency | None:
        """Return the stored latency of a row; None if there is none.

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
        """Store the latency of a row.

        Raises:
            RunError: If it cannot be written.
        """
        self._write(self.folder / f"latency-{row}.json", asdict(latency))

    def checkpoints(self, cell: Cell) -> Path:
        """Return the folder of the checkpoints of an unfinished fine-tuning."""
        return self._path(cell).with_suffix(".checkpoints")

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.row}-{cell.task}-{cell.seed}.json"

    def _write(self, path: Path, data: Any) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{str(self.folder)!r} cannot be made: {error}; name a writable folder") from error
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
        seeds: The seeds; rows without training use the first only.
        settings: Fine-tuning settings of each task, by name; None for a linear probe.
        store: Store of scores and latencies.
        max_length: Maximum sequence length of the linear probe, in tokens.
        pooling: Pooling of the linear probe.
        device: Device to run models on; None for the first GPU, or the CPU if there is none.
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
        """Scoring method. If no row is trained and all share one method without training, it is that method."""
        untrained = {row.as_it_is.method for row in self.rows if row.as_it_is is not None}
        if len(untrained) == 1 and not any(row.trained for row in self.rows):
            return untrained.pop()
        return PROBED if self.settings is None else FINETUNED

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints, by name, of everything that determines the scores, except the settings."""
        return {
            **{f"row {row.name}": row.identity for row in self.rows},
            **{f"tokenizer of row {row.name}": row.tokenizer_identity for row in self.rows if row.tokenizer},
            **{f"task {task.name}": task.fingerprint for task in self.tasks},
        }

    @property
    def cells(self) -> list[Cell]:
        """All cells in the order of computation: task by task, so that a first table is available early."""
        return [
            Cell(row.name, task.name, seed)
            for task in self.tasks
            for row in self.rows
            for seed in (self.seeds if row.trained else self.seeds[:1])
        ]

    def run(self, progress: Progress = SILENT) -> dict[Cell, TaskScore]:
        """Return the score of each cell: stored scores unchanged, the others computed and stored.

        Fine-tuning saves a checkpoint per epoch. If it is killed, the next run resumes from the checkpoint.

        A failure of a model gives a score with a status. Errors that the caller must fix are raised.

        Args:
            progress: Receives each cell, its score, and the steps of fine-tuning.

        Raises:
            KDNASError: If the teacher or corpus of a row cannot be loaded, a library is missing, or the store cannot be
                written.
        """
        rows = {row.name: row for row in self.rows}
        tasks = {task.name: task for task in self.tasks}
        cells, scores = self.cells, dict[Cell, TaskScore]()
        for cell in cells:
            row, score = rows[cell.row], self.store.get(cell)
            if score is None:
                progress.begin(
                    f"{row.title}, {cell.task}, seed {cell.seed} ({len(scores)} of {len(cells)} scores done)"
                )
                score = self._score(row, tasks[cell.task], cell, progress)
                self.store.put(cell, score)
            shutil.rmtree(self.store.checkpoints(cell), ignore_errors=True)
            scores[cell] = score
            value = f"{100 * score.score:6.2f}" if score.ok else f"{score.status} ({score.error})"
            line = f"{cell.task:<16} seed {cell.seed}  {value}  {row.title}"
            progress.say(line, "plain" if score.ok else "bad")
        progress.end()
        return scores

    def latencies(self, settings: LatencySettings) -> dict[str, Latency]:
        """Return the latency of each row relative to the teacher; empty if there is no teacher.

        Rows with the same model shape share one measurement.

        Raises:
            LatencyError: If the probe cannot be set up.
        """
        teacher = next((row.shape for row in self.rows if row.name == TEACHER), None)
        if teacher is None:
            return {}
        measured: dict[int, Latency] = {}
        latencies = {}
        probe = None
        for row in self.rows:
            if row.shape is None or row.name == TEACHER:
                continue
            latency = measured.get(id(row.shape)) or self.store.get_latency(row.name)
            if latency is None:
                probe = probe or LatencyProbe(teacher.encoder.model, teacher.encoder.architecture, settings)
                latency = probe.measure(row.shape.encoder.model, student_shape(row.shape))
                self.store.put_latency(row.name, latency)
            measured[id(row.shape)] = latencies[row.name] = latency
        return latencies

    def _score(self, row: Row, task: TaskData, cell: Cell, progress: Progress) -> TaskScore:
        seed = cell.seed
        try:
            if row.encoder is None:
                return majority_class(task)
            encoder = row.encoder(seed)
            if row.as_it_is is not None:
                return row.as_it_is.score(task, seed, self.device)
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
                on_progress=progress.advance,
            )
        except KDNASError:
            raise
        except Exception as error:
            method = CONSTANT if row.name == MAJORITY else self.method
            if row.as_it_is is not None:
                method = row.as_it_is.method
            return TaskScore(
                task.name, method, seed, status=_status_of(error), error=one_line(error), scored=task.spec.scored
            )


def _status_of(error: Exception) -> Status:
    if isinstance(error, FloatingPointError):
        return Status.DIVERGED
    return Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAILED
