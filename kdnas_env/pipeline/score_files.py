"""Scores of exported classifiers: file by file, as they are served, beside their teacher's file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.measuring import FILES, Measured, teacher_files
from kdnas_env.exporting.measuring_classifiers import Decided, decide, measure_classifier
from kdnas_env.exporting.onnx import GRAPH
from kdnas_env.exporting.record import ClassifierRecord, read_classifier_record, recorded_task
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.atomic import expanded, read_json, write_json
from kdnas_env.support.progress import Progress
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.scores import Share, mean_share
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.teacher import TaskTeacher, kept_task_teacher


@dataclass(frozen=True, eq=False)
class FileScore:
    """A file of an exported classifier, measured.

    Attributes:
        model: Folder of the export, as it was named.
        measured: What was measured.
        decided: What it decides, by split.
    """

    model: str
    measured: Measured
    decided: Decided


@dataclass(frozen=True)
class FormatMean:
    """The files of one format of several exported classifiers, such as those of several seeds; plain data.

    Attributes:
        format: ``float32`` or ``int8``.
        models: How many they are.
        speedup: Median over the files.
        largest_mb: Megabytes (1e6 bytes) of the largest file.
        scored: Share of the teacher's score that they keep in the mean, on each split that makes the score.
    """

    format: str
    models: int
    speedup: float
    largest_mb: float
    scored: tuple[Share, ...]


@dataclass(frozen=True, eq=False)
class Exports:
    """Exported classifiers of one task that are scored side by side.

    Attributes:
        models: Their folders, as they were named.
        task: The task.
        teachers: The teacher of each.
    """

    models: Sequence[str]
    task: TaskData
    teachers: Sequence[TaskTeacher]

    @classmethod
    def of(cls, models: Sequence[str], device: str | None, cache_dir: str | None) -> Exports:
        """Return exported classifiers with their task and their teachers.

        Raises:
            KDNASError: If one is none, they are of several tasks, or a teacher is not kept any more.
        """
        records = [_record(model) for model in models]
        task = recorded_task(records[0])
        compared = records[0].task["evaluation_fingerprint"]
        other = next(
            (
                model
                for model, record in zip(models, records, strict=True)
                if record.task["evaluation_fingerprint"] != compared
            ),
            None,
        )
        if other is not None:
            raise KDNASError(f"{other!r} is of another task than {models[0]!r}; score it by itself")
        taught: dict[str, TaskTeacher] = {}
        for record in records:
            key = record.teacher["fingerprint"]
            if key not in taught:
                encoder = load_teacher(record.teacher["name"], device=str(resolve_device(device)))
                taught[key] = kept_task_teacher(
                    encoder, task, key, record.max_length, device=device, cache_dir=cache_dir
                )
        return cls(models, task, [taught[record.teacher["fingerprint"]] for record in records])

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides the scores, by name."""
        decisive = {f"task {self.task.name}": self.task.fingerprint}
        for model, teacher in zip(self.models, self.teachers, strict=True):
            decisive[f"teacher of {model}"] = teacher.fingerprint
            for path in _files(model).values():
                decisive[f"file {path}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return decisive

    def measure(
        self, latency: LatencySettings, cells: Path, cache_dir: str | None, progress: Progress
    ) -> tuple[FileScore, ...]:
        """Measure every file, and keep what was measured of it.

        Args:
            latency: How files are timed.
            cells: Folder where measurements are kept; what it holds is not measured again.
            cache_dir: Where the teachers' soft labels are kept.
            progress: Receives what is done.

        Raises:
            RunError: If something cannot be written or read.
        """
        found = []
        with teacher_files() as beside:
            for place, (model, teacher) in enumerate(zip(self.models, self.teachers, strict=True), start=1):
                for format in _files(model):
                    cell = cells / f"{place}-{format}.json"
                    if not cell.exists():
                        progress.begin(f"scoring {model}, {format}")
                        decided = decide(expanded(model), format, self.task)
                        measured = measure_classifier(
                            expanded(model),
                            format,
                            self.task,
                            teacher,
                            latency,
                            beside,
                            decided=decided,
                            cache_dir=cache_dir,
                            progress=progress,
                        )
                        cells.mkdir(exist_ok=True)
                        texts = {split: values.tolist() for split, values in decided.items()}
                        write_json(cell, {"measured": measured.to_dict(), "decided": texts})
                    found.append(_read(model, read_json(cell)))
        return tuple(found)

    def means(self, files: Sequence[FileScore], cache_dir: str | None) -> tuple[FormatMean, ...]:
        """Return the means of the files of each format that all of the classifiers have; none of a single one.

        Args:
            files: The files.
            cache_dir: Where the teachers' soft labels are kept.
        """
        by_format = {format: [score for score in files if score.measured.format == format] for format in FILES}
        return tuple(
            self._mean(format, scores, cache_dir)
            for format, scores in by_format.items()
            if len(scores) == len(self.models) > 1
        )

    def _mean(self, format: str, scores: Sequence[FileScore], cache_dir: str | None) -> FormatMean:
        spec, splits = self.task.spec, self.task.evaluation
        shares = [
            mean_share(
                spec,
                name,
                [score.decided[name] for score in scores],
                [spec.decide(teacher.soft_labels(splits[name].texts, cache_dir)) for teacher in self.teachers],
                splits[name].labels,
            )
            for name in spec.scored
        ]
        return FormatMean(
            format,
            len(scores),
            float(np.median([score.measured.speedup for score in scores])),
            max(score.measured.size_mb for score in scores),
            tuple(shares),
        )


def is_exported_classifier(model: str) -> bool:
    """Whether a folder is an export to ONNX of a classifier that kdnas trained."""
    folder = expanded(model)
    return (folder / GRAPH).is_file() and read_classifier_record(folder) is not None


def file_columns(score: FileScore) -> dict[str, Any]:
    """Return what is known of a file, as a row of a table."""
    measured = score.measured
    columns = ("file", "format", "size_mb", "latency_ms", "teacher_latency_ms", "speedup")
    kept = {share.split: share for share in measured.scored}
    return {
        "model": score.model,
        **{name: getattr(measured, name) for name in columns},
        **{split: share.score for split, share in kept.items()},
        **{f"{split} kept": share.value for split, share in kept.items()},
    }


def _files(model: str) -> dict[str, Path]:
    """Return the files of an export, by their format."""
    paths = {format: expanded(model) / file for format, file in FILES.items()}
    return {format: path for format, path in paths.items() if path.is_file()}


def _record(model: str) -> ClassifierRecord:
    record = read_classifier_record(expanded(model)) if is_exported_classifier(model) else None
    if record is None:
        raise KDNASError(f"{model!r} is no export to ONNX of a classifier of kdnas; score it by itself")
    return record


def _read(model: str, cell: Mapping[str, Any]) -> FileScore:
    decided = {split: np.array(values) for split, values in cell["decided"].items()}
    return FileScore(model, restore(Measured, cell["measured"]), decided)
