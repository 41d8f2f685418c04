"""Processes that tests watch, interrupt and kill.

They are real processes, each with its own session, output and environment. They are forked from Python's fork server,
which has already imported their modules; a new interpreter would take seconds to import them. The server itself is
forked from the test process before the first test runs. In the same way, each started process forks the fork server of
its own workers. Tests of the start of an interpreter do not use this module.
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
from types import ModuleType
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
"""Modules that most of the processes need and that take long to import."""


def start_server() -> None:
    """Start the fork server, also for workers that tests start; it ends with this process.

    Call it before PyTorch computes anything: a process that is forked later may wait for threads that it lacks.
    """
    for module in MODULES:
        importlib.import_module(module)
    if sys.platform == "linux":
        resource_tracker.ensure_running()
        with patch.object(util, "spawnv_passfds", _fork):
            worker_context()


class Started:
    """A started process, with attributes of :class:`subprocess.Popen`.

    Args:
        target: Function of a module that the process calls; its return value is the exit status.
        arguments: Arguments of ``target``.
        environment: Environment variables in addition to those of this process.
        output: File for the output; None for ``stdout``.
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
        """Wait for the end of the process and return the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        self.stdout.close()
        return self.returncode

    def read(self, timeout: float | None = None) -> str:
        """Wait for the end of the process and return the rest of its output."""
        output = self.stdout.read()
        self.wait(timeout)
        return output

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()


def run_script(script: Path, *arguments: str) -> None:
    """Run a script in its folder as Python would, for a process that a test starts."""
    os.chdir(script.parent)
    main = ModuleType("__main__")
    main.__file__ = str(script)  # which its workers import
    sys.modules["__main__"], sys.argv = main, [str(script), *arguments]
    exec(compile(script.read_text(), script, "exec"), vars(main))


def start_command(arguments: list[str], **settings: Any) -> Started:
    """Start ``kdnas`` with arguments."""
    return Started(_command, arguments, **settings)


def workers_of(process: int) -> list[psutil.Process]:
    """Return the workers of the process with this id."""
    children = psutil.Process(process).children()
    if sys.platform != "linux":
        return [child for child in children if _is(child, "spawn_main")]
    return [worker for child in children if _is(child, "forkserver") for worker in child.children()]


def _is(process: psutil.Process, kind: str) -> bool:
    try:
        return kind in " ".join([process.name(), *process.cmdline()])
    except psutil.NoSuchProcess:  # the process has just ended
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
    # As in a new interpreter: stdout is buffered, stderr only by line.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    os.environ.update(environment)
    leave_nothing_behind()  # otherwise Python would warn about a killed process when the tests end
    if sys.platform == "linux":
        with patch.object(util, "spawnv_passfds", _fork):
            worker_context()
    sys.exit(target(*arguments))


def _fork(path: bytes, arguments: Sequence[str], kept: Sequence[int]) -> int:
    """Fork a process for the command of a new interpreter; return the id of the process."""
    if process := os.fork():
        return process
    try:
        Path("/proc/self/comm").write_text("forkserver")  # the name by which workers_of finds it
        # The fork happens within ``ensure_running``, and nothing would release its lock in this process.
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
