"""From labels and limits to a classifier: the command of the README, with small settings."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import tiny_teachers
from complaints import complaint
from processes import Started
from small_runs import Flags, flags_of, small_settings
from transformers import AutoTokenizer, pipeline
from written_graphs import command_with_shared_graphs

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.pipeline.limits import Line
from kdnas_env.pipeline.run.candidates import Candidate, best_candidate
from kdnas_env.testing.tiny_encoders import save_tiny_encoder, tiny_texts

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def flags(
    flat_teacher: Callable[[str], Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Flags:
    """Return the command line of the README with small settings; keyword arguments change flags."""
    root = tmp_path_factory.mktemp("task")
    made = [{"text": text, "label": "critics" in text} for text in tiny_teachers.sentences()[:120]]
    (command,) = re.findall(r"^kdnas (run --task .*)$", README, re.MULTILINE)
    words = shlex.split(command)
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert set(given) == {"--task", "--teacher", "--speedup", "--max-mb", "--format", "--keep"}
    given |= {
        "--task": str(small_tasks.write_rows(root / "my.csv", made)),
        "--speedup": "0.2",
        "--task.unlabelled": str(tiny_corpus_file),
        **small_settings(root, flat_teacher("bert"), tiny_corpus_file),
    }
    return flags_of(given)


@pytest.fixture(scope="module")
def run(flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not write into it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(flags(folder)) == 0
    return folder


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def assert_placed(run: Path, student: dict[str, Any]) -> None:
    """Check that the run folder has copies of this student's classifier and export, so this student was chosen."""
    for name in ("classifier", "export"):
        source = run / student["files"][name]
        files = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        assert {path.relative_to(run / name): path.read_bytes() for path in (run / name).rglob("*.*")} == files


def resumed(folder: Path, flags: Flags, *more: str) -> list[str]:
    arguments = flags(folder)
    cache = arguments[arguments.index("--cache-dir") + 1]
    return ["run", "--resume", str(folder), "--cache-dir", cache, *more]


