"""Export of builds as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from kdnas_env.pipeline.table.inspect import Inspection
from kdnas_env.tables.storage import checksum, write_table
from kdnas_env.tabulation.merge import merge_builds


@dataclass(frozen=True)
class TableExportOptions:
    """Make a table of the results of one or more builds of the same distillations."""

    folders: tyro.conf.Positional[tuple[str, ...]]
    """Folders of kdnas table build."""
    to: str
    """Path of the table, an npz file; a JSON file of the same name is written beside it."""


def export_table(folders: Sequence[str | os.PathLike[str]], to: str | os.PathLike[str]) -> Inspection:
    """Make a table of the results of builds of the same distillations, and write it.

    Args:
        folders: Folders of the builds.
        to: Path of the npz file; a JSON file is written beside it.

    Raises:
        KDNASError: If there is no build, they are of different distillations or disagree, or it cannot be written.
    """
    table = merge_builds(folders)
    write_table(table, to)
    return Inspection(table, checksum(to))
