"""Verification of tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tyro

from kdnas_env.errors import TableError
from kdnas_env.pipeline.options import CacheOption, DeviceOption, options_of
from kdnas_env.support.checks import check_whole
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tables.storage import load_table
from kdnas_env.tables.table import Table
from kdnas_env.tabulation.verify import Replayed, draw_cells, find_faults, open_live, replay


@dataclass(frozen=True, kw_only=True)
class TableVerifyOptions(DeviceOption, CacheOption):
    """Check that a table is complete, that its values are plausible, and that distillation reproduces them."""

    table: tyro.conf.Positional[str]
    """Name of a table of the package, or an npz file."""
    replay: int = 0
    """Number of random cells that are distilled again and compared."""
    seed: int = 0
    """Seed of the choice of cells."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the training: that of the table's build."""

    def __post_init__(self) -> None:
        check_whole("replay", self.replay, of="cells", at_least=0)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = "without `replay`: nothing is distilled anew"
        return {} if self.replay else dict.fromkeys(("seed", "device", "precision", "cache_dir"), why)


@dataclass(frozen=True, eq=False)
class Verification:
    """What a check of a table found.

    Attributes:
        source: The table.
        faults: What is wrong with it, in words.
        replayed: Cells that were distilled again.
        allowed: Relative difference that their losses may have; None where nothing was distilled again.
    """

    source: Table
    faults: tuple[str, ...]
    replayed: tuple[Replayed, ...] = field(default=())
    allowed: float | None = None

    def table(self) -> list[dict[str, Any]]:
        """Return one row per cell that was distilled again, with the difference of its losses."""
        return [
            {**replayed.cell.student.to_dict(), "seed": replayed.cell.seed, "difference": replayed.difference}
            for replayed in self.replayed
        ]


def verify_table(table: str | TableVerifyOptions, *, progress: Progress = SILENT, **settings: Any) -> Verification:
    """Check that a table is complete, that its values are plausible, and that distillation reproduces them.

    Args:
        table: Name or npz file of the table; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`TableVerifyOptions` by name, such as ``replay=5``.

    Raises:
        KDNASError: If there is no such table, or its teacher or text is not available.
    """
    options = options_of(TableVerifyOptions, settings, table=table)
    source = load_table(options.table)
    faults = find_faults(source)
    if not options.replay:
        return Verification(source, tuple(faults))
    cells = draw_cells(source, options.replay, np.random.default_rng(options.seed))
    progress.begin(f"distilling {len(cells)} cells anew")
    try:
        live, allowed = open_live(
            source, device=options.device, precision=options.precision, cache_dir=options.cache_dir
        )
    except TableError as error:
        return Verification(source, (*faults, str(error)))
    replayed = tuple(replay(source, live, cells, progress.advance))
    faults += [
        f"{anew.cell.student} with seed {anew.cell.seed} differs by {anew.difference:.1e} when distilled anew"
        for anew in replayed
        if anew.difference > allowed
    ]
    return Verification(source, tuple(faults), replayed, allowed)
