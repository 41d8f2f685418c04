"""Tables on disk: an npz file of plain arrays, and beside it a JSON file that says what they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.errors import RunError, TableError
from kdnas_env.files import read_json, replacing, write_json
from kdnas_env.tables.table import SCHEMA_VERSION, Table, TableMetadata

DATA = Path(__file__).parent / "data"
"""Where the tables lie that come with the package."""

_LARGEST_BYTES = 1 << 32


def table_names() -> list[str]:
    """Return the names of the tables that come with the package."""
    return sorted(path.stem for path in DATA.glob("*.npz"))


def load_table(name: str | os.PathLike[str]) -> Table:
    """Return a table.

    Args:
        name: Name of one that comes with the package, or path of an npz file with its JSON file beside it.

    Raises:
        TableError: If there is none, or it is damaged or of a newer version.
    """
    shipped = DATA / f"{name}.npz"
    if os.fspath(name) in table_names():
        return read_table(shipped)
    path = Path(name).expanduser()
    if not path.is_file():
        raise TableError(
            f"there is no table {os.fspath(name)!r}; name one of {table_names()}, or the npz file of another"
        )
    return read_table(path)


def write_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write a table as ``path`` (npz) and its JSON file, the arrays first: each whole or not at all.

    Raises:
        TableError: If the path does not end in ``.npz``.
        RunError: If a file cannot be written.
    """
    target = _checked(path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(table, name) for name in Table.ARRAYS})
    data = buffer.getvalue()
    with replacing(target) as file:
        file.write(data)
    write_json(
        target.with_suffix(".json"),
        {**table.metadata.to_dict(), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
    )


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table, and check that it is whole.

    Raises:
        TableError: If a file is missing, damaged, does not belong to the other, or is of a newer version.
    """
    target = _checked(path)
    described = target.with_suffix(".json")
    try:
        record = read_json(described)
        data = target.read_bytes()
    except (OSError, RunError) as error:
        raise TableError(
            f"table {str(target)!r} cannot be read: {error}; it needs both its npz and JSON file"
        ) from error
    version = record.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise TableError(
            f"table {str(target)!r} has schema {version!r}, this kdnas reads up to {SCHEMA_VERSION}; upgrade kdnas"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != record.get("sha256"):
        raise TableError(
            f"table {str(target)!r} does not match its checksum ({found[:12]} where {described.name} says "
            f"{str(record.get('sha256'))[:12]}): it is damaged, truncated or of another table; restore it from a copy"
        )
    return Table(TableMetadata.from_dict(record), **_arrays(target, data))


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) that a table's JSON file records."""
    return str(read_json(_checked(path).with_suffix(".json"))["sha256"])


def table_path(name: str | os.PathLike[str]) -> Path:
    """Return the npz file of a table by its name or path."""
    return DATA / f"{name}.npz" if os.fspath(name) in table_names() else Path(name).expanduser()


def _arrays(path: Path, data: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {entry.filename: entry.file_size for entry in archive.infolist()}
        if set(members) != {f"{name}.npy" for name in Table.ARRAYS} or sum(members.values()) > _LARGEST_BYTES:
            raise TableError(f"table {str(path)!r} holds {sorted(members)}, not the arrays {list(Table.ARRAYS)}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in Table.ARRAYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise (
            error
            if isinstance(error, TableError)
            else TableError(f"table {str(path)!r} cannot be read: {error}; restore it from a copy")
        ) from error


def _checked(path: str | os.PathLike[str]) -> Path:
    target = Path(path).expanduser()
    if target.suffix != ".npz":
        raise TableError(f"a table is a file that ends in .npz, not {str(path)!r}")
    return target
