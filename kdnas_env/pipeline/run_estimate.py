"""How long the rest of a run with a task takes, from what was timed in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.tasks.distilling import TaskDistillationSettings
from kdnas_env.tasks.finetuning import FinetuneSettings, default_epochs
from kdnas_env.tasks.specs import TaskData
from kdnas_env.tasks.splits import choosing_splits

_LABELLING = 1 / 3
"""Time of a forward pass as a share of that of a step of training, which has a backward pass of twice the work."""


@dataclass(frozen=True)
class Effort:
    """What is to be done for a classifier beside search and long distillation, in steps of one batch size.

    Attributes:
        fits: Fine-tunings of the teacher.
        fit_steps: Steps of each.
        labelling: Forward passes of the teacher, as steps.
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
            options: What is asked for.
            task: The task.
            unlabelled: New texts without labels.
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
        """Return the steps that are left of the fine-tunings.

        Args:
            done: Those that are done, with the done share of the one under way.
        """
        return max(0.0, self.fits - done) * self.fit_steps


@dataclass
class Timing:
    """Seconds of a step of some work, by how far it is at which time."""

    since: tuple[float, int] | None = None
    seconds: float | None = None

    def begin(self) -> None:
        """Begin another piece of the work."""
        self.since = None

    def add(self, now: float, done: int, least: float) -> None:
        """Take note of how far it is; of what took less time than the least, nothing is said."""
        if self.since is None:
            self.since = now, done
        elif done > self.since[1] and now - self.since[0] >= least:
            self.seconds = (now - self.since[0]) / (done - self.since[1])
