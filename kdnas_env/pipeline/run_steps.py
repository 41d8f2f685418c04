"""The steps of a run as they are told: which of how many, and the time that they took so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kdnas_env.pipeline.limit_lines import asked_in_words
from kdnas_env.pipeline.run_opening import search_options
from kdnas_env.pipeline.stages import PipelineOptions
from kdnas_env.support.progress import Progress, Tone, in_words
from kdnas_env.tasks.overview import overview
from kdnas_env.tasks.specs import TaskData

TASK_STEPS = ("search", "distil", "task teacher", "classifier", "export", "measure")
"""Steps from labels to a classifier; all but the first are those of one candidate."""


def announced(options: PipelineOptions, task: TaskData) -> tuple[str, ...]:
    """Return what a run with a task is about to do, in lines.

    Args:
        options: What is asked for.
        task: The task as it was read.
    """
    search = search_options(options)
    latency = search.latency
    passes = f"{latency.batch_size} x {latency.sequence_length} tokens a pass, {latency.threads} thread(s)"
    limits = ", ".join(asked_in_words(options.limits)) or "none"
    return (
        *overview(task),
        f"  students are timed in {latency.runtime}, {passes}",
        f"  limits: {limits}",
    )


class StepProgress:
    """Tells of a run: each step with its number, and the time since the run began or went on.

    Args:
        progress: Receives what is done.
        steps: Names of all steps.
        clock: Returns seconds.
    """

    def __init__(self, progress: Progress, steps: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._steps, self._clock = progress, tuple(steps), clock
        self._began = clock()

    def step(self, name: str) -> None:
        """Say that a step begins, if it is one of them."""
        if name not in self._steps:
            return
        used = self._clock() - self._began
        so_far = f", {in_words(used)} so far" if used >= 1 else ""
        self._progress.say(f"\n{name} ({self._steps.index(name) + 1} of {len(self._steps)}){so_far}")

    def begin(self, name: str) -> None:
        """Say that work begins."""
        self._progress.begin(name)

    def advance(self, done: int, total: int) -> None:
        """Report how much of the total is done."""
        self._progress.advance(done, total)

    def note(self, text: str) -> None:
        """Say something that changes as the work goes on."""
        self._progress.note(text)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Say something that is to be kept."""
        self._progress.say(text, tone)

    def end(self) -> None:
        """Report that the work is done and none follows yet."""
        self._progress.end()
