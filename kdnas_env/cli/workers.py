"""Who evaluates the students of a search: this process, others of this machine, or Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch

from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, MiniKDSettings
from kdnas_env.execution.backend import Backend, Ready
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.pipeline.search import SearchOptions


def with_threads(options: SearchOptions) -> SearchOptions:
    """Return options with the threads that train each student: unless said, the cores are shared out among workers."""
    if options.threads is not None:
        return options
    if options.ray is not None:
        return replace(options, threads=1)
    return replace(options, threads=max(1, torch.get_num_threads() // options.workers))


def check_workers(options: SearchOptions) -> None:
    """Refuse workers that would never have anything to do.

    Raises:
        KDNASError: If there are more than students in a round.
    """
    if not options.asynchronous and options.workers > options.round_size:
        raise KDNASError(
            f"workers is {options.workers}, but a round has {options.round_size} students; raise --round-size, or "
            "search with --asynchronous, which has no rounds"
        )


@contextmanager
def open_pool(options: SearchOptions, settings: MiniKDSettings, evaluator: MiniKDEvaluator) -> Iterator[WorkerPool]:
    """Open the workers of a search, and end them in the end.

    Args:
        options: How many, and where.
        settings: What their evaluators are made of.
        evaluator: The evaluator of this process, which has the same workload.
    """
    make_evaluator = partial(MiniKDEvaluator, settings)
    backend: Backend
    if options.ray is None:
        backend = LocalBackend(make_evaluator)
    else:
        from kdnas_env.execution.ray import RayBackend

        assert settings.threads is not None
        backend = RayBackend(make_evaluator, address=options.ray, cpus=settings.threads, gpus=options.gpus_per_worker)
    identity = Ready(evaluator.fingerprint, evaluator.deterministic)
    with WorkerPool(backend, options.workers, identity=identity, timeout=options.timeout) as pool:
        yield pool
