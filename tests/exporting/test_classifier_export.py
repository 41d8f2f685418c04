"""Exports of classifiers: graphs that decide as the model does, and code without torch and transformers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import tiny_classifiers
import tiny_teachers
import torch
from huggingface_hub import ModelCard
from tiny_classifiers import TASKS, TinyClassifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdnas_env.cli.export import run_export
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.errors import ExportError, KDNASError
from kdnas_env.exporting import decisions as deciding
from kdnas_env.exporting.decisions import Decisions, compare_decisions
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.text import Text
from kdnas_env.exporting.writing import write_export
from kdnas_env.latency.quantise import DYNAMIC, TABLES_ONLY, WEIGHTS_ONLY
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.export import ExportOptions, export
from kdnas_env.tasks.own import OwnTask, load_own
from kdnas_env.tasks.specs import TEST

Classifier = Callable[[str, str], TinyClassifier]
Exported = Callable[[str, str], ExportReport]

EXPORTED = (
    ("bert", "pair"),
    ("distilbert", "classification"),
    pytest.param("albert", "regression", marks=pytest.mark.slow),
    pytest.param("electra", "multi-label", marks=pytest.mark.slow),
    pytest.param("xlm-roberta", "pair", marks=pytest.mark.slow),
)
"""Every kind of task, and every family except RoBERTa: its layers, head and separators are those of XLM-RoBERTa."""
PROBABILITIES = ("classification", "multi-label")
"""Kinds of tasks whose graphs also return probabilities."""
GRAPH, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"

WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers")))
{code}
import json
print(json.dumps({{"logits": logits.tolist(), "inputs": {{name: array.tolist() for name, array in inputs.items()}}}}))
"""


def run_graph(folder: Path, name: str, inputs: Any, output: str = "logits") -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    return session.run([output], {key: np.asarray(value) for key, value in inputs.items()})[0]


def run_torch(folder: Path, inputs: Any) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**inputs).logits.numpy()


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return the export of a classifier to ONNX and int8; the classifier itself is in the folder ``it`` beside it."""
    root = tmp_path_factory.mktemp("exports")
    reports: dict[tuple[str, str], ExportReport] = {}

    def make(family: str, kind: str) -> ExportReport:
        if (family, kind) not in reports:
            made, folder = classifier(family, kind), root / f"{family}-{kind}"
            made.save(folder / "it")
            options: dict[str, Any] = {"format": "onnx", "int8": True, "probabilities": kind in PROBABILITIES}
            report = write_export(folder / "it", folder / "out", latency=None, task=made.task, **options)
            reports[family, kind] = report
        return reports[family, kind]

    return make


@pytest.mark.parametrize(("family", "kind"), EXPORTED)
def test_graphs_compute_the_logits(family: str, kind: str, classifier: Classifier, exported: Exported) -> None:
    made, report = classifier(family, kind), exported(family, kind)
    out = Path(report.folder)
    tokenizer = AutoTokenizer.from_pretrained(out)
    texts = [column[:9] for column in made.task.evaluation[TEST].texts]
    inputs = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")
    expected = run_torch(out.with_name("it"), inputs)
    np.testing.assert_allclose(run_graph(out, GRAPH, inputs), expected, atol=1e-4)
    np.testing.assert_allclose(run_torch(out, inputs), expected, atol=1e-6)
    if kind in PROBABILITIES:
        logits = torch.from_numpy(expected)
        wanted = logits.sigmoid() if kind == "multi-label" else logits.softmax(-1)
        np.testing.assert_allclose(run_graph(out, GRAPH, inputs, "probabilities"), wanted, atol=1e-4)
        assert run_graph(out, INT8, inputs, "probabilities").shape == expected.shape
    assert report.decisions[GRAPH].agreement > 0.999
    assert report.decisions[GRAPH].max_abs_error < 1e-4
    assert report.decisions[INT8].acceptable
    assert (report.decisions[INT8].samples, report.decisions[INT8].text) == (40, "test of own")
    assert report.decisions[GRAPH].model_score == pytest.approx(made.learnt.score.score, abs=1e-4)
    assert report.files[INT8] < 0.7 * report.files[GRAPH]


@pytest.mark.parametrize(("family", "kind"), EXPORTED)
def test_the_code_of_the_card_runs_without_torch(family: str, kind: str, exported: Exported) -> None:
    folder = Path(exported(family, kind).folder)
    card = (folder / "README.md").read_text()
    code, with_torch = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 15
    assert "pipeline" in with_torch
    assert f"/{INT8}" in code
    code = code.replace(INT8, GRAPH).replace("path/to/this/folder", str(folder))
    code = code.replace("The audience leaves long before the end.", "the audience never bores " * 9)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(code=code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer, data = done.stdout.splitlines()[0], json.loads(done.stdout.splitlines()[-1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts: Any = ["A quiet film.", "the audience never bores " * 9]
    columns = [[text] for text in texts] if kind == "pair" else [texts]
    inputs = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
    assert data["inputs"] == {name: tensor.tolist() for name, tensor in inputs.items()}
    np.testing.assert_allclose(data["logits"], run_torch(folder, inputs), atol=1e-4)
    assert kind == "regression" or "[" in answer


def test_the_folder_has_the_layout_that_others_read(classifier: Classifier, tmp_path: Path) -> None:
    made = classifier("bert", "classification")
    lineage = Lineage(
        StudentConfig(3, 4, 32, 64, "gelu", "bert"), made.teacher.name, made.teacher.fingerprint, {"source": "x"}, {}
    )
    made.save(tmp_path / "it", lineage=lineage)
    latency = LatencySettings(max_rounds=5, sequence_length=12)
    report = write_export(tmp_path / "it", tmp_path / "out", format="onnx", int8=True, latency=latency, task=made.task)
    out = tmp_path / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *("README.md", "config.json", "export.json", "kdnas.json", "task.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", GRAPH, INT8),
    }
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    written = json.loads((out / "export.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert (written["scheme"], written["decisions"][INT8]["samples"]) == (DYNAMIC, 40)
    assert [(timing.model, timing.runtime) for timing in report.timings] == [
        *(("teacher", runtime) for runtime in ("torch", "onnxruntime")),
        *(("student", runtime) for runtime in ("torch", "onnxruntime", "onnxruntime int8")),
    ]
    data: Any = ModelCard((out / "README.md").read_text()).data
    assert (data.pipeline_tag, "onnx" in data.tags) == ("text-classification", True)
    card = (out / "README.md").read_text()
    for expected in (
        "## Scores\n\nOf the float model (safetensors) in PyTorch.",
        f"| parameters with head | {report.parameters:,} |",
        "speed against the teacher in torch",
        "| classes | bad, good |",
        "logits deviate by at most",
        "## Task",
        "output is `logits`",
    ):
        assert expected in card
    again = write_export(out, tmp_path / "again", format="safetensors", latency=None)
    assert again.files.keys() == {"model.safetensors"}


def own_classifier(folder: Path, teacher: Path) -> TinyClassifier:
    """Distil a classifier of a user's task that is in a file."""
    easy = small_tasks.easy_task(spec=tiny_classifiers.NAMED, samples=60)
    rows = [
        {"text": f"{text} {index}", "label": ("bad", "good")[label]}
        for index, (text, label) in enumerate(zip(easy.train.texts[0], easy.train.labels, strict=True))
    ]
    path = small_tasks.write_rows(folder / "data" / "mine.csv", rows)
    return tiny_classifiers.distil_classifier(teacher, load_own(path, OwnTask(test_fraction=0.3)), folder / "cache")


