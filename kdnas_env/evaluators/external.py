"""Look up scores in an external table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Latency, Status
from kdnas_env.core.point_space import Point
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.evaluators.tabular import draws
from kdnas_env.support.checks import check_choice
from kdnas_env.tables.external import ExternalTable

SEEDS = ("mean", "sample")
"""How to combine several trainings of one candidate: their mean, or one drawn by the seed."""


@dataclass(frozen=True, eq=False)
class ExternalEvaluator:
    """Returns the scores of an external table as evaluations.

    The loss is one minus the score, as the loss of the quality ``task``. There are no curves, because nothing was
    distilled. There are no measured latencies: the latency ratio is the training time over the longest training time
    of the table. This is the relative cost of a step if all trainings have the same number of steps.

    Attributes:
        table: The table.
        seed: One of ``SEEDS``.

    Raises:
        TableError: If the seed is not in ``SEEDS``.
    """

    table: ExternalTable
    seed: str = "mean"

    deterministic = True
    tabular = True

    def __post_init__(self) -> None:
        check_choice("seed", self.seed, SEEDS, error=TableError)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the table's contents and the seed."""
        digest = hashlib.sha256(f"{self.table.metric} {self.seed} {self.table.space.to_dict()}".encode())
        for name in ExternalTable.ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self.table, name)).tobytes())
        return digest.hexdigest()

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Look up a batch of :class:`~kdnas_env.core.point_space.Point`; one record per candidate, in order.

        Candidates without a training are ``invalid``. No epochs are reported.
        """
        return [self._evaluation(config, fidelity) for config in configs]

    def _evaluation(self, config: StudentConfig, fidelity: Fidelity) -> Evaluation:
        space, table = self.table.space, self.table
        try:
            index = space.grid.number(space.encode(cast(Point, config)))
            violation = space.violation(cast(Point, config))
        except SpaceError as error:
            violation = str(error)
        if violation is not None:
            return Evaluation(config, fidelity, Status.INVALID, error=violation)
        place = int(np.searchsorted(space.valid_indices, index))
        first, count = self.table.trainings[place].tolist()
        rows = np.arange(first, first + count)
        if self.seed == "sample":
            rows = rows[draws(np.array([place]), fidelity.seed, count)]
        loss, seconds = 1.0 - float(table.score[rows].mean()), float(table.seconds[rows].mean())
        latency = replace(_UNMEASURED, ratio=seconds / float(table.seconds.max()))
        return Evaluation(
            config,
            fidelity,
            Status.OK,
            task_divergence=loss,
            task_unexplained=loss,
            wall_seconds=seconds,
            latency=latency,
        )


_UNMEASURED = Latency(0.0, 0.0, 0, 0.0, 0.0, ratio=1.0, ratio_iqr=0.0, runtime="training")