def test_it_ends_with_what_was_asked_for_and_what_was_measured(
    run: Path, flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    def times() -> dict[Path, int]:
        folders = ("candidates", "classifier", "export")
        return {path: path.stat().st_mtime_ns for name in folders for path in (run / name).rglob("*.*")}

    before = times()
    assert main(resumed(run, flags)) == 0
    assert times() == before
    printed = " ".join(capsys.readouterr().out.split())
    for told in (f"going on with {run}: task ", "search: done before", "candidate 1: done before"):
        assert told in printed
    summary = read(run / "summary.json")
    assert (summary["best"], summary["keeps_limits"]) == ("1", True)
    assert summary["limits"]["size_mb"] == 10
    (student,) = summary["students"]
    files = {name: run / place for name, place in student["files"].items()}
    served = files["export"] / "onnx" / "model_quantized.onnx"
    lines = {(line["limit"], line["split"]): line for line in student["lines"]}
    assert [*lines] == [
        *(("speedup", None), ("latency_ms", None), ("size_mb", None), ("parameters", None)),
        *(("keep", "validation"), ("keep", "test")),
    ]
    assert {limit: line["kept"] for (limit, split), line in lines.items() if split != "validation"} == {
        **{"speedup": True, "size_mb": True, "keep": True},
        **{"latency_ms": None, "parameters": None},
    }
    assert lines["size_mb", None]["measured"] == served.stat().st_size / 1e6
    share = lines["keep", "test"]
    assert share["low"] <= share["measured"] <= share["high"]
    assert student["kept"] == share["measured"]
    assert [line["chooses"] for line in student["lines"]] == [True] * 5 + [False]
    for shown in (
        "at least 0.2x",
        "at most 10 MB",
        "teacher's score kept, test",
        f"score of the teacher, test {100 * student['measured']['scored'][0]['teacher_score']:.1f}%",
        "majority class, test",
        f"export: {run / 'export'}",
        f"classifier: {run / 'classifier'}",
    ):
        assert shown in printed
    # The text contains all 24 validation and test texts of the task. They are left out.
    assert read(run / "search" / "run.json")["corpus"]["dropped_without"] == 24
    lineage = read(files["student"] / "kdnas.json")
    assert lineage["corpus"]["without"] == str(run / "search" / "evaluated.jsonl")
    assert summary["products"] == {"classifier": "classifier", "export": "export"}
    assert_placed(run, student)
    assert (run / "candidates.png").stat().st_size > 0
    assert f"kdnas run --resume {run} [--candidates N]" in (run / "README.md").read_text()
    assert "teacher.name" in read(files["export"] / "task.json")["places"]  # to find the teacher from other folders
    card = (files["export"] / "README.md").read_text()
    assert "Asked for and measured" in card
    assert "| speed-up | at least 0.2x |" in card
    assert "| score of the student, test |" in card
    assert "Size, speed and score of onnx/model_quantized.onnx" in card


@pytest.mark.usefixtures("blank_pictures")
def test_a_teacher_that_hardly_beats_the_majority_class_is_told(
    run: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    measured = read(folder / "candidates" / "1" / "measured.json")
    measured["standings"] = [{**one, "teacher": [0.6, 0.4, 0.7], "constant": 0.5} for one in measured["standings"]]
    (folder / "candidates" / "1" / "measured.json").write_text(json.dumps(measured))
    assert main(resumed(folder, flags)) == 0
    told = "the teacher hardly beats the majority class (validation: 60.0%, 95 % interval 40.0% - 70.0%, beside 50.0%; "
    assert told in capsys.readouterr().out
    assert read(folder / "summary.json")["warning"].startswith(told)
    assert told in (folder / "report.html").read_text()


def test_its_page_says_what_was_asked_for_and_what_was_measured(run: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    def cells(table: str) -> list[list[str]]:
        rows = browser.find_elements(By.CSS_SELECTOR, f"[data-table={table}] tbody tr")
        return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "td")] for row in rows]

    browser.get((run / "report.html").as_uri())
    (student,) = read(run / "summary.json")["students"]
    lines = {row[2]: row[3:] for row in cells("limits")}
    assert lines["speed-up"][0] == "at least 0.2x"
    assert {name for name, (_, _, _, kept) in lines.items() if kept == "yes"} == {
        *("speed-up", "size of the file", "teacher's score kept, validation", "teacher's score kept, test"),
    }
    assert [row[1] for row in cells("scores")] == ["validation", "test"]
    sizes = {row[0]: float(row[1]) for row in cells("files")}
    served = sizes["candidates/1/export/onnx/model_quantized.onnx"]
    assert served == pytest.approx(student["measured"]["size_mb"], rel=0.01)
    browser.find_elements(By.CSS_SELECTOR, "#tasks button")[1].click()
    assert len(cells("students")) == 2
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_is_a_record_in_python(run: Path) -> None:
    done = kdnas_env.run(resume=run)
    assert done.keeps_limits
    answers = pipeline("text-classification", model=str(done.products["classifier"]))("this film surprises critics .")
    assert answers[0]["label"] in ("true", "false")
    assert done.best is not None
    assert done.best.measured.speedups
    (row,) = done.table()
    assert row["speedup"] == done.best.measured.speedup
    assert not any(isinstance(value, list | dict) for value in row.values())
    assert done.plot().axes
    assert len(repr(done)) < 3000


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_that_was_moved_names_its_new_folder_once_it_goes_on(run: Path, flags: Flags, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    assert main(resumed(moved, flags)) == 0
    assert f"kdnas run --resume {moved} [" in (moved / "README.md").read_text()
    assert f"kdnas search --resume {moved / 'search'}\n" in (moved / "search" / "README.md").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_the_search_may_go_by_the_task_and_the_teacher_be_of_any_type(flags: Flags, tmp_path: Path) -> None:
    """The teacher has no padding token, pads on the left, and has no layers that a student could copy."""
    teacher, folder = save_tiny_encoder(tmp_path / "teacher", "modernbert", num_hidden_layers=1), tmp_path / "run"
    changes = {"teacher": str(teacher), "speedup": "0.1", "search__reward__quality": "task"}
    assert main(flags(folder, **changes)) == 0
    searched = read(folder / "search" / "results.json")
    assert searched["quality"] == "task"
    assert all(row["loss"] == row["task_unexplained"] > 0 for row in searched["students"])
    (student,) = read(folder / "summary.json")["students"]
    assert student["student"]["family"] == "bert"
    files = {name: folder / place for name, place in student["files"].items()}
    assert (files["export"] / "onnx" / "model_quantized.onnx").stat().st_size == student["measured"]["size_mb"] * 1e6
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (files["classifier"], teacher))
    assert ours(tiny_texts()[:5])["input_ids"] == theirs(tiny_texts()[:5])["input_ids"]


