"""All stages in one run: what it writes, what it does not repeat, how it resumes, what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import torch
from complaints import complaint, instead
from processes import start_command
from transformers import AutoModel

from kdnas_env.cli import main

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds", "only_blank_pictures")

Flags = Callable[..., list[str]]


@pytest.fixture(scope="module")
def flags(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Flags:
    """Return the command line of a small run over two families. Keyword arguments change flags; None omits a flag."""
    root = tmp_path_factory.mktemp("pipeline")
    space = root / "space.json"
    choices = {
        "num_hidden_layers": [1],
        "num_attention_heads": [2],
        "hidden_size": [16],
        "intermediate_size": [32],
        "family": ["bert", "albert"],
    }
    space.write_text(json.dumps(choices))
    data = small_tasks.write_original_layout(root / "glue")

    def make(out: Path, **changes: Any) -> list[str]:
        values = {
            "teacher": tiny_teacher_dirs["bert"],
            "family": ("bert", "albert"),
            "search.corpus.source": tiny_corpus_file,
            "search.space.file": space,
            "speedup": 0,
            "search.agent": "exhaustive",
            "search.budget": 2,
            "search.data-fraction": 1.0,
            "search.latency.runtime": "analytic",
            "distill.epochs": 2,
            "distill.batch-size": 8,
            "distill.patience": "None",
            "score.data": data,
            "score.tasks": ("cola", "sst2"),
            "score.rows": ("teacher", "student"),
            "score.latency.runtime": "analytic",
            "export.to": "safetensors",
            "device": "cpu",
            "threads": 1,
            "cache-dir": root / "cache",
            "out": out,
        }
        values |= {name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()}
        return ["run", "--export.no-latency", "--score.no-finetune", *_spelled(values)]

    return make


@pytest.fixture(scope="module")
def run(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not write into it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(flags(folder)) == 0
    return folder


def _spelled(values: dict[str, Any]) -> list[str]:
    given = {name: value for name, value in values.items() if value is not None}
    many = {name: value if isinstance(value, tuple) else (value,) for name, value in given.items()}
    return [str(part) for name, parts in many.items() for part in (f"--{name}", *parts)]


def resumed(folder: Path, flags: Flags, **changes: Any) -> list[str]:
    """Return the command line that resumes a run."""
    cache = flags(folder)[flags(folder).index("--cache-dir") + 1]
    return ["run", *_spelled({"resume": folder, "cache-dir": cache, **changes})]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("model.safetensors"))}


def scores(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (row["row"], row["task"], row["seed"], row["metrics"])
        for row in read(folder / "scores" / "results.json")["scores"]
    ]


def test_a_run_whose_search_has_no_student_keeps_it_and_ends_with_1(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tmp_path / "run", speedup=1000, family="best")) == 1
    printed = capsys.readouterr()
    assert "no student keeps the limits. The nearest of" in " ".join(printed.out.split())
    assert "2 of 2 break its limits" in " ".join(printed.err.split())
    assert read(tmp_path / "run" / "run.json")["stages"] == {"search": "finished", "distill": "failed"}


def test_a_run_leaves_a_folder_that_explains_itself(run: Path) -> None:
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        *("search", "distill", "scores", "export"),
        *("config.json", "run.json", "summary.json", "report.html", "README.md"),
    }
    assert all(name in (run / "report.html").read_text() for name in ("cola", "albert", "model.safetensors"))
    assert f"kdnas run --resume {run}" in (run / "README.md").read_text()
    record = read(run / "run.json")
    assert record["state"] == "finished"
    assert record["stages"] == dict.fromkeys(("search", "distill", "score", "export"), "finished")
    assert read(run / "config.json")["command"] == "run"
    for stage, command in {"search": "search", "distill": "distill", "scores": "score"}.items():
        assert read(run / stage / "config.json")["command"] == command
        assert read(run / stage / "run.json")["state"] == "finished"

    summary = read(run / "summary.json")
    assert summary["tasks"] == ["cola", "sst2"]
    rows = {row["name"]: row for row in read(run / "scores" / "results.json")["rows"]}
    assert {"teacher", "student", "student-2"} <= set(rows)
    for student, row in zip(summary["students"], ("student", "student-2"), strict=True):
        name = student["name"]
        assert student["student"]["family"] == name
        assert (student["score"], student["kept"]) == (rows[row]["average"]["mean"], rows[row]["average"]["kept"])
        assert student["speedup"] == rows[row]["speedup"] > 1.0
        assert student["parameters"] == rows[row]["parameters"]
        assert student["unexplained"] == read(run / "distill" / name / "distilled.json")["unexplained"]
        distilled, exported = (
            AutoModel.from_pretrained(run / student["files"][kind], add_pooling_layer=False).state_dict()
            for kind in ("student", "export")
        )
        assert read(run / student["files"]["export"] / "config.json")["model_type"] == name
        assert all(torch.equal(distilled[key], exported[key]) for key in distilled)
    assert [student["name"] for student in summary["students"]] == ["bert", "albert"]


def test_what_is_done_is_not_done_again(run: Path, flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.parent != run}

    before, summary, threads = times(), read(run / "summary.json"), torch.get_num_threads()
    assert main(resumed(run, flags)) == 0
    assert times() == before
    assert read(run / "summary.json") == summary
    assert torch.get_num_threads() == threads
    printed = capsys.readouterr().out
    assert printed.count("done before") == 4
    for student in summary["students"]:
        for shown in (f"{student['speedup']:.2f}x", f"{100 * student['score']:.1f}", f"{100 * student['kept']:.1f}%"):
            assert shown in printed
        for file in student["files"].values():
            assert str(run / file) in printed


def test_scores_of_earlier_versions_stay_where_they_are(
    run: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = tmp_path / "run"
    shutil.copytree(run, earlier)
    (earlier / "scores").rename(earlier / "glue")
    for file in ("config.json", "run.json"):
        text = (earlier / file).read_text()
        assert '"score"' in text
        (earlier / file).write_text(text.replace('"score"', '"glue"').replace('"score.', '"glue.'))
    for file in ("summary.json", "report.html"):
        (earlier / file).unlink()
    assert main(resumed(earlier, flags)) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert read(earlier / "summary.json") == read(run / "summary.json")
    assert "Scores of tasks" in (earlier / "report.html").read_text()
    assert not (earlier / "scores").exists()
    assert main(resumed(earlier, flags, stages=("search", "distill", "score"), **{"score.seeds": 2})) == 2
    assert "--score.seeds is 2, the run has 1" in capsys.readouterr().err


def test_the_commands_of_the_stages_go_on_in_their_folders(
    run: Path, flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = resumed(run, flags)[-1]
    assert main(["search", "--resume", str(run / "search"), "--cache-dir", cache]) == 0
    assert main(["distill", str(run / "search"), "--out", str(run / "distill"), "--cache-dir", cache]) == 0
    assert str(run / "distill" / "albert" / "student") in capsys.readouterr().out


def test_some_stages_then_the_others(
    run: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    data = flags(folder)[flags(folder).index("--score.data") + 1]
    asked = flags(folder, family="bert", stages=("search", "distill"), score__data="/nowhere/glue")
    assert main(asked) == 0
    assert not (folder / "scores").exists()
    assert not (folder / "export").exists()
    summary = read(folder / "summary.json")
    assert summary["stages"] == ["search", "distill"]
    assert all(row["score"] is None and row["speedup"] > 1.0 for row in summary["students"])
    assert read(folder / "run.json")["state"] == "finished"

    capsys.readouterr()
    assert main(resumed(folder, flags, stages=("score", "export"))) == 2
    captured = capsys.readouterr()
    assert "'/nowhere/glue' does not exist" in captured.err
    said = " ".join(captured.out.split())
    assert f"the settings of score may be changed) with kdnas run --resume {folder} --stages score export" in said
    assert f"or without it, with kdnas run --resume {folder} --stages export" in said
    assert read(folder / "run.json")["stages"] == {"search": "finished", "distill": "finished", "score": "failed"}

    # Only settings of stages that have not begun may be changed.
    assert main(resumed(folder, flags, **{"distill.epochs": 7})) == 2
    assert "--distill.epochs is 7, the run has 2" in capsys.readouterr().err
    assert main(resumed(folder, flags, seed=1)) == 2
    assert "--seed is 1, the run has 0" in capsys.readouterr().err
    assert main(resumed(folder, flags, stages="score", **{"score.data": data})) == 0
    assert main(resumed(folder, flags, stages="export")) == 0
    assert read(folder / "config.json")["score"]["data"] == data
    assert len(weights(folder)) == 3
    assert weights(folder).items() <= weights(run).items()
    assert scores(folder) == [row for row in scores(run) if row[0] != "student-2"]


@pytest.mark.slow
def test_a_stopped_and_killed_run_goes_on_to_the_same_end(run: Path, flags: Flags, tmp_path: Path) -> None:
    """The signals are sent at fixed moments, not random ones: in the search, each distillation, and scoring."""
    folder = tmp_path / "run"
    parts = (
        (signal.SIGTERM, "search/evaluations.sqlite"),
        (signal.SIGKILL, "distill/bert/checkpoints/checkpoint-*"),
        (signal.SIGTERM, "distill/albert/checkpoints/checkpoint-*"),
        (signal.SIGKILL, "scores/cells/*.json"),
    )
    arguments = flags(folder)
    for number, pattern in parts:
        process = start_command(arguments, environment={"COLUMNS": "200"})
        deadline = time.monotonic() + 90
        while process.poll() is None and not list(folder.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        output = process.read(timeout=60)
        assert process.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL), output
        if number == signal.SIGTERM:
            assert f"kdnas run --resume {folder} --cache-dir " in output
            assert output.count("stopped; resume") == 1
            assert "kdnas search" not in output.split("stopped;")[-1]
            assert "Traceback" not in output
            stage = pattern.split("/")[0]
            assert read(folder / "run.json")["state"] == "interrupted"
            assert read(folder / "run.json")["stages"][stage] == "interrupted"
        arguments = resumed(folder, flags)
    assert main(arguments) == 0
    assert weights(folder) == weights(run)
    assert scores(folder) == scores(run)
    assert read(folder / "summary.json") == read(run / "summary.json")


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ("search", "score")}, "the stage score needs distill, which is not finished"),
        ({"stages": "export"}, "the stage export needs distill, which is not finished"),
        ({"family": ("best", "roberta")}, "family roberta is to be distilled, but ['bert', 'albert'] are searched"),
        ({"score__tasks": "sst-2"}, "unknown task 'sst-2'"),
        ({"teacher": "./nowhere"}, "./nowhere"),
    ],
)
def test_bad_flags_before_anything_is_made(
    flags: Flags, tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tmp_path / "run", **changes)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (["--stages", "train"], "train"),
        (["--stages"], "no stage is named; choose --stages from search distill score export"),
        (["--family"], "no family is named"),
        (["--export.to", "tflite"], "--export.to is 'tflite'"),
        (["--search.out", "elsewhere"], "--search.out"),
    ],
)
def test_malformed_flags(
    flags: Flags, tmp_path: Path, added: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(instead(flags(tmp_path / "run"), added), capsys)
    assert not (tmp_path / "run").exists()


def test_folders_of_something_else(run: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(resumed(run / "search", flags)) == 2
    assert "is a run of kdnas search; name one that kdnas run made" in capsys.readouterr().err
    assert main(["search", "--resume", str(run)]) == 2
    assert "is a run of kdnas run; name one that kdnas search made" in capsys.readouterr().err
    assert main(resumed(tmp_path, flags)) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(flags(run)) == 2
    assert f"resume it with --resume {run}" in capsys.readouterr().err


def test_several_processes_are_refused(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(flags(tmp_path / "run")) == 2
    assert "works in one process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
