"""The folder of a classifier: transformers loads it and computes the logits that were scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import torch
from huggingface_hub import ModelCard
from numpy.typing import NDArray
from tiny_classifiers import TASKS, TUNING, TinyClassifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from kdnas_env.distillation.student.folder import Lineage, read_lineage
from kdnas_env.errors import ExportError, KDNASError
from kdnas_env.exporting.record import read_classifier_record
from kdnas_env.tasks.finetuning import predict
from kdnas_env.tasks.specs import TEST

SAVED = (
    *(("bert", kind) for kind in TASKS),
    *(("roberta", kind) for kind in ("multi-label", "pair")),
    *(("albert", kind) for kind in ("regression", "pair")),
    ("distilbert", "classification"),
    ("electra", "multi-label"),
    ("xlm-roberta", "regression"),
)


Classifier = Callable[[str, str], TinyClassifier]


def loaded_logits(folder: Path, texts: tuple[list[str], ...]) -> NDArray[np.float32]:
    """Return the logits that transformers computes without kdnas."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")).logits
    array: NDArray[np.float32] = logits.numpy()
    return array


@pytest.mark.parametrize(("family", "kind"), SAVED)
def test_transformers_gives_the_logits_that_were_scored(
    family: str, kind: str, classifier: Classifier, tmp_path: Path
) -> None:
    made = classifier(family, kind)
    made.save(tmp_path / "it")
    task, test = made.task, made.task.evaluation[TEST]
    texts = tuple([*column, f"{column[0]} {column[0]} {column[0]} {column[0]}"] for column in test.texts)
    split = replace(test, texts=texts, labels=np.append(test.labels, test.labels[:1], axis=0))
    expected = predict(made.learnt.model, made.teacher.tokenizer, split, TUNING.max_length)
    logits = loaded_logits(tmp_path / "it", texts)
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, atol=1e-5)
    config = json.loads((tmp_path / "it" / "config.json").read_text())
    labels = task.spec.labels or ("score",)
    assert config["id2label"] == {str(number): label for number, label in enumerate(labels)}
    assert config["label2id"] == {label: number for number, label in enumerate(labels)}
    problem = {"multi-label": "multi_label_classification", "regression": "regression"}
    assert config["problem_type"] == problem.get(kind, "single_label_classification")
    classify = pipeline("text-classification", model=str(tmp_path / "it"), top_k=None)
    inputs = [dict(zip(("text", "text_pair"), row, strict=False)) for row in zip(*texts, strict=True)]
    answers = [{answer["label"]: answer["score"] for answer in classify(row, truncation=True)} for row in inputs]
    values = torch.from_numpy(logits)
    scores = {"multi-label": values.sigmoid(), "regression": values}.get(kind, values.softmax(-1))
    found = np.array([[answer[label] for label in labels] for answer in answers])
    np.testing.assert_allclose(found, scores.numpy(), atol=1e-5)


def test_the_folder_tells_how_the_classifier_came_to_be(classifier: Classifier, tmp_path: Path) -> None:
    made = classifier("bert", "classification")
    learnt, teacher = made.learnt, made.teacher
    lineage = Lineage(
        student=small_tasks.TINY_STUDENT,
        teacher="me/teacher",
        teacher_fingerprint=teacher.fingerprint,
        corpus={"source": "demo"},
        recipe={"mapping": "uniform"},
        stages=({"stage": "mini-kd", "epochs": 1},),
    )
    record = made.save(tmp_path / "made" / "it", lineage=lineage, teacher_score=learnt.score)
    folder = tmp_path / "made" / "it"
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "kdnas.json", "model.safetensors", "task.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert read_classifier_record(folder) == record
    assert read_classifier_record(tmp_path) is None
    assert record.score.metrics == learnt.score.metrics
    assert record.max_length == AutoTokenizer.from_pretrained(folder).model_max_length == 12
    assert (record.teacher["name"], record.teacher["fingerprint"]) == (teacher.name, made.taught.fingerprint)
    written = read_lineage(folder)
    assert written is not None
    assert [stage["stage"] for stage in written.stages] == ["mini-kd", "task distillation"]
    card = (folder / "README.md").read_text()
    data: Any = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    value, (low, high) = learnt.score.metrics[TEST]["accuracy"], learnt.score.intervals[TEST]["accuracy"]
    assert f"| test | accuracy | {value:.4f} | {low:.4f} to {high:.4f} | {value:.4f} |" in card
    assert "| classes | bad, good |" in card
    assert "**Stage 1, mini-kd**: epochs 1" in card
    assert teacher.tokenizer.model_max_length > 12


def test_the_code_of_the_card_runs(classifier: Classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    for kind in ("multi-label", "pair"):
        classifier("bert", kind).save(tmp_path / kind)
        card = (tmp_path / kind / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        exec(code.replace("path/to/this/folder", str(tmp_path / kind)), {})
        assert "score" in capsys.readouterr().out


def test_it_is_written_whole_and_replaces_classifiers_alone(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier("bert", "classification")
    made.save(tmp_path / "it")
    (tmp_path / "it" / "stale").write_text("")
    made.save(tmp_path / "it")
    assert not (tmp_path / "it" / "stale").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("")
    with pytest.raises(ExportError, match="not empty and not a classifier of kdnas"):
        made.save(tmp_path / "other")
    from kdnas_env.exporting import classifier as module

    monkeypatch.setattr(module, "classifier_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.save(tmp_path / "it")
    assert {path.name for path in tmp_path.iterdir()} == {"it", "other"}
    assert loaded_logits(tmp_path / "it", (["us all ."],)).shape == (1, 2)


def test_a_pooled_head_cannot_be_saved(classifier: Classifier, tmp_path: Path) -> None:
    made = classifier("bert", "classification")
    pooled = replace(TUNING, pooling="mean").classifier(made.teacher.model, made.task, 0)
    with pytest.raises(KDNASError, match="train with pooling='native'"):
        replace(made, learnt=replace(made.learnt, model=pooled)).save(tmp_path / "it")
    assert not list(tmp_path.iterdir())
