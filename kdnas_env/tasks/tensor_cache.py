"""A cache of tensors on disk. Each file has a checksum, and is memory-mapped when read."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdnas_env.errors import CacheError
from kdnas_env.support.atomic import default_cache_directory, expanded, replacing
from kdnas_env.support.disk_cache import cached
from kdnas_env.support.untrusted import parse_json

Tensors = Mapping[str, Tensor]


def cached_tensors(
    name: str,
    make: Callable[[], tuple[Tensors, Any]],
    cache_dir: str | os.PathLike[str] | None = None,
) -> tuple[Tensors, Any]:
    """Return cached tensors; if they are missing or damaged, compute and store them.

    Args:
        name: Name of the file, including a fingerprint of everything that the tensors depend on.
        make: Returns the tensors, and a record of plain data.
        cache_dir: Cache folder; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
    """
    return cached(f"{name}.safetensors", _read, make, _write, folder=_folder(cache_dir))


def drop_tensors(prefix: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Remove cached files and folders with a name prefix, if the folder can be written.

    Args:
        prefix: Beginning of the names.
        cache_dir: See :func:`cached_tensors`.
    """
    with suppress(OSError):
        for path in _folder(cache_dir).glob(f"{prefix}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def unfinished_folder(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return a folder for the intermediate results of long work, including those of an interrupted earlier process.

    Args:
        name: Name of the work, including a fingerprint of everything that it depends on.
        cache_dir: See :func:`cached_tensors`.

    Returns:
        The folder, to be removed by :func:`drop_unfinished` once the result is stored; None if it cannot be created.
    """
    folder = _unfinished(name, cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def drop_unfinished(name: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
    """Remove the folder of finished work; the arguments are those of :func:`unfinished_folder`."""
    shutil.rmtree(_unfinished(name, cache_dir), ignore_errors=True)


def _unfinished(name: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    return _folder(cache_dir) / f"{name}-unfinished"


def _folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    return default_cache_directory() if cache_dir is None else expanded(cache_dir)


def _write(made: tuple[Tensors, Any], path: Path) -> None:
    # Copies, because safetensors refuses tensors that share memory, such as the tied embeddings of T5.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in made[0].items()
    }
    metadata = {"record": json.dumps(made[1]), "crc32": str(_checksum(tensors))}
    with replacing(path) as file:
        file.write(save(tensors, metadata))


def _read(path: Path) -> tuple[Tensors, Any]:
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if metadata["crc32"] == str(_checksum(tensors)):
            return tensors, parse_json(metadata["record"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{str(path)!r} cannot be read: {error}") from error
    raise CacheError(f"{str(path)!r} does not match its checksum")


def _checksum(tensors: Tensors) -> int:
    crc = 0
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"", crc)
    return crc
