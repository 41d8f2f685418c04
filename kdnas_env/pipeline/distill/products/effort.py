"""The work for a classifier, in training steps, from which a run estimates its remaining time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.tasks.distilling import TaskDistillationSettings
from kdnas_env.tasks.finetuning import FinetuneSettings, default_epochs
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.splits import choosing_splits

_LABELLING = 1 / 3
"""Time of a forward pass as a share of a training step, whose backward pass takes twice as long as its forward pass."""


@dataclass(frozen=True)
class Effort:
    """Work for a classifier beside search and long distillation, in training steps of one batch size.

    Attributes:
        fits: Number of fine-tunings of the teacher.
        fit_steps: Steps per fine-tuning.
        labelling: Forward passes of the teacher, converted to training steps.
        student_steps: Steps in which the student learns the task.
    """

    fits: int
    fit_steps: int
    labelling: float
    student_steps: int

    @classmethod
    def of(cls, options: TaskOptions, task: TaskData, unlabelled: int) -> Effort:
        """Return the effort of a task.

        Args:
            options: Options of the task.
            task: The task.
            unlabelled: Number of new unlabelled texts.
        """
        training, _ = choosing_splits(task)
        batch = FinetuneSettings().batch_size
        labelled, scored = len(training.train), sum(len(split) for split in task.evaluation.values())
        steps, both = math.ceil(labelled / batch), math.ceil((labelled + unlabelled) / batch)
        epochs = options.epochs or default_epochs(task.name)
        return cls(
            fits=len(options.teacher_rates) + options.teachers - 1,
            fit_steps=steps * default_epochs(task.name),
            labelling=(labelled + unlabelled + 2 * scored) / batch * _LABELLING * options.teachers,
            student_steps=both * epochs + steps * TaskDistillationSettings().label_epochs,
        )

    def fitting(self, done: float) -> float:
        """Return the remaining steps of the fine-tunings.

        Args:
            done: Number of finished fine-tunings, plus the finished share of the current one.
        """
        return max(0.0, self.fits - done) * self.fit_steps
