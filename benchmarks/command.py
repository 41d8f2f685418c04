"""How benchmarks are started from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import tyro

from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.cpu_lock import pinned_threads

Arguments = TypeVar("Arguments")


def run_command(main: Callable[[Arguments], object], arguments: type[Arguments], *, threads: int | None = None) -> None:
    """Run a benchmark with the arguments of the command line; bad input ends it with a message.

    Args:
        main: The benchmark.
        arguments: Dataclass of its arguments.
        threads: PyTorch's threads while it runs; None leaves them.
    """
    try:
        with nullcontext() if threads is None else pinned_threads(threads):
            main(tyro.cli(arguments))
    except KDNASError as error:
        sys.exit(f"error: {error}")


def check_writable(file: Path) -> None:
    """Check that a file of results can be written, before the work begins.

    Raises:
        RunError: If its folder does not exist.
    """
    if not file.absolute().parent.is_dir():
        raise RunError(f"{str(file)!r} cannot be written: its folder does not exist; create it first")
