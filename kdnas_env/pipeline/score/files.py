"""Scores of exported files: each in its serving runtime, beside the file of its teacher."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.exporting.folder import EMBEDDER, TASK
from kdnas_env.exporting.measuring import FILES, Measured, TeacherFiles, teacher_files
from kdnas_env.exporting.measuring_classifiers import Decided
from kdnas_env.exporting.onnx import GRAPH
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.atomic import expanded, read_json, write_json
from kdnas_env.support.progress import Progress
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.scores import Share
from kdnas_env.tasks.specs import TaskData


@dataclass(frozen=True, eq=False)
class FileScore:
    """A file of an export, measured.

    Attributes:
        model: Folder of the export, as the user named it.
        measured: The measurements.
        decided: Predictions of a classifier, by split; empty for other exports.
    """

    model: str
    measured: Measured
    decided: Decided = field(default_factory=dict)


@dataclass(frozen=True)
class FormatMean:
    """Averages over the files of one format of several exported classifiers, such as of several seeds; plain data.

    Attributes:
        format: ``float32`` or ``int8``.
        models: Number of classifiers.
        speedup: Median over the files.
        largest_mb: Size of the largest file, in megabytes (1e6 bytes).
        scored: Mean share of the teacher's score that they keep, on each scored split.
    """

    format: str
    models: int
    speedup: float
    largest_mb: float
    scored: tuple[Share, ...]


class Exports(ABC):
    """Exports of one kind that are scored side by side.

    Args:
        models: Their folders, as the user named them.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self.models = tuple(models)

    @property
    @abstractmethod
    def tasks(self) -> tuple[TaskData, ...]:
        """The task on which they are scored; empty for embedding models."""

    @property
    @abstractmethod
    def decisive(self) -> dict[str, str]:
        """Fingerprints of all inputs of the scores except the files, by name."""

    @abstractmethod
    def measured(
        self, place: int, format: str, latency: LatencySettings, beside: TeacherFiles, progress: Progress
    ) -> tuple[Measured, Decided]:
        """Measure a file.

        Args:
            place: Index of its export in ``models``.
            format: ``float32`` or ``int8``.
            latency: How files are timed.
            beside: Files of teachers.
            progress: Receives the progress.

        Returns:
            The measurements, and the predictions of a classifier.

        Raises:
            RunError: If the CPU lock cannot be used.
        """

    def means(self, files: Sequence[FileScore]) -> tuple[FormatMean, ...]:
        """Return a mean for each format that all exports have; empty for a single export, and for embedding models.

        Args:
            files: The files.
        """
        return ()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all inputs of the scores, by name."""
        # By index and not by path, because the path changes if a folder is moved or named relative to another one.
        files = {
            f"{format} file {place}": hashlib.sha256(path.read_bytes()).hexdigest()
            for place, model in enumerate(self.models, start=1)
            for format, path in files_of(model).items()
        }
        return {**self.decisive, **files}

    def measure(self, latency: LatencySettings, cells: Path, progress: Progress) -> tuple[FileScore, ...]:
        """Measure every file, and save the measurements.

        Args:
            latency: How files are timed.
            cells: Folder of the saved measurements. A file with a saved measurement is not measured again.
            progress: Receives the progress.

        Raises:
            RunError: If a file cannot be written or read.
        """
        scores = []
        with teacher_files() as beside:
            for place, model in enumerate(self.models):
                for format in files_of(model):
                    cell = cells / f"{place + 1}-{format}.json"
                    if not cell.exists():
                        progress.begin(f"scoring {model}, {format}")
                        measured, decided = self.measured(place, format, latency, beside, progress)
                        cells.mkdir(exist_ok=True)
                        texts = {split: values.tolist() for split, values in decided.items()}
                        write_json(cell, {"measured": measured.to_dict(), "decided": texts})
                    scores.append(_read(model, read_json(cell)))
        return tuple(scores)


def is_export(model: str, marker: str) -> bool:
    """Whether a folder is an export to ONNX with a record.

    Args:
        model: The folder.
        marker: File of the record: that of a classifier, or of an embedding student.
    """
    folder = expanded(model)
    return (folder / GRAPH).is_file() and (folder / marker).is_file()


def is_scored_by_files(model: str) -> bool:
    """Whether a folder is an export whose files can be scored: of a classifier, or of an embedding student."""
    return any(is_export(model, marker) for marker in (EMBEDDER, TASK))


def file_columns(score: FileScore) -> dict[str, Any]:
    """Return the measurements of a file as a row of a table."""
    measured = score.measured
    columns = ("file", "format", "size_mb", "latency_ms", "teacher_latency_ms", "speedup")
    shares = {share.split: share for share in measured.scored}
    return {
        "model": score.model,
        **{name: getattr(measured, name) for name in columns},
        **{split: share.score for split, share in shares.items()},
        **{f"{split} kept": share.value for split, share in shares.items()},
        **({} if measured.vectors is None else measured.vectors.columns()),
    }


def files_of(model: str) -> dict[str, Path]:
    """Return the files of an export, by their format."""
    paths = {format: expanded(model) / file for format, file in FILES.items()}
    return {format: path for format, path in paths.items() if path.is_file()}


def _read(model: str, cell: Mapping[str, Any]) -> FileScore:
    decided = {split: np.array(values) for split, values in cell["decided"].items()}
    return FileScore(model, restore(Measured, cell["measured"]), decided)
