"""Steps of a run as they are told."""

from __future__ import annotations

from progress_log import ProgressLog

from kdnas_env.pipeline.run_steps import TASK_STEPS, StepProgress
from kdnas_env.pipeline.work import StageProgress
from kdnas_env.support.progress import SILENT, enter_step


def test_steps_have_their_number_and_the_time_so_far() -> None:
    log, seconds = ProgressLog(), iter([0.0, 0.5, 150.0])
    steps = StepProgress(log, TASK_STEPS, clock=lambda: next(seconds))
    enter_step(steps, "search")
    enter_step(StageProgress(steps, "distil"), "distil")
    enter_step(steps, "another command's")
    enter_step(SILENT, "search")
    assert log.said == ["\nsearch (1 of 6)", "\ndistil (2 of 6), 2.5 min so far"]
