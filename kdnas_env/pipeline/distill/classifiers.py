"""Distillation of classifiers: the teacher of a task, and the students that learn from it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from kdnas_env.distillation.student.folder import read_lineage
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.training.resuming import report_resumption
from kdnas_env.errors import RunError
from kdnas_env.exporting.classifier import save_classifier
from kdnas_env.exporting.record import ClassifierRecord, read_classifier_record
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.work import name_of
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import Pieces, Progress
from kdnas_env.tasks.data import load_task, read_unlabelled
from kdnas_env.tasks.distilling import STAGES, TaskDistillationSettings, Texts, distil_task
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.heads import NATIVE
from kdnas_env.tasks.scores import TaskScore, score_predictions
from kdnas_env.tasks.specs import TaskData, unlabelled_source
from kdnas_env.tasks.teacher import TaskTeacher, TeacherSettings, task_teacher

_TAUGHT = "task teacher"
_STEPS = dict(zip(STAGES, ("steps on soft labels", "steps on labels too"), strict=True))


@dataclass(frozen=True, eq=False)
class TaskWork:
    """The shared inputs of several classifiers: a task, its teacher and its text.

    Attributes:
        task: The task.
        teacher: Its teacher.
        teacher_score: Score of the teacher.
        unlabelled: Unlabelled text of the domain.
        settings: Settings of the distillation.
        seed: Seed of all random generators.
        cache_dir: Cache folder of teacher and soft labels.
    """

    task: TaskData
    teacher: TaskTeacher
    teacher_score: TaskScore
    unlabelled: Texts
    settings: TaskDistillationSettings
    seed: int
    cache_dir: str | None

    @classmethod
    def of(
        cls,
        options: TaskOptions,
        teacher: Teacher,
        *,
        seed: int,
        device: str | None,
        cache_dir: str | None,
        progress: Progress,
    ) -> TaskWork:
        """Read the task and prepare its teacher: use its head if it fits, else load or run the fine-tuning.

        Args:
            options: The task.
            teacher: The encoder, or a checkpoint with a head.
            seed: Seed of all random generators.
            device: Device of the models.
            cache_dir: Cache folder of teacher and soft labels.
            progress: Receives the progress.

        Raises:
            KDNASError: If the task or its text cannot be read.
        """
        assert options.name is not None
        task = load_task(options.name, options.data, options.own)
        unlabelled = unlabelled_texts(options, task, seed)
        taught = teacher_of(task, options, teacher, seed=seed, device=device, cache_dir=cache_dir, progress=progress)
        progress.begin(f"scoring the teacher of {task.name}")
        logits = {
            name: taught.soft_labels(split.texts, cache_dir, on_progress=progress.advance)
            for name, split in task.evaluation.items()
        }
        predictions = {name: task.spec.decide(values) for name, values in logits.items()}
        score = TaskScore(task.name, _TAUGHT, seed, **score_predictions(task, predictions))
        student = {"epochs": options.epochs, "pooling": NATIVE}
        finetuning = _tuning(options, device).changed(student)
        settings = TaskDistillationSettings(dropout=options.dropout, finetuning=finetuning)
        return cls(task, taught, score, unlabelled, settings, seed, cache_dir)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the inputs of the classifiers, as a run records them."""
        return {"task": self.task.fingerprint, "task teacher": self.teacher.fingerprint}

    def make(self, student: Path, folder: Path, progress: Progress) -> ClassifierRecord:
        """Train a student on the task, unless its classifier is finished, and return the record of the classifier.

        Args:
            student: Folder of the student.
            folder: Folder of the classifier. Checkpoints of an unfinished distillation are beside it.
            progress: Receives the progress.

        Raises:
            RunError: If the folder holds a classifier with other inputs.
        """
        encoder, lineage = load_teacher(student), read_lineage(student)
        record = read_classifier_record(folder)
        if record is not None:
            origin = read_lineage(folder)
            stages = None if lineage is None or origin is None else origin.stages[:-1]
            if not self._made(record) or (lineage is not None and lineage.stages != stages):
                raise RunError(
                    f"{str(folder)!r} holds a classifier of another student, task or text, or of other settings; give "
                    "another folder with `out`"
                )
            return record
        made_of = [encoder.fingerprint, self.task.fingerprint, self.teacher.fingerprint, self.seed]
        key = fingerprint_of([*made_of, asdict(self.settings), list(map(list, self.unlabelled))])
        checkpoints = folder.with_name(f"{folder.name}-checkpoints")
        pieces, distilling = Pieces(progress), f"distilling {self.task.name} into {name_of(folder, student)}"
        pieces.begin(distilling)
        for stage in STAGES:
            report_resumption(checkpoints / key[:16] / stage, progress, stage)
        distilled = distil_task(
            encoder.model,
            encoder.tokenizer,
            self.task,
            self.teacher,
            self.settings,
            self.seed,
            unlabelled=self.unlabelled,
            checkpoints=checkpoints / key[:16],
            cache_dir=self.cache_dir,
            on_labelling=pieces.advancing(self._labelling),
            on_stage=lambda stage: pieces.begin(f"{distilling}, {_STEPS[stage]}"),
            on_progress=progress.advance,
        )
        record = save_classifier(
            folder,
            distilled,
            encoder.tokenizer,
            self.task,
            self.teacher,
            lineage=lineage,
            teacher_score=self.teacher_score,
            unlabelled=self._text,
        )
        shutil.rmtree(checkpoints)
        return record

    @property
    def _text(self) -> str:
        """Fingerprint of the unlabelled text."""
        return fingerprint_of(list(map(list, self.unlabelled)))

    @property
    def _labelling(self) -> str:
        """Name of the labelling step, with its texts."""
        more = " and those without labels" if self.unlabelled else ""
        return f"labelling the texts of {self.task.name}{more} with its teacher"

    def _made(self, record: ClassifierRecord) -> bool:
        """Whether a classifier was made for this task, from this teacher, with these settings."""
        details = record.score.details
        return (
            record.task["fingerprint"] == self.task.fingerprint
            and record.teacher["fingerprint"] == self.teacher.fingerprint
            and record.score.seed == self.seed
            and record.unlabelled in ("", self._text)
            # The record of an older classifier lacks settings that were added later.
            and all(details.get(name, value) == value for name, value in asdict(self.settings).items())
        )


