from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import tiny_classifiers
import tiny_teachers
import torch
from tiny_teachers import FAMILIES, sentences

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.folder import Lineage, read_lineage
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.embedder import save_embedder
from kdnas_env.exporting.record import read_classifier_record, read_embedder_record
from kdnas_env.exporting.source import load_source
from kdnas_env.tasks.embedding import EmbeddingSettings, distil_embedder
from kdnas_env.tasks.own import OwnTask, load_own
from kdnas_env.tasks.own_heads import score_own_head
from kdnas_env.tasks.vectors import embedding_teacher, open_embedder, vectors


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(sentences()[:60]))
    return file


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_computes_what_it_did(
    tiny_teacher_dirs: dict[str, Path], texts: Path, tmp_path: Path, family: str
) -> None:
    done = kdnas_env.vocabulary(str(tiny_teacher_dirs[family]), corpus=str(texts), out=tmp_path / "cut")
    before, after = load_teacher(tiny_teacher_dirs[family]), load_teacher(done.path)
    assert done.tokens == len(after.tokenizer) < done.tokens_before == len(before.tokenizer)
    assert done.parameters < done.parameters_before
    assert done.text.unknown == 0
    for text in sentences()[:6]:
        expected, states = (
            teacher.hidden_states(**teacher.tokenizer(text, return_tensors="pt")) for teacher in (before, after)
        )
        torch.testing.assert_close(states, expected)