def test_quality_on_a_task_needs_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = "--search.reward.quality is task, but there is no task to measure it on; name it with --task"
    assert message in complaint(["run", "--search.reward.quality", "task", "--out", str(tmp_path / "other")], capsys)
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("blank_pictures")
def test_a_student_that_breaks_a_limit_gives_way(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search estimates the size without the graph, which is most of such a small file."""
    folder = tmp_path / "run"
    assert main(flags(folder, format="float32", max_mb="0.03", candidates="1")) == 1
    printed = capsys.readouterr().out
    assert "no classifier keeps all limits; of 1 candidate(s) the nearest is 1" in printed
    assert main(resumed(folder, flags, "--candidates", "2")) == 1
    assert "of 2 candidate(s) the nearest is" in capsys.readouterr().out
    summary = read(folder / "summary.json")
    assert not summary["keeps_limits"]
    assert [student["name"] for student in summary["students"]] == ["1", "2"]
    for student in summary["students"]:
        (size,) = [line for line in student["lines"] if line["limit"] == "size_mb"]
        assert size["kept"] is False
    sizes = [student["measured"]["size_mb"] for student in summary["students"]]
    assert summary["best"] == str(1 + sizes.index(min(sizes)))
    assert_placed(folder, summary["students"][sizes.index(min(sizes))])
    # Measured candidates count even if fewer are requested later.
    assert main(resumed(folder, flags, "--candidates", "1")) == 1
    assert read(folder / "summary.json") == summary


@pytest.mark.usefixtures("blank_pictures")
def test_no_student_of_the_search_keeps_the_limits(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tmp_path / "run", speedup="900")) == 1
    printed = capsys.readouterr().out
    assert "no student of the search keeps the limits" in printed
    first, _, then = printed.partition("task teacher (1 of 6)")
    assert re.search(r"labelling \d+ texts of ", then.partition("search (2 of 6)")[0])
    for told in (
        "possible students",
        "my.csv, text 'text', label 'label'",
        "classification, 2 classes (samples to train on): 'false' (",
        "train 96 (the rest), validation 12 (drawn, seed 0), test 12 (drawn, seed 0), which is scored",
        "left out: nothing",
        " texts of the task and duplicates left out",
        "students are timed in analytic, 1 x 50 tokens a pass, 1 thread(s)",
        "limits: speed-up at least 900x, size of the file at most 10 MB (int8), teacher's score kept at least 20.0%",
    ):
        assert told in first
    summary = read(tmp_path / "run" / "summary.json")
    assert (summary["best"], summary["students"]) == (None, [])


def test_what_chooses(tmp_path: Path) -> None:
    def candidate(place: int, *lines: Line) -> Candidate:
        nothing: Any = None
        return Candidate(place, tmp_path, nothing, 1, 1.0, 1.0, 0.1, nothing, lines, "classifier")

    slow = candidate(1, Line("speedup", 8.0, 4.0))
    nearer = candidate(2, Line("speedup", 8.0, 7.9), Line("keep", 0.9, 0.5, split="test", chooses=False))
    good = candidate(3, Line("speedup", 8.0, 8.0), Line("keep", 0.9, 0.5, split="test", chooses=False))
    assert best_candidate([]) is None
    assert best_candidate([slow, nearer]) is nearer
    assert best_candidate([slow, nearer, good]) is good
    assert Line("latency_ms", 2.0, 3.0).excess == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "nowhere.csv"}, "'nowhere.csv' does not exist"),
        ({"task.label-column": "mood"}, "has no column 'mood'; its columns are"),
        ({"task.text-columns": "mood"}, "task '{task}' has no column 'mood'; its columns are ['text', 'label']"),
        ({"task.text-columns": "label"}, "column 'label' is both text and label"),
        ({"family": "all"}, "--family has no effect with --task"),
        ({"score.seeds": "3"}, "--score.seeds has no effect with --task"),
        ({"candidates": "0"}, "--candidates is 0"),
        ({"keep": "1.5"}, "--keep is 1.5"),
        (
            {"max_mb": "0.001"},
            "--max-mb is 0.001, but the smallest students of the space have 0.00506 MB in int8",
        ),
        ({"parameters": "500"}, "--parameters is 500, but the smallest students of the space have "),
    ],
)
def test_what_is_refused_before_anything_is_made(
    flags: Flags, tmp_path: Path, changes: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(tmp_path / "run", **changes)
    told = complaint(arguments, capsys)
    assert message.format(task=arguments[arguments.index("--task") + 1]) in told
    assert "corpus" not in told
    assert not (tmp_path / "run").exists()


def test_candidates_are_those_of_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--candidates has no effect without a task" in complaint(["run", "--candidates", "2"], capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_a_killed_run_goes_on_to_the_same_end(
    run: Path, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is killed at fixed moments, not random ones: in the search, both trainings, and the export."""
    folder = tmp_path / "run"
    arguments = flags(folder)
    for pattern in (
        "search/evaluations.sqlite",
        "candidates/1/distill/*/checkpoints/checkpoint-*",
        "candidates/1/distill/*/classifier-checkpoints/*/*/checkpoint-*",
        "candidates/1/.export*",
        "candidates/1/export",
    ):
        process = Started(command_with_shared_graphs, arguments)
        deadline = time.monotonic() + 240
        while process.poll() is None and not list(folder.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        output = process.read(timeout=60)
        assert process.returncode == -signal.SIGKILL, output
        arguments = resumed(folder, flags)
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"{step}: done before" in printed for step in ("search", "distil", "classifier"))
    files = [path.relative_to(run) for path in run.rglob("*") if path.name == "model.safetensors"]
    files += [path.relative_to(run) for path in run.rglob("*.onnx")]
    assert len(files) == 10
    for file in files:
        assert (folder / file).read_bytes() == (run / file).read_bytes(), file
    assert not [*(folder / "candidates" / "1").glob(".*"), *folder.glob(".classifier*"), *folder.glob(".export*")]
    ours, theirs = (read(path / "summary.json")["students"][0] for path in (folder, run))
    for name in ("student", "reward", "unexplained", "score", "kept"):
        assert ours[name] == theirs[name]
