"""Tables on disk: an npz file of arrays, and beside it a JSON file that describes them."""

from __future__ import annotations

import os
from pathlib import Path

from kdnas_env.errors import TableError
from kdnas_env.support.atomic import expanded, read_json
from kdnas_env.support.places import found_again, with_places
from kdnas_env.tables.archive import checked_path, read_archive, write_archive
from kdnas_env.tables.table import SCHEMA_VERSION, Table, TableMetadata

DATA = Path(__file__).parent / "data"
"""Folder of the tables shipped with the package."""

FITS = DATA / "fits"
"""Folder of the surrogates shipped with the package: those with a name, and fits to its tables by their key."""

_KEYED = "surrogate-"

_KIND = "table"


def table_names() -> list[str]:
    """Return the names of the tables shipped with the package."""
    return sorted(path.stem for path in DATA.glob("*.npz"))


def surrogate_names() -> list[str]:
    """Return the names of the surrogates shipped with the package, which answer for spaces that no table covers."""
    return sorted(path.stem for path in FITS.glob("*.npz") if not path.stem.startswith(_KEYED))


def load_table(name: str | os.PathLike[str]) -> Table:
    """Return a table.

    Args:
        name: Name of a shipped table, or path of an npz file with its JSON file beside it.

    Raises:
        TableError: If the table does not exist, is damaged, or has a newer version.
    """
    shipped = DATA / f"{name}.npz"
    if os.fspath(name) in table_names():
        return read_table(shipped)
    path = expanded(name)
    if os.fspath(name) in surrogate_names():
        raise TableError(f"{os.fspath(name)!r} is a surrogate, which was fitted to tables; name one of {table_names()}")
    if not os.path.isfile(path):  # unlike pathlib, returns False for invalid paths
        raise TableError(
            f"there is no table {os.fspath(name)!r}; name one of {table_names()}, or the npz file of another"
        )
    return read_table(path)


def write_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write a table as ``path`` (npz), then its JSON file; each file is written atomically.

    Raises:
        TableError: If the path does not end in ``.npz``.
        RunError: If a file cannot be written.
    """
    folder = checked_path(path, _KIND).parent
    # Tables are shared, so absolute paths, which reveal the machine's folder names, are not written.
    record = with_places(table.metadata.to_dict(), TableMetadata.PATHS, folder, absolute=False)
    write_archive(path, {name: getattr(table, name) for name in Table.ARRAYS}, record, _KIND)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table, and verify it.

    Raises:
        TableError: If a file is missing or damaged, the two files do not match, or the version is newer.
        RunError: If the recorded locations of files are malformed.
    """
    record, arrays = read_archive(path, _KIND, SCHEMA_VERSION, Table.ARRAYS)
    return Table(TableMetadata.from_dict(found_again(record, expanded(path).parent)), **arrays)


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) that a table's JSON file records.

    Raises:
        TableError: If the JSON file has no checksum.
        RunError: If the JSON file cannot be read.
    """
    recorded = read_json(checked_path(path, _KIND).with_suffix(".json")).get("sha256")
    if not isinstance(recorded, str):
        raise TableError(f"the JSON file of table {os.fspath(path)!r} holds no checksum; restore it from a copy")
    return recorded


def table_path(name: str | os.PathLike[str]) -> Path:
    """Return the npz file of a table or a surrogate by its name or path."""
    for folder, names in ((DATA, table_names), (FITS, surrogate_names)):
        if os.fspath(name) in names():
            return folder / f"{name}.npz"
    return expanded(name)


def described_kind(path: Path) -> object:
    """Return the ``kind`` of an npz file from the JSON file beside it; None for a table, or if a file is missing."""
    described = path.with_suffix(".json")
    files = path.suffix == ".npz" and os.path.isfile(path) and os.path.isfile(described)
    return read_json(described).get("kind") if files else None
