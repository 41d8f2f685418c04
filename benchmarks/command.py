"""How benchmarks are started from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import tyro

from kdnas_env.errors import KDNASError
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
