"""The task of a search: the data on which students are evaluated in a short task stage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus, load_corpus
from kdnas_env.distillation.text.demo import is_demo
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import KDNASError
from kdnas_env.support.progress import SILENT, Progress, enter_step
from kdnas_env.support.settings import Settings
from kdnas_env.support.untrusted import restore, shown
from kdnas_env.tasks.data import check_task, load_task, task_name
from kdnas_env.tasks.own import OwnTask
from kdnas_env.tasks.specs import EMBEDDING, TaskData, unlabelled_source
from kdnas_env.tasks.splits import text_keys
from kdnas_env.tasks.stage import LEAST_SAMPLES, StageSettings, TaskStage, stage_samples
from kdnas_env.tasks.teacher import TASK_TEACHER, TaskTeacher, TeacherSettings, task_teacher
from kdnas_env.tasks.vectors import vector_teacher


@dataclass(frozen=True)
class SearchTask(Settings):
    """Settings of the task of a search; plain data.

    Attributes:
        name: Name of a task, or the user's own file, folder or dataset, as for :func:`kdnas_env.tasks.data.load_task`;
            or ``embedding``, the task without labels: text vectors like those of the teacher.
        data: Folder of GLUE.
        own: Layout of the user's own task.
        unlabelled: Text of the stage: a source of :func:`kdnas_env.distillation.text.corpus.load_corpus`, or ``none``
            for the corpus of the search; by default ``demo:all`` for the embedded tasks, and the corpus for others.
            Text that the task's teacher was trained on is less informative, because the teacher has memorised its
            labels.
        teacher: Settings of the task's teacher.
        stage: Settings of the task stage.

    Raises:
        KDNASError: If the task is unknown.
    """

    name: str
    data: str | None = None
    own: OwnTask = field(default_factory=OwnTask)
    unlabelled: str | None = None
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    stage: StageSettings = field(default_factory=StageSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != EMBEDDING:
            check_task(self.name)

    @classmethod
    def of(cls, task: str | Mapping[str, Any]) -> SearchTask:
        """Return a task from its name, or from a mapping of fields.

        Raises:
            KDNASError: If it is malformed, or the task is unknown.
        """
        try:
            return restore(cls, {"name": task} if isinstance(task, str) else task)
        except KDNASError:
            raise
        except ValueError as error:
            raise KDNASError(f"task {shown(task)} is malformed: {error}") from error

    def prepared(
        self, teacher: Teacher, *, cache_dir: str | os.PathLike[str] | None = None, progress: Progress = SILENT
    ) -> tuple[TaskData, TaskTeacher]:
        """Return the data of a labelled task, and its teacher, which is fine-tuned once and cached.

        Args:
            teacher: The teacher of the search.
            cache_dir: Cache folder of the task's teacher; None for the default.
            progress: Receives the steps of the preparation.

        Raises:
            CorpusError: If the task cannot be read.
            KDNASError, FloatingPointError, DependencyError: See :func:`kdnas_env.tasks.teacher.task_teacher`.
        """
        progress.begin(f"preparing task {self.name}")
        data = load_task(self.name, self.data, self.own)
        settings = replace(self.teacher, finetuning=replace(self.teacher.finetuning, device=teacher.device.type))
        return data, task_teacher(teacher, data, settings, cache_dir=cache_dir, progress=progress)

    def text(self, workload: Workload, data: TaskData | None) -> Workload:
        """Return a workload with the text of the task stage instead of the corpus of the search.

        Texts that the task is validated or tested on are left out; the embedded text does not contain them.

        Args:
            workload: The workload of the search.
            data: The task; None for the task without labels.

        Raises:
            CorpusError: If the text cannot be read.
            KDNASError: If it holds pairs and the task does not, or vice versa.
        """
        text = self._own_text(workload, data)
        _check_columns(text.corpus, self.name, ("text",) if data is None else data.spec.columns)
        return text

    def _own_text(self, workload: Workload, data: TaskData | None) -> Workload:
        source = unlabelled_source(self.name, self.unlabelled)
        if source is None:
            return workload
        splits = () if data is None else data.evaluation.values()
        evaluated = {key for split in splits for keys in text_keys(split) for key in keys}
        wanted, report = self.stage.samples + self.stage.heldout, workload.corpus.report
        corpus = load_corpus(
            source,
            workload.teacher.tokenizer,
            max_length=report.max_length,
            max_samples=wanted,
            min_samples=LEAST_SAMPLES,
            proxy_fraction=1.0,
            heldout_fraction=self.stage.heldout / wanted,
            without=None if is_demo(source) else evaluated,
            seed=report.seed,
        )
        return replace(workload, corpus=corpus, train=corpus.train, heldout=corpus.heldout)


def open_stage(
    workload: Workload,
    task: SearchTask,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> TaskStage:
    """Return the stage of a task; see :class:`SearchTask` and :class:`TaskStage` for the errors."""
    enter_step(progress, TASK_TEACHER)
    data, kind = None, EMBEDDING
    if task.name == EMBEDDING:
        teacher = vector_teacher(workload.teacher)
    else:
        data, teacher = task.prepared(workload.teacher, cache_dir=cache_dir, progress=progress)
        kind = data.spec.kind
    text = task.text(workload, data)
    count = sum(map(len, stage_samples(text.corpus, task.stage)))
    origin = unlabelled_source(task.name, task.unlabelled) or "the search's corpus"
    texts = f"{count:,} texts of {origin}"
    if task.name == EMBEDDING:
        progress.begin(f"computing the teacher's vectors of {texts}")
    else:
        progress.begin(f"labelling {texts} with the teacher of {task_name(task.name)}")
    return TaskStage(text, kind, teacher, task.stage, cache_dir, on_progress=progress.advance)


def _check_columns(corpus: Corpus, task: str, columns: Sequence[str]) -> None:
    own = 2 if corpus.report.pair_fraction else len(corpus.report.text_columns)
    if own != len(columns):
        raise KDNASError(
            f"the corpus has texts of {own} columns, the task {task!r} of {len(columns)}, {list(columns)}; "
            "name as many with `corpus.text_columns`"
        )
