"""Card of a classifier, and the parts that the card of its export shares: usage, scores, and training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.exporting.cards.template import (
    FLOAT_MODEL,
    PLACEHOLDER,
    STUDENT_TAGS,
    fill,
    front_matter,
    in_words,
    lineage_section,
    shape_table,
    table,
)
from kdnas_env.exporting.folder import TASK
from kdnas_env.exporting.hub import hub_name
from kdnas_env.exporting.record import ClassifierRecord
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.specs import CLASSIFICATION, MULTI_LABEL, REGRESSION

PIPELINE = "text-classification"

_TEXTS = ("A quiet film.", "The audience leaves long before the end.")
_OUTPUTS = {
    CLASSIFICATION: "The score is the probability of the class.",
    MULTI_LABEL: "Each class has its own probability; a text has the classes with a probability above 0.5.",
    REGRESSION: "The score is the predicted number.",
}
_ANSWERS = {
    CLASSIFICATION: "[names[str(number)] for number in logits.argmax(1)]",
    MULTI_LABEL: "[[names[str(number)] for number in np.flatnonzero(row > 0)] for row in logits]",
    REGRESSION: "logits[:, 0]",
}


def classifier_card(record: ClassifierRecord, config: Any, lineage: Lineage | None) -> str:
    """Return the model card of a classifier, in Markdown with the front matter of the hub.

    Args:
        record: The classifier's record.
        config: Its configuration.
        lineage: Origin of its encoder; None if unknown.
    """
    kind, architecture = record.task["kind"], EncoderArchitecture.from_pretrained_config(config)
    return front_matter(STUDENT_TAGS, hub_name(record.teacher["name"]), PIPELINE) + fill(
        "classifier",
        title=classifier_title(record, lineage),
        origin=origin(record),
        version=record.versions["kdnas"],
        folder=PLACEHOLDER,
        usage=torch_usage(PLACEHOLDER, kind, len(record.task["columns"])),
        output=output_in_words(kind, record.max_length),
        scores=scores_section(record),
        shape=shape_table(
            architecture, record.parameters, [("classes", ", ".join(config.id2label.values()))], head=True
        ),
        task=task_section(record),
        lineage="" if lineage is None else lineage_section(lineage),
    )


def classifier_title(record: ClassifierRecord, lineage: Lineage | None) -> str:
    """Return the title of a classifier."""
    return record.task["name"] if lineage is None else f"{record.task['name']}, {lineage.student}"


def origin(record: ClassifierRecord) -> str:
    """Return a phrase that names the classifier and its teacher."""
    task, teacher = record.task, teacher_title(record.teacher["name"])
    return f"A {task['kind']} model for the task **{task['name']}**, distilled from **{teacher}**"


def output_in_words(kind: str, max_length: int) -> str:
    """Return a description of the outputs, and of the maximum length of a text."""
    return f"{_OUTPUTS[kind]} Texts are cut at {max_length} tokens."


def torch_usage(folder: str, kind: str, columns: int) -> str:
    """Return code that classifies a text with Transformers.

    Args:
        folder: The folder, or the name on the hub.
        kind: Kind of the task.
        columns: Number of texts of a sample, 1 or 2.
    """
    text: Any = dict(zip(("text", "text_pair"), _TEXTS, strict=True)) if columns == 2 else _TEXTS[0]
    options = ", top_k=None" if kind == MULTI_LABEL else ""
    return fill("classify_torch", folder=folder, options=options, texts=json.dumps(text))


def onnx_usage(folder: str, graph: str, kind: str, columns: int, tokenizer: Any) -> str:
    """Return code that classifies texts with ONNX Runtime, without PyTorch and Transformers.

    Args:
        folder: Lines of code that set ``folder``.
        graph: Path of the graph in the folder.
        kind: Kind of the task.
        columns: Number of texts of a sample, 1 or 2.
        tokenizer: Tokenizer of the classifier.
    """
    texts = f"[({', '.join(map(json.dumps, _TEXTS))})]" if columns == 2 else json.dumps(_TEXTS)
    return fill(
        "classify_onnx",
        folder=folder,
        graph=graph,
        texts=texts,
        answer=_ANSWERS[kind],
        max_length=tokenizer.model_max_length,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
    )


def scores_section(record: ClassifierRecord) -> str:
    """Return a section with a row per split and metric: the score, its 95 % interval, and the teacher's score.

    The scores are those of the trained model, independent of the export format.
    """
    teacher = record.teacher_score
    header = ("split", "metric", "score", "95 % interval", *(("teacher",) if teacher is not None else ()))
    rows: list[Sequence[str]] = []
    for split, metrics in _metrics(record.score).items():
        for name, value in metrics.items():
            low, high = record.score.intervals[split][name]
            row = (split, name.replace("_", " "), f"{value:.4f}", f"{low:.4f} to {high:.4f}")
            rows.append(row if teacher is None else (*row, f"{_metrics(teacher)[split][name]:.4f}"))
    return f"## Scores\n\n{FLOAT_MODEL}\n\n{table(header, rows)}\n"


def task_section(record: ClassifierRecord) -> str:
    """Return a section on the task, its teacher, and the training."""
    details = record.score.details
    fingerprints = ("fingerprint", "evaluation_fingerprint")
    listed_elsewhere = ("name", "kind", "labels", "metrics", "columns", "reading", "source", *fingerprints)
    curve = [f"{point['stage']} {point['epoch']}: {point['loss']:.4f}" for point in details.get("curve", ())]
    return fill(
        "task",
        data=in_words(_without(record.task, *listed_elsewhere)),
        teacher=in_words(_without(record.teacher, "name", "tried", *fingerprints)),
        settings=in_words(_without(details, "curve", "teacher")),
        curve=", ".join(curve),
        record=TASK,
    )


def _metrics(score: TaskScore) -> dict[str, dict[str, float]]:
    return {split: {**values, **score.reported.get(split, {})} for split, values in score.metrics.items()}


def _without(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}
