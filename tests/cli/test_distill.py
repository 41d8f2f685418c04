"""Full distillation from the command line: what it writes, which students it takes, how it resumes."""

from __future__ import annotations

import io
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiny_teachers
import torch
from complaints import complaint
from processes import start_command
from transformers import AutoModel, AutoTokenizer

from kdnas_env.cli import main
from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.distill import print_distilled
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.folder import read_lineage, read_projection
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.distill.result import DistilledStudent, DistillRun

Flags = Callable[..., list[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, finish_search: Callable[..., Path]) -> Path:
    """A finished search over two families."""
    space = {
        "num_hidden_layers": [1],
        "num_attention_heads": [2],
        "hidden_size": [16, 24],
        "intermediate_size": [32],
        "family": ["bert", "albert"],
    }
    return finish_search(tmp_path_factory.mktemp("distill"), space, agent="exhaustive", budget=4)


@pytest.fixture
def flags(run: Path, tmp_path: Path) -> Flags:
    def make(**changes: Any) -> list[str]:
        values = {
            "epochs": 8,
            "batch-size": 8,
            "threads": 1,
            "learning-rate": 1e-3,
            "cache-dir": run.parent / "cache",
            "out": tmp_path / "distill",
        }
        values |= {name.replace("_", "-").replace("--", "."): value for name, value in changes.items()}
        given = {name: value for name, value in values.items() if value is not None}
        return ["distill", str(run), *(str(part) for name, value in given.items() for part in (f"--{name}", value))]

    return make


def best(run: Path, family: str | None = None) -> dict[str, Any]:
    students = json.loads((run / "results.json").read_text())["students"]
    found: dict[str, Any] = max(
        (row for row in students if family in (None, row["student"]["family"])), key=lambda row: row["reward"]
    )["student"]
    return found


def test_the_best_student_is_distilled_and_kept(
    flags: Flags, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags()) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "distill" / "best"
    assert str(folder / "student") in printed.replace("\n", "")
    record = json.loads((folder / "distilled.json").read_text())
    assert record["student"] == best(run)
    assert record["unexplained"] < record["started_at"]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "checkpoints").exists()
    assert json.loads((tmp_path / "distill" / "run.json").read_text())["state"] == "finished"

    model = AutoModel.from_pretrained(folder / "student", add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    with torch.inference_mode():
        states = model(**tokenizer("the actor", "critics", return_tensors="pt")).last_hidden_state
    assert torch.isfinite(states).all()
    lineage = read_lineage(folder / "student")
    assert lineage is not None
    assert [stage["stage"] for stage in lineage.stages] == ["mini-kd", "full-kd"]
    assert lineage.student.to_dict() == best(run)
    projection = read_projection(folder / "student")
    assert projection is not None
    assert projection["projection.weight"].shape[1] == best(run)["hidden_size"]
    card = (folder / "student" / "README.md").read_text()
    assert "full-kd" in card
    assert f"imitation = vectors @ weight[:, -{tiny_teachers.HIDDEN}:]" in card


@pytest.mark.usefixtures("blank_pictures")
def test_it_goes_on_from_the_student_and_projection_of_the_search(flags: Flags, run: Path, tmp_path: Path) -> None:
    assert main(flags(epochs=1, corpus__pair_fraction=0)) == 0
    assert main(flags(epochs=1, corpus__pair_fraction=0, start="closed-form", out=tmp_path / "anew")) == 0
    carried, anew = (
        json.loads((tmp_path / name / "best" / "distilled.json").read_text()) for name in ("distill", "anew")
    )
    students = json.loads((run / "results.json").read_text())["students"]
    searched = next(row["loss"] for row in students if row["student"] == best(run))
    # Only approximately: the search holds out other sentences.
    assert carried["started_at"] == pytest.approx(searched, rel=0.1)
    assert anew["started_at"] != carried["started_at"]


@pytest.mark.usefixtures("blank_pictures")
def test_a_training_that_spoils_the_student_is_told(flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(learning_rate=0.3, epochs=2)) == 0
    assert "training did not improve the student" in capsys.readouterr().out
    assert main(flags(learning_rate=0.3, epochs=2)) == 0, "and once more, where it is done"
    assert "smaller --learning-rate" in capsys.readouterr().out


@pytest.mark.parametrize(("end", "told"), [(0.68, True), (0.6, False)])
def test_a_training_that_loses_what_it_had_gained_is_told(end: float, told: bool, tmp_path: Path) -> None:
    curve = [{"unexplained": loss} for loss in (0.7, 0.59, end)]
    student = DistilledStudent(tmp_path / "best", StudentConfig(1, 2, 16, 32), 0.7, 0.59, 60.0, curve)
    written = io.StringIO()
    print_distilled(SafeConsole(file=written, width=500), DistillRun(tmp_path, DistillOptions("run"), (student,)))
    assert ("its loss rose again to 0.68, so the student with loss 0.59" in written.getvalue()) is told


def test_a_loss_that_is_not_finite_ends_with_advice(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(learning_rate=1e9)) == 2
    told = capsys.readouterr().err
    assert "not finite: at or before step" in told
    assert "smaller --learning-rate; it was 1e+09" in told
    assert (tmp_path / "distill" / "best" / "checkpoints" / "curve.json").exists()
    assert json.loads((tmp_path / "distill" / "run.json").read_text())["state"] == "failed"


@pytest.mark.usefixtures("blank_pictures")
def test_the_best_of_every_family(flags: Flags, run: Path, tmp_path: Path) -> None:
    assert main(flags(family="all", epochs=1)) == 0
    for family in ("bert", "albert"):
        record = json.loads((tmp_path / "distill" / family / "distilled.json").read_text())
        assert record["student"] == best(run, family)
        config = json.loads((tmp_path / "distill" / family / "student" / "config.json").read_text())
        assert config["model_type"] == family
    # All students are finished, so nothing is distilled again.
    before = (tmp_path / "distill" / "bert" / "student" / "model.safetensors").stat().st_mtime_ns
    assert main(flags(family="all", epochs=1)) == 0
    assert (tmp_path / "distill" / "bert" / "student" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.usefixtures("blank_pictures")
def test_any_student_can_be_named(flags: Flags, tmp_path: Path) -> None:
    arguments = [*flags(epochs=1), "--students", "bert 3L/16h/4a/24f/relu"]
    assert main(arguments) == 0
    assert [path.name for path in (tmp_path / "distill").iterdir() if path.is_dir()] == ["bert-3L-16h-4a-24f-relu"]
    config = json.loads((tmp_path / "distill" / "bert-3L-16h-4a-24f-relu" / "student" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_act"]) == (3, "relu")


@pytest.mark.usefixtures("blank_pictures")
def test_a_streamed_corpus_with_the_teacher_in_the_loop(
    flags: Flags, tmp_path: Path, tiny_corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.distillation.training.training_text._START_SAMPLES", 80)
    changes = {"corpus__heldout_samples": 10, "epochs": None, "max_steps": 30}
    assert main([*flags(**changes), "--corpus.streaming"]) == 0
    record = json.loads((tmp_path / "distill" / "best" / "distilled.json").read_text())
    assert record["curve"][-1]["step"] == 30
    assert record["unexplained"] < record["started_at"]


def test_a_share_of_pairs_of_a_search_on_pairs_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    recorded = json.loads((run / "config.json").read_text())
    recorded["corpus"]["text_columns"] = ["one", "other"]
    (pairs / "config.json").write_text(json.dumps(recorded))
    for name in ("run.json", "results.json"):
        (pairs / name).write_bytes((run / name).read_bytes())
    said = complaint(["distill", str(pairs), "--corpus.pair-fraction", "0.5"], capsys)
    assert "--corpus.pair-fraction has no effect on a text of sentence pairs" in said
    assert not (pairs / "distill").exists()


@pytest.mark.usefixtures("blank_pictures")
def test_the_teacher_in_the_loop_does_what_the_cache_does(flags: Flags, tmp_path: Path) -> None:
    assert main(flags(epochs=1, teacher="cache")) == 0
    assert main(flags(epochs=1, teacher="loop", out=tmp_path / "loop")) == 0
    cached, loop = (
        json.loads((tmp_path / name / "best" / "distilled.json").read_text()) for name in ("distill", "loop")
    )
    # The cache is rounded to float16.
    assert loop["unexplained"] == pytest.approx(cached["unexplained"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_a_killed_distillation_goes_on_to_the_same_student(flags: Flags, tmp_path: Path, moments: Random) -> None:
    def arguments(out: Path) -> list[str]:
        return flags(out=out, epochs=10, evaluations=5, patience="None")

    assert main(arguments(tmp_path / "whole")) == 0
    parts = tmp_path / "parts"
    for _ in range(2):
        process = start_command(arguments(parts), output=tmp_path / "output.txt")
        checkpoints = parts / "best" / "checkpoints"
        seen = len(list(checkpoints.glob("checkpoint-*")))
        while process.poll() is None and len(list(checkpoints.glob("checkpoint-*"))) <= seen:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the distillation ended before it was killed"
    assert main(arguments(parts)) == 0
    one, other = ((tmp_path / name / "best" / "student" / "model.safetensors") for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_two_processes_distil_one_student(flags: Flags, tmp_path: Path) -> None:
    """Start both processes as torchrun does, because accelerate's own launcher starts only one on CPUs.

    Rank 1 starts first. It must not write into the folder before rank 0 has checked that the folder is empty.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    second = start_command(flags(), environment={**together, "RANK": "1", "LOCAL_RANK": "1"})
    assert main(flags(out=tmp_path / "one")) == 0  # gives rank 1 enough time to write
    assert second.poll() is None
    first = start_command(flags(), environment={**together, "RANK": "0", "LOCAL_RANK": "0"})
    printed = first.read()
    if first.returncode != 0:
        second.kill()  # otherwise it waits for rank 0
    assert first.returncode == 0, printed
    assert "Distilled students" in printed
    assert "Distilled students" not in second.read()
    assert second.returncode == 0
    two, one = (json.loads((tmp_path / name / "best" / "distilled.json").read_text()) for name in ("distill", "one"))
    assert two["curve"][-1]["step"] == one["curve"][-1]["step"]
    assert two["unexplained"] == pytest.approx(one["unexplained"], rel=0.05)


# --- bad input ---


def test_a_search_that_is_not_finished_is_not_distilled(
    flags: Flags, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**state, "state": "interrupted"}))
    try:
        assert main(flags()) == 2
    finally:
        (run / "run.json").write_text(json.dumps(state))
    assert "is not finished; resume it with kdnas search --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "roberta"}, "has no roberta student; it has ['bert', 'albert']"),
        ({"students": "bert-3L"}, "'bert-3L' is not a student; expected the form"),
        ({"epochs": 0}, "epochs is 0; expected a whole number, at least 1"),
        ({"corpus__source": "nowhere.jsonl"}, "'nowhere.jsonl' does not exist"),
    ],
)
def test_bad_flags(changes: dict[str, Any], message: str, flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(**changes)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (["--corpus.streaming"], "a stream is endless, so epochs cannot be counted; give --max-steps"),
        (["--batch-size", "0"], "--batch-size is 0; expected a whole number of samples, at least 1"),
        (["--corpus.heldout-samples", "0"], "--corpus.heldout-samples is 0; expected a whole number, at least 1"),
        (["--family", "gpt"], "gpt"),
    ],
)
def test_malformed_flags(added: list[str], message: str, flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in complaint([*flags(), *added], capsys)


def test_a_folder_of_something_else(
    flags: Flags, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(flags(out=run)) == 2
    assert "is a run of kdnas search" in capsys.readouterr().err


@pytest.mark.usefixtures("blank_pictures")
def test_other_flags_than_those_it_was_started_with(flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(epochs=1)) == 0
    assert main(flags(epochs=2)) == 2
    assert "--epochs is 2, the run has 1" in capsys.readouterr().err
