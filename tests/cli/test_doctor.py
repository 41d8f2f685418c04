from __future__ import annotations

from pathlib import Path

import pytest

import kdnas_env
from kdnas_env.cli import main


def test_doctor_names_versions_devices_and_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    agents = ", ".join(kdnas_env.agent_names())
    for expected in (torch.__version__, "transformers", "extra onnx", agents, "core(s)", "all-MiniLM-L6-v2"):
        assert expected in said


def test_doctor_finds_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--cache-dir", str(tmp_path / "file" / "cache")]) == 1
    assert "cache folder" in capsys.readouterr().out
