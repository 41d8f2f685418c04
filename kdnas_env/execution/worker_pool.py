"""Workers that evaluate students side by side. Those that die or hang are replaced, and their students tried again."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Fidelity, Status
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.execution.backend import Backend, Job, Lost, Message, Raised, Ready
from kdnas_env.support.checks import check_number, check_whole

ATTEMPTS = 3
"""How often a student is tried whose worker dies, and workers are started whose evaluator cannot be made."""

LOST_STARTS = 10
"""How many workers in a row may die before they are ready: on a machine that is short of something, not the first."""

START_SECONDS = 900.0
"""Longest time without a single worker that can work."""


@dataclass(frozen=True)
class Finished:
    """A student is done with.

    Attributes:
        ticket: What :meth:`WorkerPool.submit` returned.
        evaluation: Its evaluation.
    """

    ticket: int
    evaluation: Evaluation


class WorkerPool:
    """Evaluates students on a number of workers.

    A worker that dies, or is silent for too long and is killed, is replaced, and its student goes to the next that
    is free. A student that this happens to again and again is taken for the cause: its evaluation is recorded as
    failed. What an evaluator raises would befall every student (a lost cache, a missing file), so that it ends the
    search after as many attempts.

    Args:
        backend: What the workers are.
        workers: How many.
        identity: The workload that their evaluators are to have; None: that of the first.
        timeout: Seconds after which a silent worker is taken for hung; None: never. It is to be longer
            than an epoch or a latency probe takes.
        attempts: How often a student is tried.

    Attributes:
        workers: How many.
        replaced: Workers that were lost so far.

    Raises:
        KDNASError: If a number is out of range.
    """

    def __init__(
        self,
        backend: Backend,
        workers: int,
        *,
        identity: Ready | None = None,
        timeout: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        for name, value in (("workers", workers), ("attempts", attempts)):
            check_whole(name, value, at_least=1)
        if timeout is not None:
            check_number("timeout", timeout, of="seconds", above=0, advice="None sets no limit")
        self.workers = workers
        self.replaced = 0
        self._backend = backend
        self._identity = identity
        self._timeout = timeout or math.inf
        self._attempts = attempts
        self._numbers = itertools.count()
        self._tickets = itertools.count()
        self._queue: deque[_Entry] = deque()
        self._idle: dict[int, None] = {}
        # Whoever was silent longest comes first, so that no others have to be checked for hung workers.
        self._busy: dict[int, _Assignment] = {}
        self._starting: set[int] = set()
        self._failed_starts = 0
        self._able = backend.now()
        self._finished: list[Finished] = []
        self._open = 0

    @property
    def open(self) -> int:
        """Students that were submitted and are not finished."""
        return self._open

    @property
    def free(self) -> int:
        """How many students could be submitted that would not wait for others."""
        return max(0, self.workers - self._open)

    def now(self) -> float:
        """Return seconds of the clock of the workers."""
        return self._backend.now()

    def identity(self) -> Ready:
        """Return the workload of the workers; wait for the first of them, if it is not known.

        Raises:
            RunError: If none can be started.
        """
        if self._identity is None and not self._starting:
            self._start()
        while self._identity is None:
            self._listen()
        return self._identity

    def submit(
        self,
        config: StudentConfig,
        fidelity: Fidelity,
        *,
        on_epoch: EpochCallback | None = None,
        stoppable: bool = True,
    ) -> int:
        """Have a student evaluated as soon as a worker is free.

        Args:
            config: The student.
            fidelity: The effort.
            on_epoch: Called, in this process and only within :meth:`wait`, after each of its epochs. If its worker
                dies, they begin again.
            stoppable: Whether a true answer of ``on_epoch`` stops the student, for which its worker waits.

        Returns:
            The ticket under which :meth:`wait` returns the evaluation.
        """
        entry = _Entry(next(self._tickets), Job(config, fidelity, stoppable and on_epoch is not None), on_epoch)
        self._queue.append(entry)
        self._open += 1
        self._employ()
        return entry.ticket

    def wait(self) -> list[Finished]:
        """Return the students that are finished, at least one; wait for it.

        Raises:
            KDNASError: If none was submitted.
            RunError: If no worker can be started, one has another workload, or an evaluator raises.
        """
        if not self._open:
            raise KDNASError("no student is being evaluated; submit one before wait()")
        while not self._finished:
            self._listen()
        finished, self._finished = self._finished, []
        self._open -= len(finished)
        return finished

    def close(self) -> None:
        """End all workers; what was submitted is forgotten."""
        self._backend.close()
        for kept in (self._queue, self._idle, self._busy, self._starting, self._finished):
            kept.clear()
        self._open = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        """Take in all messages, and keep the workers busy.

        Raises:
            RunError: If the search cannot go on. Finished students are returned first.
        """
        problem: RunError | None = None
        for worker, message in self._backend.wait(self._seconds_to_wait()):
            try:
                self._take(worker, message)
            except RunError as error:
                problem = error
        if problem is None:
            self._give_up_on_the_hung()
            self._employ()
        elif not self._finished:
            raise problem

    def _employ(self) -> None:
        """Give what is waiting to whoever is idle, and start workers where there are too few."""
        while self._queue and self._idle:
            entry, worker = self._queue.popleft(), next(iter(self._idle))
            del self._idle[worker]
            entry.attempts += 1
            self._note_contact(worker, entry)
            self._backend.assign(worker, entry.job)
        present = len(self._busy) + len(self._idle)
        for _ in range(min(self.workers - present, len(self._queue)) - len(self._starting)):
            self._start()

    def _start(self) -> None:
        number = next(self._numbers)
        if not self._starting:
            self._able = self._backend.now()
        self._starting.add(number)
        self._backend.start(number)

    def _note_contact(self, worker: int, entry: _Entry) -> None:
        self._busy.pop(worker, None)
        self._busy[worker] = _Assignment(entry, self._backend.now())

    def _seconds_to_wait(self) -> float | None:
        """Return when somebody is to be given up on; None: never."""
        ends = [assignment.heard + self._timeout for assignment in self._busy.values()][:1]
        if not self._busy and not self._idle:
            ends.append(self._able + START_SECONDS)
        end = min(ends, default=math.inf)
        return None if end == math.inf else max(0.0, end - self._backend.now())

    def _take(self, worker: int, message: Message) -> None:
        """Take in a message of a worker.

        Raises:
            RunError: If the search cannot go on.
        """
        if worker in self._starting:
            self._begin(worker, message)
        elif worker in self._idle:  # it can only have died
            del self._idle[worker]
            self.replaced += 1
        elif worker in self._busy:
            entry = self._busy[worker].entry
            if isinstance(message, EpochReport):
                self._note_contact(worker, entry)
                stop = bool(entry.on_epoch and entry.on_epoch(message))
                if entry.job.stoppable:
                    self._backend.answer(worker, stop)
                return
            del self._busy[worker]
            if isinstance(message, Lost):
                self._lose(entry, message.reason)
                return
            self._idle[worker] = None
            if isinstance(message, Evaluation):
                self._finished.append(Finished(entry.ticket, message))
            elif isinstance(message, Raised):
                self._queue.appendleft(entry)
                if entry.attempts >= self._attempts:
                    raise RunError(f"no student can be evaluated: {message.error}")

    def _begin(self, worker: int, message: Message) -> None:
        """Take in how the start of a worker went.

        Raises:
            RunError: If too many went wrong, or it has another workload.
        """
        self._starting.discard(worker)
        if isinstance(message, Ready):
            self._identity = self._identity or message
            if message.fingerprint != self._identity.fingerprint:
                raise RunError(
                    f"worker {worker} evaluates workload {message.fingerprint[:12]}, but the search is of "
                    f"{self._identity.fingerprint[:12]}: another teacher, corpus, kind of device or version of kdnas; "
                    "make them the same on all machines"
                )
            self._failed_starts = 0
            self._idle[worker] = None
            return
        reason = message.reason if isinstance(message, Lost) else getattr(message, "error", "")
        if not isinstance(message, Lost):
            self._backend.kill(worker)
        self._failed_starts += 1
        self.replaced += 1
        if self._failed_starts >= (LOST_STARTS if isinstance(message, Lost) else self._attempts):
            raise RunError(f"{self._failed_starts} workers in a row could not be started; the last: {reason}")
        if self._identity is None and not self._starting:
            self._start()

    def _lose(self, entry: _Entry, reason: str) -> None:
        """Try a student again whose worker is gone, or give it up."""
        self.replaced += 1
        entry.losses.append(reason)
        if entry.attempts < self._attempts:
            # First, not last: those of its round wait for it.
            self._queue.appendleft(entry)
            return
        error = f"given up after {entry.attempts} attempts: {'; '.join(dict.fromkeys(entry.losses))}"
        failed = Evaluation(entry.job.config, entry.job.fidelity, Status.FAILED, error=error)
        self._finished.append(Finished(entry.ticket, failed))

    def _give_up_on_the_hung(self) -> None:
        """Kill workers that were silent for too long.

        Raises:
            RunError: If there has been no worker at all for too long.
        """
        now = self._backend.now()
        while self._busy:
            worker, assignment = next(iter(self._busy.items()))
            if now - assignment.heard < self._timeout:
                break
            del self._busy[worker]
            self._backend.kill(worker)
            self._lose(assignment.entry, f"the worker said nothing for {self._timeout:g} s and was killed")
        if not self._busy and not self._idle and self._starting and now - self._able >= START_SECONDS:
            raise RunError(
                f"no worker could be started in {START_SECONDS:g} s; see whether the machines have as many free cores "
                "and GPUs as a worker is to have"
            )


@dataclass(eq=False)
class _Entry:
    ticket: int
    job: Job
    on_epoch: EpochCallback | None
    attempts: int = 0
    losses: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Assignment:
    entry: _Entry
    heard: float
