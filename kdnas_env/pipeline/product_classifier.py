"""Where a task has labels, students become classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.exporting.folder import TASK
from kdnas_env.exporting.measuring import Measured, TeacherFiles
from kdnas_env.exporting.measuring_classifiers import measure_classifier
from kdnas_env.exporting.record import ClassifierRecord, read_classifier_record
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.classifiers import TaskWork, teacher_of, unlabelled_texts
from kdnas_env.pipeline.distill_options import CLASSIFIER, DistillOptions
from kdnas_env.pipeline.evaluated_texts import write_evaluated
from kdnas_env.pipeline.finished_search import evaluated_by_search, evaluated_file
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.product import Measuring, Opening, Product
from kdnas_env.pipeline.run_estimate import Effort
from kdnas_env.pipeline.run_options import PipelineOptions
from kdnas_env.pipeline.search_options import SearchOptions
from kdnas_env.support.progress import Progress
from kdnas_env.support.shell import command, python_command
from kdnas_env.tasks.data import check_task, load_task
from kdnas_env.tasks.distilling import new_texts
from kdnas_env.tasks.encoding import resolve_device
from kdnas_env.tasks.overview import overview
from kdnas_env.tasks.own import is_own
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import EMBEDDED_TASK, TASKS, TaskData, unlabelled_source
from kdnas_env.tasks.teacher import TASK_TEACHER, TaskTeacher


class ClassifierProduct(Product):
    """A student with a head for labels."""

    folder: ClassVar[str] = CLASSIFIER
    marker: ClassVar[str] = TASK
    words: ClassVar[str] = "classifier"
    library: ClassVar[str] = "transformers"
    steps: ClassVar[tuple[str, ...]] = (TASK_TEACHER, "search", "distil", CLASSIFIER, "export", "measure")
    score: ClassVar[str] = "the mean of the task's metrics"

    def check(self, task: TaskOptions) -> None:
        """See :meth:`Product.check`."""
        assert task.name is not None
        check_task(task.name)
        task_metric(TASKS[EMBEDDED_TASK])

    def read(self, task: TaskOptions) -> None:
        """See :meth:`Product.read`."""
        if task.name is not None and is_own(task.name):
            load_task(task.name, own=task.own)

    def leave_out(self, options: DistillOptions, search: SearchOptions) -> None:
        """See :meth:`Product.leave_out`."""
        evaluated = evaluated_file(options, search)
        if evaluated is not None and not evaluated.exists():
            write_evaluated(options.task, evaluated, evaluated_by_search(options))

    def record(self, folder: Path) -> ClassifierRecord | None:
        """See :meth:`Product.record`."""
        return read_classifier_record(folder)

    def learning(self, options: DistillOptions, teacher: Teacher, seed: int, progress: Progress) -> TaskWork:
        """See :meth:`Product.learning`."""
        places = {"device": options.device, "cache_dir": options.cache_dir}
        return TaskWork.of(options.task, teacher, seed=seed, progress=progress, **places)

    def opened(self, options: PipelineOptions) -> Opening:
        """See :meth:`Product.opened`."""
        wanted = options.task
        assert wanted.name is not None
        task = load_task(wanted.name, wanted.data, wanted.own)
        texts = unlabelled_texts(wanted, task, options.seed)
        new = len(new_texts(task, texts)[0])
        left_out = (len(texts[0]) if texts else 0) - new
        return Opening((*overview(task), _unlabelled(wanted, new, left_out)), Effort.of(wanted, task, new))

    def searched(self, options: PipelineOptions) -> TaskOptions:
        """See :meth:`Product.searched`."""
        return options.task

    def measuring(self, options: PipelineOptions, progress: Progress) -> Measuring:
        """See :meth:`Product.measuring`."""
        judged: list[tuple[TaskData, TaskTeacher]] = []

        def measure(model: Path, export: Path, latency: LatencySettings, beside: TeacherFiles) -> Measured:
            if not judged:
                judged.append(_task_and_teacher(options, progress))
            return measure_classifier(
                export,
                options.limits.format,
                *judged[0],
                latency,
                beside,
                cache_dir=options.cache_dir,
                progress=progress,
            )

        return measure

    def commands(self, folder: Path) -> Sequence[tuple[str, str]]:
        """See :meth:`Product.commands`."""
        use = f"from transformers import pipeline; print(pipeline('text-classification', {str(folder)!r})('a text'))"
        return [
            ("Classify a text with transformers", python_command(use)),
            ("Upload the classifier to the hub", command("export", folder, "--push", "OWNER/NAME")),
        ]


def _unlabelled(options: TaskOptions, new: int, left_out: int) -> str:
    source = unlabelled_source(options.name or "", options.unlabelled)
    if source is None:
        return "  text without labels: none; more of your domain helps (`task.unlabelled`)"
    more = f", {left_out:,} left out that stand in the task or twice" if left_out else ""
    return f"  text without labels: {new:,} of {source}{more}"


def _task_and_teacher(options: PipelineOptions, progress: Progress) -> tuple[TaskData, TaskTeacher]:
    """Return what an export is measured with: the task, and its teacher, whose fine-tuning was kept."""
    assert options.task.name is not None
    task = load_task(options.task.name, options.task.data, options.task.own)
    teacher = load_teacher(options.teacher, device=str(resolve_device(options.device)))
    taught = teacher_of(
        task,
        options.task,
        teacher,
        seed=options.seed,
        device=options.device,
        cache_dir=options.cache_dir,
        progress=progress,
    )
    return task, taught
