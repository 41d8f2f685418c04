"""A simulated clock, and workers that use it. A simulated search takes only the real time of its evaluator and agent.

A heap of events as in Syne Tune's simulator (Salinas et al. 2022); one clock for all workers as in mfhpo-simulator
(Watanabe 2023, arXiv:2305.17595).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kdnas_env.core.evaluation import EpochReport, Evaluation, Evaluator
from kdnas_env.errors import KDNASError
from kdnas_env.execution.backend import Job, Lost, Message, Ready

Event = TypeVar("Event")

Seconds = Callable[[Evaluation, int], float]
"""Returns the seconds that a worker (given by its number) takes for an evaluation."""


def wall_seconds(evaluation: Evaluation, worker: int) -> float:
    """Return the recorded wall-clock seconds of an evaluation."""
    return evaluation.wall_seconds


class Clock(Generic[Event]):
    """A clock that advances from event to event; simultaneous events come in the order in which they were planned.

    Attributes:
        now: The current time in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Event]] = []

    def plan(self, at: float, event: Event) -> None:
        """Plan an event at a time (in seconds) that is not in the past."""
        heapq.heappush(self._events, (at, next(self._order), event))

    def advance(self, end: float = math.inf) -> Event | None:
        """Advance to the next event up to ``end`` and return it.

        If there is none, advance to ``end`` (unless it is infinite) and return None.
        """
        if self._events and self._events[0][0] <= end:
            self.now, _, event = heapq.heappop(self._events)
            return event
        if end < math.inf:
            self.now = end
        return None

    def clear(self) -> None:
        """Remove all planned events."""
        self._events.clear()


class SimulatedBackend:
    """Workers that evaluate immediately and report at simulated times. Equal calls give equal events.

    A stoppable job reports its epochs, evenly spread over its duration. Other jobs report only their evaluation.

    Args:
        evaluator: Evaluates students in this process.
        seconds: Simulated duration of an evaluation.
        start_seconds: Simulated duration of starting a worker.
        dies: Called once per job with the job and the worker's number; if it returns True, the worker dies halfway.

    Attributes:
        busy_seconds: Simulated seconds that workers spent on evaluations, including stopped and lost ones.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        seconds: Seconds = wall_seconds,
        *,
        start_seconds: float = 0.0,
        dies: Callable[[Job, int], bool] | None = None,
    ) -> None:
        self.busy_seconds = 0.0
        self._evaluator = evaluator
        self._seconds = seconds
        self._start_seconds = start_seconds
        self._dies = dies
        self._clock = Clock[tuple[int, Message]]()
        self._alive: set[int] = set()
        self._running: dict[int, _Running] = {}

    def start(self, worker: int) -> None:
        """Start a worker without waiting for it."""
        self._alive.add(worker)
        self._send(worker, self._start_seconds, Ready(self._evaluator.fingerprint, self._evaluator.deterministic))

    def assign(self, worker: int, job: Job) -> None:
        """Send a job to a worker.

        Raises:
            KDNASError: If the job takes a negative or infinite time.
        """
        reports: deque[EpochReport] = deque()
        on_epoch = reports.append if job.stoppable else None
        (evaluation,) = self._evaluator.evaluate([job.config], job.fidelity, on_epoch=on_epoch)
        seconds = self._seconds(evaluation, worker)
        if not 0 <= seconds < math.inf:
            raise KDNASError(f"an evaluation takes {seconds!r} simulated seconds; expected 0 or more")
        if self._dies is not None and self._dies(job, worker):
            self._spend(worker, seconds / 2, Lost("the simulated worker died"))
            return
        self._running[worker] = _Running(job, evaluation, seconds / max(1, len(reports)), reports)
        self._next(worker)

    def answer(self, worker: int, stop: bool) -> None:
        """Answer a worker: stop or continue."""
        running = self._running.get(worker)
        if running is None:
            return
        if stop:
            epoch = running.epochs - 1
            (running.evaluation,) = self._evaluator.evaluate(
                [running.job.config], running.job.fidelity, on_epoch=lambda report: report.epoch >= epoch
            )
            running.reports.clear()
        self._next(worker)

    def kill(self, worker: int) -> None:
        """End a worker immediately."""
        self._alive.discard(worker)
        self._running.pop(worker, None)

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return the next message, and advance the clock to its time.

        Args:
            seconds: Maximum simulated seconds to wait; None waits without a limit.

        Raises:
            KDNASError: If no worker will ever send a message, and there is no limit.
        """
        end = math.inf if seconds is None else self._clock.now + seconds
        while (event := self._clock.advance(end)) is not None:
            worker, message = event
            if worker in self._alive:
                if isinstance(message, Lost):
                    self.kill(worker)
                return [event]
        if end == math.inf:
            raise KDNASError("no simulated worker has a pending message; assign a job before waiting without a limit")
        return []

    def now(self) -> float:
        """Return the time of the simulated clock, in seconds."""
        return self._clock.now

    def close(self) -> None:
        """End all workers."""
        self._alive.clear()
        self._running.clear()
        self._clock.clear()

    def _next(self, worker: int) -> None:
        """Plan the next epoch report, or the end of the job."""
        running = self._running[worker]
        if running.reports:
            running.epochs += 1
            self._spend(worker, running.seconds, running.reports.popleft())
        else:
            del self._running[worker]
            self._spend(worker, 0.0 if running.epochs else running.seconds, running.evaluation)

    def _spend(self, worker: int, seconds: float, message: Message) -> None:
        self.busy_seconds += seconds
        self._send(worker, seconds, message)

    def _send(self, worker: int, seconds: float, message: Message) -> None:
        self._clock.plan(self._clock.now + seconds, (worker, message))


@dataclass
class _Running:
    job: Job
    evaluation: Evaluation
    seconds: float
    reports: deque[EpochReport] = field(default_factory=deque)
    epochs: int = 0
