"""Workers as Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from kdnas_env.core.evaluation import EpochReport, Evaluator
from kdnas_env.errors import DependencyError, RunError, one_line
from kdnas_env.execution.backend import Job, Lost, MakeEvaluator, Message, Raised, Ready, attempt

_REACHABLE_SECONDS = 10.0

LOCAL, AUTO = "local", "auto"
"""Addresses: ``local`` starts Ray on this machine only; ``auto`` joins the cluster that this machine is part of."""


class RayBackend:
    """Ray actors, each with its own evaluator, spread over the nodes of a cluster.

    Ray never restarts an actor that dies, alone or with its node. The caller starts a new one, which Ray places on any
    node with free resources. Actors end with the process that created them.

    Args:
        make_evaluator: Makes the evaluator in each actor, so files that it reads must exist on every node.
        address: Address of the cluster's head node, ``auto`` for the cluster that this machine is part of, or ``local``
            to start Ray on this machine, listening on the loopback interface only. If the process is already connected
            to a cluster, that one is used.
        cpus: CPU cores per actor.
        gpus: GPUs per actor; may be a fraction.
        environment: Environment variables of the actors, such as ``KDNAS_CACHE``.

    Raises:
        DependencyError: If Ray is not installed.
        RunError: If there is no cluster at the address.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        *,
        address: str = LOCAL,
        cpus: float = 1,
        gpus: float = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise DependencyError(f"Ray is not installed ({error}): pip install 'kdnas[ray]'") from error
        self._ray = ray
        self._make_evaluator = make_evaluator
        self._address = address
        self._connected_here = not ray.is_initialized()
        self._connect()
        self._actor_class = ray.remote(_Actor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": dict(environment)} if environment else None,
        )
        self._actors: dict[int, Any] = {}
        self._expected: dict[Any, int] = {}  # reference of a pending message -> worker

    def start(self, worker: int) -> None:
        """Start a worker without waiting for it."""
        self._connect()  # again, if the backend was closed
        self._actors[worker] = self._actor_class.remote(self._make_evaluator)
        self._expect(worker, self._actors[worker].ready.remote())

    def assign(self, worker: int, job: Job) -> None:
        """Send a job to a worker."""
        if worker in self._actors:
            self._expect(worker, self._actors[worker].begin.remote(job))

    def answer(self, worker: int, stop: bool) -> None:
        """Answer a worker: stop or continue."""
        if worker in self._actors:
            self._expect(worker, self._actors[worker].go_on.remote(stop))

    def kill(self, worker: int) -> None:
        """End a worker immediately."""
        actor = self._actors.pop(worker, None)
        if actor is not None:
            self._expected = {reference: owner for reference, owner in self._expected.items() if owner != worker}
            self._ray.kill(actor, no_restart=True)

    def wait(self, seconds: float | None) -> list[tuple[int, Message]]:
        """Return the messages since the last call; wait if there is none yet."""
        references = list(self._expected)
        if not references:
            time.sleep(0.0 if seconds is None else seconds)
            return []
        ready, _ = self._ray.wait(references, num_returns=1, timeout=seconds)
        # Return all ready messages, not only the first, so that no worker waits for its next job.
        if ready and len(references) > 1:
            ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._message(reference) for reference in ready]

    def now(self) -> float:
        """Return the time of the monotonic clock, in seconds."""
        return time.monotonic()

    def close(self) -> None:
        """End all workers; disconnect from the cluster if this backend connected to it."""
        for worker in list(self._actors):
            self.kill(worker)
        if self._connected_here:
            self._ray.shutdown()

    def _connect(self) -> None:
        if self._connected_here and not self._ray.is_initialized():
            _connect(self._ray, self._address)

    def _expect(self, worker: int, reference: Any) -> None:
        self._expected[reference] = worker

    def _message(self, reference: Any) -> tuple[int, Message]:
        worker = self._expected.pop(reference)
        try:
            message: Message = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            # The actor's own code raised; errors of evaluators arrive as ordinary messages.
            message = Raised(one_line(error))
        except self._ray.exceptions.RayError as error:
            del self._actors[worker]
            return worker, Lost(_cause(error))
        if isinstance(message, _UnansweredReport):
            # No answer is due: request the next message at once.
            self._expect(worker, self._actors[worker].go_on.remote(False))
            return worker, message.report
        return worker, message


@dataclass(frozen=True)
class _UnansweredReport:
    report: EpochReport


class _Actor:
    """A worker. Evaluations run in a thread, so that each epoch is reported as soon as it ends."""

    def __init__(self, make_evaluator: MakeEvaluator) -> None:
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None
        self._messages: queue.SimpleQueue[Message | _UnansweredReport] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waits = False

    def ready(self) -> Message:
        """Make the evaluator."""
        try:
            self._evaluator = self._make_evaluator()
            return Ready(self._evaluator.fingerprint, self._evaluator.deterministic)
        except Exception as error:  # any exception is reported
            return Raised(one_line(error))

    def begin(self, job: Job) -> Message | _UnansweredReport:
        """Start an evaluation, and return its first message."""
        threading.Thread(target=self._evaluate, args=(job,), daemon=True).start()
        return self._next()

    def go_on(self, stop: bool) -> Message | _UnansweredReport:
        """Answer the last message if it needs an answer, and return the next message."""
        if self._waits:
            self._answers.put(stop)
        return self._next()

    def _next(self) -> Message | _UnansweredReport:
        message = self._messages.get()
        self._waits = isinstance(message, EpochReport)
        return message

    def _evaluate(self, job: Job) -> None:
        assert self._evaluator is not None

        def on_epoch(report: EpochReport) -> bool:
            self._messages.put(report if job.stoppable else _UnansweredReport(report))
            return self._answers.get() if job.stoppable else False

        self._messages.put(attempt(self._evaluator, job, on_epoch))


def _cause(error: Exception) -> str:
    first, _, _ = one_line(error).partition(". ")
    return f"the worker's actor is gone ({first})"


def _connect(ray: Any, address: str) -> None:
    local = address == LOCAL
    try:
        _check_reachable(os.environ.get("RAY_ADDRESS") or address)
        with _loopback(ray) if local else nullcontext():
            ray.init(
                address=address,
                include_dashboard=False if local else None,
                logging_level="warning",
                log_to_driver=False,
            )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise RunError(
            f"there is no Ray cluster at {address!r}, or its token differs: {one_line(error)}. Start one by 'ray "
            f"start --head', or use {LOCAL!r} for this machine; where the cluster was started with a token, set "
            "RAY_AUTH_MODE=token and put the token into ~/.ray/auth_token"
        ) from error


def _check_reachable(address: str) -> None:
    """Check that an address ``HOST:PORT`` accepts connections, because Ray itself would retry for minutes.

    Raises:
        OSError: If it does not.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_SECONDS).close()


@contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Make Ray listen on the loopback interface only if it starts in the block, as it does on macOS and Windows.

    Setting ``_node_ip_address`` to 127.0.0.1 has no effect: Ray replaces it by the address that other machines see.
    """
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
