"""Save the state of an agent as arrays and JSON, never as pickled objects."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import replacing
from kdnas_env.support.untrusted import parse_json, plain_copy

STATE_VERSION = 1
"""Version of the format of the state of ask-tell agents."""

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
                raise ValueError(f"it has {size:,} bytes, more than any saved state")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        plain = parse_json(arrays.pop(_PLAIN).tobytes(), finite=False)
        # NumPy returns the bytes of a member that is not an array.
        if not isinstance(plain, dict) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it has other entries than a saved state")
    except Exception as error:  # NumPy may raise any error for a damaged header, such as a TokenError
        reason = str(error)[:300]
        raise RunError(f"{os.fspath(path)!r} cannot be read as the saved state of an agent: {reason}") from error
    return {**plain, **arrays}


def check_saved_by(state: Mapping[str, Any], *, agent: str, config: Any) -> None:
    """Check that a state belongs to an agent with these hyper-parameters.

    A hyper-parameter that is missing in the state was added after it was saved. It counts as saved with its default
    value, because defaults of new hyper-parameters keep the old behaviour.

    Args:
        state: A state with the entries ``version``, ``agent`` and ``config``.
        agent: Name of the agent's class.
        config: Hyper-parameters of the agent: an instance of a dataclass whose fields all have defaults.

    Raises:
        RunError: If the version, the agent or a hyper-parameter differs.
    """
    expected = {"version": STATE_VERSION, "agent": agent, **plain_copy(asdict(config))}
    saved_config = {**plain_copy(asdict(type(config)())), **plain_copy(state["config"])}
    saved = {"version": state["version"], "agent": state["agent"], **saved_config}
    for name in dict.fromkeys([*expected, *saved]):
        if saved.get(name) != expected.get(name):
            raise RunError(
                f"the saved state has {name} {saved.get(name)!r}, but this agent has {expected.get(name)!r}; load it "
                "into an agent made with the same settings"
            )
