"""A pool of workers that evaluate students in parallel. It replaces workers that die or hang, and retries students."""

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
"""Maximum attempts per student if its workers die, and to start workers if their evaluator cannot be made."""

LOST_STARTS = 10
"""Maximum consecutive workers that may die before they are ready, for example on a machine short of memory."""

START_SECONDS = 900.0
"""Maximum time without any running worker, in seconds."""


@dataclass(frozen=True)
class Finished:
    """The evaluation of a student has ended.

    Attributes:
        ticket: The ticket that :meth:`WorkerPool.submit` returned.
        evaluation: Its evaluation.
    """

    ticket: int
    evaluation: Evaluation


class WorkerPool:
    """Evaluates students on several workers.

    A worker that dies is replaced, and its student goes to the next free worker. A worker that sends no message within
    the timeout is killed and replaced as well. A student whose workers die in every attempt is recorded as failed. An
    exception of an evaluator (a deleted cache, a missing file) would occur for every student, so it ends the search
    after the same number of attempts.

    Args:
        backend: Starts the workers and communicates with them.
        workers: Number of workers.
        identity: Expected workload of the evaluators; None accepts the workload of the first worker.
        timeout: Seconds without a message after which a worker counts as hung; None for no limit. Must be longer than
            an epoch and than a latency probe.
        attempts: Maximum attempts per student.

    Attributes:
        workers: Number of workers.
        replaced: Number of workers that died, hung or failed to start so far.

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
        # Ordered by last message, oldest first, so that the search for hung workers can stop early.
        self._busy: dict[int, _Assignment] = {}
        self._starting: set[int] = set()
        self._failed_starts = 0
        self._starting_since = backend.now()
        self._finished: list[Finished] = []
        self._open = 0

    @property
    def open(self) -> int:
        """Number of students that were submitted and are not finished."""
        return self._open

    @property
    def free(self) -> int:
        """Number of students that could be submitted without waiting for others."""
        return max(0, self.workers - self._open)

    def now(self) -> float:
        """Return the time of the backend's clock, in seconds."""
        return self._backend.now()

    def identity(self) -> Ready:
        """Return the workload of the workers; if it is unknown, wait until the first worker is ready.

        Raises:
            RunError: If no worker can be started.
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
        """Queue a student for evaluation by the next free worker.

        Args:
            config: The student.
            fidelity: The effort.
            on_epoch: Called after each epoch, in this process and only within :meth:`wait`. If the worker dies, the
                epochs start again from the first.
            stoppable: Whether returning True from ``on_epoch`` stops the training. The worker then waits for the answer
                after each epoch.

        Returns:
            A ticket, with which :meth:`wait` returns the evaluation.
        """
        entry = _Entry(next(self._tickets), Job(config, fidelity, stoppable and on_epoch is not None), on_epoch)
        self._queue.append(entry)
        self._open += 1
        self._assign_jobs()
        return entry.ticket

    def wait(self) -> list[Finished]:
        """Wait until at least one student is finished, and return all finished ones.

        Raises:
            KDNASError: If no student is being evaluated.
            RunError: If no worker can be started, a worker has another workload, or an evaluator raises repeatedly.
        """
        if not self._open:
            raise KDNASError("no student is being evaluated; submit one before wait()")
        while not self._finished:
            self._listen()
        finished, self._finished = self._finished, []
        self._open -= len(finished)
        return finished

    def close(self) -> None:
        """End all workers, and discard all submitted students."""
        self._backend.close()
        for collection in (self._queue, self._idle, self._busy, self._starting, self._finished):
            collection.clear()
        self._open = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        """Handle new messages, replace hung workers, and assign waiting students.

        Raises:
            RunError: If the search cannot continue and no finished student is waiting to be returned.
        """
        problem: RunError | None = None
        for worker, message in self._backend.wait(self._seconds_to_wait()):
            try:
                self._handle_message(worker, message)
            except RunError as error:
                problem = error
        if problem is None:
            self._replace_hung_workers()
            self._assign_jobs()
        elif not self._finished:
            raise problem

    def _assign_jobs(self) -> None:
        """Assign waiting students to idle workers, and start workers if there are too few."""
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
            self._starting_since = self._backend.now()
        self._starting.add(number)
        self._backend.start(number)

    def _note_contact(self, worker: int, entry: _Entry) -> None:
        self._busy.pop(worker, None)
        self._busy[worker] = _Assignment(entry, self._backend.now())

    def _seconds_to_wait(self) -> float | None:
        """Return the seconds until the next timeout of a worker; None if there is none."""
        ends = [assignment.last_message + self._timeout for assignment in self._busy.values()][:1]
        if not self._busy and not self._idle:
            ends.append(self._starting_since + START_SECONDS)
        end = min(ends, default=math.inf)
        return None if end == math.inf else max(0.0, end - self._backend.now())

    def _handle_message(self, worker: int, message: Message) -> None:
        """Handle a message of a worker.

        Raises:
            RunError: If the search cannot go on.
        """
        if worker in self._starting:
            self._handle_start(worker, message)
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
                self._retry_or_fail(entry, message.reason)
                return
            self._idle[worker] = None
            if isinstance(message, Evaluation):
                self._finished.append(Finished(entry.ticket, message))
            elif isinstance(message, Raised):
                self._queue.appendleft(entry)
                if entry.attempts >= self._attempts:
                    raise RunError(f"no student can be evaluated: {message.error}")

    def _handle_start(self, worker: int, message: Message) -> None:
        """Handle the first message of a worker: it is ready or could not be started.

        Raises:
            RunError: If too many starts failed, or the worker has another workload.
        """
        self._starting.discard(worker)
        if isinstance(message, Ready):
            self._identity = self._identity or message
            if message.fingerprint != self._identity.fingerprint:
                raise RunError(
                    f"worker {worker} evaluates workload {message.fingerprint[:12]}, but the search uses "
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

    def _retry_or_fail(self, entry: _Entry, reason: str) -> None:
        """Retry a student whose worker died, or record it as failed after the last attempt."""
        self.replaced += 1
        entry.losses.append(reason)
        if entry.attempts < self._attempts:
            # First in the queue, because the other students of its batch wait for it.
            self._queue.appendleft(entry)
            return
        error = f"given up after {entry.attempts} attempts: {'; '.join(dict.fromkeys(entry.losses))}"
        failed = Evaluation(entry.job.config, entry.job.fidelity, Status.FAILED, error=error)
        self._finished.append(Finished(entry.ticket, failed))

    def _replace_hung_workers(self) -> None:
        """Kill workers that sent no message within the timeout, and retry their students.

        Raises:
            RunError: If no worker became ready within ``START_SECONDS``.
        """
        now = self._backend.now()
        while self._busy:
            worker, assignment = next(iter(self._busy.items()))
            if now - assignment.last_message < self._timeout:
                break
            del self._busy[worker]
            self._backend.kill(worker)
            self._retry_or_fail(assignment.entry, f"the worker sent no message for {self._timeout:g} s and was killed")
        if not self._busy and not self._idle and self._starting and now - self._starting_since >= START_SECONDS:
            raise RunError(
                f"no worker could be started in {START_SECONDS:g} s; check that the machines have free cores "
                "and GPUs for each worker"
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
    last_message: float
