"""Verify a table: check its numbers for plausibility, and compare them with repeated distillations."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import count_parameters, forward_flops
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.errors import TableError
from kdnas_env.support.progress import OnProgress
from kdnas_env.tables.noise_ceiling import noise_ceiling
from kdnas_env.tables.surrogates.students import OTHER_KIND_TOLERANCE, ended_well
from kdnas_env.tables.table import CURVES, LATENCIES, MISSING, STATUSES, Table
from kdnas_env.tabulation.build import Cell, corpus_arguments
from kdnas_env.tabulation.latencies import modelled
from kdnas_env.tabulation.merge import largest_difference

if TYPE_CHECKING:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator

REPLAY_TOLERANCE = 2e-3
"""Largest relative difference between a loss of the table and a repeated one, possibly from another machine."""

_LARGEST_UNEXPLAINED = 10.0
"""Largest plausible loss: an untrained student has 1, and may be slightly worse before the first step."""

_LARGEST_DRIFT = 5.0
"""Largest plausible slowdown of the teacher's latency, measured beside every student, on a busy machine."""

_LARGEST_SPREAD, _LONGEST_PAUSE = 10.0, 60.0
"""Limits (factor, seconds) by which one seed may take longer than another before it counts as interrupted."""

_FLOAT32 = 1e-5


@dataclass(frozen=True)
class Replayed:
    """A cell of a table with its repeated distillation.

    Attributes:
        cell: The cell.
        difference: Largest relative difference of the losses; infinite if the statuses differ.
    """

    cell: Cell
    difference: float


def find_faults(table: Table) -> list[str]:
    """Return messages on implausible numbers of a table; empty if there are none.

    Impossible numbers, such as negative times, are rejected by the table itself.
    """
    return [*_faults_of_students(table), *_faults_of_curves(table), *_faults_of_latencies(table)]


