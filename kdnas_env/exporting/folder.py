"""The folder of an export, which is written completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdnas_env.errors import ExportError, one_line
from kdnas_env.support.atomic import expanded
from kdnas_env.support.untrusted import parse_json

EXPORT, TASK, VOCABULARY, EMBEDDER = "export.json", "task.json", "vocabulary.json", "embedder.json"
_MARKED = {
    EXPORT: "an export",
    TASK: "a classifier",
    VOCABULARY: "a teacher of a smaller vocabulary",
    EMBEDDER: "an embedding student",
}
"""Files that mark folders which a new export may replace, and what they contain."""

_NO_SPACE = os.strerror(errno.ENOSPC)


def checked_target(
    out: str | os.PathLike[str], model: str | os.PathLike[str] | None = None, marker: str = EXPORT
) -> Path:
    """Check the folder of an export, and return its path.

    Args:
        out: The folder.
        model: The exported model; None if it is not in a folder.
        marker: File that marks folders which may be replaced, such as :data:`EXPORT` or :data:`TASK`.

    Raises:
        ExportError: If the folder is a file, is or contains the model, or holds something that must not be replaced.
    """
    target, source = expanded(out).absolute(), None if model is None else expanded(model)
    target = target.resolve() if target.is_symlink() else target
    try:
        if source is not None and source.is_dir() and source.resolve().is_relative_to(target.resolve()):
            raise ExportError(f"the export would replace the model {str(model)!r}; give another folder with `out`")
        if not target.exists():
            return target
        if not target.is_dir():
            raise ExportError(f"{str(out)!r} is a file; give a folder with `out`")
        if any(target.iterdir()) and not _has_marker(target, marker):
            kind = _MARKED[marker]
            raise ExportError(f"the folder {str(out)!r} is not empty and not {kind} of kdnas; give another with `out`")
    except OSError as error:
        raise _cannot_be_written(target, error) from error
    return target


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Provide a temporary folder, which replaces the target if the block succeeds, and is removed if it fails.

    Yields:
        The temporary folder.

    Raises:
        ExportError: If the folder cannot be written.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    temporary, done = None, False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        yield temporary
        _make_readable(temporary)
        _take_place(temporary, target)
        done = True
    except Exception as error:
        # Rust and C++ libraries report a full disk only in the message of their own exceptions.
        if isinstance(error, OSError) or (_NO_SPACE in str(error) and not isinstance(error, ExportError)):
            raise _cannot_be_written(target, error) from error
        raise
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if not done:
            for parent in missing:
                with suppress(OSError):
                    parent.rmdir()


def _has_marker(folder: Path, marker: str) -> bool:
    if marker != EXPORT and (folder / EXPORT).exists():  # An export of a classifier also contains its record.
        return False
    try:
        return "format" in parse_json((folder / marker).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _make_readable(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _take_place(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
    try:
        target.rename(old / "export")
        try:
            new.rename(target)
        except OSError:
            (old / "export").rename(target)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _cannot_be_written(target: Path, error: Exception) -> ExportError:
    if _NO_SPACE in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
        return ExportError(
            f"no space is left to write the export to {str(target)!r}; nothing was kept. Free space, or give a folder "
            "on another disk with `out`"
        )
    return ExportError(
        f"the export cannot be written to {str(target)!r}: {one_line(error)}; give a writable folder with `out`"
    )


def files_in(folder: Path) -> list[str]:
    """Return the files of a folder, as paths relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each file of a folder, by its relative path."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files_in(folder)}
