"""Bad input: one clear line, exit status 2, and no incomplete output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import complaint

from kdnas_env.cli import main
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.searching.recorded import RecordedOptions

pytestmark = pytest.mark.usefixtures("blank_pictures")

Flags = Callable[..., list[str]]


def space(tmp_path: Path, **choices: Any) -> Path:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(choices))
    return path


def test_unknown_teacher(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(flags(teacher=tmp_path / "nobody"), capsys)
    assert "unknown teacher" in said
    assert "nobody" in said
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_teach(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import BartConfig

    BartConfig(encoder_layers=2, decoder_layers=2, d_model=32).save_pretrained(tmp_path / "bart")
    said = complaint(flags(teacher=tmp_path / "bart"), capsys)
    assert "'bart'" in said
    assert "encoder and decoder" in said
    assert "choose" in said


def test_student_deeper_than_the_teacher(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(flags(space__file=space(tmp_path, num_hidden_layers=[4, 5])), capsys)
    assert "4 layers, more than the teacher's 3" in said


def test_heads_that_do_not_divide(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(flags(space__file=space(tmp_path, num_attention_heads=[3, 5])), capsys)
    assert "3 heads do not divide hidden_size 32" in said


def test_a_space_of_one_point(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to search" in complaint(flags(space__file=space(tmp_path, num_hidden_layers=2)), capsys)


def test_no_budget(flags: Flags, capsys: pytest.CaptureFixture[str]) -> None:
    assert "budget is 0; expected a whole number of students, at least 1" in complaint(flags(budget=0), capsys)


def test_short_corpus(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "short.txt"
    text.write_text("the actor never bores\nthe music surprises critics\n")
    said = complaint(flags(corpus__source=text), capsys)
    assert "shorter than one batch" in said
    assert "2 usable samples" in said
    assert "of column 'text'" in said


def test_a_corpus_without_text(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "nested.jsonl"
    rows.write_text("".join(f'{{"review": {{"body": "the actor number {n}", "stars": {n}}}}}\n' for n in range(60)))
    said = complaint(flags(corpus__source=rows, corpus__text_columns="review"), capsys)
    assert "hardly any text in column 'review': 60 of 60 rows" in said
    assert "with --corpus.text-columns, a nested field as 'outer.inner'" in said


@pytest.mark.parametrize("again", [["--agent-settings", "epochs=3"], ["--agent_settings=epochs=3"]])
def test_a_list_that_is_given_twice(
    again: list[str], flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint([*flags(seed=2, agent_settings="hidden_size=8"), *again], capsys)
    assert "--agent-settings is given twice; give it once, with its values one after the other" in said
    assert not (tmp_path / "run").exists()


def test_unwritable_run_folder(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = complaint(flags(out=tmp_path / "file" / "run"), capsys)
    assert "cannot be made" in said
    assert "--out" in said


def test_a_folder_that_holds_something(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    assert "not empty" in complaint(flags(), capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_resume_of_what_is_no_run(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not the folder of a run" in complaint(["search", "--resume", str(tmp_path)], capsys)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, small_space: dict[str, list[Any]], finish_search: Callable[..., Path]
) -> Path:
    """A finished search."""
    return finish_search(tmp_path_factory.mktemp("finished"), small_space, budget=2, round_size=1)


def test_resume_with_other_settings(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "results.json").read_bytes()
    resume = ["search", "--resume", str(finished), "--budget", "3", "--latency.threads", "2"]
    said = complaint(resume, capsys)
    assert "--budget is 3, the run has 2" in said
    assert "--latency.threads is 2, the run has 1" in said
    assert (finished / "results.json").read_bytes() == before


def test_resume_with_another_corpus_under_the_same_name(
    flags: Flags, tmp_path: Path, tiny_corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(tiny_corpus_file.read_text())
    assert main(flags(budget=2, round_size=1, corpus__source=corpus)) == 0
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[5:]))
    capsys.readouterr()
    said = complaint(["search", "--resume", str(tmp_path / "run"), "--cache-dir", str(tmp_path / "cache")], capsys)
    assert "the corpus and the workload are not what they were" in said


def test_two_processes_in_one_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    with FileLock(finished / ".lock"):
        assert "another process works on the run" in complaint(["search", "--resume", str(finished)], capsys)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"agent": "oracle"}, "unknown agent 'oracle'"),
        ({"recipe": "nouvelle"}, "unknown recipe 'nouvelle'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"data_fraction": 0}, "--data-fraction is 0"),
        ({"latency.runtime": "stopwatch"}, "unknown runtime 'stopwatch'"),
        ({"latency.sequence_length": 500}, "500"),
        ({"reward.alpha": 1.0}, "alpha is 1.0"),
        ({"device": "abacus"}, "abacus"),
        ({"threads": 0}, "threads is 0"),
        ({"agent-settings": "learning_rate=nan"}, "learning_rate is 'nan'; expected a finite number"),
        ({"agent-settings": "learning_rate=fast"}, "learning_rate is 'fast'; expected a finite number"),
        ({"agent-settings": "learning_rate 1e-3"}, "'learning_rate 1e-3' is not a setting; write it as NAME=VALUE"),
        ({"agent": "optuna", "agent-settings": "n_startup_trials=5"}, "'n_startup_trials'"),
    ],
)
def test_other_bad_values(
    flags: Flags, tmp_path: Path, changes: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complaint(flags(**changes), capsys)
    assert not (tmp_path / "run").exists()


def recorded(tmp_path: Path, options: RecordedOptions, **changes: Any) -> list[str]:
    run = tmp_path / "recorded"
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text(json.dumps({"command": options.COMMAND, **options.to_dict(), **changes}))
    return [options.COMMAND, "--resume", str(run)]


@pytest.mark.parametrize(
    ("options", "changes", "expected"),
    [
        (SearchOptions(), {"out": "/elsewhere"}, "contain ['out'], which are never recorded"),
        (SearchOptions(), {"cache_dir": "/elsewhere"}, "contain ['cache_dir']"),
        (PipelineOptions(), {"search": {"resume": "/elsewhere"}}, "contain ['search.resume']"),
        (PipelineOptions(), {"export": {"push": "somebody/else", "public": True}}, "'export.push', 'export.public'"),
        (SearchOptions(), {"teacher": 3}, "teacher is 3; expected a text"),
        (SearchOptions(), {"budget": "many"}, "budget is 'many'; expected a whole number"),
        (SearchOptions(), {"corpus": []}, "corpus is []; expected a mapping"),
        (SearchOptions(), {"latency": {"threads": 1.5}}, "threads is 1.5"),
        (SearchOptions(), {"nonsense": 1}, "unknown field(s) ['nonsense']"),
        (PipelineOptions(), {"stages": ["search", "rm"]}, "stages is ['search', 'rm']; expected one of"),
    ],
)
def test_options_that_were_never_recorded_are_refused(
    options: RecordedOptions,
    changes: dict[str, Any],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert expected in complaint(recorded(tmp_path, options, **changes), capsys)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"command": []}'])
def test_options_that_are_damaged(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = recorded(tmp_path, SearchOptions())
    (tmp_path / "recorded" / "config.json").write_text(text)
    assert "error:" in complaint(arguments, capsys)


@pytest.mark.parametrize("name", ["evaluations.sqlite", "checkpoints", "run.json", ".lock", "deep/link"])
def test_a_run_does_not_reach_out_of_its_folder(
    name: str, tmp_path: Path, tiny_teacher_dirs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = recorded(tmp_path, SearchOptions(teacher=str(tiny_teacher_dirs["bert"])))
    (tmp_path / "precious").write_text("thesis")
    link = tmp_path / "recorded" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "precious")
    assert "leads out of the folder" in complaint(arguments, capsys)
    assert (tmp_path / "precious").read_text() == "thesis"


@pytest.mark.parametrize("results", ["{}", '{"students": 3}', '{"students": [{"status": "ok"}]}', "[" * 100_000])
def test_damaged_results_are_told(results: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path, SearchOptions())
    (tmp_path / "recorded" / "run.json").write_text('{"state": "finished"}')
    (tmp_path / "recorded" / "results.json").write_text(results)
    assert "results.json" in complaint(["distill", str(tmp_path / "recorded")], capsys)


@pytest.mark.parametrize("name", ["a" * 5000, "\x00", "~nobody-at-all/x", "\udcff", "[/bold]"])
@pytest.mark.parametrize("command", [["table", "inspect"], ["table", "verify"], ["bench", "verify"], ["export"]])
def test_names_that_no_file_can_have(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "error:" in complaint([*command, name], capsys)
