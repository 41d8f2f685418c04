"""Evaluates the students of a batch side by side, on workers of this machine or of many."""

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
    """An evaluator whose work is done by others, one student each at a time.

    Records are those that the workers' evaluators return: if these are deterministic, for any number of workers the
    same. Reports of epochs come as the workers go along, those of different students mixed.

    Args:
        pool: The workers.

    Attributes:
        pool: The same.
        parallel: That it works on several students at once.
    """

    parallel = True

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    @classmethod
    def local(cls, make_evaluator: MakeEvaluator, workers: int, *, timeout: float | None = None) -> ParallelEvaluator:
        """Make one whose workers are processes of this machine.

        Args:
            make_evaluator: Makes the evaluator of each, such as ``partial(MiniKDEvaluator, settings)``; picklable.
            workers: How many.
            timeout: Seconds after which a silent worker is replaced.
        """
        return cls(WorkerPool(LocalBackend(make_evaluator), workers, timeout=timeout))

    @property
    def fingerprint(self) -> str:
        """Identity of the workload: that of the workers' evaluators."""
        return self.pool.identity().fingerprint

    @property
    def deterministic(self) -> bool:
        """Whether equal calls return equal results: as for the workers' evaluators."""
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
        """Evaluate a batch, and yield each record as it is finished, with its place in the batch.

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
            if tickets:  # nobody waits for them any more
                self.pool.close()

    def close(self) -> None:
        """End the workers. A later call starts others."""
        self.pool.close()

    def __enter__(self) -> ParallelEvaluator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
        timeout: Seconds after which a silent actor is replaced; None: never.
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


def _placed(on_epoch: EpochCallback | None, place: int, total: int) -> EpochCallback | None:
    """Number the reports of a student by its place in the batch, not at its worker."""
    if on_epoch is None:
        return None

    def placed(report: EpochReport) -> bool | None:
        return on_epoch(replace(report, candidate=place, candidates=total))

    return placed
