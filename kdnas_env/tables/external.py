"""External tables: scores measured by others, for candidates described by features that this package cannot build."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdnas_env.core.point_space import PointSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.support.arrays import Floats, Ints
from kdnas_env.support.untrusted import restore
from kdnas_env.tables.archive import check_arrays, read_archive, write_archive
from kdnas_env.tables.storage import described_kind, table_path

EXTERNAL_SCHEMA_VERSION = 1

_KIND = "external table"


@dataclass(frozen=True, eq=False, repr=False)
class ExternalTable:
    """A table of trainings that others ran. A candidate with several trainings has several rows.

    Attributes:
        name: Short name.
        title: Description of the trainings and their authors.
        metric: The score to optimise, one of ``metrics``.
        metrics: Names of the scores: the second axis of ``scores``.
        choices: Maps dimension names to their choices, in action order.
        index: Flat index of each training's candidate, sorted, int64 ``(n,)``; trainings of one candidate share it.
        scores: Scores as fractions of the best possible value, float64 ``(n, metrics)``.
        seconds: Seconds of each training, float64 ``(n,)``.

    Raises:
        TableError: If shapes or dtypes disagree, a number is not finite, or a candidate is not in the space.
    """

    name: str
    title: str
    metric: str
    metrics: tuple[str, ...]
    choices: Mapping[str, tuple[Any, ...]]
    index: Ints
    scores: Floats
    seconds: Floats

    ARRAYS = ("index", "scores", "seconds")

    def __repr__(self) -> str:
        return f"ExternalTable({self.name!r}, candidates={len(self.space.valid_indices)})"

    def __post_init__(self) -> None:
        n = self.index.size
        shapes = {"index": (n,), "scores": (n, len(self.metrics)), "seconds": (n,)}
        try:
            check_arrays({name: getattr(self, name) for name in self.ARRAYS}, shapes, {"index": np.int64})
            faults = {
                "there is no training": not n,
                "index does not rise": bool(np.any(np.diff(self.index) < 0)),
                f"metric {self.metric!r} is none of {list(self.metrics)}": self.metric not in self.metrics,
                "a score is beyond 1, or below -1": bool(np.any(np.abs(self.scores) > 1)),
                "seconds are not positive": bool(np.any(self.seconds <= 0)),
            }
            for fault in (fault for fault, is_there in faults.items() if is_there):
                raise ValueError(fault)
            self.space  # noqa: B018  (checks the points)
        except (ValueError, SpaceError) as error:
            raise TableError(f"external table {self.name!r}: {error}; import it again") from error

    @cached_property
    def space(self) -> PointSpace:
        """The candidates."""
        return PointSpace(self.choices, np.unique(self.index))

    @property
    def score(self) -> Floats:
        """The score to optimise, by training, float64 ``(n,)``."""
        return self.scores[:, self.metrics.index(self.metric)]

    @cached_property
    def trainings(self) -> Ints:
        """First row and number of rows of each candidate of the space, int64 ``(candidates, 2)``."""
        _, first, count = np.unique(self.index, return_index=True, return_counts=True)
        return np.column_stack([first, count]).astype(np.int64)

    @property
    def noise(self) -> float:
        """Pooled standard deviation of the score between trainings of one candidate; 0 without repeated trainings."""
        first, count = self.trainings.T
        groups = [self.score[start : start + number] for start, number in zip(first, count, strict=True) if number > 1]
        squares = sum(float(np.square(group - group.mean()).sum()) for group in groups)
        return float(np.sqrt(squares / sum(len(group) - 1 for group in groups))) if groups else 0.0


def write_external(table: ExternalTable, path: str | os.PathLike[str]) -> None:
    """Write an external table as ``path`` (npz) and its JSON file; each file is written atomically.

    Raises:
        TableError: If the path does not end in ``.npz``.
        RunError: If a file cannot be written.
    """
    record = {
        "kind": _KIND,
        "schema_version": EXTERNAL_SCHEMA_VERSION,
        **{name: getattr(table, name) for name in ("name", "title", "metric")},
        "metrics": list(table.metrics),
        "choices": table.space.to_dict(),
    }
    write_archive(path, {name: getattr(table, name) for name in ExternalTable.ARRAYS}, record, _KIND)


@dataclass(frozen=True)
class _Record:
    """The content of the JSON file, for type checks."""

    name: str
    title: str
    metric: str
    metrics: tuple[str, ...]
    choices: Mapping[str, tuple[bool | str | int | float, ...]]


def read_external(path: str | os.PathLike[str]) -> ExternalTable:
    """Read an external table, and verify it.

    Raises:
        TableError: If a file is missing or damaged, is not an external table, or has a newer version.
    """
    record, arrays = read_archive(path, _KIND, EXTERNAL_SCHEMA_VERSION, ExternalTable.ARRAYS)
    if record.get("kind") != _KIND:
        raise TableError(
            f"{os.fspath(path)!r} is not an external table; make one with kdnas table import-nas-bench-bert"
        )
    try:
        checked = restore(_Record, {name: record.get(name) for name in _Record.__dataclass_fields__})
        return ExternalTable(checked.name, checked.title, checked.metric, checked.metrics, checked.choices, **arrays)
    except (TypeError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"external table {os.fspath(path)!r} is malformed: {error}; import it again") from error


def is_external(name: str | os.PathLike[str]) -> bool:
    """Whether a name is the path of an external table's npz file."""
    return described_kind(table_path(name)) == _KIND