@pytest.mark.slow
def test_labels_are_read_again_from_where_the_task_lies(flat_teacher: Callable[[str], Path], tmp_path: Path) -> None:
    """The export finds the task from the classifier's record, even after both were moved together."""
    made = own_classifier(tmp_path / "old", flat_teacher("bert"))
    made.save(tmp_path / "old" / "it")
    (tmp_path / "old").rename(tmp_path / "new")
    report = export(tmp_path / "new" / "it", latency=False, int8=True)
    assert report.notes == ()
    assert report.decisions[INT8].text == "test of mine"
    assert report.decisions[INT8].model_score == pytest.approx(made.learnt.score.score)
    file = tmp_path / "new" / "data" / "mine.csv"
    file.write_text(file.read_text().replace("surprises", "never surprises"))
    changed = export(tmp_path / "new" / "it", latency=False, int8=True)
    assert changed.decisions[INT8].score is None
    assert changed.decisions[INT8].text == "random tokens"
    assert "differ from the record" in changed.notes[0]


def test_a_classifier_of_somebody_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A classifier without a record of kdnas: its decisions are compared on random tokens."""
    folder = tiny_teachers.save_classifier(tmp_path / "theirs", ("NEGATIVE", "POSITIVE"), num_hidden_layers=1)
    assert run_export(ExportOptions(str(folder), latency=False)) == 0
    printed = capsys.readouterr().out
    assert "100.00% of 1024 decisions (random tokens) are the model's" in re.sub(r"\s+", " ", printed)
    card = (tmp_path / "theirs-onnx" / "README.md").read_text()
    assert "The classification model **theirs**" in card
    assert "## Scores" not in card
    assert not (tmp_path / "theirs-onnx" / "task.json").exists()


@pytest.mark.slow
def test_int8_that_loses_too_much_keeps_activations_or_is_refused(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier("bert", "classification")
    made.save(tmp_path / "it")
    judged: list[Decisions] = []

    def judge(self: Decisions) -> bool:
        judged.append(self)
        return len(judged) == 2

    monkeypatch.setattr(Decisions, "acceptable", property(judge))
    report = write_export(tmp_path / "it", tmp_path / "out", format="onnx", int8=True, latency=None, task=made.task)
    assert report.scheme == WEIGHTS_ONLY
    # The validation split decides whether int8 is accepted; the test split is reported.
    assert {cost.text for cost in judged} == {"validation of own"}
    assert (report.decisions[INT8].text, report.decisions[INT8].samples) == ("test of own", 40)
    assert judged[1].max_abs_error < judged[0].max_abs_error
    assert f"int8 of {DYNAMIC} was refused" in report.notes[0]
    assert report.files[INT8] < 0.7 * report.files[GRAPH]
    assert [tried.cost for tried in report.tried] == judged[:2]
    monkeypatch.setattr(Decisions, "acceptable", property(lambda self: False))
    with pytest.raises(
        ExportError,
        match=rf"may lose 0\.004 of the score.*{DYNAMIC} was refused: .*{WEIGHTS_ONLY} was refused: .*{TABLES_ONLY} w",
    ):
        write_export(tmp_path / "it", tmp_path / "none", format="onnx", int8=True, latency=None, task=made.task)
    assert not (tmp_path / "none").exists()


def test_what_is_acceptable() -> None:
    logits = np.array([[1.0, 0.0]] * 99 + [[0.0, 1.0]], np.float32)
    turned = logits[:, ::-1].copy()
    unlabelled = Text((), "it")
    same = compare_decisions(logits, logits, "classification", unlabelled)
    assert (same.agreement, same.max_abs_error, same.score, same.acceptable) == (1.0, 0.0, None, True)
    assert not compare_decisions(turned, logits, "classification", unlabelled).acceptable
    few = np.concatenate([turned[:2], logits[2:]])
    assert compare_decisions(few[1:], logits[1:], "classification", unlabelled).agreement == pytest.approx(98 / 99)
    assert not compare_decisions(few, logits, "classification", unlabelled).acceptable
    labels = np.array([0] * 99 + [1])
    labelled = replace(unlabelled, labels=labels, spec=tiny_classifiers.NAMED)
    worse = compare_decisions(few, logits, "classification", labelled)
    assert (worse.score, worse.model_score, worse.acceptable) == (0.98, 1.0, False)
    one = np.concatenate([turned[:1], logits[1:]])
    slightly = compare_decisions(one[:40], logits[:40], "classification", replace(labelled, labels=labels[:40]))
    assert (slightly.score, slightly.model_score, slightly.acceptable) == (0.975, 1.0, True)
    assert compare_decisions(one[:40], logits[:40], "classification", unlabelled).acceptable
    assert not compare_decisions(one[:10], logits[:10], "classification", unlabelled).acceptable
    many = np.tile(np.array([[1.0, 0.0]], np.float32), (1000, 1))
    for wrong, acceptable in ((5, True), (15, False)):  # a loss of 0.5 points may be chance, 1.5 are not
        given = replace(labelled, labels=np.zeros(1000, np.int64))
        changed = np.concatenate([many[:wrong, ::-1], many[wrong:]])
        assert compare_decisions(changed, many, "classification", given).acceptable is acceptable
    better = compare_decisions(logits, few, "classification", labelled)
    assert better.acceptable
    half = replace(labelled, labels=np.array([0, 1] * 50))
    inverted = compare_decisions(logits, turned, "classification", half)
    assert (inverted.score, inverted.model_score, inverted.acceptable) == (0.51, 0.49, False)
    several = compare_decisions(logits - 0.5, turned - 0.5, "multi-label", unlabelled)
    assert several.agreement == 0
    numbers = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    assert compare_decisions(numbers + 0.01, numbers, "regression", unlabelled).acceptable
    assert not compare_decisions(numbers + 0.1, numbers, "regression", unlabelled).acceptable
    assert not compare_decisions(numbers * np.nan, numbers, "regression", unlabelled).acceptable
    assert deciding.LARGEST_SCORE_LOSS == 0.004


def test_what_does_not_fit(classifier: Classifier, tiny_teacher_dirs: dict[str, Path], tmp_path: Path) -> None:
    made = classifier("albert", "regression")
    made.save(tmp_path / "it")
    options: dict[str, Any] = {"format": "onnx", "latency": None}
    with pytest.raises(ExportError, match="predicts no classes; leave probabilities out"):
        write_export(tmp_path / "it", tmp_path / "out", probabilities=True, **options)
    with pytest.raises(ExportError, match=r"the task 'own' is classification .*; the model .* is regression"):
        write_export(tmp_path / "it", tmp_path / "out", task=TASKS["classification"](), **options)
    with pytest.raises(ExportError, match="is an encoder, which makes no decisions"):
        write_export(tiny_teacher_dirs["bert"], tmp_path / "out", task=made.task, **options)
    with pytest.raises(KDNASError, match="`probabilities` changes the graph"):
        ExportOptions("it", to="safetensors", probabilities=True)
    headless = Path(shutil.copytree(tiny_teacher_dirs["bert"], tmp_path / "headless"))
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(ExportError, match="lacks weights of its head"):
        write_export(headless, tmp_path / "out", **options)
    theirs = tiny_teachers.save_classifier(tmp_path / "theirs", ("a", "b"))
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(ExportError, match=r"the head of model '.*theirs' cannot be loaded"):
        write_export(theirs, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
