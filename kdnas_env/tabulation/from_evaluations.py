"""Assemble tables from evaluations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kdnas_env.core.architecture import StudentConfig, count_parameters, forward_flops
from kdnas_env.core.evaluation import Evaluation, Latency, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import TableError
from kdnas_env.tables.noise_ceiling import noise_ceiling
from kdnas_env.tables.table import CURVES, LATENCIES, MISSING, STATUSES, LatencyDevice, Table, TableMetadata


@dataclass(frozen=True)
class MeasuredLatencies:
    """Latencies of students on one device.

    Attributes:
        device: The device.
        latencies: Measured latencies, by architecture.
    """

    device: LatencyDevice
    latencies: Mapping[StudentConfig, Latency]


def assemble_table(
    metadata: TableMetadata, evaluations: Iterable[Evaluation], measured: Sequence[MeasuredLatencies]
) -> Table:
    """Arrange evaluations as a table of all valid points of the space; cells without an evaluation are masked.

    If the space is too large to list, the table has only the evaluated points. The latency of a student applies to all
    points with that network.

    Args:
        metadata: Metadata of the table; devices and noise are replaced by those of the given data.
        evaluations: Evaluations of any fidelity; other epochs, seeds or data fractions than the table's are ignored.
        measured: Latencies, one entry per device, in order.

    Raises:
        TableError: If an architecture is outside the space, or no evaluation matches the table.
    """
    evaluations = [evaluation for evaluation in evaluations if _counts(metadata, evaluation)]
    blank = _blank(metadata, measured, {evaluation.config for evaluation in evaluations})
    curves, valid, status = blank.curves.copy(), blank.valid.copy(), blank.status.copy()
    latencies = blank.latencies.copy()
    for evaluation in evaluations:
        row = _row(blank, evaluation.config)
        seed = metadata.seeds.index(evaluation.fidelity.seed)
        length = len(evaluation.heldout_unexplained)
        for position, name in enumerate(CURVES):
            curves[row, seed, :length, position] = getattr(evaluation, name)[:length]
        valid[row, seed, :length] = True
        status[row, seed] = STATUSES.index(str(evaluation.status))
    if not evaluations:
        raise TableError(
            f"no evaluation has {metadata.epochs} epochs and one of the seeds {list(metadata.seeds)}; evaluate some "
            "first"
        )
    networks = [config.network for config in blank.configs()]
    for position, on_device in enumerate(measured):
        outside = on_device.latencies.keys() - set(networks) if metadata.search_space.listable else set()
        if outside:
            raise TableError(f"{min(outside)} is not a valid student of the table's space")
        for row, network in enumerate(networks):
            latency = on_device.latencies.get(network)
            if latency is not None:
                latencies[row, position] = [getattr(latency, name) for name in LATENCIES]
    table = replace(blank, curves=curves, valid=valid, status=status, latencies=latencies)
    return replace(table, metadata=replace(table.metadata, noise=noise_ceiling(table)))


def _counts(metadata: TableMetadata, evaluation: Evaluation) -> bool:
    """Return whether an evaluation has the table's epochs and one of its seeds, on all of its data."""
    fidelity = evaluation.fidelity
    whole = fidelity.epochs == metadata.epochs and fidelity.data_fraction == 1
    return whole and fidelity.seed in metadata.seeds and evaluation.status is not Status.STOPPED


def _row(table: Table, config: StudentConfig) -> int:
    row = table.row(config)
    if row < 0:
        raise TableError(f"{config} is not a valid student of the table's space")
    return row


def _indices(space: SearchSpace, evaluated: Collection[StudentConfig]) -> npt.NDArray[np.int64]:
    """Return the points of a table: all valid points, or the evaluated points if the space is too large to list."""
    if space.listable:
        return np.sort(space.valid_indices)
    outside = next((config for config in evaluated if config not in space or not space.is_valid(config)), None)
    if outside is not None:
        raise TableError(f"{outside} is not a valid student of the table's space")
    return np.array(sorted(space.index(space.encode(config)) for config in evaluated), dtype=np.int64)


def _blank(
    metadata: TableMetadata, measured: Sequence[MeasuredLatencies], evaluated: Collection[StudentConfig]
) -> Table:
    """Return a table of points of the space, without evaluations."""
    metadata = replace(metadata, devices=tuple(on_device.device for on_device in measured))
    if not metadata.devices:
        raise TableError("a table needs the latencies of at least one device; measure them first")
    space, teacher = metadata.search_space, metadata.encoder
    index = _indices(space, evaluated)
    n, seeds, epochs = len(index), len(metadata.seeds), metadata.epochs + 1
    first = metadata.devices[0]
    configs = [space.decode(space.from_index(number)) for number in index.tolist()]
    flops = [forward_flops(c, teacher, batch=first.batch_size, length=first.sequence_length) for c in configs]
    return Table(
        metadata,
        index=index,
        curves=np.full((n, seeds, epochs, len(CURVES)), np.nan, dtype=np.float32),
        valid=np.zeros((n, seeds, epochs), dtype=np.bool_),
        status=np.full((n, seeds), MISSING, dtype=np.uint8),
        parameters=np.array([count_parameters(config, teacher) for config in configs], dtype=np.int64),
        flops=np.array(flops, dtype=np.int64),
        latencies=np.full((n, len(metadata.devices), len(LATENCIES)), np.nan, dtype=np.float32),
    )
