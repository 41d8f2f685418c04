"""Cells of a table in columns: evaluations of students that are records only on access."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Latency, Status, report_epochs
from kdnas_env.core.reward import KDReward
from kdnas_env.support.arrays import Ints
from kdnas_env.tables.table import CURVES, LATENCIES, STATUSES, Table

OK, INVALID, FAILED = (STATUSES.index(str(status)) for status in (Status.OK, Status.INVALID, Status.FAILED))
"""Indices into ``STATUSES``."""

MASKED = "masked: the table has no evaluation of it"
UNMEASURED = "masked: the table has no latency of it on this device"

_SECONDS = CURVES.index("epoch_seconds")


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of some students, in columns; records are created on access.

    Attributes:
        table: The table.
        position: Index of the device for latencies.
        fidelity: The fidelity.
        rows: Rows of the table, int64 ``(n,)``; -1 for invalid or forbidden students.
        status: Status of each student, an index into ``STATUSES``, ``(n,)``.
        reached: Number of known epochs, including epoch 0, int64 ``(n,)``.
        curves: ``CURVES`` by epoch, float64 ``(n, epochs + 1, len(CURVES))``; undefined beyond ``reached``.
        latencies: ``LATENCIES``, float64 ``(n, len(LATENCIES))``; NaN if not measured.
        errors: Reasons of failures, by index; failed distillations are not listed, their status says why.
        config_at: Returns the student at an index.
    """

    table: Table
    position: int
    fidelity: Fidelity
    rows: Ints
    status: npt.NDArray[np.integer[Any]]
    reached: Ints
    curves: npt.NDArray[np.float64]
    latencies: npt.NDArray[np.float64]
    errors: Mapping[int, str]
    config_at: Callable[[int], StudentConfig]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Whether each student is usable, bool ``(n,)``."""
        return np.asarray(self.status == OK)

    @property
    def parameters(self) -> Ints:
        """Parameters, int64 ``(n,)``; 0 for invalid or forbidden students."""
        return np.where(self.rows < 0, 0, self.table.parameters[self.rows])

    @property
    def flops(self) -> Ints:
        """Operations of a forward pass, int64 ``(n,)``; 0 for invalid or forbidden students."""
        return np.where(self.rows < 0, 0, self.table.flops[self.rows])

    @property
    def wall_seconds(self) -> npt.NDArray[np.float64]:
        """Seconds of the known epochs, float64 ``(n,)``."""
        known = np.arange(self.curves.shape[1]) < self.reached[:, None]
        seconds: npt.NDArray[np.float64] = np.where(known, self.curves[..., _SECONDS], 0.0).cumsum(axis=1)[:, -1]
        return np.where(self.rows < 0, 0.0, seconds)

    def losses(self, curve: str) -> npt.NDArray[np.float64]:
        """Return one of ``CURVES`` after the last epoch, float64 ``(n,)``; undefined for failed students."""
        return self.curves[:, -1, CURVES.index(curve)]

    @property
    def ratios(self) -> npt.NDArray[np.float64]:
        """Latency relative to the teacher's, float64 ``(n,)``; NaN if unknown."""
        return self.latencies[:, LATENCIES.index("ratio")]

    def rewards(self, reward: KDReward) -> npt.NDArray[np.float64]:
        """Return the rewards, float64 ``(n,)``."""
        return np.array(
            [
                reward.score(loss, ratio) if ok else reward.failure
                for ok, loss, ratio in zip(
                    self.ok.tolist(), self.losses(reward.curve).tolist(), self.ratios.tolist(), strict=True
                )
            ]
        )

    def record(self, place: int, on_epoch: EpochCallback | None = None) -> Evaluation:
        """Return the evaluation at an index; a callback may stop it."""
        config, row = self.config_at(place), int(self.rows[place])
        status, error = Status(STATUSES[self.status[place]]), self.errors.get(place)
        if status is Status.INVALID:
            return Evaluation(config, self.fidelity, status, error=error or "")
        table, reached = self.table, int(self.reached[place])
        parameters, flops = int(table.parameters[row]), int(table.flops[row])
        if error == MASKED:
            return Evaluation(config, self.fidelity, status, parameters=parameters, flops=flops, error=error)
        if error is None:
            error = "" if status is Status.OK else f"the distillation in the table ended as {status}"
        curves = dict(zip(CURVES, self.curves[place, :reached].T.tolist(), strict=True))
        if on_epoch is not None:
            losses, seconds = curves["heldout_unexplained"], [*accumulate(curves["epoch_seconds"])]
            stopped = report_epochs(config, place, len(self), self.fidelity.epochs, losses, seconds, on_epoch)
            if stopped is not None:
                status, curves = Status.STOPPED, {name: values[:stopped] for name, values in curves.items()}
        return Evaluation(
            config,
            self.fidelity,
            status,
            **curves,
            wall_seconds=sum(curves["epoch_seconds"]),
            latency=self._latency(place) if status is Status.OK else None,
            parameters=parameters,
            flops=flops,
            device=table.metadata.trained_on,
            error=error,
        )

    def _latency(self, place: int) -> Latency:
        device = self.table.metadata.devices[self.position]
        measured = dict(zip(LATENCIES, self.latencies[place].tolist(), strict=True))
        return Latency(**{**measured, "count": int(measured["count"]), **device.probe})


@dataclass(frozen=True, eq=False)
class KnownCells:
    """The successful students of a table, by flat index, as plain numbers; records are created on access.

    Attributes:
        cells: The cells of all rows of the table.
        row_of: Row of each point of the space, by flat index; -1 for points without a usable result.
        numbers: By row: median latency, that of the teacher, latency ratio, parameters, flops.
        losses: Losses after the last epoch by row, by name in ``CURVES``.
        heldout: ``heldout_unexplained`` by epoch, float64 ``(n, epochs + 1)``.
    """

    cells: Cells
    row_of: list[int]
    numbers: list[tuple[float, float, float, int, int]]
    losses: Mapping[str, list[float]]
    heldout: npt.NDArray[np.float64]

    @classmethod
    def of(cls, cells: Cells, row_of: Ints) -> KnownCells:
        """Make it from the cells of all rows, and the row of each point of the space (-1 for none)."""
        usable = np.where(row_of < 0, -1, np.where(cells.ok[row_of], row_of, -1))
        columns = [cells.latencies[:, LATENCIES.index(name)] for name in ("median_ms", "teacher_median_ms", "ratio")]
        numbers = [column.tolist() for column in (*columns, cells.parameters, cells.flops)]
        return cls(
            cells,
            usable.tolist(),
            [*zip(*numbers, strict=True)],
            {name: cells.losses(name).tolist() for name in CURVES},
            np.ascontiguousarray(cells.curves[:, :, CURVES.index("heldout_unexplained")]),
        )
