"""Save the state of an agent as arrays and JSON, never as pickled objects."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import replacing
from kdnas_env.support.untrusted import parse_json

_PLAIN = "json"
_LARGEST_BYTES = 1 << 30


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state atomically to one npz file.

    Args:
        path: The file; an older one is replaced.
        state: Maps names to NumPy arrays or JSON values.

    Raises:
        RunError: If the file cannot be written.
    """
    arrays: dict[str, Any] = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in state.items() if name not in arrays}
    arrays[_PLAIN] = np.frombuffer(json.dumps(plain).encode(), dtype=np.uint8)
    with replacing(path) as file:
        np.savez(file, **arrays)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state written by :func:`write_state`.

    Raises:
        RunError: If the file cannot be read or is not such a state.
    """
    try:
        # Opened here because NumPy does not close a file that is not a zip archive.
        with open(path, "rb") as stream:
            with zipfile.ZipFile(stream) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > _LARGEST_BYTES:
                raise ValueError(f"it holds {size:,} bytes, more than any state has")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        plain = parse_json(arrays.pop(_PLAIN).tobytes(), finite=False)
        # NumPy returns the bytes of a member that is not an array.
        if not isinstance(plain, dict) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it does not hold what a state does")
    except Exception as error:  # a damaged header makes numpy's reader fail in any way, such as a TokenError
        reason = str(error)[:300]
        raise RunError(f"{os.fspath(path)!r} cannot be read as the saved state of an agent: {reason}") from error
    return {**plain, **arrays}
