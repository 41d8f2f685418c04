"""Evaluates students on Ray, on as many machines as the cluster has."""

from __future__ import annotations

from collections.abc import Mapping

from kdnas_env.evaluators.parallel import ParallelEvaluator
from kdnas_env.execution.backend import MakeEvaluator
from kdnas_env.execution.ray import LOCAL, RayBackend
from kdnas_env.execution.worker_pool import WorkerPool


class RayEvaluator(ParallelEvaluator):
    """An evaluator whose work is done by actors of Ray; needs the extra ``ray``.

    Each actor loads teacher and corpus once, and evaluates one student at a time. The teacher's hidden states are
    computed once per node, and read by all its actors. Actors that are lost, alone or with their node, are replaced
    wherever the cluster has room, and no evaluation is lost with them.

    Args:
        make_evaluator: Makes the evaluator of each actor on its node, such as ``partial(MiniKDEvaluator, settings)``.
        workers: Actors.
        address: Of the cluster's head, ``auto`` for the cluster that this machine is part of, or ``local`` for one of
            its own that listens on the loopback interface alone.
        cpus: Cores that each is given.
        gpus: GPUs that each is given, or a fraction of one.
        timeout: Seconds after which an actor that says nothing is replaced; None: never.
        environment: Environment variables of the actors.

    Raises:
        DependencyError: If Ray is not installed.
        RunError: If there is no cluster at the address.
    """

    def __init__(
        self,
        make_evaluator: MakeEvaluator,
        workers: int,
        *,
        address: str = LOCAL,
        cpus: float = 1,
        gpus: float = 0,
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        backend = RayBackend(make_evaluator, address=address, cpus=cpus, gpus=gpus, environment=environment)
        super().__init__(WorkerPool(backend, workers, timeout=timeout))
