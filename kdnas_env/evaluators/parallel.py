"""Evaluate the students of a batch in parallel, on workers of one or several machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Fidelity
from kdnas_env.execution.backend import MakeEvaluator
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.ray import LOCAL, RayBackend
from kdnas_env.execution.worker_pool import WorkerPool


class ParallelEvaluator:
    """An evaluator that delegates to workers; each worker evaluates one student at a time.

    Records come from the workers' evaluators. If these are deterministic, the records do not depend on the number of
    workers. Epoch reports of different students arrive interleaved.

    Args:
        pool: The workers.

    Attributes:
        pool: The workers.
        parallel: True: the evaluator works on several students at once.
    """

    parallel = True

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    @classmethod
    def local(cls, make_evaluator: MakeEvaluator, workers: int, *, timeout: float | None = None) -> ParallelEvaluator:
        """Create an evaluator whose workers are processes of this machine.

        Args:
            make_evaluator: Makes a worker's evaluator, such as ``partial(MiniKDEvaluator, settings)``; picklable.
            workers: Number of workers.
            timeout: Seconds without a message after which a worker is replaced.
        """
        return cls(WorkerPool(LocalBackend(make_evaluator), workers, timeout=timeout))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the workload, from the workers' evaluators."""
        return self.pool.identity().fingerprint

    @property
    def deterministic(self) -> bool:
        """Whether equal calls return equal results, from the workers' evaluators."""
        return self.pool.identity().deterministic

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Evaluate a batch; one record per config, in order.

        Raises:
            RunError: If no worker can be started, or no student can be evaluated.
        """
        records = dict(self.evaluate_each(configs, fidelity, on_epoch=on_epoch))
        return [records[place] for place in range(len(configs))]

    def evaluate_each(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> Iterator[tuple[int, Evaluation]]:
        """Evaluate a batch, and yield each record when it is finished, with its index in the batch.

        Raises:
            RunError: If no worker can be started, or no student can be evaluated.
        """
        tickets = {
            self.pool.submit(config, fidelity, on_epoch=_placed(on_epoch, place, len(configs))): place
            for place, config in enumerate(configs)
        }
        try:
            while tickets:
                for finished in self.pool.wait():
                    yield tickets.pop(finished.ticket), finished.evaluation
        finally:
            if tickets:  # the caller no longer waits for them
                self.pool.close()

    def close(self) -> None:
        """Stop the workers. A later call starts new workers."""
        self.pool.close()

    def __enter__(self) -> ParallelEvaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RayEvaluator(ParallelEvaluator):
    """An evaluator that delegates to Ray actors; needs the extra ``ray``.

    Each actor loads teacher and corpus once, and evaluates one student at a time. The teacher's hidden states are
    computed once per node, and read by all its actors. Lost actors, alone or with their node, are replaced wherever
    the cluster has free resources, and their evaluations are repeated.

    Args:
        make_evaluator: Makes the evaluator of each actor on its node, such as ``partial(MiniKDEvaluator, settings)``.
        workers: Number of actors.
        address: Address of the cluster's head, ``auto`` for this machine's cluster, or ``local`` for a new cluster that
            listens only on the loopback interface.
        cpus: Cores per actor.
        gpus: GPUs per actor; may be a fraction.
        timeout: Seconds without a message after which an actor is replaced; None for never.
        environment: Environment variables of the actors.

    Raises:
        DependencyError: If Ray is not installed.
        RunError: If no cluster is found at the address.
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


def _placed(on_epoch: EpochCallback | None, place: int, total: int) -> EpochCallback | None:
    """Number the reports of a student by its index in the batch, not by its index at the worker."""
    if on_epoch is None:
        return None

    def placed(report: EpochReport) -> bool | None:
        return on_epoch(replace(report, candidate=place, candidates=total))

    return placed
