"""Fit of a surrogate to tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.surrogate import surrogate_space
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tables.archive import checked_path
from kdnas_env.tables.storage import load_table
from kdnas_env.tables.surrogates.card import judge, judge_parts
from kdnas_env.tables.surrogates.storage import fitted, write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate


@dataclass(frozen=True)
class TableFitOptions:
    """Fit a surrogate to a table, for spaces that are too large to tabulate, and write it to a file."""

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Name or npz file of a table. Further tables of the same workload, such as of students between those of the first,
    improve the predictions there."""
    to: str
    """Path of the surrogate, an npz file; a JSON file of the same name is written beside it."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise KDNASError("there is no table to fit to; name a table, or the npz file of one")


@dataclass(frozen=True, eq=False)
class Fit:
    """A surrogate that was fitted.

    Attributes:
        path: Its file.
        surrogate: The surrogate.
        points: Number of points of the space that it predicts.
        gains: For every table but the first: its name, how well a fit to the first table alone predicts its held-out
            losses, and how well a fit to both does. Each student is predicted from a fit that excludes it.
    """

    path: Path
    surrogate: Surrogate
    points: int
    gains: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per added table: agreement of predicted and true held-out losses, without and with it."""
        return [
            {"table": name, **{f"{key}_without": value for key, value in alone.items()}, **both}
            for name, alone, both in self.gains
        ]


def fit_surrogate(
    tables: Sequence[str | os.PathLike[str]], to: str | os.PathLike[str], *, progress: Progress = SILENT
) -> Fit:
    """Fit a surrogate to tables of one workload, and write it.

    Args:
        tables: Names or npz files of the tables, the main one first.
        to: The npz file; a JSON file comes beside it.
        progress: Receives the progress.

    Raises:
        KDNASError: If there is no such table, it has too few students, or the tables are of different workloads.
    """
    target = checked_path(to, "surrogate")
    first, *further = [load_table(table) for table in tables]
    progress.begin(f"fitting a surrogate to {len(tables)} table(s)")
    surrogate, alone = fitted((first, *further)), fitted((first,))
    gains = tuple((table.metadata.name, judge(alone, table), judge_parts(first, table)) for table in further)
    write_surrogate(surrogate, target)
    return Fit(target, surrogate, surrogate_space(surrogate.metadata, surrogate.range).size, gains)
