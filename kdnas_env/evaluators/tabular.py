"""Evaluations looked up in a table."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Latency, Status, report_epochs
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.support.checks import check_choice
from kdnas_env.support.untrusted import is_integer
from kdnas_env.tables.storage import load_table
from kdnas_env.tables.table import CURVES, LATENCIES, MISSING, STATUSES, Table

MISSING_POLICIES = ("error", "failed")
"""What a masked cell is: an error, or a failed evaluation."""

_OK = STATUSES.index(str(Status.OK))
_COUNT = LATENCIES.index("count")
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class TabularEvaluator:
    """Answers from a table what mini-KD would find, in microseconds.

    Every distillation of a table ran for all its epochs, so that epoch 1 is what stands in the middle of it, not the
    end of a distillation of one epoch, whose learning rate would have fallen to 0 by then. The seconds of an evaluation
    are those that its epochs took: a clock that is simulated.

    Attributes:
        table: The table.
        seed: A seed of the table; ``"mean"``, the mean over its seeds, which is the truth that regret is counted from;
            or ``"sample"``: each architecture has one of the seeds, drawn by the seed of the fidelity, so that all
            searches of one episode see the same draw, in whatever order they ask.
        device: Name of the device whose latencies count; None: the table's first.
        missing: What a masked cell is: ``error`` raises, ``failed`` is a failed evaluation. A mean is of the seeds
            that are there.

    Raises:
        TableError: If the seed, the device or the policy is unknown.
    """

    table: Table
    seed: int | str = "mean"
    device: str | None = None
    missing: str = "error"

    deterministic = True
    tabular = True

    def __post_init__(self) -> None:
        seeds = self.table.metadata.seeds
        known = not isinstance(self.seed, bool) and (self.seed in ("mean", "sample") or self.seed in seeds)
        if not known:
            raise TableError(f"seed is {self.seed!r}; expected 'mean', 'sample', or one of the table's {list(seeds)}")
        check_choice("missing", self.missing, MISSING_POLICIES, error=TableError)
        self.table.metadata.device_position(self.device)

    @classmethod
    def of(cls, name: str | os.PathLike[str], **settings: Any) -> TabularEvaluator:
        """Load a table by its name or path; see :func:`kdnas_env.tables.storage.load_table`."""
        return cls(load_table(name), **settings)

    @property
    def space(self) -> SearchSpace:
        """The space of the table."""
        return self.table.space

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the table's contents, the seed and the device."""
        digest = hashlib.sha256(
            json.dumps([self.table.metadata.workload, self.seed, self.device, self.missing]).encode()
        )
        for name in Table.ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self.table, name)).tobytes())
        return digest.hexdigest()

    def query(self, config: StudentConfig, at: int | None = None, *, seed: int = 0) -> Evaluation:
        """Return the evaluation of one student.

        Args:
            config: The student.
            at: Epoch after which it is looked at, 0 for before any step; None: after the last.
            seed: Draws the table's seed, where that is sampled.

        Raises:
            SpaceError: If the student is not in the table.
            TableError: If the epoch is beyond the last, or the cell is masked and masked cells are errors.
        """
        epochs = self.table.metadata.epochs if at is None else at
        if not is_integer(epochs) or epochs < 0:
            raise TableError(f"at is {at!r}; expected an epoch from 0 to {self.table.metadata.epochs}")
        self.rows([config.canonical()])
        return self.evaluate([config], Fidelity(epochs=int(epochs), seed=seed))[0]

    def trajectory(self, config: StudentConfig, *, seed: int = 0) -> list[Evaluation]:
        """Return the evaluations of one student after every epoch, from 0 (before any step) to the last."""
        return [self.query(config, epoch, seed=seed) for epoch in range(self.table.metadata.epochs + 1)]

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Look up a batch; one record per config, in order. What cannot be built or is not allowed is ``invalid``.

        Raises:
            SpaceError: If a student is allowed, but not in the table.
            TableError: If the fidelity is not in the table, or a cell is masked and masked cells are errors.
        """
        self.table.metadata.check_fidelity(fidelity)
        canonical = [config.canonical() for config in configs]
        violations = [None if config in self._row_of else self.space.violation(config) for config in canonical]
        known = [config for config, violation in zip(canonical, violations, strict=True) if violation is None]
        rows = self.rows(known)
        found = iter(zip(rows.tolist(), self.columns(rows, fidelity.seed).tolist(), strict=True))
        return [
            self._record(config, fidelity, *next(found), (place, len(canonical)), on_epoch)
            if violation is None
            else Evaluation(config, fidelity, Status.INVALID, error=violation)
            for place, (config, violation) in enumerate(zip(canonical, violations, strict=True))
        ]

    def rows(self, configs: Sequence[StudentConfig]) -> npt.NDArray[np.int64]:
        """Return the rows of students in the table, int64 ``(n,)``.

        Raises:
            SpaceError: If a student is not in the table.
        """
        found = []
        for config in configs:
            row = self._row_of.get(config)
            if row is None:
                reason = self.space.violation(config) or "it is none of the space's choices"
                raise SpaceError(f"{config} is not in table {self.table.metadata.name!r}: {reason}")
            found.append(row)
        return np.array(found, dtype=np.int64)

    def columns(self, rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
        """Return which of the table's seeds each row is answered with, int64 ``(n,)``; -1: the mean of all."""
        seeds = self.table.metadata.seeds
        if self.seed == "mean":
            return np.full(len(rows), -1, dtype=np.int64)
        if self.seed == "sample":
            return _draws(rows, seed, len(seeds))
        return np.full(len(rows), seeds.index(int(self.seed)), dtype=np.int64)

    @cached_property
    def _row_of(self) -> dict[StudentConfig, int]:
        return {config: row for row, config in enumerate(self.table.configs())}

    def _record(
        self,
        config: StudentConfig,
        fidelity: Fidelity,
        row: int,
        column: int,
        place: tuple[int, int],
        on_epoch: EpochCallback | None,
    ) -> Evaluation:
        table, epochs = self.table, fidelity.epochs + 1
        parameters, flops = int(table.parameters[row]), int(table.flops[row])
        curves, status = self._curves(row, column, epochs)
        if status == MISSING:
            if self.missing == "error":
                raise TableError(
                    f"{config} with seed {self.seed!r} is a masked cell of table {table.metadata.name!r}: it was never "
                    "evaluated. Choose another seed, or missing='failed' to have it answered as a failure"
                )
            error = "masked: the table has no evaluation of it"
            return Evaluation(config, fidelity, Status.FAILED, parameters=parameters, flops=flops, error=error)
        latency = self._latency(row)
        ended = Status(STATUSES[status])
        reason = "" if ended is Status.OK else f"the distillation in the table ended as {ended}"
        if ended is Status.OK and latency is None:
            ended, reason = Status.FAILED, "masked: the table has no latency of it on this device"
        reached = len(curves)
        losses = curves[:, CURVES.index("heldout_unexplained")].tolist()
        seconds = np.cumsum(curves[:, CURVES.index("epoch_seconds")]).tolist()
        stopped = report_epochs(config, *place, fidelity.epochs, losses, seconds, on_epoch)
        if stopped is not None:
            ended, reached = Status.STOPPED, stopped
        told: dict[str, Any] = {
            name: tuple(curves[:reached, position].tolist()) for position, name in enumerate(CURVES)
        }
        return Evaluation(
            config,
            fidelity,
            ended,
            **told,
            wall_seconds=sum(told["epoch_seconds"]),
            latency=latency if ended is Status.OK else None,
            parameters=parameters,
            flops=flops,
            device=table.metadata.trained_on,
            error=reason,
        )

    def _curves(self, row: int, column: int, epochs: int) -> tuple[npt.NDArray[np.float64], int]:
        """Return what is known up to an epoch, float64 ``(reached, len(CURVES))``, and how it ended."""
        table = self.table
        status, valid = table.status[row], table.valid[row, :, :epochs]
        if column < 0:
            ended = np.flatnonzero(valid.all(axis=1))
            if len(ended):
                return table.curves[row, ended, :epochs].mean(axis=0, dtype=np.float64), _OK
            column = int(np.argmin(status == MISSING))  # the first that was evaluated
        reached = int(np.argmin(valid[column])) if not valid[column].all() else epochs
        curves = table.curves[row, column, :reached].astype(np.float64)
        # What fails in a later epoch is well until then.
        return curves, _OK if reached == epochs and status[column] != MISSING else int(status[column])

    def _latency(self, row: int) -> Latency | None:
        table = self.table
        position = table.metadata.device_position(self.device)
        values = table.latencies[row, position].tolist()
        if not np.isfinite(values).all():
            return None
        device = table.metadata.devices[position]
        measured = dict(zip(LATENCIES, values, strict=True))
        return replace(
            Latency(**{**measured, "count": int(values[_COUNT])}, runtime=device.runtime),
            device=device.device,
            threads=device.threads,
            batch_size=device.batch_size,
            sequence_length=device.sequence_length,
        )


def _draws(rows: npt.NDArray[np.int64], seed: int, seeds: int) -> npt.NDArray[np.int64]:
    """Draw a number below ``seeds`` for each row, by row and seed alone (SplitMix64; Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        key = np.uint64(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
        mixed = key + (rows.astype(np.uint64) + np.uint64(1)) * _ODD
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(seeds)).astype(np.int64)
