"""Scores looked up in an external table."""

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
"""What a candidate is answered with that was trained several times: the mean, or one that the seed draws."""


@dataclass(frozen=True, eq=False)
class ExternalEvaluator:
    """Answers with the scores of an external table, as evaluations.

    The loss is one minus the score; it is that of the quality ``task``. Nothing was distilled, so there are no curves.
    No latency was measured either: its ratio is that of the training's seconds to the longest of the table, which is
    what a step costs where all trainings have the same steps.

    Attributes:
        table: The table.
        seed: One of ``SEEDS``.

    Raises:
        TableError: If the seed is none of these.
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

        Candidates that were not evaluated are ``invalid``. There are no epochs to report.
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
