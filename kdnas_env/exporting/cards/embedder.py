"""Card of an embedding student."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.exporting.cards.template import (
    PLACEHOLDER,
    STUDENT_TAGS,
    fill,
    front_matter,
    in_words,
    lineage_section,
    shape_table,
    table,
)
from kdnas_env.exporting.hub import hub_name

if TYPE_CHECKING:
    from kdnas_env.exporting.embedder import EmbedderRecord

TITLES = {
    "cosine": "cosine with the teacher's vector",
    "spearman": "Spearman's correlation of similarities with the teacher's",
    "overlap": "overlap of the 10 nearest documents",
    "overlap_in_teachers": "the same, in the teacher's documents",
    "recall": "the teacher's nearest document is among the 10 nearest",
    "recall_in_teachers": "the same, in the teacher's documents",
}
"""What the scores are called where people read."""


def embedder_card(record: EmbedderRecord, model: Any, lineage: Lineage) -> str:
    """Return the model card of an embedding student, in Markdown with the front matter of the hub.

    Args:
        record: Its record.
        model: The ``SentenceTransformer``.
        lineage: Origin of its encoder.
    """
    matter = front_matter(
        ("sentence-transformers", *STUDENT_TAGS), hub_name(record.teacher["name"]), "sentence-similarity"
    ).replace("library_name: transformers", "library_name: sentence-transformers")
    config: Any = model[0].auto_model.config
    rows = [(title, *_cells(getattr(record.score, name))) for name, title in TITLES.items()]
    rows += [
        (f"Spearman's correlation, first {size} dimensions of both", *_cells(values))
        for size, values in record.score.truncated.items()
    ]
    return matter + fill(
        "embedder",
        title=f"Sentence vectors, {lineage.student}",
        teacher=teacher_title(record.teacher["name"]),
        version=record.versions["kdnas"],
        folder=PLACEHOLDER,
        width=record.teacher["width"],
        length=model.max_seq_length,
        texts=record.score.texts,
        scores=table(("", "value", "95 % interval"), rows, numbers=True),
        shape=shape_table(EncoderArchitecture.from_pretrained_config(config), record.parameters),
        settings=in_words(asdict(record.settings)),
        lineage=lineage_section(lineage),
    )


def _cells(values: tuple[float, float, float]) -> tuple[str, str]:
    value, low, high = values
    return f"{value:.3f}", f"{low:.3f} to {high:.3f}"
