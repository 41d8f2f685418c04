"""Reports on the installation: packages, agents, devices, and the embedded default."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any, Literal

from packaging.requirements import Requirement

from kdnas_env.errors import DependencyError, one_line
from kdnas_env.pipeline.options import CacheOption
from kdnas_env.searching.registry import agent_names, make_agent

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class DoctorOptions(CacheOption):
    """Report packages, agents and devices, and whether the embedded teacher and corpus load."""


@dataclass(frozen=True)
class Finding:
    """Result of one check of the installation.

    Attributes:
        what: What was checked.
        state: ``ok``, ``missing`` (optional) or ``broken``.
        detail: The result, and what to do.
    """

    what: str
    state: State
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Results of all checks of the installation.

    Attributes:
        findings: Results of the checks.
    """

    findings: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Whether something that kdnas needs is broken."""
        return any(finding.state == "broken" for finding in self.findings)

    @property
    def has_demo(self) -> bool:
        """Whether the embedded teacher and text are installed."""
        return _extra("demo").state == "ok"

    @property
    def lacks_agents(self) -> bool:
        """Whether some agents cannot be used."""
        return any(finding.what == "agents" and finding.state != "ok" for finding in self.findings)

    def table(self) -> list[dict[str, Any]]:
        """Return one row per finding."""
        return [{"what": finding.what, "state": finding.state, "detail": finding.detail} for finding in self.findings]


def diagnose(cache_dir: str | None = None) -> Diagnosis:
    """Check packages, agents and devices, and whether the embedded teacher and corpus load.

    Args:
        cache_dir: Cache folder of the teacher's hidden states, to check that it is writable; None for the default.
    """
    return Diagnosis(tuple(_findings(cache_dir)))


def _findings(cache_dir: str | None) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield from (_package(requirement) for requirement in _declared())
    yield from (_extra(name) for name in _extras())
    yield from _agents()
    yield _checked("cpu", _cpu)
    yield _checked("gpu", _gpu)
    yield _checked("cache folder", lambda: _cache_folder(cache_dir))
    yield _checked("lock", _lock)
    if _extra("demo").state == "ok":
        yield _checked("embedded default", _embedded_default)


def _extras() -> list[str]:
    """Return the extras, except ``test`` and those that only include others."""
    extras = metadata("kdnas").get_all("Provides-Extra", [])
    return [name for name in extras if name != "test" and any(needed.name != "kdnas" for needed in _declared(name))]


def _declared(extra: str | None = None) -> list[Requirement]:
    """Return the requirements of kdnas, or those that an extra adds."""
    declared = [Requirement(text) for text in requires("kdnas") or ()]
    base = [needed for needed in declared if needed.marker is None or needed.marker.evaluate({"extra": ""})]
    if extra is None:
        return base
    beyond = [needed for needed in declared if needed not in base and needed.marker]
    return [needed for needed in beyond if needed.marker and needed.marker.evaluate({"extra": extra})]


def _package(needed: Requirement) -> Finding:
    try:
        installed = version(needed.name)
    except PackageNotFoundError:
        return Finding(needed.name, "broken", f"not installed; pip install '{needed.name}{needed.specifier}'")
    if not needed.specifier.contains(installed, prereleases=True):
        wanted = f"{needed.name}{needed.specifier}"
        return Finding(needed.name, "broken", f"{installed}, but kdnas needs {wanted}; pip install '{wanted}'")
    return Finding(needed.name, "ok", installed)


def _extra(extra: str) -> Finding:
    packages = [_package(requirement) for requirement in _declared(extra)]
    if all(finding.state == "ok" for finding in packages):
        return Finding(f"extra {extra}", "ok", ", ".join(f"{f.what} {f.detail}" for f in packages))
    absent = ", ".join(finding.what for finding in packages if finding.state != "ok")
    return Finding(f"extra {extra}", "missing", f"{absent}; install with: pip install 'kdnas[{extra}]'")


def _checked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except Exception as error:  # a broken installation may fail in any way
        return Finding(what, "broken", one_line(error))


def _agents() -> list[Finding]:
    """Return findings on the agents, grouped by the error that prevents their use; usable agents form one group."""
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
