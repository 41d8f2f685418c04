"""Printed commands work unchanged in a shell."""

from __future__ import annotations

import ast
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.cli.flags import naming_flags
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.bench.race import BenchOptions
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.run.options import PipelineOptions, SearchStage
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.table.build import TableBuildOptions
from kdnas_env.pipeline.work import Interrupted
from kdnas_env.support.shell import call, command, non_defaults, python_command


def test_words_are_quoted() -> None:
    assert command("search", "--resume", Path("runs/a")) == "kdnas search --resume runs/a"
    odd = "q2 run/it's $HOME"
    assert shlex.split(command("search", "--resume", odd)) == ["kdnas", "search", "--resume", odd]


@pytest.mark.parametrize("text", ["runs/a", "q2 run", "it's", '"', "$HOME", "`id`", "a\\b", "!!", "'\"$"])
def test_a_line_of_python_survives_the_shell(text: str) -> None:
    line = python_command(f"print({text!r})").replace("python ", "python3 ", 1)
    assert subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout == f"{text}\n"


def test_what_was_given_is_what_differs_from_the_defaults() -> None:
    options = BenchOptions(agents=("random", "lstm"), seeds=3, simulated_workers=2, out="a b")
    found = non_defaults(options, ["agents", "seeds", "budget", "simulated_workers", "out", "reference"])
    assert found == {"agents": ("random", "lstm"), "seeds": 3, "simulated_workers": 2, "out": "a b"}
    assert non_defaults(DistillOptions("run", train_embeddings=False), ["train_embeddings", "run"]) == {
        "train_embeddings": False,
        "run": "run",
    }


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        (call("search", resume=Path("a b"), cache_dir="c"), "kdnas search --resume 'a b' --cache-dir c"),
        (
            call("run", resume="r", stages=("search", "score"), **{"search.workers": 2}),
            "kdnas run --resume r --stages search score --search.workers 2",
        ),
        (call("distill", "r", train_embeddings=False), "kdnas distill r --no-train-embeddings"),
        (call("study", "r", workers=2), "kdnas study proxy r --workers 2"),
        (
            call("race", agents=("random", "lstm:dropout=0.2"), seeds=3),
            "kdnas bench --agents random lstm:dropout=0.2 --seeds 3",
        ),
        (
            call("build_table", "t", out="b", skip_losses=True),
            "kdnas table build t --out b --skip-losses",
        ),
        (call("table_agreement", "t", budget=9), "kdnas table agreement t --budget 9"),
    ],
)
def test_the_command_line_names_commands_where_python_names_calls(python: str, shell: str) -> None:
    parsed = ast.parse(python, mode="eval").body
    assert ast.unparse(parsed) == python
    with pytest.raises(Interrupted) as caught, naming_flags(SearchOptions):
        raise Interrupted(python)
    assert caught.value.go_on == shell
    error = KDNASError("it failed")
    error.add_note(f"go on with\n\n    `{python}`\n")
    with pytest.raises(KDNASError) as noted, naming_flags(SearchOptions):
        raise error
    assert noted.value.__notes__ == [f"go on with\n\n    {shell}\n"]


def test_what_is_not_recorded_is_said_again() -> None:
    search = SearchOptions(cache_dir="the cache", workers=2, ray="local", timeout=9.5, device="cpu", out="x")
    places = {"cache_dir": "the cache", "workers": 2, "ray": "local", "timeout": 9.5}
    assert search.places("out", "resume") == places
    build = TableBuildOptions(name="t", out="b", skip_losses=True)
    assert build.places() == {"out": "b", "skip_losses": True}
    run = PipelineOptions(cache_dir="c", search=SearchStage(workers=2))
    assert run.places("out", "resume") == {"cache_dir": "c", "search.workers": 2}


@pytest.mark.usefixtures("blank_pictures")
def test_the_commands_of_a_run_in_an_odd_folder(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's q2 [run]"
    assert main(flags(out=folder, budget=1, round_size=1)) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "python -c" in one]
    python, option, code = shlex.split(line)
    assert (python, option) == ("python", "-c")
    exec(code, {})
    assert "BertModel" in capsys.readouterr().out
    (line,) = [one for one in (folder / "README.md").read_text().splitlines() if "--resume" in one]
    assert shlex.split(line) == ["kdnas", "search", "--resume", str(folder)]
    assert main(flags(out=folder)) == 2
    assert f"--resume {shlex.quote(str(folder))}" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdnas {kdnas_env.__version__}\n"
