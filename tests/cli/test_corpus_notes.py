"""Notes on the text that a command read: rows left out, truncated texts and unknown tokens are reported."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_teachers
from progress_log import ProgressLog

from kdnas_env.cli import main
from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.flags import FlagProgress
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.pipeline.work import StageProgress

pytestmark = pytest.mark.usefixtures("blank_pictures")

Flags = Callable[..., list[str]]


def test_searches_and_distillations_say_what_became_of_the_text(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tiny_teachers.sentences()
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in [*texts, "", " ", texts[0]]))
    more = flags(corpus__source=text, budget=1, round_size=1)
    assert main([*more, "--corpus.max-length", "8", "--corpus.proxy-fraction", "1"]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "run.json").read_text())["corpus"]
    dropped = report["dropped_empty"] + report["dropped_duplicate"]
    assert report["truncated"]
    longer = -(-report["whole_length"] // 8) * 8
    cut = f"text: {report['truncated']} of {report['kept']} texts were cut to 8 tokens"
    assert f"{cut}; with --corpus.max-length {longer}, 99% of the texts are not cut" in said
    assert f"text: {dropped} of {len(texts) + 3} rows were left out: 2 empty, {dropped - 2} duplicate" in said
    assert f"text {text}, column text: {report['kept']} samples of {len(texts) + 3} rows" in said
    assert said.index("of the tokens unknown") < said.index("searching"), "it is said before the search"
    distil = ["distill", str(tmp_path / "run"), "--epochs", "1", "--corpus.pair-fraction", "0", "--threads", "1"]
    assert main([*distil, "--corpus.max-length", "9", "--cache-dir", str(tmp_path / "cache")]) == 0
    assert f"texts were cut to 9 tokens; with --corpus.max-length {longer}" in capsys.readouterr().out


def test_unknown_text_is_said(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"the actor {chr(0x4E00 + number)}\n" for number in range(200)))
    assert main(flags(corpus__source=text, budget=1, round_size=1)) == 0
    said = capsys.readouterr().out
    assert "text: 20% of the tokens are unknown: the teacher's tokenizer has no tokens for their text" in said
    assert "20.0% of the tokens unknown, 0 duplicates left out" in said


def test_a_text_that_is_too_small_to_rely_on_is_told(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(tiny_teachers.sentences()[:60]))
    more = flags(corpus__source=text, budget=2, round_size=2, recipe="seed", epochs=1)
    assert main([*more, "--corpus.proxy-fraction", "1"]) == 0
    said = capsys.readouterr().out
    assert "text: only 6 texts are held out, too few to rely on the loss; give more text" in said
    students = json.loads((tmp_path / "run" / "results.json").read_text())["students"]
    harmed = sum(row["heldout_unexplained"][-1] > row["heldout_unexplained"][0] for row in students)
    assert ("have a higher loss after training than before" in said) == (harmed > 0)


def test_nothing_is_to_be_changed_of_a_text_that_is_taken_as_it_is(
    flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(budget=1, round_size=1)) == 0
    said = capsys.readouterr().out
    assert "0.0% cut to 50 tokens, 0.0% of the tokens unknown" in said
    assert not any(line.startswith("text: ") for line in said.splitlines())


def test_a_stage_of_a_run_names_its_own_options() -> None:
    log = ProgressLog()
    progress = StageProgress(log, "search")
    progress.say("text: with `corpus.max_length=64` more, see `kdnas_env.search(resume='x')` and `seed`")
    assert log.said == ["text: with `search.corpus.max_length=64` more, see `kdnas_env.search(resume='x')` and `seed`"]
    file = io.StringIO()
    FlagProgress(SafeConsole(file=file, width=200), PipelineOptions()).say(log.said[0])
    assert file.getvalue() == "text: with --search.corpus.max-length 64 more, see kdnas search --resume x and --seed\n"
