"""What all model cards share: templates that are filled, the front matter of the hub, tables, words and code."""

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
"""The line of code that names the folder of the model."""

FLOAT_MODEL = "Of the float model (safetensors) in PyTorch."
"""What the scores of a card are of."""

STUDENT_TAGS = ("knowledge-distillation", "neural-architecture-search", "kdnas")


def fill(template: str, **fields: object) -> str:
    """Return a template of this folder with its fields filled in; what the fields hold is not interpreted."""
    text = files(__package__).joinpath(f"{template}.md").read_text(encoding="utf-8")
    return Template(text).substitute(fields)


def front_matter(tags: Sequence[str], base_model: str | None = None, pipeline: str = "feature-extraction") -> str:
    """Return what the hub reads at the head of a card, in YAML.

    Args:
        tags: Tags of the model.
        base_model: Hub name of what it was made from, where it has one.
        pipeline: What the model is for.
    """
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": pipeline}
    if base_model is not None:
        data["base_model"] = base_model
    return f"---\n{yaml.safe_dump({**data, 'tags': [*tags]}, sort_keys=False)}---\n\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> str:
    """Return a table in Markdown; with ``numbers``, all columns but the first are aligned to the right."""
    rules = ["---", *["---:" if numbers else "---"] * (len(header) - 1)]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in (header, rules, *rows))


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def in_words(data: Mapping[str, Any]) -> str:
    """Return plain data on one line; what is empty is left out."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(value)}" for name, value in data.items() if value not in (None, (), [], {})
    )


def stages(lineage: Lineage) -> list[str]:
    """Return what was done to a student, a line a stage."""
    return [
        f"**Stage {index}, {stage.get('stage', 'unnamed')}**: "
        + in_words({name: value for name, value in stage.items() if name != "stage"})
        for index, stage in enumerate(lineage.stages, start=1)
    ]


def lineage_section(lineage: Lineage) -> str:
    """Return the section of a card about the origin of a student."""
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
    """Return what the corpus of a student is called."""
    source = str(lineage.corpus.get("source", "unknown text"))
    return CORPUS_TITLES.get(source, teacher_title(source))


def versions_in_words(versions: Mapping[str, str]) -> str:
    """Return versions on one line."""
    return ", ".join(f"{name} {value}" for name, value in versions.items())


def shape_table(
    shape: EncoderArchitecture, parameters: int, more: Iterable[Sequence[object]] = (), *, head: bool
) -> str:
    """Return a table of what a model is made of.

    Args:
        shape: Architecture of its encoder.
        parameters: Number of its parameters.
        more: Further rows.
        head: Whether a head is counted among the parameters.
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
    """Say what the mean-pooled vectors of a distilled student are.

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
        f"{own} The student learnt to imitate through a linear projection (`{PROJECTION}`): `imitation` is what it "
        f"makes of the teacher's vectors, {imitated} wide. The projection was fitted to states of tokens, not to "
        "vectors of sentences."
    )


def torch_code(folder: str, model_type: str, hidden: int, imitated: int | None) -> str:
    """Return code that makes sentence vectors with Transformers.

    Args:
        folder: The lines that set ``folder``.
        model_type: Type of the encoder.
        hidden: Its width.
        imitated: See :func:`kdnas_env.distillation.student.folder.imitated_width`.
    """
    # They would make a pooler of random weights.
    options = ", add_pooling_layer=False" if takes_pooling_layer(model_type) else ""
    return fill("torch", folder=folder, options=options, hidden=hidden, **_imitating("torch", imitated))


def onnx_code(folder: str, graph: str, hidden: int, imitated: int | None) -> str:
    """Return code that makes sentence vectors with ONNX Runtime.

    Args:
        folder: The lines that set ``folder``.
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
        # Of curves by epoch the first and the last value are enough.
        ends = value if len(value) <= 2 else (value[0], value[-1])
        return " to ".join(_value(item) for item in ends)
    return str(value)
