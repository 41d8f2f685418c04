"""Reported steps of a run, and the estimated time left."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import small_tasks
from progress_log import ProgressLog

from kdnas_env.pipeline.distill.loop import DISTILLING
from kdnas_env.pipeline.distill.products.classifier import ClassifierProduct
from kdnas_env.pipeline.distill.products.effort import Effort
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.run.progress import StepProgress
from kdnas_env.pipeline.work import StageProgress
from kdnas_env.support.progress import SILENT, enter_step
from kdnas_env.tasks.teacher import FITTING

EFFORT = Effort(fits=3, fit_steps=100, labelling=50.0, student_steps=400)


@dataclass
class NotesLog(ProgressLog):
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_steps_have_their_number_and_the_time_so_far() -> None:
    log, seconds = ProgressLog(), iter([0.0, 0.5, 150.0])
    steps = StepProgress(log, ClassifierProduct.steps, clock=lambda: next(seconds))
    enter_step(steps, "search")
    enter_step(steps, "search")
    enter_step(StageProgress(steps, "distil"), "distil")
    enter_step(steps, "another command's")
    enter_step(SILENT, "search")
    assert log.said == ["\nsearch (2 of 6)", "\ndistil (3 of 6), 2.5 min so far"]


def test_what_is_left_is_told_from_what_was_timed() -> None:
    """A step of the teacher takes 2 seconds, one of the student 1/2 second."""
    now = 0.0
    log = NotesLog()
    steps = StepProgress(log, ClassifierProduct.steps, EFFORT, clock=lambda: now)

    def work(name: str, count: int, seconds: float) -> list[str]:
        nonlocal now
        steps.begin(name)
        log.notes.clear()
        for done in range(count + 1):
            steps.advance(done, count)
            now += seconds
        return log.notes

    steps.step("task teacher")
    assert work(f"{FITTING} on my, seed 0", 100, 2.0)[0] == "about 9.8 min left for the task's teacher"
    assert work(f"{FITTING} on my, seed 1", 100, 2.0)[-1] == "about 3.4 min left for the task's teacher"
    assert work("labelling text", 100, 2.0) == []
    steps.step("search")
    assert work(f"{DISTILLING} the best student once more", 100, 2.0) == []
    steps.step("distil")
    assert work("preparing hidden states", 100, 2.0) == []
    assert work(f"{DISTILLING} best", 240, 0.5)[0] == "about 6.8 min left until the classifier is ready"
    steps.note("loss 0.2")
    assert log.notes[-1].startswith("loss 0.2, about 5.")
    steps.step("classifier")
    assert log.said[-1].endswith("so far, about 5.0 min left until the classifier is ready")


def test_nothing_is_told_of_what_is_left_where_the_teacher_was_kept() -> None:
    log = NotesLog()
    steps = StepProgress(log, ClassifierProduct.steps, EFFORT)
    steps.step("task teacher")
    steps.begin("teacher of my")
    steps.step("search")
    assert log.said[-2:] == [
        "nothing to fine-tune: the task's teacher was kept from before, or has a head for it",
        "\nsearch (2 of 6)",
    ]
    steps.step("classifier")
    assert (log.notes, log.said[-1]) == ([], "\nclassifier (4 of 6)")


def test_the_time_of_a_resumed_run_is_that_since_it_went_on() -> None:
    log, seconds = ProgressLog(), iter([0.0, 150.0])
    StepProgress(log, ClassifierProduct.steps, since="since it was resumed", clock=lambda: next(seconds)).step("distil")
    assert log.said == ["\ndistil (3 of 6), 2.5 min since it was resumed"]


def test_effort_of_a_task() -> None:
    task = small_tasks.easy_task(samples=100)
    effort = Effort.of(TaskOptions(teachers=2, teacher_rates=(1.0,)), task, unlabelled=60)
    assert (effort.fits, effort.fit_steps) == (2, 4 * 3)
    assert effort.student_steps == 5 * 3 + 4 * 2
    assert effort.labelling == pytest.approx((100 + 60 + 2 * 80) / 32 / 3 * 2)
    assert effort.fitting(0.5) == 1.5 * effort.fit_steps
