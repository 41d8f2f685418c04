"""Common parts of model cards: filling in templates, front matter, tables, phrases and code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from kdnas_env.core.architecture import EncoderArchitecture
from kdnas_env.distillation.checkpoint import takes_pooling_layer
from kdnas_env.distillation.student.folder import PROJECTION, Lineage
from kdnas_env.distillation.text.demo import CORPUS_TITLES, teacher_title

PLACEHOLDER = "path/to/this/folder"

IN_A_FOLDER = f'folder = "{PLACEHOLDER}"'
"""Line of code that sets the folder of the model."""

FLOAT_MODEL = "Of the float model (safetensors) in PyTorch."
"""Note in cards that says which model the scores belong to."""

STUDENT_TAGS = ("knowledge-distillation", "neural-architecture-search", "kdnas")


def fill(template: str, **fields: object) -> str:
    """Return a template of this folder with its fields filled in; ``$`` in field values has no special meaning."""
    text = files(__package__).joinpath(f"{template}.md").read_text(encoding="utf-8")
    return Template(text).substitute(fields)


def front_matter(tags: Sequence[str], base_model: str | None = None, pipeline: str = "feature-extraction") -> str:
    """Return the front matter of a card, in YAML, which the hub reads.

    Args:
        tags: Tags of the model.
        base_model: Hub name of the model that it was made from; None if there is none.
        pipeline: Pipeline tag of the hub.
    """
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": pipeline}
    if base_model is not None:
        data["base_model"] = base_model
    return f"---\n{yaml.safe_dump({**data, 'tags': [*tags]}, sort_keys=False)}---\n\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> str:
    """Return a Markdown table; with ``numbers``, all columns except the first are right-aligned."""
    rules = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in (header, rules, *rows))


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def in_words(data: Mapping[str, Any]) -> str:
    """Return plain data as one line of text; empty values are omitted."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(value)}" for name, value in data.items() if value not in (None, (), [], {})
    )


def stages(lineage: Lineage) -> list[str]:
    """Return a line for each training stage of a student."""
    return [
        f"**Stage {index}, {stage.get('stage', 'unnamed')}**: "
        + in_words({name: value for name, value in stage.items() if name != "stage"})
        for index, stage in enumerate(lineage.stages, start=1)
    ]


def lineage_section(lineage: Lineage) -> str:
    """Return the section of a card on the origin of a student."""
    reading = in_words({name: value for name, value in lineage.corpus.items() if name not in ("source", "without")})
    versions = [f"**Versions**: {versions_in_words(lineage.versions)}"] if lineage.versions else []
    return fill(
        "lineage",
        teacher=teacher_title(lineage.teacher),
        fingerprint=lineage.teacher_fingerprint[:12],
        corpus=corpus_title(lineage) + (f" ({reading})" if reading else ""),
        recipe=in_words(lineage.recipe),
        more=bullets([*stages(lineage), *versions]),
    )


def corpus_title(lineage: Lineage) -> str:
    """Return the display name of a student's corpus."""
    source = str(lineage.corpus.get("source", "unknown text"))
    return CORPUS_TITLES.get(source, teacher_title(source))


def versions_in_words(versions: Mapping[str, str]) -> str:
    """Return versions as one line of text."""
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def shape_table(
    shape: EncoderArchitecture, parameters: int, more: Iterable[Sequence[object]] = (), *, head: bool
) -> str:
    """Return a table of the architecture of a model.

    Args:
        shape: Architecture of its encoder.
        parameters: Number of its parameters.
        more: Further rows.
        head: Whether the parameters include a head.
    """
    return table(
        ("", ""),
        [
            ("type", shape.family),
            ("layers", shape.num_hidden_layers),
            ("hidden size", shape.hidden_size),
            ("attention heads", shape.num_attention_heads),
            ("feed-forward size", shape.intermediate_size),
            ("activation", shape.hidden_act),
            (f"parameters {'with' if head else 'without'} head", f"{parameters:,}"),
            ("longest input", f"{shape.max_length} tokens"),
            *more,
        ],
    )


def vectors_in_words(hidden: int, imitated: int | None) -> str:
    """Return a description of the mean-pooled vectors of a distilled student.

    Args:
        hidden: Width of the student.
        imitated: See :func:`kdnas_env.distillation.student.folder.imitated_width`.
    """
    own = (
        f"`vectors` are the student's hidden states, averaged over the tokens of a sentence: {hidden} wide, in a space "
        "of the student's own. Similarities between them are not those of the teacher."
    )
    if imitated is None:
        return f"{own} No projection to the teacher's last layer is kept."
    return (
        f"{own} The student learnt to imitate the teacher through a linear projection (`{PROJECTION}`): `imitation` "
        f"predicts the teacher's vectors, {imitated} wide. The projection was fitted to states of tokens, not to "
        "vectors of sentences."
    )


def torch_code(folder: str, model_type: str, hidden: int, imitated: int | None) -> str:
    """Return code that embeds sentences with Transformers.

    Args:
        folder: Lines of code that set ``folder``.
        model_type: Type of the encoder.
        hidden: Its width.
        imitated: See :func:`kdnas_env.distillation.student.folder.imitated_width`.
    """
    # Without this option, transformers would add a pooler with random weights.
    options = ", add_pooling_layer=False" if takes_pooling_layer(model_type) else ""
    return fill("torch", folder=folder, options=options, hidden=hidden, **_imitating("torch", imitated))


def onnx_code(folder: str, graph: str, hidden: int, imitated: int | None) -> str:
    """Return code that embeds sentences with ONNX Runtime.

    Args:
        folder: Lines of code that set ``folder``.
        graph: Path of the graph in the folder.
        hidden: Width of the encoder.
        imitated: See :func:`kdnas_env.distillation.student.folder.imitated_width`.
    """
    return fill("onnx", folder=folder, graph=graph, hidden=hidden, **_imitating("numpy", imitated))


def _imitating(library: str, imitated: int | None) -> dict[str, str]:
    if imitated is None:
        return {"imports": "", "imitation": ""}
    return {
        "imports": f"from safetensors.{library} import load_file\n",
        "imitation": fill("imitation", file=PROJECTION, width=imitated),
    }


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({in_words(value)})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        # For learning curves, the first and last values are enough.
        ends = value if len(value) <= 2 else (value[0], value[-1])
        return " to ".join(_value(item) for item in ends)
    return str(value)
