"""Saving the state of an agent as arrays and JSON, never as pickled objects."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdnas_env.errors import RunError
from kdnas_env.files import replacing

_PLAIN = "json"


def write_state(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state to one npz file, whole or not at all.

    Args:
        path: The file; an older one is replaced.
        state: Names to numpy arrays or to values that JSON can hold.

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
        # Opened here, since numpy leaves a file open that turns out not to be a zip.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        plain = json.loads(arrays.pop(_PLAIN).tobytes())
    except (OSError, EOFError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise RunError(f"{os.fspath(path)!r} cannot be read as the saved state of an agent: {error}") from error
    return {**plain, **arrays}
