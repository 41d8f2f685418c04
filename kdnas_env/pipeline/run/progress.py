"""Progress of a run: each step with its number, the elapsed time and the estimated remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnas_env.pipeline.distill.loop import DISTILLING
from kdnas_env.pipeline.distill.options import CLASSIFIER
from kdnas_env.pipeline.distill.products.effort import Effort
from kdnas_env.pipeline.distill.products.product import Opening
from kdnas_env.pipeline.limits import asked_in_words
from kdnas_env.pipeline.run.opening import search_options
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.support.progress import Progress, Tone, in_words
from kdnas_env.tasks.teacher import FITTING, TASK_TEACHER

_TELLING_SECONDS = 10.0
"""Seconds between two estimates, and the minimum measured time for one."""


def announced(options: PipelineOptions, opening: Opening) -> tuple[str, ...]:
    """Return lines that describe a new run with a task: its task, timing and limits.

    Args:
        options: Settings of the run.
        opening: What was read for the task.
    """
    search = search_options(options)
    latency = search.latency
    passes = f"{latency.batch_size} x {latency.sequence_length} tokens a pass, {latency.threads} thread(s)"
    return (
        *opening.lines,
        f"  students are timed in {latency.runtime}, {passes}",
        f"  limits: {_limits(options)}",
    )


def going_on(options: PipelineOptions, folder: Path) -> tuple[str, ...]:
    """Return lines that describe the settings of a resumed run; empty without a task.

    Args:
        options: Settings of the run.
        folder: Folder of the run.
    """
    if options.task.name is None:
        return ()
    return (f"going on with {folder}: task {options.task.name}; limits: {_limits(options)}",)


def _limits(options: PipelineOptions) -> str:
    return ", ".join(asked_in_words(options.limits)) or "none"


@dataclass
class Timing:
    """Measures the seconds per step of a piece of work from reports of its progress."""

    since: tuple[float, int] | None = None
    seconds: float | None = None

    def begin(self) -> None:
        """Begin another piece of the work."""
        self.since = None

    def add(self, now: float, done: int, least: float) -> None:
        """Record the number of finished steps; update the estimate once at least ``least`` seconds have passed."""
        if self.since is None:
            self.since = now, done
        elif done > self.since[1] and now - self.since[0] >= least:
            self.seconds = (now - self.since[0]) / (done - self.since[1])


class StepProgress:
    """Reports the steps of a run: number of the step, time since the run began or resumed, and remaining time.

    For a classifier, the fine-tuning of its teacher shows its own remaining time. From the long distillation on, the
    remaining time is that until the classifier is ready, because steps of student and teacher have been timed by then.
    For an embedding model, each step shows its own remaining time.

    Args:
        progress: Receives the progress.
        steps: Names of all steps.
        effort: Work beside search and long distillation; None if unknown.
        since: Words after the elapsed time that name its start.
        clock: Returns seconds.
    """

    def __init__(
        self,
        progress: Progress,
        steps: Sequence[str],
        effort: Effort | None = None,
        since: str = "so far",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._steps, self._effort, self._clock = progress, tuple(steps), effort, clock
        self._since = since
        self._began = self._told = clock()
        self._step = self._work = self._note = self._left = ""
        self._fits = 0
        self._timed = {FITTING: Timing(), DISTILLING: Timing()}

    def step(self, name: str) -> None:
        """Announce a step, if it is one of the steps and not the current one."""
        if name not in self._steps or name == self._step:
            return
        if self._step == TASK_TEACHER and not self._fits:
            self._progress.say("nothing to fine-tune: the task's teacher was kept from before, or has a head for it")
        self._step = name
        used = self._clock() - self._began
        so_far = f", {in_words(used)} {self._since}" if used >= 1 else ""
        left = self._left_until_classifier(0.0) if name == CLASSIFIER else ""
        number = f"{self._steps.index(name) + 1} of {len(self._steps)}"
        self._progress.say(f"\n{name} ({number}){so_far}{left and ', '}{left}")

    def begin(self, name: str) -> None:
        """Announce the start of a piece of work."""
        self._note = self._left = ""
        timed = self._timed if self._step == "distil" else [FITTING]
        self._work = next((work for work in timed if name.startswith(f"{work} ")), "")
        self._fits += self._work == FITTING
        if self._work:
            self._timed[self._work].begin()
        self._progress.begin(name)

    def advance(self, done: int, total: int) -> None:
        """Report how much of the total is done."""
        self._progress.advance(done, total)
        if not self._work:
            return
        now = self._clock()
        self._timed[self._work].add(now, done, _TELLING_SECONDS)
        if now - self._told >= _TELLING_SECONDS:
            self._told = now
            fitting = self._work == FITTING
            left = self._left_of_fits(done / total) if fitting else self._left_until_classifier(total - done)
            if left:
                self._left = left
                self._tell()

    def note(self, text: str) -> None:
        """Show a text that changes during the work."""
        self._note = text
        self._tell()

    def _tell(self) -> None:
        self._progress.note(", ".join(part for part in (self._note, self._left) if part))

    def _left_of_fits(self, share: float) -> str:
        step = self._timed[FITTING].seconds
        if self._effort is None or step is None or self._effort.fits == 1:
            return ""
        return f"about {in_words(self._effort.fitting(self._fits - 1 + share) * step)} left for the task's teacher"

    def _left_until_classifier(self, steps: float) -> str:
        """Return the estimated time until the classifier is ready, in words; empty if unknown.

        Args:
            steps: Remaining steps of the long distillation.
        """
        teacher, student = self._timed[FITTING].seconds, self._timed[DISTILLING].seconds
        if self._effort is None or teacher is None or student is None:
            return ""
        seconds = self._effort.labelling * teacher + (steps + self._effort.student_steps) * student
        return f"about {in_words(seconds)} left until the classifier is ready"

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Print a line that stays."""
        self._progress.say(text, tone)

    def end(self) -> None:
        """Report that the work is finished and no other has begun."""
        self._progress.end()
