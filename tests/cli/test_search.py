"""Searches from the command line: what they write and print, how they resume."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
from printed import with_output
from processes import start_command

from kdnas_env.cli import main
from kdnas_env.support.cpu_lock import pinned_threads

Flags = Callable[..., list[str]]

# Module fixtures draw real pictures.
pytestmark = pytest.mark.usefixtures("blank_pictures")

WIDE = {"COLUMNS": "200"}


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def trail(folder: Path) -> list[tuple[Any, ...]]:
    """Return the students of a search and their results, without wall times."""
    return [
        (tuple(student["student"].values()), student["status"], student["loss"], student["reward"])
        for student in results(folder)["students"]
    ]


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, small_space: dict[str, list[Any]], finish_search: Callable[..., Path]
) -> tuple[Path, str]:
    """The folder of a finished search, and what was printed. Do not write into the folder."""
    root = tmp_path_factory.mktemp("finished")
    return with_output(lambda: finish_search(root, small_space, budget=6, round_size=3))


@pytest.fixture(scope="module")
def finished(searched: tuple[Path, str]) -> Path:
    """The folder of ``searched``."""
    return searched[0]


def test_a_search_leaves_a_folder_that_explains_itself(searched: tuple[Path, str]) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder, printed = searched
    for expected in ("loss", "speed", "params", "reward", "teacher", "random", "run folder", "search.png"):
        assert expected in printed
    assert f"AutoModel.from_pretrained('{folder / 'student'}', add_pooling_layer=False)" in printed
    assert "--resume" in (folder / "README.md").read_text()
    run = json.loads((folder / "run.json").read_text())
    assert run["state"] == "finished"
    assert {"python", "torch", "transformers", "kdnas"} <= set(run["versions"])
    assert run["corpus"]["train_samples"] > 0
    assert json.loads((folder / "config.json").read_text())["seed"] == 0
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")

    found = results(folder)
    assert found["evaluations"] == 6
    assert len({tuple(student["student"].values()) for student in found["students"]}) == 6
    best = max(found["students"], key=lambda student: student["reward"])
    assert found["best"]["student"] == best["student"]
    assert 1 <= found["random_best"]["of"] <= 6
    assert found["random_best"]["reward"] <= found["best"]["reward"]

    model = AutoModel.from_pretrained(folder / "student")
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    shape = {name: value for name, value in best["student"].items() if name != "family"}
    assert {name: getattr(model.config, name) for name in shape} == shape
    with torch.inference_mode():
        states = model(**tokenizer("the actor never bores critics .", return_tensors="pt")).last_hidden_state
    assert states.shape[2] == shape["hidden_size"]
    assert torch.isfinite(states).all()
    card = (folder / "student" / "README.md").read_text()
    assert f"{best['loss']:.4f}" in card
    assert "teacher" in card.lower()
    names: dict[str, Any] = {}
    exec(card.split("```python")[1].split("```")[0].replace("path/to/this/folder", str(folder / "student")), names)
    assert names["vectors"].shape == (2, shape["hidden_size"])
    assert names["imitation"].shape == (2, tiny_teachers.HIDDEN)


def test_equal_runs_are_equal(finished: Path, flags: Flags, tmp_path: Path) -> None:
    assert main(flags(threads=1)) == 0
    assert trail(tmp_path / "run") == trail(finished)
    weights = [(folder / "student" / "model.safetensors").read_bytes() for folder in (tmp_path / "run", finished)]
    assert weights[0] == weights[1]


def test_another_seed_searches_otherwise(finished: Path, flags: Flags, tmp_path: Path) -> None:
    assert main(flags(seed=1, budget=3)) == 0
    ours, theirs = ([student for student, *_ in trail(folder)] for folder in (tmp_path / "run", finished))
    assert ours != theirs[:3]


def test_the_kept_student_is_the_evaluated_one(
    finished: Path, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path
) -> None:
    """The hidden states of the saved student explain those of the teacher about as well as was reported."""
    from transformers import AutoModel

    from kdnas_env.distillation.teacher.loading import load_teacher

    found = results(finished)["best"]
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    student = AutoModel.from_pretrained(finished / "student")
    sentences = [json.loads(line)["text"] for line in tiny_corpus_file.read_text().splitlines()]
    encoded = teacher.tokenizer(sentences, return_tensors="pt", padding=True)
    with torch.inference_mode():
        theirs = teacher.hidden_states(**encoded)[-1][encoded["attention_mask"].bool()].double().numpy()
        ours = student(**encoded).last_hidden_state[encoded["attention_mask"].bool()].double().numpy()
    design = np.hstack([ours, np.ones((len(ours), 1))])
    residual = theirs - design @ np.linalg.lstsq(design, theirs, rcond=None)[0]
    unexplained = (residual**2).sum() / ((theirs - theirs.mean(0)) ** 2).sum()
    # The report uses other tokens and layers, but a student with other weights would exceed the tolerance.
    assert unexplained < found["loss"] + 0.2


def test_mixed_families(flags: Flags, tmp_path: Path) -> None:
    families = ("albert", "roberta")
    assert main([*flags(space__file=None, agent="random", budget=5), "--space.families", *families]) == 0
    assert {student["student"]["family"] for student in results(tmp_path / "run")["students"]} == {*families}


def test_agent_settings_reach_the_agent(flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags(), "--agent-settings", "context=nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main([*flags(), "--agent-settings", "context"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    assert main(["search", "--resume", str(tmp_path / "run"), "--cache-dir", str(finished.parent / "cache")]) == 0
    assert trail(tmp_path / "run") == trail(finished)


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_end(finished: Path, flags: Flags, tmp_path: Path, moments: Random) -> None:
    folder = tmp_path / "killed"
    arguments = flags(out=folder, threads=1)
    for student in sorted(moments.sample(range(6), 2)):
        process = start_command(arguments, environment=WIDE)
        # Kill the search after this many students, reported one a line, at a random moment of the next one.
        for line in process.stdout:
            if line.strip().startswith(f"{student} ") or (not student and "reward" in line):
                break
        time.sleep(moments.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        output = process.read()
        assert process.returncode == -signal.SIGKILL, output
        arguments = ["search", "--resume", str(folder), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    with pinned_threads(2):  # would round differently, but the search resumes with its first number of threads
        assert main(arguments) == 0
    assert trail(folder) == trail(finished)
    weights = [(path / "student" / "model.safetensors").read_bytes() for path in (folder, finished)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_an_interrupted_search_stops_cleanly(flags: Flags, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    resume = ["search", "--resume", str(folder), "--cache-dir", str(tmp_path / "cache")]
    for number, student, arguments in ((signal.SIGINT, 1, flags(budget=9)), (signal.SIGTERM, 4, resume)):
        process = start_command(arguments, environment=WIDE)
        for line in process.stdout:
            if line.strip().startswith(f"{student} "):
                break
        process.send_signal(number)
        output = process.read(timeout=60)
        assert process.returncode == 130, output
        assert f"kdnas search --resume {folder}" in output
        assert "Traceback" not in output
        assert json.loads((folder / "run.json").read_text())["state"] == "interrupted"
    assert main(resume) == 0
    assert results(folder)["evaluations"] == 9


def test_students_that_break_a_limit_are_not_distilled(
    finished: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speedups = sorted(student["speedup"] for student in results(finished)["students"])
    limit = speedups[3]
    assert main(flags(speedup=limit, size_mb=100, workers=2)) == 0
    found = results(tmp_path / "run")
    by_status = {
        status: [one for one in found["students"] if one["status"] == status] for status in ("ok", "infeasible")
    }
    assert len(by_status["ok"]) == found["evaluations"] == 6
    assert by_status["infeasible"]
    assert all(student["speedup"] >= limit and student["cost"] == 0 for student in by_status["ok"])
    assert all(student["speedup"] < limit and not student["train_loss"] for student in by_status["infeasible"])
    printed = capsys.readouterr().out
    assert f"{len(by_status['infeasible'])} of {len(found['students'])} students break a limit" in printed
    # Students that cost no budget have no number.
    numbers = re.findall(r"^ {0,3}(\d+) .*bert \dL/", printed.split("reward  student")[1], re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 7)]
    before = trail(tmp_path / "run")
    assert main(["search", "--resume", str(tmp_path / "run")]) == 0
    assert trail(tmp_path / "run") == before


def test_limits_that_no_student_keeps_are_said_with_the_nearest(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(speedup=None, budget=2)) == 1  # the fastest is 2.6 times as fast as its tiny teacher
    printed = " ".join(capsys.readouterr().out.split())
    assert "no student keeps the limits. The nearest of" in printed
    assert "is below 5. Widen the limits" in printed
    assert {student["status"] for student in results(tmp_path / "run")["students"]} == {"infeasible"}
    assert main(["search", "--resume", str(tmp_path / "run")]) == 1
    assert main(flags(keep=1.0, budget=2, out=tmp_path / "exact")) == 1
    assert "is below 1 of the teacher's" in " ".join(capsys.readouterr().out.split())


def test_malformed_limits_are_named_as_flags(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(speedup=-1, out=tmp_path / "other")) == 2
    assert "--speedup is -1" in capsys.readouterr().err
    assert main(flags(max_mb=0, out=tmp_path / "other")) == 2
    assert "--max-mb is 0" in capsys.readouterr().err
    assert main(flags(format="int8", out=tmp_path / "other")) == 2
    assert "--format has no effect without --max-mb" in " ".join(capsys.readouterr().err.split())


def test_a_run_of_before_there_were_limits_goes_on_without(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    config.write_text(
        json.dumps({name: value for name, value in json.loads(config.read_text()).items() if name != "limits"})
    )
    (tmp_path / "run" / "results.json").unlink()
    assert main(["search", "--resume", str(tmp_path / "run"), "--cache-dir", str(finished.parent / "cache")]) == 0
    assert trail(tmp_path / "run") == trail(finished)


def test_a_finished_search_stays_finished_when_going_on_is_refused(
    flags: Flags, tiny_corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.jsonl"
    shutil.copy(tiny_corpus_file, text)
    assert main(flags(corpus__source=text, budget=2)) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    resume = ["search", "--resume", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")]
    assert main([*resume, "--seed", "5"]) == 2
    assert "--seed is 5, the run has 0" in capsys.readouterr().err
    lines = text.read_text().splitlines()
    text.write_text("\n".join(lines[:-1]) + "\n")
    assert main(resume) == 2
    assert "the corpus and the workload are not what they were" in capsys.readouterr().err
    text.unlink()
    assert main(resume) == 2
    assert "does not exist" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
