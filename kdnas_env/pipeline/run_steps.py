"""The steps of a run as they are told: which of how many, and the time that they took so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from kdnas_env.pipeline.limit_lines import asked_in_words
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.run_estimate import Effort, Timing
from kdnas_env.pipeline.run_opening import TaskText, search_options
from kdnas_env.pipeline.stages import PipelineOptions
from kdnas_env.support.progress import Progress, Tone, in_words
from kdnas_env.tasks.overview import overview
from kdnas_env.tasks.specs import unlabelled_source
from kdnas_env.tasks.teacher import FITTING

TASK_STEPS = ("search", "distil", "task teacher", "classifier", "export", "measure")
"""Steps from labels to a classifier; all but the first are those of one candidate."""


_TELLING_SECONDS = 10.0
"""Seconds between two estimates, and the least that is timed for one."""


def announced(options: PipelineOptions, text: TaskText) -> tuple[str, ...]:
    """Return what a run with a task is about to do, in lines.

    Args:
        options: What is asked for.
        text: What was read.
    """
    search = search_options(options)
    latency = search.latency
    passes = f"{latency.batch_size} x {latency.sequence_length} tokens a pass, {latency.threads} thread(s)"
    limits = ", ".join(asked_in_words(options.limits)) or "none"
    return (
        *overview(text.task),
        *_unlabelled(options.task, text),
        f"  students are timed in {latency.runtime}, {passes}",
        f"  limits: {limits}",
    )


def _unlabelled(options: TaskOptions, text: TaskText) -> tuple[str, ...]:
    source = unlabelled_source(options.name or "", options.unlabelled)
    if source is None:
        return ("  text without labels: none; more of your domain helps (`task.unlabelled`)",)
    left_out = f", {text.left_out:,} left out that stand in the task or twice" if text.left_out else ""
    return (f"  text without labels: {text.unlabelled:,} of {source}{left_out}",)


class StepProgress:
    """Tells of a run: each step with its number, the time since the run began or went on, and what is left.

    What is left of a candidate is told from when its teacher is fine-tuned: both a step of the student and one of the
    teacher are timed then.

    Args:
        progress: Receives what is done.
        steps: Names of all steps.
        effort: What is to be done after the long distillation; None where that is not known.
        clock: Returns seconds.
    """

    def __init__(
        self,
        progress: Progress,
        steps: Sequence[str],
        effort: Effort | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._steps, self._effort, self._clock = progress, tuple(steps), effort, clock
        self._began = self._told = clock()
        self._step, self._fits = "", 0
        self._fitting = False
        self._timed = {"distil": Timing(), "task teacher": Timing()}

    def step(self, name: str) -> None:
        """Say that a step begins, if it is one of them."""
        if name not in self._steps:
            return
        self._step, self._fits = name, 0
        used = self._clock() - self._began
        so_far = f", {in_words(used)} so far" if used >= 1 else ""
        left = self._left(math.inf) if name == "classifier" else ""
        self._progress.say(
            f"\n{name} ({self._steps.index(name) + 1} of {len(self._steps)}){so_far}{left and f', {left}'}"
        )

    def begin(self, name: str) -> None:
        """Say that work begins."""
        self._fitting = self._step == "task teacher" and name.startswith(FITTING)
        self._fits += self._fitting
        if self._step in self._timed:
            self._timed[self._step].begin()
        self._progress.begin(name)

    def advance(self, done: int, total: int) -> None:
        """Report how much of the total is done."""
        self._progress.advance(done, total)
        if self._step == "distil" or self._fitting:
            now = self._clock()
            self._timed[self._step].add(now, done, _TELLING_SECONDS)
            left = self._left(self._fits - 1 + done / total) if self._fitting else ""
            if left and now - self._told >= _TELLING_SECONDS:
                self._told = now
                self._progress.note(left)

    def _left(self, fitted: float) -> str:
        """Return how long the candidate takes yet, in words; nothing where that is not known."""
        teacher, student = self._timed["task teacher"].seconds, self._timed["distil"].seconds
        if self._effort is None or teacher is None or student is None:
            return ""
        return f"about {in_words(self._effort.seconds(fitted, teacher, student))} left until the classifier is there"

    def note(self, text: str) -> None:
        """Say something that changes as the work goes on."""
        self._progress.note(text)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Say something that is to be kept."""
        self._progress.say(text, tone)

    def end(self) -> None:
        """Report that the work is done and none follows yet."""
        self._progress.end()