def open_live(
    table: Table,
    *,
    device: str | None = None,
    precision: str = "float32",
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[MiniKDEvaluator, float]:
    """Return an evaluator for a table's students, and the largest expected relative difference of its losses.

    Raises:
        KDNASError: If teacher or corpus is unavailable.
        TableError: If teacher or corpus differs from the table's.
    """
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
    from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings

    meta = table.metadata
    settings = MiniKDSettings(
        teacher=meta.teacher,
        corpus=corpus_arguments(meta),
        recipe=meta.recipe,
        latency="analytic",
        cache_dir=cache_dir,
        device=device,
        precision=precision,
        threads=1,
    )
    live = MiniKDEvaluator(settings)
    if live.fingerprint == meta.workload:
        return live, REPLAY_TOLERANCE
    if meta.workload in live.alike:
        return live, OTHER_KIND_TOLERANCE
    raise TableError(
        f"teacher, corpus, precision or version differ from the table's: the workload is {live.fingerprint[:12]}, the "
        f"table's is {meta.workload[:12]}; nothing was distilled"
    )


def draw_cells(table: Table, count: int, rng: np.random.Generator) -> list[Cell]:
    """Draw distinct evaluated cells of a table: ``count``, or all if there are fewer."""
    rows, columns = np.nonzero(table.status != MISSING)
    chosen = rng.permutation(len(rows))[:count]
    configs = table.configs()
    return [Cell(configs[rows[place]], table.metadata.seeds[columns[place]]) for place in chosen]


def replay(table: Table, live: MiniKDEvaluator, cells: list[Cell], on_progress: OnProgress) -> list[Replayed]:
    """Repeat the distillations of some cells and compare the losses."""
    replayed = []
    for cell in cells:
        fidelity = Fidelity(epochs=table.metadata.epochs, seed=cell.seed)
        (fresh,) = live.evaluate([cell.student], fidelity)
        known = _recorded(table, cell)
        replayed.append(Replayed(cell, largest_difference(known, fresh)))
        on_progress(len(replayed), len(cells))
    return replayed


def _recorded(table: Table, cell: Cell) -> Evaluation:
    row = table.row(cell.student)
    column = table.metadata.seeds.index(cell.seed)
    curves = table.curves[row, column][table.valid[row, column]].astype(np.float64)
    status = Status(STATUSES[table.status[row, column]])
    losses: dict[str, Any] = {name: tuple(curves[:, position].tolist()) for position, name in enumerate(CURVES)}
    return Evaluation(cell.student, Fidelity(epochs=table.metadata.epochs, seed=cell.seed), status, **losses)


def _faults_of_students(table: Table) -> Iterator[str]:
    space, teacher, meta = table.space, table.teacher, table.metadata
    configs = table.configs()
    if table.sampled:
        invalid = [config for config in configs if not space.is_valid(config)]
        if invalid or len(set(configs)) < len(configs):
            yield f"{len(invalid)} of its students are not valid, or one occurs twice"
    elif not np.array_equal(table.index, np.sort(space.valid_indices)):
        yield f"its {len(table)} students are not the {len(space.valid_indices)} valid ones of its space"
    yield from _differing(
        "parameters", [count_parameters(config, teacher) for config in configs], table.parameters, table
    )
    if meta.devices:
        batch, length = meta.devices[0].batch_size, meta.devices[0].sequence_length
        flops = [forward_flops(config, teacher, batch=batch, length=length) for config in configs]
        yield from _differing("flops", flops, table.flops, table)


def _differing(name: str, expected: list[int], recorded: npt.NDArray[Any], table: Table) -> Iterator[str]:
    wrong = np.flatnonzero(np.array(expected) != recorded)
    if len(wrong):
        row = int(wrong[0])
        yield (
            f"{name} of {len(wrong)} students are wrong, such as {int(recorded[row])} of {table.configs()[row]}, where "
            f"{expected[row]} was expected"
        )


def _faults_of_curves(table: Table) -> Iterator[str]:
    for name in CURVES:
        curve, valid = table.curve(name), table.valid.copy()
        if name == "epoch_seconds":
            valid[..., 0] = False  # no training before the first step
        low = (curve <= 0) & valid
        if low.any():
            yield f"{name} is not positive in {_cell(table, low)}, {int(low.sum())} in all"
        high = (curve > _LARGEST_UNEXPLAINED) & valid
        if table.space.recipe_choices:
            high[..., 1:] = False  # some recipes of a joint space diverge
        if name.endswith("unexplained") and high.any():
            yield f"{name} is above {_LARGEST_UNEXPLAINED:g} in {_cell(table, high)}, {int(high.sum())} in all"
    yield from _interrupted(table)
    if table.metadata.noise and not _alike(table.metadata.noise, noise_ceiling(table)):
        yield "the noise ceiling in its JSON file does not match its curves"


def _interrupted(table: Table) -> Iterator[str]:
    """Find interrupted distillations; their excess seconds would be charged to every search that finds the student."""
    seconds = np.where(ended_well(table), table.curve("epoch_seconds").sum(axis=-1), np.nan)
    least, most = np.fmin.reduce(seconds, axis=1), np.fmax.reduce(seconds, axis=1)
    rows = np.flatnonzero((most > _LARGEST_SPREAD * least) & (most - least > _LONGEST_PAUSE))
    if len(rows):
        row = int(rows[0])
        yield (
            f"{len(rows)} students took far longer with one seed than with another, such as {table.configs()[row]}: "
            f"{most[row]:.0f} s and {least[row]:.0f} s; the machine slept or was busy, distil them again"
        )


def _alike(first: Any, other: Any) -> bool:
    """Return whether plain data are equal up to the last digits of their numbers."""
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        return first.keys() == other.keys() and all(_alike(first[name], other[name]) for name in first)
    if isinstance(first, list) and isinstance(other, list):
        return len(first) == len(other) and all(map(_alike, first, other))
    if isinstance(first, float) and isinstance(other, float):
        return math.isclose(first, other, rel_tol=_FLOAT32, abs_tol=_FLOAT32)
    return bool(first == other)


def _cell(table: Table, wrong: npt.NDArray[Any]) -> str:
    row, column, epoch = np.argwhere(wrong)[0].tolist()
    return f"{table.configs()[row]} with seed {table.metadata.seeds[column]} after epoch {epoch}"


def _faults_of_latencies(table: Table) -> Iterator[str]:
    configs = table.configs()
    for position, device in enumerate(table.metadata.devices):
        values = table.latencies[:, position]
        there = np.isfinite(values).all(axis=-1)
        columns = dict(zip(LATENCIES, values[there].T.astype(np.float64), strict=True))
        unmeasured = int(np.sum(columns["count"] == 0))
        if device.runtime != "analytic" and unmeasured:
            yield f"device {device.name!r}: {unmeasured} students have a latency without any measurement"
        teacher = columns["teacher_median_ms"]
        if len(teacher) and teacher.max() > _LARGEST_DRIFT * teacher.min() > 0:
            yield (
                f"device {device.name!r}: the teacher takes from {teacher.min():.2f} to {teacher.max():.2f} ms; "
                "the machine was busy during the measurement"
            )
        if device.runtime == "analytic":
            ratios = [modelled(device, configs[row], table.teacher).ratio for row in np.flatnonzero(there)]
            if not np.allclose(columns["ratio"], ratios, rtol=_FLOAT32):
                yield f"device {device.name!r}: latencies do not match the analytic model"
