"""Safetensors files with what agents learnt across tasks: arrays and a description."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import replacing


def write_learnt(path: Path, kind: str, description: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays atomically to a safetensors file.

    Args:
        path: The file; an older one is replaced.
        kind: Name of the content, such as ``experience``.
        description: What is needed to use the arrays, as JSON values.
        arrays: The arrays, by name.

    Raises:
        RunError: If the file cannot be written.
    """
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    with replacing(path) as file:
        # A single entry of metadata, because the order of several entries differs between files.
        file.write(save(contiguous, {_entry(kind): json.dumps(description)}))


@contextmanager
def read_learnt(
    path: str | os.PathLike[str], kind: str, *, framework: Literal["np", "pt"] = "np"
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Read a file written by :func:`write_learnt`, for use in the block.

    Args:
        path: The file.
        kind: Name of the content, such as ``experience``.
        framework: ``np`` for NumPy arrays, ``pt`` for tensors of PyTorch.

    Yields:
        The description, and the arrays or tensors by name.

    Raises:
        RunError: If the file cannot be read, is of another kind, or the block raises, because a damaged file may raise
            any error.
    """
    from safetensors import safe_open

    try:
        with safe_open(os.fspath(path), framework=framework) as file:
            metadata = file.metadata() or {}
            if _entry(kind) not in metadata:
                raise ValueError("it has other content, or another version")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        yield json.loads(metadata[_entry(kind)]), arrays
    except Exception as error:
        raise RunError(
            f"{os.fspath(path)!r} is not a file of the kind {kind!r} written by kdnas bench train: {error}; name "
            "another file"
        ) from error


def _entry(kind: str) -> str:
    """Return the name of the metadata that hold the description: the kind and the version of the format."""
    return f"kdnas {kind} 1"
