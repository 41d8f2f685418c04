"""Card of an embedding student."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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
from kdnas_env.exporting.hub import hub_name

if TYPE_CHECKING:
    from kdnas_env.exporting.record import EmbedderRecord

TITLES = {
    "cosine": "cosine with the teacher's vector",
    "spearman": "Spearman's correlation of similarities with the teacher's",
    "overlap": "overlap of the 10 nearest documents",
    "overlap_in_teachers": "the same, in the teacher's documents",
    "recall": "the teacher's nearest document is among the 10 nearest",
    "recall_in_teachers": "the same, in the teacher's documents",
}
"""Display names of the scores."""

NEIGHBOURS = "shared: of the teacher's 10 nearest texts; in index: the same in an index of the teacher's vectors"
"""Explanation of the columns ``shared`` and ``in index``, shown below a table."""


def embedder_card(record: EmbedderRecord, model: Any, lineage: Lineage | None) -> str:
    """Return the model card of an embedding student, in Markdown with the front matter of the hub.

    Args:
        record: Its record.
        model: The ``SentenceTransformer``.
        lineage: Origin of its encoder; None if unknown.
    """
    config: Any = model[0].auto_model.config
    return embedder_matter(record) + fill(
        "embedder",
        title=embedder_title(lineage),
        teacher=teacher_title(record.teacher["name"]),
        version=record.versions["kdnas"],
        width=record.teacher["width"],
        usage=torch_usage(PLACEHOLDER),
        folder=PLACEHOLDER,
        length=model.max_seq_length,
        scores=scores_section(record),
        shape=shape_table(EncoderArchitecture.from_pretrained_config(config), record.parameters, head=True),
        settings=in_words(asdict(record.settings))
        + ("; no epoch was better than the head in closed form, which was kept" if record.is_closed_form else ""),
        lineage="" if lineage is None else lineage_section(lineage),
    )


def embedder_matter(record: EmbedderRecord, tags: tuple[str, ...] = ()) -> str:
    """Return the front matter of the card, which the hub reads."""
    matter = front_matter(
        ("sentence-transformers", *STUDENT_TAGS, *tags), hub_name(record.teacher["name"]), "sentence-similarity"
    )
    return matter.replace("library_name: transformers", "library_name: sentence-transformers")


def embedder_title(lineage: Lineage | None) -> str:
    """Return the title of an embedding student."""
    return "Sentence vectors" if lineage is None else f"Sentence vectors, {lineage.student}"


def torch_usage(folder: str) -> str:
    """Return code that embeds texts with Sentence Transformers, from a folder or a name on the hub."""
    return fill("embed_torch", folder=folder)


def onnx_usage(folder: str, graph: str, tokenizer: Any) -> str:
    """Return code that embeds texts with ONNX Runtime, without PyTorch and Transformers.

    Args:
        folder: Lines of code that set ``folder``.
        graph: Path of the graph in the folder.
        tokenizer: Tokenizer of the student.
    """
    return fill(
        "embed_onnx",
        folder=folder,
        graph=graph,
        max_length=tokenizer.model_max_length,
        pad_id=tokenizer.pad_token_id,
        pad_token=tokenizer.pad_token,
    )


def scores_section(record: EmbedderRecord) -> str:
    """Return a section with a row per score and its 95 % interval."""
    rows = [(title, *_cells(getattr(record.score, name))) for name, title in TITLES.items()]
    rows += [
        (f"Spearman's correlation, first {size} dimensions of both", *_cells(values))
        for size, values in record.score.truncated.items()
    ]
    return fill(
        "embedder_scores",
        texts=record.score.texts,
        model=FLOAT_MODEL,
        scores=table(("", "value", "95 % interval"), rows, numbers=True),
    )


def _cells(values: tuple[float, float, float]) -> tuple[str, str]:
    value, low, high = values
    return f"{value:.3f}", f"{low:.3f} to {high:.3f}"
