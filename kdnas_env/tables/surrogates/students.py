"""Training data of a surrogate: the distinct students of one or more tables of one workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Status
from kdnas_env.errors import TableError
from kdnas_env.support.arrays import Bools, Floats32
from kdnas_env.tables.table import CURVES, LATENCIES, MISSING, STATUSES, Table, TableMetadata

TOLERANCE = 1e-4
"""Largest relative difference of two evaluations of one cell; machines differ in the last digits."""

OTHER_KIND_TOLERANCE = 0.03
"""Largest relative difference between a CPU and a GPU; different rounding can change a training as much as a seed."""

LARGEST_LOSS = 2.0
"""Unexplained variance at which losses are capped: the default reward is at its floor there. A student that diverges
may have any loss above it, which would otherwise dominate a fit and its figures."""

_SHARED = ("architecture", "epochs")
_DISTILLED = ("teacher", "corpus", "recipe", "workload")
_OF_CELLS = ("status", "curves", "valid", "latencies")
_SECONDS = CURVES.index("epoch_seconds")
_LOSSES = [place for place in range(len(CURVES)) if place != _SECONDS]


@dataclass(frozen=True, eq=False)
class Students:
    """The joined students of some tables.

    Attributes:
        configs: The students, all different.
        curves: ``CURVES`` by student, seed (of all tables) and epoch, float32
            ``(n, seeds, epochs + 1, len(CURVES))``; NaN for distillations that did not succeed. Seconds from machines
            other than the first table's are also NaN. Losses are :func:`capped`.
        good: Whether each distillation succeeded, bool ``(n, seeds)``.
        latencies: ``LATENCIES`` by student and device of the first table, float32 ``(n, devices, len(LATENCIES))``; NaN
            if a student was not measured.
    """

    configs: tuple[StudentConfig, ...]
    curves: Floats32
    good: Bools
    latencies: Floats32

    @classmethod
    def of(cls, tables: Sequence[Table]) -> Students:
        """Join tables; if several tables have a value, the first table's is used.

        Latencies of further tables are used if they were measured on a device of the first table; device names may
        differ.

        Args:
            tables: One or more.

        Raises:
            TableError: If two tables have different workloads or epochs, or disagree about a cell.
        """
        first, *others = tables
        for other in others:
            _check_same(first.metadata, other.metadata)
        places: dict[StudentConfig, int] = {}
        for table in tables:
            for config in table.configs():
                places.setdefault(config, len(places))
        seeds = sorted({seed for table in tables for seed in table.metadata.seeds})
        n, devices = len(places), len(first.metadata.devices)
        curves = np.full((n, len(seeds), *first.curves.shape[2:]), np.nan, dtype=np.float32)
        latencies = np.full((n, devices, len(LATENCIES)), np.nan, dtype=np.float32)
        for table in tables:
            rows = np.array([places[config] for config in table.configs()], dtype=np.int64)
            columns = np.array([seeds.index(seed) for seed in table.metadata.seeds])
            _fill_curves(curves, rows[:, None], columns[None], first, table)
            _fill_latencies(latencies, rows, first, table)
        good: Bools = np.asarray(np.isfinite(curves[..., _LOSSES]).all(axis=(2, 3)))
        return cls(tuple(places), capped(curves), good, latencies)


def capped(curves: Floats32) -> Floats32:
    """Return curves with unexplained variances of at most ``LARGEST_LOSS``, and raw losses lowered by the same factor.

    Args:
        curves: ``CURVES`` on the last axis, float32; NaN for missing values.
    """
    lowered = curves.copy()
    for part in ("train", "heldout"):
        raw, unexplained = CURVES.index(f"{part}_loss"), CURVES.index(f"{part}_unexplained")
        beyond = curves[..., unexplained] > LARGEST_LOSS
        lowered[beyond, raw] *= LARGEST_LOSS / curves[beyond, unexplained]
        lowered[beyond, unexplained] = LARGEST_LOSS
    return lowered


def ended_well(table: Table) -> Bools:
    """Return which cells of a table succeeded, bool ``(n, seeds)``."""
    well: Bools = (table.status == STATUSES.index(str(Status.OK))) & table.valid.all(axis=-1)
    return well


def without(table: Table, rows: npt.NDArray[np.int64]) -> Table:
    """Return a copy of a table without the values of some students."""
    status, curves, valid, latencies = (getattr(table, name).copy() for name in _OF_CELLS)
    status[rows], curves[rows], valid[rows], latencies[rows] = MISSING, np.nan, False, np.nan
    return replace(table, status=status, curves=curves, valid=valid, latencies=latencies)


def _check_same(first: TableMetadata, other: TableMetadata) -> None:
    # Paths of text and teacher may differ; only the workload fingerprint matters.
    same = first.workload in (other.workload, *other.alike) or other.workload in first.alike
    difference = first.difference(other, _SHARED if same else (*_DISTILLED, *_SHARED))
    if difference:
        raise TableError(
            f"tables {first.name!r} and {other.name!r} cannot be fitted together: {difference}. Give tables of one "
            "teacher, corpus, recipe and number of epochs"
        )


def _fill_curves(
    curves: Floats32, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], first: Table, table: Table
) -> None:
    known, good, added = curves[rows, columns], ended_well(table), table.curves
    there = np.isfinite(known[..., _LOSSES]).all(axis=(2, 3)) & good
    ours, theirs = known[there][..., _LOSSES], added[there][..., _LOSSES]
    tolerance = TOLERANCE if table.metadata.workload == first.metadata.workload else OTHER_KIND_TOLERANCE
    if not np.allclose(ours, theirs, rtol=tolerance, atol=0):
        raise TableError(
            f"table {table.metadata.name!r} disagrees with another about losses of one student and seed; kdnas table "
            "verify --replay tells which of them is wrong"
        )
    if table.metadata.trained_on != first.metadata.trained_on:
        added = added.copy()
        added[..., _SECONDS] = np.nan
    curves[rows, columns] = np.where((good & ~there)[..., None, None], added, known)


def _fill_latencies(latencies: Floats32, rows: npt.NDArray[np.int64], first: Table, table: Table) -> None:
    for position, device in enumerate(first.metadata.devices):
        for place, other in enumerate(table.metadata.devices):
            if replace(other, name=device.name) == device:
                known = latencies[rows, position]
                lacking = ~np.isfinite(known).all(axis=-1)
                latencies[rows, position] = np.where(lacking[:, None], table.latencies[:, place], known)
