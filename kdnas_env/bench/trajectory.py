"""Record of a search, evaluation by evaluation, and storage of many records in a Parquet file."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.core.evaluation import Status
from kdnas_env.errors import RunError
from kdnas_env.support.atomic import replacing
from kdnas_env.support.untrusted import is_integer, parse_json, restore, shown
from kdnas_env.tables.table import STATUSES

SCHEMA_VERSION = 2

COLUMNS: dict[str, Any] = {
    "index": np.int64,
    "observed": np.float64,
    "true": np.float64,
    "status": np.uint8,
    "duplicate": np.bool_,
    "counted": np.bool_,
    "epochs": np.int64,
    "cost": np.float64,
    "start": np.float64,
    "finish": np.float64,
    "agent_seconds": np.float64,
}
"""Columns of a trajectory, with one value per evaluation, and their dtypes."""

_RUN = ("agent", "task", "seed", "budget", "unit", "workers", "error", "agent_total", "wall_seconds")
_MEASURED = ("agent_seconds", "agent_total", "wall_seconds")
_OK, _INVALID, _INFEASIBLE = (STATUSES.index(str(status)) for status in (Status.OK, Status.INVALID, Status.INFEASIBLE))
_KEY = b"kdnas"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A search, in the order in which its results became known.

    Two trajectories are equal if they agree in everything except ``agent_seconds``, ``agent_total`` and
    ``wall_seconds``.

    Attributes:
        agent: The agent with its settings, as formatted by :class:`~kdnas_env.bench.specs.AgentSpec`.
        task: The task, as formatted by :class:`~kdnas_env.envs.benchmark_task.Task`.
        seed: Seed of the run, for the agent and for the noise of the evaluations.
        budget: Budget of the search.
        unit: Unit of the budget, one of :data:`kdnas_env.envs.budget.UNITS`.
        workers: Number of parallel evaluations.
        index: Flat index of the student in the space, int64.
        observed: Reward that the agent received, float64.
        true: Its reward by the mean over the table's seeds after the last epoch, float64.
        status: Outcome of the evaluation, an index into :data:`kdnas_env.tables.table.STATUSES`, uint8.
        duplicate: Whether the student was evaluated before, bool.
        counted: Whether it was charged to the budget, bool.
        epochs: Epochs of the evaluation, int64.
        cost: Budget spent so far, including this evaluation, in the unit of the budget, float64.
        start: Simulated second at which the evaluation began, float64.
        finish: Simulated second at which it ended, float64.
        agent_seconds: Processor time of the agent's decision, in seconds, float64.
        error: Error of the agent on one line; empty if there was none.
        agent_total: Total processor time of the agent in seconds, including time after the last evaluation.
        wall_seconds: Wall-clock seconds of the search.
    """

    agent: str
    task: str
    seed: int
    budget: float
    unit: str
    workers: int
    index: npt.NDArray[np.int64]
    observed: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]
    status: npt.NDArray[np.uint8]
    duplicate: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    epochs: npt.NDArray[np.int64]
    cost: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64]
    finish: npt.NDArray[np.float64]
    agent_seconds: npt.NDArray[np.float64]
    error: str = ""
    agent_total: float = 0.0
    wall_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != self.index.shape or array.ndim != 1:
                raise RunError(
                    f"trajectory of {self.agent!r}: {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} "
                    f"{self.index.shape}"
                )

    def __len__(self) -> int:
        return len(self.index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trajectory):
            return NotImplemented
        names = [field.name for field in fields(self) if field.name not in _MEASURED]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    @property
    def key(self) -> tuple[str, str, int]:
        """Identity in a race: agent, task, seed."""
        return self.agent, self.task, self.seed

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which evaluations succeeded, bool."""
        return np.asarray(self.status == _OK)

    @property
    def invalid(self) -> npt.NDArray[np.bool_]:
        """Which proposals are invalid and cannot be built, bool."""
        return np.asarray(self.status == _INVALID)

    @property
    def infeasible(self) -> npt.NDArray[np.bool_]:
        """Which proposals break a limit, bool, before or after distillation."""
        return np.asarray(self.status == _INFEASIBLE)

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], **run: Any) -> Trajectory:
        """Make a trajectory from rows with the keys of ``COLUMNS``."""
        columns: dict[str, Any] = {
            name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in COLUMNS.items()
        }
        return cls(**columns, **run)


def write_trajectories(
    path: str | os.PathLike[str], trajectories: Sequence[Trajectory], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write trajectories to one Parquet file, with one row per evaluation, completely or not at all.

    Args:
        path: The file.
        trajectories: The trajectories.
        metadata: Plain data to store with them, such as checksums of tables and versions.

    Raises:
        RunError: If the file cannot be written.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    lengths = [len(trajectory) for trajectory in trajectories]
    run = np.repeat(np.arange(len(trajectories)), lengths)
    columns: dict[str, Any] = {"run": arrow.array(run.astype(np.int64))}
    for name in ("agent", "task", "unit"):
        words = sorted({getattr(trajectory, name) for trajectory in trajectories})
        codes = np.array([words.index(getattr(trajectory, name)) for trajectory in trajectories], dtype=np.int32)
        columns[name] = arrow.DictionaryArray.from_arrays(
            arrow.array(codes[run], type=arrow.int32()), arrow.array(words, type=arrow.string())
        )
    for name in ("seed", "workers"):
        numbers = np.array([getattr(trajectory, name) for trajectory in trajectories], dtype=np.int64)
        columns[name] = arrow.array(numbers[run])
    for name, dtype in COLUMNS.items():
        parts = [getattr(trajectory, name) for trajectory in trajectories] or [np.empty(0, dtype=dtype)]
        columns[name] = arrow.array(np.concatenate(parts))
    # Searches are also listed in the metadata, because one without evaluations has no row.
    runs = [[*(getattr(trajectory, name) for name in _RUN), len(trajectory)] for trajectory in trajectories]
    record = {"schema_version": SCHEMA_VERSION, "runs": runs, "metadata": dict(metadata or {})}
    table = arrow.table(columns).replace_schema_metadata({_KEY: json.dumps(record).encode()})
    with replacing(path) as file:
        parquet.write_table(table, file, compression="zstd")


def read_trajectories(path: str | os.PathLike[str]) -> tuple[list[Trajectory], dict[str, Any]]:
    """Read a file of :func:`write_trajectories`.

    Returns:
        The trajectories, and the metadata.

    Raises:
        RunError: If the file cannot be read, or has a newer version.
    """
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(os.fspath(path))
        record = parse_json((table.schema.metadata or {})[_KEY])
        if record["schema_version"] > SCHEMA_VERSION:
            raise RunError(
                f"trajectories {os.fspath(path)!r} have schema {record['schema_version']}, this kdnas reads up to "
                f"{SCHEMA_VERSION}; upgrade kdnas"
            )
        columns: dict[str, Any] = {
            name: table[name].to_numpy(zero_copy_only=False).astype(dtype, copy=False)
            for name, dtype in COLUMNS.items()
        }
        ends = [0, *itertools.accumulate(_length(run[-1]) for run in record["runs"])]
        if ends[-1] != table.num_rows:
            raise ValueError(f"it has {table.num_rows} rows where its runs have {shown(ends[-1])}")
        trajectories = [
            _trajectory(run[:-1], {name: np.array(column[start:end]) for name, column in columns.items()})
            for run, start, end in zip(record["runs"], ends[:-1], ends[1:], strict=True)
        ]
        metadata = record["metadata"]
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata are {shown(metadata)}")
    except (OSError, KeyError, TypeError, ValueError, IndexError, OverflowError, arrow.ArrowException) as error:
        if isinstance(error, RunError):
            raise
        if os.path.isdir(path):
            raise RunError(
                f"{os.fspath(path)!r} is a folder; name a file of trajectories, as a submission is"
            ) from error
        if not os.path.exists(path):
            raise RunError(f"there are no trajectories {os.fspath(path)!r}; name a file or folder of them") from error
        raise RunError(
            f"{os.fspath(path)!r} cannot be read as trajectories: {error}; restore it from a copy"
        ) from error
    return trajectories, metadata


@dataclass(frozen=True)
class _Run:
    """Metadata of a search in a file, for checking types."""

    agent: str
    task: str
    seed: int
    budget: float
    unit: str
    workers: int
    error: str
    agent_total: float = 0.0
    wall_seconds: float = 0.0


def _trajectory(run: Sequence[Any], columns: dict[str, Any]) -> Trajectory:
    # Version 1 has no total times.
    recorded = dict(zip(_RUN, run, strict=False))
    checked = restore(_Run, recorded)
    if checked.seed < 0 or checked.workers < 1 or checked.budget <= 0:
        raise ValueError(f"a run has an impossible seed, number of workers or budget: {shown(recorded)}")
    return Trajectory(**recorded, **columns)


def _length(value: Any) -> int:
    if not is_integer(value) or value < 0:
        raise ValueError(f"a run has {shown(value)} rows")
    return value


def _equal(first: Any, other: Any) -> bool:
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, other, equal_nan=first.dtype.kind == "f"))
    return bool(first == other)
