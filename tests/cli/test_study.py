"""A small study of the proxy from the command line: what it judges, finds and stores."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import tiny_teachers
from complaints import complaint
from printed import with_output

from kdnas_env.cli import main
from kdnas_env.pipeline.study import StudyOptions
from kdnas_env.pipeline.study import study as compare
from kdnas_env.searching.run_folder import recorded_options
from kdnas_env.studies.texts import JUDGING, TRAINING, read_texts
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.specs import TASKS

Flags = Callable[..., list[str]]

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, finish_search: Callable[..., Path]) -> Path:
    space = {"num_hidden_layers": [1, 2, 3], "hidden_size": [16, 24, 32], "intermediate_size": [16, 64]}
    return finish_search(tmp_path_factory.mktemp("study"), space, agent="random", budget=2)


@pytest.fixture(scope="module")
def study_flags(run: Path, tiny_corpus_file: Path) -> Flags:
    data = small_tasks.write_hub_layout(run.parent / "glue")

    def make(**changes: Any) -> list[str]:
        values = {
            "students": 5,
            "repeated": 2,
            "epochs": 1,
            "batch-size": 8,
            "text.source": tiny_corpus_file,
            "text.max-samples": 60,
            "text.judged": 40,
            "text.max-length": 40,
            "tasks": "cola",
            "task-epochs": 1,
            "teacher-rates": 1,
            "data": data,
            "threads": 1,
            "cache-dir": run.parent / "cache",
            "out": run.parent / "study",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        given = {name: value for name, value in values.items() if value is not None}
        flat = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
        return ["study", "proxy", str(run), *flat]

    return make


@pytest.fixture
def flags(study_flags: Flags, tmp_path: Path) -> Flags:
    return functools.partial(study_flags, out=tmp_path / "study")


@pytest.fixture(scope="module")
def study(study_flags: Flags, run: Path) -> tuple[Path, str]:
    """The folder of a finished study, and what was printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        status, printed = with_output(lambda: main(study_flags()))
    assert status == 0
    return run.parent / "study", printed


def test_a_study_judges_students_of_all_sizes_and_tells_what_agrees(study: tuple[Path, str]) -> None:
    folder, printed = study
    for expected in ("quality imitation", "quality task, cola", "parameter count", "agreement, cola", "between seeds"):
        assert expected in printed
    assert "\u2026" not in printed  # no interval is cut off
    assert len(list((folder / "judgements").glob("*-short-*.json"))) == 10
    assert len(list((folder / "judgements").glob("*-long-*.json"))) == 7
    assert not list((folder / "judgements").glob("*.checkpoints"))
    assert (folder / "proxy.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "results.json").read_text())
    assert len(results["students"]) == 5
    assert results["failed"] == 0
    agreements = {(row["proxy"], row["target"]): row for row in results["agreements"]}
    # Short and long training agree on students that differ this much in width and depth.
    both = agreements["imitation", "long"]
    assert both["tau"]["value"] > 0.5
    assert both["at_equal_size"]["count"] == 5
    assert both["regrets"]["5"] <= both["regrets"]["1"]
    assert {target for _, target in agreements} == {"long", "divergence:cola", "agreement:cola", "score:cola"}
    assert results["ceilings"]["imitation"]["value"] > 0.5
    assert 0 < results["noise"]["long"] < 0.1
    assert results["seconds"].keys() == {"imitation", "task:cola"}


def test_no_text_is_both_trained_and_judged_on_or_in_a_task(study: tuple[Path, str], run: Path) -> None:
    training, judging = (read_texts(study[0] / name)[0] for name in (TRAINING, JUDGING))
    assert (len(training), len(judging)) == (60, 40)
    data = load_task("cola", run.parent / "glue")
    labelled = [text.strip().lower() for split in (data.train, *data.evaluation.values()) for text in split.texts[0]]
    texts = [text.strip().lower() for text in (*training, *judging)]
    assert len({*texts}) == 100
    assert not {*texts} & {*labelled}


def test_a_finished_study_is_told_again_from_python(study: tuple[Path, str], run: Path) -> None:
    before = (study[0] / "results.json").read_bytes()
    options = recorded_options(study[0], StudyOptions)
    again = compare(replace(options, run=str(run), out=str(study[0])))
    assert len(again.table()) == 5
    assert {"hidden_size", "latency_ratio", "task:cola", "divergence:cola"} <= again.table()[0].keys()
    assert again.plot().axes
    assert (study[0] / "results.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_a_study_of_ones_own_task(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"review": text, "verdict": ("bad", "good")["critics" in text]} for text in tiny_teachers.sentences()[:60]]
    mine = small_tasks.write_rows(tmp_path / "mine.csv", rows)
    changes = {"tasks": mine, "data": None, "students": 4, "repeated": 0, "short_seeds": 1}
    own = {"task.text-columns": "review", "task.label-column": "verdict"}
    assert main(flags(**changes, **own)) == 0
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert results["tasks"] == ["mine"]
    assert "score:mine" in {row["target"] for row in results["agreements"]}
    assert "agreement, mine" in capsys.readouterr().out
    assert main(flags(**changes, **own)) == 0  # nothing is left to judge


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_what_was_judged_is_not_judged_again_and_workers_change_nothing(
    study: tuple[Path, str], flags: Flags, tmp_path: Path
) -> None:
    folder = shutil.copytree(study[0], tmp_path / "study")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "judgements").iterdir()}
    results = json.loads((folder / "results.json").read_text())
    some = sorted(before)[3:6]
    for name in some:
        (folder / "judgements" / name).unlink()
    assert main(flags(workers=2)) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "judgements").iterdir()}
    assert {name for name in before if after[name] != before[name]} == set(some)
    judged_again = json.loads((folder / "results.json").read_text())
    assert judged_again.pop("seconds").keys() == results.pop("seconds").keys()
    assert judged_again == results


def test_it_does_not_go_on_with_another_task_under_the_same_name(
    study: tuple[Path, str], flags: Flags, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(study[0], tmp_path / "study")
    next((folder / "judgements").glob("*.json")).unlink()
    [file] = (run.parent / "glue" / "cola").glob("validation-*")
    before = file.read_bytes()
    try:
        small_tasks.write_rows(file, small_tasks.rows(TASKS["cola"], "validation")[1:])
        assert main(flags()) == 2
    finally:
        file.write_bytes(before)
    assert "the task cola is not what it was" in " ".join(capsys.readouterr().err.split())
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "squad"}, "squad"),
        ({"students": 30}, "30 students are requested, but the space holds 18"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str, flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags(**changes)) == 2
    assert message in capsys.readouterr().err


def test_flags_out_of_range(flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--students is 3; expected a whole number, at least 4" in complaint(flags(students=3), capsys)
