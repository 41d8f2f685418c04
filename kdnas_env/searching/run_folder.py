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
from kdnas_env.support.libraries import installed_versions
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
"""Texts that the task of a search is validated and tested on, which its students are not distilled on."""

SEARCH = "search"

_PACKAGES = ("kdnas", "torch", "transformers", "datasets", "gymnasium", "numpy", "onnxruntime")

OptionsT = TypeVar("OptionsT", bound=RecordedOptions)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where it lies.
        lock: Held while a process works in it.
        created: Whether this process made the run.
    """

    path: Path
    lock: FileLock
    created: bool = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], options: RecordedOptions, readme: str) -> RunFolder:
        """Make the folder of a new run and record its options.

        Args:
            path: The folder; made if it does not exist.
            options: What the run was asked for.
            readme: What its README says, with ``{folder}`` for the folder as a shell takes it, and ``{path}`` as Python
                does.

        Raises:
            RunError: If it cannot be written, or holds something already.
        """
        path = expanded(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
        except OSError as error:
            raise RunError(f"the run folder {str(path)!r} cannot be made: {error}; give another with `out`") from error
        if taken:
            again = f"resume it with `resume={str(path)!r}`"
            hint = again if (path / CONFIG).exists() else "it holds something else than a run"
            raise RunError(f"the run folder {str(path)!r} is not empty: {hint}, or give another with `out`")
        folder = cls(path, _locked(path), created=True)
        # First, since without it nobody can go on.
        folder.write_options(options)
        write_readme(path, readme)
        return folder

    @classmethod
    def enter(cls, path: str | os.PathLike[str], options: RecordedOptions, readme: str) -> RunFolder:
        """Open the folder of an earlier run, or make a new one where there is none; see the two that it stands for.

        Raises:
            RunError: If the folder is of a model; see also :meth:`create` and :meth:`reopen`.
        """
        if is_model(path):
            raise RunError(f"{os.fspath(path)!r} is a model, no run; give another folder with `out`")
        exists = (expanded(path) / CONFIG).exists()
        return cls.reopen(path, readme) if exists else cls.create(path, options, readme)

    @classmethod
    def reopen(cls, path: str | os.PathLike[str], readme: str | None = None) -> RunFolder:
        """Open the folder of an earlier run.

        Args:
            path: The folder.
            readme: What its README says, with the name that the folder has now; see :meth:`create`. None leaves it.

        Raises:
            RunError: If another process works in it, it cannot be written, or a link in it leads out of it.
        """
        path = expanded(path)
        check_contained(path)
        folder = cls(path, _locked(path))
        sweep_temporary(path, CONFIG)
        if readme is not None:
            write_readme(path, readme)
        return folder

    def write_options(self, options: RecordedOptions) -> None:
        """Write ``config.json``: what the run was asked for, and where that lies.

        Raises:
            RunError: If it cannot be written.
        """
        data = {"command": options.COMMAND, **options.to_dict()}
        write_json(self.path / CONFIG, with_places(data, options.PATHS, self.path, other=options.NO_PATHS))

    @property
    def is_new(self) -> bool:
        """Whether nothing was recorded in it yet."""
        return not (self.path / RUN).exists()

    def check(self, fingerprints: Mapping[str, str]) -> None:
        """Refuse to go on with something else than the run was started with.

        Args:
            fingerprints: What decides the results, by name.

        Raises:
            RunError: If something is not what it was, or ``run.json`` is malformed.
        """
        before = self.read_run().get("fingerprints", {})
        check_same(before, fingerprints, f"the run {str(self.path)!r} cannot be resumed", "start a new run")

    def begin(self, fingerprints: Mapping[str, str] | None = None, **details: Any) -> None:
        """Record that the run is running, and what it works with; the first time, or the same as before.

        Args:
            fingerprints: What decides the results, by name.
            **details: See :meth:`record`.

        Raises:
            RunError: If something is not what it was when the run was started, in which case nothing is written; or if
                ``run.json`` is malformed or cannot be written.
        """
        now = fingerprints or {}
        self.check(now)
        self.record("running", fingerprints={**self.read_run().get("fingerprints", {}), **now}, **details)

    def record(self, state: str, **details: Any) -> None:
        """Write ``run.json``: the state, versions, machine, and details beside those written before.

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
        """Return what ``run.json`` says; empty if it is not there.

        Raises:
            RunError: If it is malformed.
        """
        return read_run(self.path)

    def discard(self) -> None:
        """Take back a run that was refused before any work: what :meth:`create` made is removed."""
        for name in (RUN, "README.md", CONFIG, EVALUATED, ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # something else is there
            self.path.rmdir()

    def release(self) -> None:
        """Release the lock of the folder."""
        self.lock.release()


def write_readme(path: Path, readme: str) -> None:
    """Write the README of a run, unless it says so already; the folder may have been moved since.

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
    """Return what ``run.json`` of a run's folder says; empty if it is not there.

    Raises:
        RunError: If it is malformed.
    """
    file = path / RUN
    data = read_json(file) if file.exists() else {}
    for name in ("fingerprints", "stages"):
        recorded = data.get(name, {})
        if not isinstance(recorded, dict) or not all(isinstance(value, str) for value in recorded.values()):
            raise RunError(f"{str(file)!r} is malformed: {name} is no mapping of names; restore it from a copy")
    return data


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is of a model in hub layout, such as a student.

    Raises:
        RunError: If its configuration is malformed.
    """
    config = expanded(path) / CONFIG
    return os.path.isfile(config) and "model_type" in read_json(config)


def recorded_options(path: str | os.PathLike[str], kind: type[OptionsT]) -> OptionsT:
    """Return the options that a run was started with.

    Args:
        path: Folder of the run.
        kind: Options of the command that it should be of.

    Raises:
        RunError: If the folder is not of a run, of another command, or of another version.
    """
    config = expanded(path) / CONFIG
    if not os.path.isfile(config):
        raise RunError(
            f"{str(path)!r} is not the folder of a run: it holds no {CONFIG}; name one that kdnas {kind.COMMAND} made"
        )
    data = read_json(config)
    if is_model(path):
        raise RunError(f"{str(path)!r} is a model, no run; name the folder of the run that kdnas {kind.COMMAND} made")
    command = data.pop("command", SEARCH)
    if command not in (kind.COMMAND, *kind.FORMERLY):
        raise RunError(f"{str(path)!r} is a run of kdnas {command}; name one that kdnas {kind.COMMAND} made")
    return kind.from_dict(found_again(data, config.parent))


def check_is_no_run(model: str | os.PathLike[str]) -> None:
    """Refuse the folder of a run where a model is wanted.

    Raises:
        RunError: Naming the folders of the students in it.
    """
    folder = expanded(model)
    if not (os.path.isfile(folder / RUN) and os.path.isfile(folder / CONFIG)):
        return
    products = [str(folder / name) for name in ("classifier", "embedder", "export") if (folder / name).is_dir()]
    students = sorted(str(path.parent) for path in folder.glob(f"**/{STUDENT}/config.json"))
    advice = f"name the folder of a model in it, {' or '.join(map(repr, (products or students)[:3]))}"
    raise RunError(
        f"{os.fspath(model)!r} is the folder of a run, no model; "
        + (advice if students else "it has no student yet, so finish the run, or name the folder of a model")
    )


def new_run_path(*parts: object) -> Path:
    """Return where a new run lies by default: under ``runs``, named by the time and some parts."""
    return Path("runs") / "-".join([f"{datetime.now():%Y%m%d-%H%M%S}", *map(str, parts)])


def _locked(path: Path) -> FileLock:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"another process works on the run {str(path)!r}; wait for it, or stop it") from error
    except OSError as error:
        raise RunError(f"the run folder {str(path)!r} cannot be written: {error}; give another with `out`") from error
    return lock


def package_versions() -> dict[str, str]:
    """Return the versions of kdnas and of what it stands on, as far as they are installed."""
    return installed_versions(*_PACKAGES)
