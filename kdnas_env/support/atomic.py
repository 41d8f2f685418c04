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
    """Return where lies what can be computed again.

    That is ``$KDNAS_CACHE``, else ``$XDG_CACHE_HOME/kdnas``, else ``~/.cache/kdnas``.
    """
    own = os.environ.get("KDNAS_CACHE")
    if own:
        return expanded(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (expanded(base) if base else Path.home() / ".cache") / "kdnas"


def sweep_temporary(folder: str | os.PathLike[str], kept: str) -> None:
    """Remove temporary files that killed processes left in a folder where nobody else writes.

    Args:
        folder: The folder.
        kept: A file that marks folders in it, at any depth, that others may write in; these are left alone.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.isfile(os.path.join(place, name, kept))]
        for name in files:
            if name.startswith(".") and name.endswith(_TEMPORARY):
                Path(place, name).unlink(missing_ok=True)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file through a temporary one beside it, which takes its place when the block ends well.

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
    """Refuse a folder in which a link leads out of it, so that whoever works in it cannot be made to write elsewhere.

    Raises:
        RunError: If there is one.
    """
    root = Path(folder).resolve()
    for place, folders, files in os.walk(root):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise RunError(
                    f"{str(path)!r} leads out of the folder, to {os.readlink(path)!r}; remove it, since nothing is "
                    "written outside of the folder"
                )


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: If it cannot be read, or is no object.
    """
    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{str(path)!r} holds {type(data).__name__} where a JSON object was expected")
    return data
