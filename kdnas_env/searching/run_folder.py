"""The folder of a run: its settings, its results, and how to resume it."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from kdnas_env.errors import RunError
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.support.atomic import check_contained, expanded, read_json, sweep_temporary, write_json, write_text
from kdnas_env.support.identity import check_same
from kdnas_env.support.packages import installed_versions
from kdnas_env.support.places import found_again, with_places

CONFIG, RUN, RESULTS, PICTURE, REPORT, STORE, JOURNAL, STUDENT = (
    "config.json",
    "run.json",
    "results.json",
    "search.png",
    "report.html",
    "evaluations.sqlite",
    "journal.jsonl",
    "student",
)

EVALUATED = "evaluated.jsonl"
"""Texts of the validation and test splits of the task of a search, which are excluded from distillation."""

SEARCH = "search"

_PACKAGES = ("kdnas", "torch", "transformers", "datasets", "gymnasium", "numpy", "onnxruntime")

OptionsT = TypeVar("OptionsT", bound=RecordedOptions)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Path of the folder.
        lock: Lock that is held while a process works in the folder.
        created: Whether this process created the run.
    """

    path: Path
    lock: FileLock
    created: bool = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], options: RecordedOptions, readme: str) -> RunFolder:
        """Create the folder of a new run and record its options.

        Args:
            path: The folder; created if it does not exist.
            options: Options of the run.
            readme: Text of its README, with ``{folder}`` for the path quoted for a shell, and ``{path}`` for the path
                as a Python literal.

        Raises:
            RunError: If it cannot be written, or is not empty.
        """
        path = expanded(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
        except OSError as error:
            raise RunError(f"the run folder {str(path)!r} cannot be made: {error}; give another with `out`") from error
        if taken:
            again = f"resume it with `resume={str(path)!r}`"
            hint = again if (path / CONFIG).exists() else "it holds something other than a run"
            raise RunError(f"the run folder {str(path)!r} is not empty: {hint}, or give another with `out`")
        folder = cls(path, _lock_folder(path), created=True)
        # First, because a run cannot be resumed without its options.
        folder.write_options(options)
        write_readme(path, readme)
        return folder

    @classmethod
    def enter(cls, path: str | os.PathLike[str], options: RecordedOptions, readme: str) -> RunFolder:
        """Open the folder of an earlier run, or create it; see :meth:`reopen` and :meth:`create`.

        Raises:
            RunError: If the folder holds a model; see also :meth:`create` and :meth:`reopen`.
        """
        if is_model(path):
            raise RunError(f"{os.fspath(path)!r} is a model, not a run; give another folder with `out`")
        exists = (expanded(path) / CONFIG).exists()
        return cls.reopen(path, readme) if exists else cls.create(path, options, readme)

    @classmethod
    def reopen(cls, path: str | os.PathLike[str], readme: str | None = None) -> RunFolder:
        """Open the folder of an earlier run.

        Args:
            path: The folder.
            readme: Text of its README, see :meth:`create`; the folder may have been renamed. None leaves it unchanged.

        Raises:
            RunError: If another process uses it, it cannot be written, or a link leads out of it.
        """
        path = expanded(path)
        check_contained(path)
        folder = cls(path, _lock_folder(path))
        sweep_temporary(path, CONFIG)
        if readme is not None:
            write_readme(path, readme)
        return folder

    def write_options(self, options: RecordedOptions) -> None:
        """Write ``config.json``: the options, and the locations of the files that they name.

        Raises:
            RunError: If it cannot be written.
        """
        data = {"command": options.COMMAND, **options.to_dict()}
        write_json(self.path / CONFIG, with_places(data, options.PATHS, self.path, other=options.NO_PATHS))

    @property
    def is_new(self) -> bool:
        """Whether the run has recorded nothing yet."""
        return not (self.path / RUN).exists()

    def check(self, fingerprints: Mapping[str, str]) -> None:
        """Refuse to resume the run if its inputs have changed.

        Args:
            fingerprints: Fingerprints of the inputs, by name.

        Raises:
            RunError: If an input has changed, or ``run.json`` is malformed.
        """
        before = self.read_run().get("fingerprints", {})
        check_same(before, fingerprints, f"the run {str(self.path)!r} cannot be resumed", "start a new run")

    def begin(self, fingerprints: Mapping[str, str] | None = None, **details: Any) -> None:
        """Record that the run is running, and its inputs, which must be the same each time.

        Args:
            fingerprints: Fingerprints of the inputs, by name.
            **details: See :meth:`record`.

        Raises:
            RunError: If an input has changed since the run was started (nothing is written then), or ``run.json`` is
                malformed or cannot be written.
        """
        now = fingerprints or {}
        self.check(now)
        self.record("running", fingerprints={**self.read_run().get("fingerprints", {}), **now}, **details)

    def record(self, state: str, **details: Any) -> None:
        """Write ``run.json``: state, versions, machine, and details, which are merged with earlier ones.

        Raises:
            RunError: If it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        data = {
            "started": now,
            **self.read_run(),
            "state": state,
            "changed": now,
            "versions": {"python": platform.python_version(), **package_versions()},
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            **details,
        }
        write_json(self.path / RUN, data)

    def read_run(self) -> dict[str, Any]:
        """Return the content of ``run.json``; empty if it does not exist.

        Raises:
            RunError: If it is malformed.
        """
        return read_run(self.path)

    def discard(self) -> None:
        """Remove a run that was refused before any work, with all files of :meth:`create`."""
        for name in (RUN, "README.md", CONFIG, EVALUATED, ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds other files
            self.path.rmdir()

    def release(self) -> None:
        """Release the lock of the folder."""
        self.lock.release()


def write_readme(path: Path, readme: str) -> None:
    """Write the README of a run if its text has changed, for example because the folder was moved.

    Args:
        path: Folder of the run.
        readme: See :meth:`RunFolder.create`.

    Raises:
        RunError: If it cannot be written.
    """
    file, text = path / "README.md", readme.format(folder=shlex.quote(str(path)), path=repr(str(path)))
    if not file.exists() or file.read_text(encoding="utf-8", errors="replace") != text:
        write_text(file, text)


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of ``run.json`` in a run's folder; empty if it does not exist.

    Raises:
        RunError: If it is malformed.
    """
    file = path / RUN
    data = read_json(file) if file.exists() else {}
    for name in ("fingerprints", "stages"):
        recorded = data.get(name, {})
        if not isinstance(recorded, dict) or not all(isinstance(value, str) for value in recorded.values()):
            raise RunError(f"{str(file)!r} is malformed: {name} is not a mapping of names; restore it from a copy")
    return data


def is_model(path: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a model in the hub's layout, such as a student.

    Raises:
        RunError: If its configuration is malformed.
    """
    config = expanded(path) / CONFIG
    return os.path.isfile(config) and "model_type" in read_json(config)


def recorded_options(path: str | os.PathLike[str], kind: type[OptionsT]) -> OptionsT:
    """Return the options that a run was started with.

    Args:
        path: Folder of the run.
        kind: Options class of the expected command.

    Raises:
        RunError: If the folder is not a run, or is a run of another command or version.
    """
    config = expanded(path) / CONFIG
    if not os.path.isfile(config):
        raise RunError(
            f"{str(path)!r} is not the folder of a run: it has no {CONFIG}; name one that kdnas {kind.COMMAND} made"
        )
    data = read_json(config)
    if is_model(path):
        raise RunError(f"{str(path)!r} is a model, not a run; name a run that kdnas {kind.COMMAND} made")
    command = data.pop("command", SEARCH)
    if command not in (kind.COMMAND, *kind.FORMERLY):
        raise RunError(f"{str(path)!r} is a run of kdnas {command}; name one that kdnas {kind.COMMAND} made")
    return kind.from_dict(found_again(data, config.parent))


def check_is_no_run(model: str | os.PathLike[str]) -> None:
    """Refuse the folder of a run where a model is expected.

    Raises:
        RunError: Naming the folders of the models in it.
    """
    folder = expanded(model)
    if not (os.path.isfile(folder / RUN) and os.path.isfile(folder / CONFIG)):
        return
    products = [str(folder / name) for name in ("classifier", "embedder", "export") if (folder / name).is_dir()]
    students = sorted(str(path.parent) for path in folder.glob(f"**/{STUDENT}/config.json"))
    advice = f"name the folder of a model in it, {' or '.join(map(repr, (products or students)[:3]))}"
    raise RunError(
        f"{os.fspath(model)!r} is the folder of a run, not a model; "
        + (advice if students else "it has no student yet, so finish the run, or name the folder of a model")
    )


def new_run_path(*parts: object) -> Path:
    """Return the default path of a new run: under ``runs``, named after the time and ``parts``."""
    return Path("runs") / "-".join([f"{datetime.now():%Y%m%d-%H%M%S}", *map(str, parts)])


def _lock_folder(path: Path) -> FileLock:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"another process works on the run {str(path)!r}; wait for it, or stop it") from error
    except OSError as error:
        raise RunError(f"the run folder {str(path)!r} cannot be written: {error}; give another with `out`") from error
    return lock


def package_versions() -> dict[str, str]:
    """Return the versions of kdnas and its main dependencies, if installed."""
    return installed_versions(*_PACKAGES)