def unlabelled_texts(options: TaskOptions, task: TaskData, seed: int) -> Texts:
    """Read the unlabelled text of a task; empty if the options name none.

    Args:
        options: Options of the task, with the source of the text.
        task: The task.
        seed: Seed of the draw, unless the options have their own.

    Raises:
        KDNASError: If it cannot be read.
    """
    source = unlabelled_source(options.name or "", options.unlabelled)
    if source is None:
        return ()
    return read_unlabelled(source, task.spec, options.unlabelled_samples, options.seed_or(seed))


def teacher_of(
    task: TaskData,
    options: TaskOptions,
    teacher: Teacher,
    *,
    seed: int,
    device: str | None,
    cache_dir: str | None,
    progress: Progress,
) -> TaskTeacher:
    """Return the teacher of a task: a cached one, a checkpoint whose head fits, or a newly fine-tuned one.

    Args:
        task: The task.
        options: Settings of its teacher.
        teacher: The encoder, or a checkpoint with a head.
        seed: Seed of the fine-tuning, unless the options have their own.
        device: Device of the models.
        cache_dir: Its cache folder.
        progress: Receives the progress.
    """
    progress.begin(f"teacher of {task.name}")
    settings = TeacherSettings(
        teachers=options.teachers,
        rates=options.teacher_rates,
        finetuning=_tuning(options, device).changed({"epochs": options.teacher_epochs}),
        seed=options.seed_or(seed),
    )
    return task_teacher(teacher, task, settings, cache_dir=cache_dir, progress=progress)


def _tuning(options: TaskOptions, device: str | None) -> FinetuneSettings:
    return FinetuneSettings(max_length=options.max_length, device=device)
