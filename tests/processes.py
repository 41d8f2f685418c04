"""Processes that tests watch, interrupt and kill.

They are real ones, with a session, output and environment of their own, but forked from Python's fork server, which has
imported what they need: a new interpreter takes seconds for that. The server is itself forked, from the tests before
the first of them has run. So is the fork server of each process, which is that of its workers. Tests of how an
interpreter starts do not use them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from kdnas_env.support.child_processes import leave_nothing_behind, worker_context

MODULES = (
    "accelerate",
    "datasets",
    "evaluate",
    "hypothesis",
    "kdnas_env.bench.race",
    "kdnas_env.cli.commands",
    "kdnas_env.cli.run",
    "kdnas_env.evaluators.mini_kd",
    "kdnas_env.searching.asynchronous",
    "matplotlib.backends.backend_agg",
    "optuna",
    "pytest",
    "transformers.models.auto.tokenization_auto",
    *(f"transformers.models.{family}.modeling_{family}" for family in ("bert", "roberta", "albert")),
)
"""What most of them need that takes long to import."""


def start_server() -> None:
    """Start the server, which workers that tests start use, too; it ends with this process.

    Call it before PyTorch has computed anything: a process that is forked afterwards may wait for threads it lacks.
    """
    for module in MODULES:
        importlib.import_module(module)
    if sys.platform == "linux":
        resource_tracker.ensure_running()
        with patch.object(util, "spawnv_passfds", _fork):
            worker_context()


class Started:
    """A process that was started; with attributes of :class:`subprocess.Popen`.

    Args:
        target: What it does, a function of a module; it ends with what this returns as exit status.
        arguments: Those of ``target``.
        environment: Environment variables beside those of this process.
        output: File of its output; None for ``stdout``.
    """

    def __init__(
        self,
        target: Callable[..., Any],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        context = worker_context()
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(writer, output, environment or {}, target, arguments))
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; negative for a signal, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        self.stdout.close()
        return self.returncode

    def read(self, timeout: float | None = None) -> str:
        """Wait for its end and return what is left of its output."""
        output = self.stdout.read()
        self.wait(timeout)
        return output

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()


def start_command(arguments: list[str], **settings: Any) -> Started:
    """Start ``kdnas`` with arguments."""
    return Started(_command, arguments, **settings)


def workers_of(process: int) -> list[psutil.Process]:
    """Return the workers that a process has started, by its number."""
    children = psutil.Process(process).children()
    if sys.platform != "linux":
        return [child for child in children if _is(child, "spawn_main")]
    return [worker for child in children if _is(child, "forkserver") for worker in child.children()]


def _is(process: psutil.Process, kind: str) -> bool:
    try:
        return kind in " ".join([process.name(), *process.cmdline()])
    except psutil.NoSuchProcess:  # it has just ended
        return False


def _work(
    writer: Connection,
    output: Path | None,
    environment: Mapping[str, str],
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.setsid()
    file = writer.fileno() if output is None else os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    writer.close()
    # As in a new interpreter: the output is buffered, what goes wrong is not.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    os.environ.update(environment)
    leave_nothing_behind()  # if it is killed: Python would warn of that when the tests end
    if sys.platform == "linux":
        with patch.object(util, "spawnv_passfds", _fork):
            worker_context()
    sys.exit(target(*arguments))


def _fork(path: bytes, arguments: Sequence[str], kept: Sequence[int]) -> int:
    """Run in a fork what a new interpreter would be started for; return its number."""
    if process := os.fork():
        return process
    try:
        Path("/proc/self/comm").write_text("forkserver")  # by which it is known from outside, as a new one is
        # It is forked in the middle of ``ensure_running``, whose lock nobody would release here.
        forkserver._forkserver._lock = threading.Lock()  # type: ignore[attr-defined]
        # Not closed: a file of the tests that writes or closes later would otherwise hit another file of its number.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, nowhere, *kept}:
            os.dup2(nowhere, number, inheritable=False)
        exec(arguments[-1])
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def _command(arguments: list[str]) -> int:
    from kdnas_env.cli import main

    sys.argv = ["kdnas", *arguments]
    return main(arguments)
