"""The model card of an export: what it is, where it comes from, how well it was checked, and how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.student.usage import IN_A_FOLDER, onnx_code, torch_code, vectors_in_words
from kdnas_env.distillation.text.demo import CORPUS_TITLES, teacher_title
from kdnas_env.exporting.check import Check
from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH
from kdnas_env.exporting.quantise import QuantisationCost
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.source import Source


def export_card(source: Source, report: ExportReport, repo_id: str | None = None) -> str:
    """Return the model card of an export, in Markdown with the front matter of the hub.

    Args:
        source: What was exported.
        report: What is known of it.
        repo_id: Its name on the hub, for the code that uses it; None to leave a placeholder for the folder.
    """
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(source, report), sort_keys=False)}---\n",
        f"# {_title(source)}\n",
        _introduction(source, report),
        _usage(source, report, repo_id),
        _shape(source, report),
        _checks(report),
        _latencies(report),
        _lineage(source.lineage),
        _LIMITS,
    ]
    return "\n".join(section for section in sections if section)


_LIMITS = """## Limits

Check it on your task before you use it. It inherits the biases and the licence terms of what it was made from.
"""


def _front_matter(source: Source, report: ExportReport) -> dict[str, Any]:
    tags = ["kdnas"]
    if source.lineage is not None:
        tags = ["knowledge-distillation", "neural-architecture-search", *tags]
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "feature-extraction"}
    if source.base_model is not None:
        data["base_model"] = source.base_model
    return {**data, "tags": [*tags, report.format]}


def _title(source: Source) -> str:
    if source.lineage is None:
        return teacher_title(source.encoder.name)
    return f"{teacher_title(source.lineage.teacher)}, {source.lineage.student}"


def _introduction(source: Source, report: ExportReport) -> str:
    lineage = source.lineage
    if lineage is None:
        what = f"The encoder **{teacher_title(source.encoder.name)}**"
    else:
        corpus = _corpus_title(lineage)
        what = f"An encoder distilled from **{teacher_title(lineage.teacher)}** on **{corpus}**"
    kind = "for ONNX Runtime and PyTorch" if report.format == "onnx" else "for PyTorch"
    return f"{what}, exported {kind} by kdnas {report.versions['kdnas']}.\n"


def _usage(source: Source, report: ExportReport, repo_id: str | None) -> str:
    folder = IN_A_FOLDER
    if repo_id is not None:
        folder = f'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{repo_id}")'
    shape, imitated = source.encoder.architecture, source.imitated_width
    parts = ["## Usage\n", _vectors(source)]
    if report.format == "onnx":
        names = ", ".join(f"`{name}`" for name in source.input_names)
        parts[1] += (
            f" Inputs are {names}, int64 of any batch and up to {shape.max_length} tokens; the output is "
            "`last_hidden_state`."
        )
        parts += ["\nWith ONNX Runtime:\n", onnx_code(folder, GRAPH, shape.hidden_size, imitated)]
        if report.int8 is not None:
            parts.append(f"The int8 graph is used alike: `{INT8_GRAPH}` in place of `{GRAPH}`.")
    parts += ["\nWith Transformers:\n", torch_code(folder, shape.family, shape.hidden_size, imitated)]
    return "\n".join(parts)


def _vectors(source: Source) -> str:
    if source.lineage is None:
        return "`vectors` are the hidden states of the last layer, averaged over the tokens of a sentence."
    return vectors_in_words(source.encoder.architecture.hidden_size, source.imitated_width)


def _shape(source: Source, report: ExportReport) -> str:
    shape = source.encoder.architecture
    rows = [
        ("type", shape.family),
        ("layers", shape.num_hidden_layers),
        ("hidden size", shape.hidden_size),
        ("attention heads", shape.num_attention_heads),
        ("feed-forward size", shape.intermediate_size),
        ("activation", shape.hidden_act),
        ("parameters", f"{report.parameters:,}"),
        ("longest input", f"{shape.max_length} tokens"),
        *((f"`{name}`", f"{size / 1e6:.2f} MB") for name, size in report.files.items()),
    ]
    return "## What it is\n\n" + _table(("", ""), rows)


def _checks(report: ExportReport) -> str:
    lines = [f"- {_check_words(name, check)}" for name, check in report.checks.items()]
    if report.int8 is not None:
        lines.append(f"- {_int8_words(report.int8)}")
    lines += [f"- Note: {note}." for note in report.notes]
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    return "## Checks\n\n" + "\n".join([*lines, f"- Versions: {versions}."]) + "\n"


def _check_words(name: str, check: Check) -> str:
    shapes = ", ".join(f"{batch} x {length}" for batch, length in check.shapes)
    return (
        f"`{name}` computes what the model computes: hidden states of real tokens deviate by at most "
        f"{check.max_abs_error:.2g} ({check.tolerance:g} is allowed; batch x length: {shapes}; padded)."
    )


def _int8_words(cost: QuantisationCost) -> str:
    return (
        f"`{INT8_GRAPH}` against `{GRAPH}` on {cost.sentences} sentences ({cost.text}): unexplained variance of the "
        f"hidden states {cost.unexplained:.4f} (0 is no error), mean cosine of sentence vectors {cost.cosine:.4f} "
        f"(1 is no error), {cost.int8_bytes / 1e6:.2f} MB instead of {cost.float_bytes / 1e6:.2f} MB."
    )


def _latencies(report: ExportReport) -> str:
    if not report.timings:
        return ""
    probe = report.probe
    rows = [
        (
            timing.model,
            timing.runtime,
            f"{timing.median_ms:.2f} ms",
            f"{timing.iqr_ms:.2f} ms",
            f"{timing.speedup:.2f}x",
        )
        for timing in report.timings
    ]
    return (
        f"## Latency\n\nBatch {probe['batch_size']}, {probe['sequence_length']} tokens, {probe['threads']} CPU "
        "thread(s); medians of interleaved passes, speed relative to the first row.\n\n"
    ) + _table(("model", "runtime", "median", "IQR", "speed"), rows)


def _lineage(lineage: Lineage | None) -> str:
    if lineage is None:
        return ""
    corpus = {name: value for name, value in lineage.corpus.items() if name != "source"}
    versions = ", ".join(f"{name} {value}" for name, value in (lineage.versions or {}).items())
    lines = [
        f"- **Teacher**: {teacher_title(lineage.teacher)} (SHA-256 {lineage.teacher_fingerprint[:12]})",
        f"- **Corpus**: {_corpus_title(lineage)}{_in_words(corpus, ' (', ')')}",
        f"- **Recipe**: {_in_words(lineage.recipe)}",
        *_stages(lineage),
        f"- **Versions**: {versions}" if versions else "",
    ]
    return "## How it came to be\n\n" + "\n".join(line for line in lines if line) + "\n"


def _stages(lineage: Lineage) -> Iterator[str]:
    for index, stage in enumerate(lineage.stages, start=1):
        told = {name: value for name, value in stage.items() if name != "stage"}
        yield f"- **Stage {index}, {stage.get('stage', 'unnamed')}**: {_in_words(told)}"


def _corpus_title(lineage: Lineage) -> str:
    name = str(lineage.corpus.get("source", "unknown text"))
    return CORPUS_TITLES.get(name, teacher_title(name))


def _in_words(data: dict[str, Any], before: str = "", after: str = "") -> str:
    told = ", ".join(
        f"{name.replace('_', ' ')} {_value(value)}" for name, value in data.items() if value not in (None, (), [], {})
    )
    return f"{before}{told}{after}" if told else ""


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_in_words(value)})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        # Curves by epoch: where they begin and end tells enough.
        ends = value if len(value) <= 2 else (value[0], value[-1])
        return " to ".join(_value(item) for item in ends)
    return str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
