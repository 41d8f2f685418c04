"""Atomic writes of files, and folders of temporary files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kdnas_env.errors import RunError
from kdnas_env.support.untrusted import parse_json

_TEMPORARY = ".kdnas-partial"
"""Suffix of temporary files."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` expanded; the ``~name`` of an unknown user stays."""
    return Path(os.path.expanduser(path))


def default_cache_directory() -> Path:
    """Return the folder of cached files, which can be computed again.

    It is ``$KDNAS_CACHE``, else ``$XDG_CACHE_HOME/kdnas``, else ``~/.cache/kdnas``.
    """
    own = os.environ.get("KDNAS_CACHE")
    if own:
        return expanded(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (expanded(base) if base else Path.home() / ".cache") / "kdnas"


def sweep_temporary(folder: str | os.PathLike[str], kept: str) -> None:
    """Remove temporary files that killed processes left in a folder. No other process may write to it at that time.

    Args:
        folder: The folder.
        kept: Name of a file that marks subfolders, at any depth, which other processes may write to; they are skipped.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.isfile(os.path.join(place, name, kept))]
        for name in files:
            if name.startswith(".") and name.endswith(_TEMPORARY):
                Path(place, name).unlink(missing_ok=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write to a temporary file beside the target, which replaces the target if the block ends without an error.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        RunError: If the file cannot be written.
    """
    target = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}.", suffix=_TEMPORARY, delete=False
        ) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise RunError(f"{str(target)!r} cannot be written: {error}; name a file in a writable folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        RunError: If it cannot be written.
    """
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write plain data as JSON, atomically.

    Raises:
        RunError: If it cannot be written.
        ValueError: If it holds a number that is not finite.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def check_contained(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder with a link that leads out of it, so that a link cannot redirect writes to other folders.

    Raises:
        RunError: If there is such a link.
    """
    root = Path(folder).resolve()
    for place, folders, files in os.walk(root):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise RunError(
                    f"{str(path)!r} leads out of the folder, to {os.readlink(path)!r}; remove it, because nothing is "
                    "written outside of the folder"
                )


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: If it cannot be read, or is not an object.
    """
    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{str(path)!r} holds {type(data).__name__} where a JSON object was expected")
    return data
