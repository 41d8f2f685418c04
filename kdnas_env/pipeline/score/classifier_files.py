"""Scores of exported classifiers: file by file, on their task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.folder import TASK
from kdnas_env.exporting.measuring import FILES, Measured, TeacherFiles
from kdnas_env.exporting.measuring_classifiers import Decided, decide, measure_classifier
from kdnas_env.exporting.record import ClassifierRecord, read_classifier_record, recorded_task
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.score.files import Exports, FileScore, FormatMean, is_export
from kdnas_env.support.atomic import expanded
from kdnas_env.support.progress import Progress
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.scores import mean_share, task_metric
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.teacher import TaskTeacher, cached_task_teacher


class ClassifierExports(Exports):
    """Exported classifiers of one task.

    Args:
        models: Their folders, as the user named them.
        task: The task.
        teachers: The teacher of each model.
        cache_dir: Cache folder of the teachers' soft labels.
    """

    def __init__(
        self, models: Sequence[str], task: TaskData, teachers: Sequence[TaskTeacher], cache_dir: str | None
    ) -> None:
        super().__init__(models)
        self._task, self._teachers, self._cache_dir = task, teachers, cache_dir

    @classmethod
    def of(cls, models: Sequence[str], device: str | None, cache_dir: str | None) -> Self:
        """Return exported classifiers with their task and their teachers.

        Raises:
            KDNASError: If a model is no exported classifier, they are of several tasks, or a teacher is not cached.
        """
        records = [_record(model) for model in models]
        task = recorded_task(records[0])
        task_metric(task.spec)  # Check its availability now, not after the work.
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
                taught[key] = cached_task_teacher(
                    encoder, task, key, record.max_length, device=device, cache_dir=cache_dir
                )
        return cls(models, task, [taught[record.teacher["fingerprint"]] for record in records], cache_dir)

    @property
    def tasks(self) -> tuple[TaskData, ...]:
        """The task on which they are scored."""
        return (self._task,)

    @property
    def decisive(self) -> dict[str, str]:
        """See :attr:`kdnas_env.pipeline.score.files.Exports.decisive`."""
        teachers = enumerate(self._teachers, start=1)
        return {
            f"task {self._task.name}": self._task.fingerprint,
            **{f"teacher of model {place}": teacher.fingerprint for place, teacher in teachers},
        }

    def measured(
        self, place: int, format: str, latency: LatencySettings, beside: TeacherFiles, progress: Progress
    ) -> tuple[Measured, Decided]:
        """See :meth:`kdnas_env.pipeline.score.files.Exports.measured`."""
        export = expanded(self.models[place])
        decided = decide(export, format, self._task)
        measured = measure_classifier(
            export,
            format,
            self._task,
            self._teachers[place],
            latency,
            beside,
            decided=decided,
            cache_dir=self._cache_dir,
            progress=progress,
        )
        return measured, decided

    def means(self, files: Sequence[FileScore]) -> tuple[FormatMean, ...]:
        """See :meth:`kdnas_env.pipeline.score.files.Exports.means`."""
        by_format = {format: [score for score in files if score.measured.format == format] for format in FILES}
        return tuple(
            self._mean(format, scores) for format, scores in by_format.items() if len(scores) == len(self.models) > 1
        )

    def _mean(self, format: str, scores: Sequence[FileScore]) -> FormatMean:
        spec, splits = self._task.spec, self._task.evaluation
        shares = [
            mean_share(
                spec,
                name,
                [score.decided[name] for score in scores],
                [spec.decide(teacher.soft_labels(splits[name].texts, self._cache_dir)) for teacher in self._teachers],
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


def _record(model: str) -> ClassifierRecord:
    record = read_classifier_record(expanded(model)) if is_export(model, TASK) else None
    if record is None:
        raise KDNASError(f"{model!r} is no export to ONNX of a classifier of kdnas; score it by itself")
    return record
