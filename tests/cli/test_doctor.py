from __future__ import annotations

from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import kdnas_env
from kdnas_env.cli import main


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


def test_doctor_finds_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--cache-dir", str(tmp_path / "file" / "cache")]) == 1
    assert "cache folder" in capsys.readouterr().out
