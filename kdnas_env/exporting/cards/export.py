"""Cards of exports: what it is, where it comes from, how well it was checked, and how to use it."""

from __future__ import annotations

from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.text.demo import CORPUS_TITLES, teacher_title
from kdnas_env.exporting.cards.template import (
    IN_A_FOLDER,
    STUDENT_TAGS,
    bullets,
    fill,
    front_matter,
    in_words,
    onnx_code,
    stages,
    table,
    torch_code,
    vectors_in_words,
)
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
    lineage = source.lineage
    title = teacher_title(source.encoder.name)
    origin = f"The encoder **{title}**"
    tags: tuple[str, ...] = STUDENT_TAGS[-1:]
    if lineage is not None:
        teacher = teacher_title(lineage.teacher)
        title = f"{teacher}, {lineage.student}"
        origin, tags = f"An encoder distilled from **{teacher}** on **{_corpus(lineage)}**", STUDENT_TAGS
    return front_matter((*tags, report.format), source.base_model) + fill(
        "exported",
        title=title,
        origin=origin,
        runtimes="ONNX Runtime and PyTorch" if report.format == "onnx" else "PyTorch",
        version=report.versions["kdnas"],
        usage=_usage(source, report, repo_id),
        shape=_shape(source, report),
        checks=_checks(report),
        versions=_versions(report.versions),
        latencies=_latencies(report),
        lineage="" if lineage is None else lineage_section(lineage),
    )


def _usage(source: Source, report: ExportReport, repo_id: str | None) -> str:
    folder = IN_A_FOLDER
    if repo_id is not None:
        folder = f'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{repo_id}")'
    shape, imitated = source.encoder.architecture, source.imitated_width
    vectors = "`vectors` are the hidden states of the last layer, averaged over the tokens of a sentence."
    if source.lineage is not None:
        vectors = vectors_in_words(shape.hidden_size, imitated)
    parts = []
    if report.format == "onnx":
        names = ", ".join(f"`{name}`" for name in source.input_names)
        vectors += (
            f" Inputs are {names}, int64 of any batch and up to {shape.max_length} tokens; the output is "
            "`last_hidden_state`."
        )
        parts += ["\nWith ONNX Runtime:\n", onnx_code(folder, GRAPH, shape.hidden_size, imitated)]
        if report.int8 is not None:
            parts.append(f"The int8 graph is used alike: `{INT8_GRAPH}` in place of `{GRAPH}`.")
    return "\n".join(
        [vectors, *parts, "\nWith Transformers:\n", torch_code(folder, shape.family, shape.hidden_size, imitated)]
    )


def _shape(source: Source, report: ExportReport) -> str:
    shape = source.encoder.architecture
    return table(
        ("", ""),
        [
            ("type", shape.family),
            ("layers", shape.num_hidden_layers),
            ("hidden size", shape.hidden_size),
            ("attention heads", shape.num_attention_heads),
            ("feed-forward size", shape.intermediate_size),
            ("activation", shape.hidden_act),
            ("parameters", f"{report.parameters:,}"),
            ("longest input", f"{shape.max_length} tokens"),
            *((f"`{name}`", f"{size / 1e6:.2f} MB") for name, size in report.files.items()),
        ],
    )


def _checks(report: ExportReport) -> str:
    lines = [_check_words(name, check) for name, check in report.checks.items()]
    if report.int8 is not None:
        lines.append(_int8_words(report.int8))
    return bullets([*lines, *(f"Note: {note}." for note in report.notes)])


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
    return fill("latencies", timings=table(("model", "runtime", "median", "IQR", "speed"), rows), **report.probe)


def lineage_section(lineage: Lineage) -> str:
    """Return the section of a card that tells where a student comes from."""
    reading = in_words({name: value for name, value in lineage.corpus.items() if name != "source"})
    versions = [f"**Versions**: {_versions(lineage.versions)}"] if lineage.versions else []
    return fill(
        "lineage",
        teacher=teacher_title(lineage.teacher),
        fingerprint=lineage.teacher_fingerprint[:12],
        corpus=_corpus(lineage) + (f" ({reading})" if reading else ""),
        recipe=in_words(lineage.recipe),
        more=bullets([*stages(lineage), *versions]),
    )


def _corpus(lineage: Lineage) -> str:
    source = str(lineage.corpus.get("source", "unknown text"))
    return CORPUS_TITLES.get(source, teacher_title(source))


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())
