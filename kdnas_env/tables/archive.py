"""Archives of arrays: an npz file, and beside it a JSON file with description and checksum."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import TableError
from kdnas_env.support.atomic import expanded, read_json, replacing, write_json
from kdnas_env.support.untrusted import shown

Arrays = dict[str, npt.NDArray[Any]]

_LARGEST_BYTES = 1 << 32


def write_archive(
    path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]], record: Mapping[str, Any], kind: str
) -> None:
    """Write ``path`` (npz), then its JSON file; each file is written atomically.

    Args:
        path: The npz file.
        arrays: The arrays by name.
        record: Plain data for the JSON file; ``sha256`` and ``bytes`` are added.
        kind: Kind of archive in one word, for messages.

    Raises:
        TableError: If the path does not end in ``.npz``.
        RunError: If a file cannot be written.
    """
    target = checked_path(path, kind)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    with replacing(target) as file:
        file.write(data)
    write_json(target.with_suffix(".json"), {**record, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})


def read_archive(
    path: str | os.PathLike[str], kind: str, version: int, names: Iterable[str] | None = None
) -> tuple[dict[str, Any], Arrays]:
    """Read an archive of :func:`write_archive`, and verify it.

    Args:
        path: The npz file.
        kind: Kind of archive in one word, for messages.
        version: The newest supported ``schema_version``.
        names: Names of the required arrays; None for any arrays.

    Returns:
        The record and the arrays.

    Raises:
        TableError: If a file is missing or damaged, the two files do not match, or the version is newer.
    """
    target = checked_path(path, kind)
    described = target.with_suffix(".json")
    try:
        record = read_json(described)
        data = target.read_bytes()
    except (OSError, ValueError) as error:
        raise TableError(
            f"{kind} {str(target)!r} cannot be read: {error}; it needs both its npz and JSON file"
        ) from error
    stored_version = record.get("schema_version")
    if type(stored_version) is not int or stored_version < 1:
        raise TableError(
            f"{kind} {str(target)!r} has schema_version {shown(stored_version)}; expected a whole number from 1, so "
            "restore the file from a copy"
        )
    if stored_version > version:
        raise TableError(
            f"{kind} {str(target)!r} has schema {stored_version}, this kdnas reads up to {version}; upgrade kdnas"
        )
    checksum = hashlib.sha256(data).hexdigest()
    if checksum != record.get("sha256"):
        raise TableError(
            f"{kind} {str(target)!r} does not match its checksum ({checksum[:12]} where {described.name} says "
            f"{str(record.get('sha256'))[:12]}): it is damaged, truncated or of another {kind}; restore it from a copy"
        )
    return record, _arrays(target, data, kind, None if names is None else list(names))


def check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, type] | None = None,
) -> None:
    """Check shapes and dtypes of arrays, and that their numbers are finite.

    Args:
        arrays: The arrays by name.
        shapes: Expected shapes.
        dtypes: Expected dtypes of arrays other than float64.

    Raises:
        ValueError: If an array fails a check.
    """
    for name, shape in shapes.items():
        array, dtype = arrays[name], np.dtype((dtypes or {}).get(name, np.float64))
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {dtype} {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds a number that is not finite")


def checked_path(path: str | os.PathLike[str], kind: str) -> Path:
    """Return a path that ends in ``.npz``.

    Raises:
        TableError: If the path has another suffix.
    """
    target = expanded(path)
    if target.suffix != ".npz":
        raise TableError(f"a {kind} is a file that ends in .npz, not {str(path)!r}")
    return target


def _arrays(path: Path, data: bytes, kind: str, names: list[str] | None) -> Arrays:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {entry.filename: entry.file_size for entry in archive.infolist()}
        wrong = names is not None and set(members) != {f"{name}.npy" for name in names}
        if wrong or sum(members.values()) > _LARGEST_BYTES:
            raise TableError(f"{kind} {str(path)!r} holds {shown(sorted(members))}, not the arrays {names}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
        # NumPy returns the bytes of a member that is not an array.
        foreign = [name for name, array in loaded.items() if not isinstance(array, np.ndarray)]
        if foreign:
            raise ValueError(f"{foreign} are not arrays")
        return loaded
    except TableError:
        raise
    except Exception as error:  # a damaged header can make NumPy's reader raise any error, such as a TokenError
        raise TableError(f"{kind} {str(path)!r} cannot be read: {str(error)[:300]}; restore it from a copy") from error