@pytest.mark.usefixtures("blank_pictures")
def test_a_search_among_its_students(tiny_teacher_dirs: dict[str, Path], texts: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("num_hidden_layers: [1, 2]\nhidden_size: [16]\nnum_attention_heads: [2]\nintermediate_size: [16]")
    cut = kdnas_env.vocabulary(str(tiny_teacher_dirs["bert"]), corpus=str(texts), out=tmp_path / "cut")

    def searched(teacher: Any, out: str) -> Any:
        run = kdnas_env.search(
            teacher=teacher,
            corpus={"source": str(texts), "proxy_fraction": 1.0},
            space={"file": str(space)},
            latency={"runtime": "analytic"},
            limits={"speedup": 0},
            budget=2,
            round_size=2,
            agent="random",
            data_fraction=1.0,
            out=str(tmp_path / out),
        )
        assert run.best is not None
        return run

    whole, smaller = searched(tiny_teacher_dirs["bert"], "whole"), searched(cut, "smaller")
    assert len(smaller.student().get_input_embeddings().weight) == cut.tokens
    saved = (cut.tokens_before - cut.tokens) * 16
    assert whole.best.evaluation.parameters - smaller.best.evaluation.parameters == saved


def test_a_finished_classifier_decides_as_before(texts: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_teachers.save_classifier(tmp_path / "classifier", ("bad", "good"))
    cut = kdnas_env.vocabulary(str(folder), corpus=str(texts), out=str(tmp_path / "cut"))
    assert cut.parameters < cut.parameters_before
    logits = []
    for place in (folder, cut.path):
        model, tokenizer = (kind.from_pretrained(place) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
        with torch.no_grad():
            logits.append(model.eval()(**tokenizer(sentences()[0], return_tensors="pt")).logits)
        assert model.config.id2label == {0: "bad", 1: "good"}
    torch.testing.assert_close(*logits)


def test_the_card_of_a_cut_classifier_has_its_score(
    tiny_teacher_dirs: dict[str, Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": text, "label": ("bad", "good")["critics" in text]} for text in sentences()[:120]]
    task = load_own(small_tasks.write_rows(tmp_path / "mine.csv", rows), OwnTask(test_fraction=0.3))
    made = tiny_classifiers.distil_classifier(tiny_teacher_dirs["bert"], task, tmp_path / "cache")
    made.save(tmp_path / "classifier")
    flags = ["vocabulary", "--teacher", str(tmp_path / "classifier"), "--corpus.source", str(texts), "--size", "110"]
    assert main([*flags, "--out", str(tmp_path / "cut")]) == 0
    record = read_classifier_record(tmp_path / "cut")
    assert record is not None
    assert record.score.score == score_own_head(load_teacher(tmp_path / "cut"), task).score
    assert record.score.intervals["test"]["accuracy"][0] <= record.score.score
    cut = json.loads((tmp_path / "cut" / "vocabulary.json").read_text())
    assert (cut["score"], cut["score_before"]) == (record.score.score, made.learnt.score.score)
    card = (tmp_path / "cut" / "README.md").read_text()
    for expected in (
        "## Scores",
        f"| test | accuracy | {record.score.score:.4f}",
        "## Vocabulary",
        "text-classification",
    ):
        assert expected in card
    assert f"score of the classifier: {record.score.score:.4f}" in capsys.readouterr().out

    (tmp_path / "mine.csv").unlink()
    assert main([*flags, "--out", str(tmp_path / "unscored")]) == 0
    assert "was not measured: " in (tmp_path / "unscored" / "README.md").read_text()
    assert read_classifier_record(tmp_path / "unscored") is None


@pytest.mark.usefixtures("few_resamples")
def test_a_cut_embedding_student_makes_the_vectors_it_made(
    tiny_teacher_dirs: dict[str, Path], texts: Path, tmp_path: Path
) -> None:
    encoder = load_teacher(tiny_teacher_dirs["bert"])
    taught = embedding_teacher(encoder)
    given: dict[str, Any] = {"settings": EmbeddingSettings(epochs=0), "cache_dir": tmp_path, "device": "cpu"}
    made = distil_embedder(encoder, taught, sentences(), **given)
    lineage = Lineage(
        StudentConfig(2, 4, 32, 64, "gelu", "bert"), encoder.name, encoder.fingerprint, {"source": "x"}, {}
    )
    taught_on = tmp_path / "all.txt"
    taught_on.write_text("\n".join(sentences()))
    of: dict[str, Any] = {"made_from": "x", "source": str(taught_on), "seed": 0, "lineage": lineage}
    of["drawn"] = {"count": len(sentences())}
    save_embedder(tmp_path / "it", made, taught, given["settings"], **of)
    cut = kdnas_env.vocabulary(str(tmp_path / "it"), corpus=str(texts), out=str(tmp_path / "cut"))
    assert cut.parameters < cut.parameters_before
    assert cut.role == "embedding student"
    record = read_embedder_record(cut.path)
    assert record is not None
    assert record.parameters == sum(p.numel() for p in open_embedder(cut.path).parameters())
    assert (cut.score, cut.score_before) == (record.score.spearman[0], made.score.spearman[0])
    assert "## Vocabulary" in (cut.path / "README.md").read_text()
    assert load_source(cut.path).role == "embedding student"
    before, after = (vectors(open_embedder(folder), sentences()[:6]) for folder in (tmp_path / "it", cut.path))
    assert after.shape == (6, tiny_teachers.HIDDEN)
    torch.testing.assert_close(torch.from_numpy(after), torch.from_numpy(before))


def test_a_student_says_what_became_of_it(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, texts: Path, tmp_path: Path
) -> None:
    teacher = tiny_teacher_dirs["bert"]
    student = small_tasks.save_tiny_student(tmp_path / "student", teacher, tiny_corpus_file, tmp_path / "cache")
    cut = kdnas_env.vocabulary(str(student), corpus=str(texts), out=str(tmp_path / "cut"))
    lineage = read_lineage(cut.path)
    assert lineage is not None
    assert lineage.stages[-1] == {"stage": "vocabulary", "tokens": cut.tokens, "text": str(texts)}


def test_the_command_says_what_it_costs(
    tiny_teacher_dirs: dict[str, Path], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cut"
    flags = ["vocabulary", "--teacher", str(tiny_teacher_dirs["bert"]), "--corpus.source", str(texts)]
    assert main([*flags, "--size", "110", "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    record = json.loads((out / "vocabulary.json").read_text())
    assert record["tokens"] <= 110
    assert f"{record['tokens']} of {record['tokens_before']} tokens" in printed
    assert "6 held-out rows of text" in printed
    assert main([*flags, "--out", str(out)]) == 0  # earlier output of the command is replaced
    assert json.loads((out / "vocabulary.json").read_text())["tokens"] > record["tokens"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size is 0; expected a whole number of tokens, at least 1; leave it out"),
        ({"size": 12}, "a vocabulary of 12 tokens has no room for words"),
        ({"corpus": {"max_samples": 1}}, "corpus.max_samples is 1; expected a whole number of rows, at least 2"),
        ({"corpus": "nowhere.txt"}, "nowhere.txt"),
        ({"teacher": "nowhere/at/all"}, "nowhere/at/all"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tiny_teacher_dirs: dict[str, Path],
    texts: Path,
    tmp_path: Path,
    settings: dict[str, object],
    message: str,
) -> None:
    given = {"teacher": str(tiny_teacher_dirs["bert"]), "corpus": {"source": str(texts)}, **settings}
    with pytest.raises(KDNASError, match=message):
        kdnas_env.vocabulary(**given, out=str(tmp_path / "out"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_kept(tiny_teacher_dirs: dict[str, Path], texts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(KDNASError, match="not empty"):
        kdnas_env.vocabulary(str(tiny_teacher_dirs["bert"]), corpus=str(texts), out=str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "kept"
