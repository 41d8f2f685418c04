"""Workers that are actors of Ray, on this machine or on a cluster."""

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
"""Addresses: a Ray of one's own, which no other machine can reach; the cluster that this machine is part of."""


class RayBackend:
    """Actors, each with an evaluator of its own, spread over the nodes of a cluster.

    An actor that dies, alone or with its node, is never restarted by Ray: whoever uses this starts another, which Ray
    places wherever there is room. Actors end with the process that made them.

    Args:
        make_evaluator: Makes the evaluator of each, on its node: files that it names must be there.
        address: Of the cluster's head, ``auto`` for the one that this machine is part of, or ``local`` for one of its
            own that listens on the loopback interface alone. A connection that the process has already is used as it
            is.
        cpus: Cores that each is given.
        gpus: GPUs that each is given, or a fraction of one.
        environment: Environment variables of each, such as ``KDNAS_CACHE``.

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
            runtime_env={"env_vars": dict(environment or {})},
        )
        self._actors: dict[int, Any] = {}
        self._expected: dict[Any, int] = {}  # what is on its way of each worker, by reference

    def start(self, worker: int) -> None:
        """Begin to start a worker."""
        self._connect()  # again, if it was closed in the meantime
        self._actors[worker] = self._actor_class.remote(self._make_evaluator)
        self._expect(worker, self._actors[worker].ready.remote())

    def assign(self, worker: int, job: Job) -> None:
        """Hand a job to a worker."""
        if worker in self._actors:
            self._expect(worker, self._actors[worker].begin.remote(job))

    def answer(self, worker: int, stop: bool) -> None:
        """Tell a worker whether to stop."""
        if worker in self._actors:
            self._expect(worker, self._actors[worker].go_on.remote(stop))

    def kill(self, worker: int) -> None:
        """End a worker at once."""
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
        # Of all that are ready, not of the first alone: none shall wait for the driver.
        if ready and len(references) > 1:
            ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return [self._message(reference) for reference in ready]

    def now(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()

    def close(self) -> None:
        """End all workers; leave the cluster, if it was joined here."""
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
            # The actor's own code raised; what evaluators raise, it reports.
            message = Raised(one_line(error))
        except self._ray.exceptions.RayError as error:
            del self._actors[worker]
            return worker, Lost(_cause(error))
        if isinstance(message, _Unasked):
            # No answer is due: request the next message at once.
            self._expect(worker, self._actors[worker].go_on.remote(False))
            return worker, message.report
        return worker, message


@dataclass(frozen=True)
class _Unasked:
    report: EpochReport


class _Actor:
    """A worker. An evaluation runs in a thread, so that its epochs are reported one by one."""

    def __init__(self, make_evaluator: MakeEvaluator) -> None:
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None
        self._messages: queue.SimpleQueue[Message | _Unasked] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waits = False

    def ready(self) -> Message:
        """Make the evaluator."""
        try:
            self._evaluator = self._make_evaluator()
            return Ready(self._evaluator.fingerprint, self._evaluator.deterministic)
        except Exception as error:  # any exception is reported
            return Raised(one_line(error))

    def begin(self, job: Job) -> Message | _Unasked:
        """Begin an evaluation; return its first message."""
        threading.Thread(target=self._evaluate, args=(job,), daemon=True).start()
        return self._next()

    def go_on(self, stop: bool) -> Message | _Unasked:
        """Answer the last message if it waits for that, and return the next."""
        if self._waits:
            self._answers.put(stop)
        return self._next()

    def _next(self) -> Message | _Unasked:
        message = self._messages.get()
        self._waits = isinstance(message, EpochReport)
        return message

    def _evaluate(self, job: Job) -> None:
        assert self._evaluator is not None

        def on_epoch(report: EpochReport) -> bool:
            self._messages.put(report if job.stoppable else _Unasked(report))
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
            f"there is no Ray cluster at {address!r}, or it wants another token: {one_line(error)}. Start one by 'ray "
            f"start --head', or use {LOCAL!r} for this machine; where the cluster was started with a token, set "
            "RAY_AUTH_MODE=token and have the token in ~/.ray/auth_token"
        ) from error


def _check_reachable(address: str) -> None:
    """Try whether anybody listens at an address of the form HOST:PORT: Ray itself tries for minutes.

    Raises:
        OSError: If nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_SECONDS).close()


@contextmanager
def _loopback(ray: Any) -> Iterator[None]:
    """Let what starts in the block listen on the loopback interface alone, as Ray does by itself on macOS and Windows.

    Asked for 127.0.0.1 by ``_node_ip_address``, Ray would take the address that other machines see instead.
    """
    constants = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
