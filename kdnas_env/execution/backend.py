"""The interface of workers: processes that evaluate one student at a time and report it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.errors import is_out_of_memory, one_line

MakeEvaluator = Callable[[], Evaluator]
"""Makes the evaluator of a worker. It must be picklable, because it is sent to the worker."""


@dataclass(frozen=True)
class Job:
    """One student to evaluate.

    Attributes:
        config: The student.
        fidelity: The effort.
        stoppable: Whether the worker waits after each epoch for the decision to stop or continue.
    """

    config: StudentConfig
    fidelity: Fidelity
    stoppable: bool = False


@dataclass(frozen=True)
class Ready:
    """A worker has made its evaluator and waits for a job.

    Attributes:
        fingerprint: Fingerprint of the evaluator's workload.
        deterministic: Whether equal calls of the evaluator return equal results.
    """

    fingerprint: str
    deterministic: bool


@dataclass(frozen=True)
class Raised:
    """Making the evaluator or evaluating a student raised an exception other than out-of-memory.

    Attributes:
        error: Type and message of the exception.
    """

    error: str


@dataclass(frozen=True)
class Lost:
    """A worker has died, and its current job is lost.

    Attributes:
        reason: Cause of the death, as far as it is known.
    """

    reason: str


Message = Ready | EpochReport | Evaluation | Raised | Lost
"""A message of a worker. After each epoch of a stoppable job, the worker waits for an answer. ``Lost`` comes last."""


def attempt(evaluator: Evaluator, job: Job, on_epoch: EpochCallback) -> Evaluation | Raised:
    """Evaluate a job in a worker, and return the evaluation or the error."""
    try:
        (evaluation,) = evaluator.evaluate([job.config], job.fidelity, on_epoch=on_epoch)
    except Exception as error:  # any exception is reported
        if not is_out_of_memory(error):
            return Raised(one_line(error))
        # Other students may fit into memory, so the search continues.
        return Evaluation(job.config, job.fidelity, Status.OUT_OF_MEMORY, error=one_line(error))
    return evaluation


class Backend(Protocol):
    """Starts workers, sends jobs to them, and receives their messages. The caller numbers the workers.

    Only :meth:`wait` blocks. For a worker that dies, it returns :class:`Lost` once; jobs and answers sent to the worker
    before are lost.
    """

    def start(self, worker: int) -> None:
        """Start a worker under an unused number, without waiting; it sends :class:`Ready` or :class:`Raised`."""
        ...

    def assign(self, worker: int, job: Job) -> None:
        """Send a job to an idle worker."""
        ...

    def answer(self, worker: int, stop: bool) -> None:
        """Answer a worker that reported an epoch of a stoppable job: stop or continue."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker immediately, even if it is busy. It sends no more messages."""
        ...

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return new messages, each with the number of its worker; wait if there is none yet.

        Args:
            seconds: Maximum time to wait; None for no limit.
        """
        ...

    def now(self) -> float:
        """Return the time of a monotonic clock, in seconds."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
