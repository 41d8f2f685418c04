"""What other commands take from a finished search: its recipe, and its teacher and text if they are unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_tasks
from safetensors.torch import load_file, save_file

from kdnas_env.cli import main
from kdnas_env.distillation.training.recipe import full_recipe
from kdnas_env.pipeline.distill.options import DistillOptions, TextOptions
from kdnas_env.pipeline.distill.text import corpus_options
from kdnas_env.pipeline.options import CorpusOptions
from kdnas_env.pipeline.search.options import SearchOptions

pytestmark = pytest.mark.usefixtures("blank_pictures")

SPACE = {"num_hidden_layers": [1, 2], "num_attention_heads": [2], "hidden_size": [16], "intermediate_size": [32, 64]}


@pytest.mark.parametrize("recipe", ["default", "seed"])
def test_the_learning_rate_grows_with_batches_up_to_a_size(recipe: str) -> None:
    rates = [full_recipe(recipe, batch).learning_rate for batch in (8, 16, 32, 64, 128)]
    assert rates[2] == pytest.approx(2 * rates[0])
    assert rates[1] == pytest.approx(2**0.5 * rates[0])
    assert rates[2] == rates[3] == rates[4]
    assert full_recipe(recipe, 128, learning_rate=0.01).learning_rate == 0.01


def test_how_text_is_laid_out_goes_from_the_search_to_the_distillation() -> None:
    search = SearchOptions(corpus=CorpusOptions("c.csv", separator=";", header=False))
    corpus = search.settings.mini_kd.corpus
    assert isinstance(corpus, dict)
    assert corpus["separator"] == ";"
    text = corpus_options(DistillOptions(run="run"), search)
    assert (text["source"], text["separator"], text["header"], text["encoding"]) == ("c.csv", ";", False, None)
    other = corpus_options(DistillOptions(run="run", corpus=TextOptions("d.txt", unit="file")), search)
    assert (other["source"], other["separator"], other["unit"]) == ("d.txt", None, "file")


def test_what_a_search_reads_is_recorded_as_before_where_nothing_is_said_of_its_layout() -> None:
    corpus = SearchOptions().settings.mini_kd.corpus
    assert corpus == {
        "source": "demo",
        "split": "train",
        "max_length": 50,
        "proxy_fraction": 0.3,
        "heldout_fraction": 0.1,
        "seed": 0,
    }


@pytest.fixture(scope="module")
def searched(
    tiny_teacher_dirs: dict[str, Path],
    tiny_corpus_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    finish_search: Callable[..., Path],
) -> Path:
    """A folder with a teacher, a text and a finished search that used both. Do not write into it."""
    root = tmp_path_factory.mktemp("searched")
    shutil.copytree(tiny_teacher_dirs["bert"], root / "teacher")
    shutil.copy(tiny_corpus_file, root / "text.jsonl")
    changes = {"teacher": root / "teacher", "corpus.source": root / "text.jsonl"}
    finish_search(root, SPACE, agent="exhaustive", budget=4, **changes)
    return root


@pytest.fixture(scope="module")
def relative(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a teacher, a text, a space and a finished search that named them by relative paths."""
    root = tmp_path_factory.mktemp("relative")
    shutil.copytree(tiny_teacher_dirs["bert"], root / "teacher")
    shutil.copy(tiny_corpus_file, root / "text")
    (root / "text").rename(root / "text.jsonl")
    (root / "space.json").write_text(json.dumps(SPACE))
    names = (
        "--teacher teacher --corpus.source text.jsonl --space.file space.json --agent exhaustive --budget 2 --speedup 0"
    )
    effort = "--latency.runtime analytic --threads 1 --device cpu --cache-dir cache --out runs/run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["search", *names.split(), *effort.split()]) == 0
    return root


@pytest.fixture
def tree(searched: Path) -> Any:
    """The folder of ``searched``, to write into: changes are undone after the test."""
    kept = {path: path.read_bytes() for path in searched.rglob("*") if path.is_file() and "cache" not in path.parts}
    yield searched
    for path in searched.rglob("*"):
        if path.is_file() and "cache" not in path.parts and path not in kept:
            path.unlink()
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def train_further(teacher: Path) -> None:
    """Give a teacher other weights under the same name."""
    tensors = load_file(teacher / "model.safetensors")
    save_file({name: 1.5 * one for name, one in tensors.items()}, teacher / "model.safetensors", {"format": "pt"})


def rewrite(text: Path) -> None:
    """Change one sentence of a text."""
    lines = text.read_text().splitlines()
    text.write_text("\n".join([json.dumps({"text": "the music sometimes bores the actor ."}), *lines[1:]]) + "\n")


def distillation(tree: Path, out: Path, **changes: Any) -> list[str]:
    values = {"max-steps": 2, "batch-size": 8, "threads": 1, "cache-dir": tree / "cache", "out": out, **changes}
    flat = (part for name, value in values.items() for part in (f"--{name}", str(value)))
    return ["distill", str(tree / "run"), *flat]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_another_teacher_under_the_same_name_is_not_distilled_from(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tree / "run" / "run.json").read_bytes()
    train_further(tree / "teacher")
    assert main(distillation(tree, tmp_path / "distill")) == 2
    assert "cannot be built on: the teacher is not what it was when the run was started" in said(capsys)
    assert not (tmp_path / "distill").exists()
    assert (tree / "run" / "run.json").read_bytes() == before


