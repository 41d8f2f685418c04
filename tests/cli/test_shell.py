"""Commands that are printed can be typed as they are."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.pipeline.distill import DistillOptions
from kdnas_env.pipeline.race import BenchOptions
from kdnas_env.pipeline.search import SearchOptions
from kdnas_env.pipeline.stages import PipelineOptions, SearchStage
from kdnas_env.pipeline.table_build import TableBuildOptions
from kdnas_env.support.shell import command, flags, python_command


def test_words_are_quoted() -> None:
    assert command("search", "--resume", Path("runs/a")) == "kdnas search --resume runs/a"
    odd = "q2 run/it's $HOME"
    assert shlex.split(command("search", "--resume", odd)) == ["kdnas", "search", "--resume", odd]


@pytest.mark.parametrize("text", ["runs/a", "q2 run", "it's", '"', "$HOME", "`id`", "a\\b", "!!", "'\"$"])
def test_a_line_of_python_survives_the_shell(text: str) -> None:
    line = python_command(f"print({text!r})").replace("python ", "python3 ", 1)
    assert subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout == f"{text}\n"


def test_flags_are_those_that_were_given() -> None:
    options = BenchOptions(agents=("random", "lstm"), seeds=3, simulated_workers=2, out="a b")
    found = flags(options, ["agents", "seeds", "budget", "simulated_workers", "out", "reference"])
    assert found == ["--agents", "random", "lstm", "--seeds", "3", "--simulated-workers", "2", "--out", "a b"]
    assert flags(DistillOptions("run", train_embeddings=False), ["train_embeddings", "run"]) == [
        *("--no-train-embeddings", "--run", "run")
    ]


def test_what_is_not_recorded_is_said_again() -> None:
    search = SearchOptions(cache_dir="the cache", workers=2, ray="local", timeout=9.5, device="cpu", out="x")
    assert search.place_flags("out", "resume") == [
        *("--cache-dir", "the cache", "--workers", "2", "--ray", "local", "--timeout", "9.5")
    ]
    build = TableBuildOptions(name="t", out="b", skip_losses=True)
    assert build.place_flags() == ["--out", "b", "--skip-losses"]
    run = PipelineOptions(cache_dir="c", search=SearchStage(workers=2))
    assert run.place_flags("out", "resume") == ["--cache-dir", "c", "--search.workers", "2"]


def test_the_commands_of_a_run_in_an_odd_folder(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's q2 [run]"
    assert main(flags(out=folder, budget=2)) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "python -c" in one]
    done = subprocess.run(["bash", "-c", line.strip()], capture_output=True, text=True)
    assert "BertModel" in done.stdout, done.stderr
    (line,) = [one for one in (folder / "README.md").read_text().splitlines() if "--resume" in one]
    assert shlex.split(line) == ["kdnas", "search", "--resume", str(folder)]
    assert main(flags(out=folder)) == 2
    assert f"--resume {shlex.quote(str(folder))}" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdnas {kdnas_env.__version__}\n"
