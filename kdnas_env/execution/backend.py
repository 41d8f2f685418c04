"""The interface of workers: processes that evaluate one student at a time and report it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.errors import is_out_of_memory, one_line

MakeEvaluator = Callable[[], Evaluator]
"""Makes a worker's evaluator. It travels to the worker, so that it must be picklable."""


@dataclass(frozen=True)
class Job:
    """One student to evaluate.

    Attributes:
        config: The student.
        fidelity: The effort.
        stoppable: Whether the worker waits after each epoch for the answer whether to stop.
    """

    config: StudentConfig
    fidelity: Fidelity
    stoppable: bool = False


@dataclass(frozen=True)
class Ready:
    """A worker has made its evaluator, and waits for a job.

    Attributes:
        fingerprint: The evaluator's.
        deterministic: Whether equal calls of it return equal results.
    """

    fingerprint: str
    deterministic: bool


@dataclass(frozen=True)
class Raised:
    """An evaluator could not be made, or could evaluate no student at all.

    Attributes:
        error: Why.
    """

    error: str


@dataclass(frozen=True)
class Lost:
    """A worker is gone, with what it was doing.

    Attributes:
        reason: Why, as far as it is known.
    """

    reason: str


Message = Ready | EpochReport | Evaluation | Raised | Lost
"""A message of a worker. An epoch of a stoppable job waits for an answer; ``Lost`` is the last message."""


def attempt(evaluator: Evaluator, job: Job, on_epoch: EpochCallback) -> Evaluation | Raised:
    """Evaluate a job; what a worker does, wherever it is."""
    try:
        (evaluation,) = evaluator.evaluate([job.config], job.fidelity, on_epoch=on_epoch)
    except Exception as error:  # any exception is reported
        if not is_out_of_memory(error):
            return Raised(one_line(error))
        # Which is the student's fault, not that of all.
        return Evaluation(job.config, job.fidelity, Status.OUT_OF_MEMORY, error=one_line(error))
    return evaluation


class Backend(Protocol):
    """Starts workers, hands jobs to them, and receives their messages. The caller numbers the workers.

    Only :meth:`wait` waits for a worker. A worker that dies sends :class:`Lost`, once; what is sent to it in the
    meantime is lost.
    """

    def start(self, worker: int) -> None:
        """Begin to start a worker under a number that was never used; it sends :class:`Ready` when it is."""
        ...

    def assign(self, worker: int, job: Job) -> None:
        """Hand a job to a worker that is ready and has none."""
        ...

    def answer(self, worker: int, stop: bool) -> None:
        """Tell a worker that has reported an epoch of a stoppable job whether to stop."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker at once, whatever it does. It sends nothing more."""
        ...

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return the messages of workers, in the order of arrival; wait if there is none yet.

        Args:
            seconds: Longest time to wait; None for ever.
        """
        ...

    def now(self) -> float:
        """Return seconds of a clock that never goes backwards."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