def test_another_text_under_the_same_name_is_not_distilled_on(
    tree: Path, tiny_corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(tree / "text.jsonl")
    assert main(distillation(tree, tmp_path / "distill")) == 2
    assert "the corpus is not what it was when the run was started" in said(capsys)
    assert not (tmp_path / "distill").exists()
    # Another text may be named. But a student that the search did not save is first distilled on the search text.
    other = {"corpus.source": tiny_corpus_file}
    assert main(distillation(tree, tmp_path / "other", **other)) == 0
    student = {"students": "bert 1L/16h/2a/48f/gelu"}
    assert main(distillation(tree, tmp_path / "another", **other, **student)) == 2
    assert "the corpus is not what it was" in said(capsys)


def test_a_distillation_does_not_go_on_with_another_text(
    tree: Path, tiny_corpus_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    shutil.copy(tiny_corpus_file, other)
    arguments = distillation(tree, tmp_path / "distill", **{"corpus.source": other})
    assert main(arguments) == 0
    shutil.rmtree(tmp_path / "distill" / "best")
    rewrite(other)
    assert main(arguments) == 2
    assert f"the run '{tmp_path / 'distill'}' cannot be resumed: the corpus is not what it was" in said(capsys)
    assert json.loads((tmp_path / "distill" / "run.json").read_text())["state"] == "finished"


def test_what_another_search_distilled_is_not_taken_for_ones_own(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(distillation(tree, tmp_path / "distill")) == 0
    results = json.loads((tree / "run" / "results.json").read_text())
    for row in results["students"]:
        row["reward"] = -row["reward"]
    (tree / "run" / "results.json").write_text(json.dumps(results))
    assert main(distillation(tree, tmp_path / "distill")) == 2
    assert f"'{tmp_path / 'distill' / 'best'}' holds bert" in said(capsys)


def test_a_student_is_not_scored_beside_another_teacher_under_the_same_name(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = small_tasks.write_original_layout(tmp_path / "glue")
    command = ["score", str(tree / "run" / "student"), "--data", str(data), "--tasks", "rte", "--seeds", "1"]
    command += ["--no-finetune", "--device", "cpu", "--cache-dir", str(tree / "cache"), "--out", str(tmp_path / "out")]
    train_further(tree / "teacher")
    assert main([*command, "--rows", "teacher", "student"]) == 2
    assert "is not what it was when the student was distilled" in said(capsys)
    assert not (tmp_path / "out").exists()
    assert main([*command, "--rows", "student"]) == 0


def study(tree: Path, tmp_path: Path) -> list[str]:
    data = small_tasks.write_original_layout(tmp_path / "glue")
    values: dict[str, Any] = {
        "students": 4,
        "repeated": 0,
        "short-seeds": 1,
        "epochs": 1,
        "batch-size": 8,
        "text.max-length": 40,
    }
    values |= {"tasks": "rte", "data": data, "threads": 1, "cache-dir": tree / "cache", "out": tmp_path / "study"}
    flat = (str(part) for name, value in values.items() for part in (f"--{name}", value))
    return ["study", "proxy", str(tree / "run"), *flat]


def test_a_study_is_not_made_on_another_text(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(tree / "text.jsonl")
    assert main(study(tree, tmp_path)) == 2
    assert "the corpus is not what it was" in said(capsys)
    assert not (tmp_path / "study").exists()


def test_relative_names_are_found_again_from_elsewhere(
    relative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(relative, moved)
    data = small_tasks.write_original_layout(tmp_path / "glue")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_hub)
    monkeypatch.setattr("kdnas_env.tasks.probing.INVERSE_PENALTIES", (1.0,))  # to fit fewer probes
    for root in (relative, moved):
        monkeypatch.chdir(tmp_path)
        resume = ["search", "--resume", str(root / "runs" / "run"), "--cache-dir", str(root / "cache")]
        assert main(resume) == 0
        monkeypatch.chdir(root)
        # Other paths to the same files are accepted.
        assert main([*resume, "--teacher", "teacher", "--corpus.source", "./text.jsonl"]) == 0
        assert main([*resume, "--teacher", "text.jsonl"]) == 2
        assert "--teacher is 'text.jsonl', the run has 'teacher'" in said(capsys)
        monkeypatch.chdir(tmp_path)
        distill = ["distill", str(root / "runs" / "run"), "--max-steps", "2", "--batch-size", "8", "--threads", "1"]
        assert main([*distill, "--cache-dir", str(root / "cache"), "--out", str(root / "runs" / "distilled")]) == 0
        student = root / "runs" / "distilled" / "best" / "student"
        score = ["score", str(student), "--data", str(data), "--tasks", "rte", "--seeds", "1", "--no-finetune"]
        score += ["--latency.runtime", "analytic", "--device", "cpu", "--cache-dir", str(root / "cache")]
        score += ["--out", str(tmp_path / f"{root.name}-scores")]
        assert main([*score, "--rows", "teacher", "student", "closed-forms"]) == 0
    (relative / "teacher").rename(relative / "was-teacher")
    shutil.rmtree(moved / "teacher")
    assert main([*distill, "--out", str(tmp_path / "none")]) == 2
    assert f"unknown teacher '{relative / 'teacher'}': there is no such folder" in said(capsys)


def _no_hub(*arguments: Any, **options: Any) -> None:
    raise AssertionError("a folder was looked for on the hub")
