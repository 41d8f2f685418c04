"""Card of a classifier: how to use it, how well it does, and how it came to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.exporting.cards.export import lineage_section
from kdnas_env.exporting.cards.template import PLACEHOLDER, STUDENT_TAGS, bullets, fill, front_matter, in_words, table
from kdnas_env.exporting.folder import TASK
from kdnas_env.exporting.hub import hub_name
from kdnas_env.tasks.scores import TaskScore
from kdnas_env.tasks.specs import MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    from kdnas_env.exporting.classifier import ClassifierRecord

_TEXTS = ("A quiet film.", "The audience leaves long before the end.")
_OUTPUTS = {
    MULTI_LABEL: "Each class has a probability of its own; a text is of those above 0.5.",
    REGRESSION: "The score is the predicted number.",
}
_SHAPE = {
    "type": "model_type",
    "layers": "num_hidden_layers",
    "hidden size": "hidden_size",
    "attention heads": "num_attention_heads",
}


def classifier_card(record: ClassifierRecord, config: Any, lineage: Lineage | None) -> str:
    """Return the model card of a classifier, in Markdown with the front matter of the hub.

    Args:
        record: What is known of it.
        config: Its configuration.
        lineage: Where its encoder comes from; None if that is not known.
    """
    task, details = record.task, record.score.details
    teacher = record.teacher["name"]
    student = "" if lineage is None else f", {lineage.student}"
    pair = dict(zip(("text", "text_pair"), _TEXTS, strict=True)) if len(task["columns"]) == 2 else _TEXTS[0]
    curve = details.get("curve", [])
    return front_matter(STUDENT_TAGS, hub_name(teacher), pipeline="text-classification") + fill(
        "classifier",
        title=f"{task['name']}{student}",
        kind=task["kind"],
        task=task["name"],
        teacher=teacher_title(teacher),
        version=record.versions["kdnas"],
        folder=PLACEHOLDER,
        options=", top_k=None" if task["kind"] == MULTI_LABEL else "",
        example=repr(pair).replace("'", '"'),
        max_length=record.max_length,
        output=_OUTPUTS.get(task["kind"], "The score is the probability of the class."),
        scores=_scores(record),
        shape=table(
            ("", ""),
            [
                *((words, getattr(config, name)) for words, name in _SHAPE.items()),
                ("parameters", f"{record.parameters:,}"),
                *([("classes", ", ".join(task["labels"]))] if task["labels"] else []),
            ],
        ),
        data=bullets([f"**Data**: {in_words(_data(task))}"]),
        teacher_record=in_words({name: value for name, value in record.teacher.items() if name != "tried"}),
        settings=in_words({name: value for name, value in details.items() if name not in ("curve", "teacher")}),
        curve=", ".join(f"{point['stage']} {point['epoch']}: {point['loss']:.4f}" for point in curve) or "not known",
        record=TASK,
        lineage="" if lineage is None else lineage_section(lineage),
    )


def _scores(record: ClassifierRecord) -> str:
    """Return a row a metric and split: the score, its 95 % interval, and the teacher's."""
    teacher = record.teacher_score
    header = ("split", "metric", "score", "95 % interval", *(("teacher",) if teacher is not None else ()))
    rows = []
    for split, metrics in _metrics(record.score).items():
        for name, value in metrics.items():
            low, high = record.score.intervals.get(split, {}).get(name, (float("nan"),) * 2)
            row = (split, name.replace("_", " "), f"{value:.4f}", f"{low:.4f} to {high:.4f}")
            theirs = () if teacher is None else (f"{_metrics(teacher)[split][name]:.4f}",)
            rows.append((*row, *theirs))
    return table(header, rows)


def _metrics(score: TaskScore) -> dict[str, dict[str, float]]:
    return {split: {**values, **score.reported.get(split, {})} for split, values in score.metrics.items()}


def _data(task: Any) -> dict[str, Any]:
    shown_elsewhere = ("name", "kind", "labels", "metrics")
    return {name: value for name, value in task.items() if name not in shown_elsewhere}
