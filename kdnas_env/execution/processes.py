"""Workers as processes on this machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from kdnas_env.core.evaluation import EpochCallback, EpochReport
from kdnas_env.errors import one_line
from kdnas_env.execution.backend import Job, Lost, MakeEvaluator, Message, Raised, Ready, attempt
from kdnas_env.support.child_processes import follow_parent, leave_nothing_behind, worker_context

_CLOSE_SECONDS = 2.0
_EXIT_SECONDS = 5.0


class LocalBackend:
    """Worker processes, each with its own pipe, so that killing one never affects the others.

    They are not forked from this process, because threads and GPU state do not survive a fork. They end with this
    process, even if it is killed.

    Args:
        make_evaluator: Makes the evaluator in each worker.
        modules: Modules to import in advance, because evaluators need them and they take long to import.
    """

    def __init__(self, make_evaluator: MakeEvaluator, modules: Sequence[str] = ()) -> None:
        self._make_evaluator = make_evaluator
        self._context = worker_context(*modules)
        self._workers: dict[int, _Worker] = {}

    def start(self, worker: int) -> None:
        """Start a worker without waiting for it."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._make_evaluator), name=f"kdnas-worker-{worker}", daemon=True
        )
        process.start()
        theirs.close()
        self._workers[worker] = _Worker(process, ours)

    def assign(self, worker: int, job: Job) -> None:
        """Send a job to a worker."""
        self._send(worker, job)

    def answer(self, worker: int, stop: bool) -> None:
        """Answer a worker: stop or continue."""
        self._send(worker, stop)

    def kill(self, worker: int) -> None:
        """End a worker immediately."""
        killed = self._workers.pop(worker, None)
        if killed is not None:
            killed.join()

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return the messages since the last call; wait if there is none yet."""
        pipes: dict[Any, int] = {worker.pipe: number for number, worker in self._workers.items()}
        messages: list[tuple[int, Message]] = []
        # wait() also returns a pipe whose worker has died; reading it raises.
        for pipe in wait(list(pipes), seconds):
            number = pipes[pipe]
            messages.append((number, self._message(number)))
        return messages

    def now(self) -> float:
        """Return the time of the monotonic clock, in seconds."""
        return time.monotonic()

    def close(self) -> None:
        """End all workers: idle ones exit when their pipe closes, busy ones are killed."""
        end = time.monotonic() + _CLOSE_SECONDS
        for worker in self._workers.values():
            worker.pipe.close()
        for worker in self._workers.values():
            worker.join(max(0.0, end - time.monotonic()))
        self._workers.clear()

    def process_id(self, worker: int) -> int | None:
        """Return the process ID of a worker; None if it has ended."""
        known = self._workers.get(worker)
        return known.process.pid if known else None

    def _send(self, worker: int, data: Job | bool) -> None:
        # If the worker is dead, the next wait() reports it.
        with suppress(OSError):
            self._workers[worker].pipe.send(data)

    def _message(self, worker: int) -> Message:
        sender = self._workers[worker]
        try:
            message: Message = sender.pipe.recv()
        except (EOFError, OSError):
            del self._workers[worker]
            sender.join(_EXIT_SECONDS)  # the pipe closes before the exit status is available
            return Lost(_cause(sender.process.exitcode))
        return message


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    pipe: Connection

    def join(self, timeout: float = 0.0) -> None:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        memory = ", perhaps out of memory" if name == "SIGKILL" else ""
        return f"the worker was killed by {name}{memory}"
    return f"the worker ended with exit status {exit_code}"


def _work(pipe: Connection, make_evaluator: MakeEvaluator) -> None:
    """Evaluate jobs until the pipe is closed; the main function of a worker process."""
    follow_parent()
    leave_nothing_behind()
    driver = _Driver(pipe)
    try:
        evaluator = make_evaluator()
        ready = Ready(evaluator.fingerprint, evaluator.deterministic)
    except Exception as error:  # any exception is reported
        driver.send(Raised(one_line(error)))
        return
    driver.send(ready)
    while True:
        job: Job = driver.receive()
        driver.send(attempt(evaluator, job, driver.listener(job)))


class _Driver:
    """Connection of a worker to the main process. If it breaks, the worker exits.

    It raises ``SystemExit``, which evaluators do not catch as a failed evaluation.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, message: Message) -> None:
        with self._or_exit():
            self._pipe.send(message)

    def receive(self) -> Any:
        with self._or_exit():
            return self._pipe.recv()

    def listener(self, job: Job) -> EpochCallback:
        def on_epoch(report: EpochReport) -> bool:
            self.send(report)
            return bool(self.receive()) if job.stoppable else False

        return on_epoch

    @contextmanager
    def _or_exit(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            raise SystemExit(1) from error
