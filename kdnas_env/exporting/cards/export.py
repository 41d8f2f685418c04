"""Cards of exports: description, origin, checks, and usage."""

from __future__ import annotations

from collections.abc import Callable

from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.exporting.cards import embedder
from kdnas_env.exporting.cards.classifier import (
    PIPELINE,
    classifier_title,
    onnx_usage,
    origin,
    output_in_words,
    scores_section,
    task_section,
    torch_usage,
)
from kdnas_env.exporting.cards.template import (
    IN_A_FOLDER,
    PLACEHOLDER,
    STUDENT_TAGS,
    bullets,
    corpus_title,
    fill,
    front_matter,
    lineage_section,
    onnx_code,
    shape_table,
    table,
    torch_code,
    vectors_in_words,
    versions_in_words,
)
from kdnas_env.exporting.check import Check
from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.source import Source


def export_card(source: Source, report: ExportReport, repo_id: str | None = None) -> str:
    """Return the model card of an export, in Markdown with the front matter of the hub.

    Args:
        source: The exported model.
        report: The report of the export.
        repo_id: Its name on the hub, for the usage code; None for a placeholder path.
    """
    lineage, record = source.lineage, source.record
    title, subject = _title(source)
    return _matter(source, report) + fill(
        "exported",
        title=title,
        origin=subject,
        runtimes="ONNX Runtime and PyTorch" if report.format == "onnx" else "PyTorch",
        version=report.versions["kdnas"],
        usage=_usage(source)(source, report, repo_id),
        scores=_scores(source),
        shape=_shape(source, report),
        checks=_checks(source, report),
        versions=versions_in_words(report.versions),
        latencies=_latencies(report),
        task="" if record is None else task_section(record),
        lineage="" if lineage is None else lineage_section(lineage),
    )


def _matter(source: Source, report: ExportReport) -> str:
    if source.embedded is not None:
        return embedder.embedder_matter(source.embedded, (report.format,))
    tags = STUDENT_TAGS if source.lineage is not None or source.record is not None else STUDENT_TAGS[-1:]
    pipeline = {} if source.kind is None else {"pipeline": PIPELINE}
    return front_matter((*tags, report.format), source.base_model, **pipeline)


def _title(source: Source) -> tuple[str, str]:
    """Return the title of a model, and a phrase that describes it."""
    title, lineage = teacher_title(source.encoder.name), source.lineage
    if source.embedded is not None:
        teacher = teacher_title(source.embedded.teacher["name"])
        return embedder.embedder_title(lineage), f"Vectors of texts, distilled from **{teacher}**"
    if source.record is not None:
        return classifier_title(source.record, lineage), origin(source.record)
    if source.kind is not None:
        return title, f"The {source.kind} model **{title}**"
    if lineage is None:
        return title, f"The encoder **{title}**"
    teacher = teacher_title(lineage.teacher)
    return f"{teacher}, {lineage.student}", f"An encoder distilled from **{teacher}** on **{corpus_title(lineage)}**"


def _folder(repo_id: str | None) -> str:
    """Return the lines of code that set ``folder``."""
    if repo_id is None:
        return IN_A_FOLDER
    return f'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{repo_id}")'


def _scores(source: Source) -> str:
    if source.embedded is not None:
        return embedder.scores_section(source.embedded)
    return "" if source.record is None else scores_section(source.record)


def _usage(source: Source) -> Callable[[Source, ExportReport, str | None], str]:
    if source.embedder is not None:
        return _embedding
    return _encoding if source.kind is None else _classifying


def _embedding(source: Source, report: ExportReport, repo_id: str | None) -> str:
    tokenizer, parts = source.encoder.tokenizer, []
    assert source.embedded is not None
    words = (
        f"`vectors` have length 1 and are {source.embedded.teacher['width']} wide, in the space of the teacher's "
        "vectors: an index of the teacher's vectors can be searched with them. Texts are cut at "
        f"{tokenizer.model_max_length} tokens."
    )
    if report.format == "onnx":
        words += f" {_inputs(source)} the outputs are `sentence_embedding` and `token_embeddings`."
        code = embedder.onnx_usage(_folder(repo_id), _graph(report), tokenizer)
        parts += ["\nWith ONNX Runtime and Tokenizers alone:\n", code, *_other_graph(report)]
    return "\n".join([words, *parts, "\nWith Sentence Transformers:\n", embedder.torch_usage(repo_id or PLACEHOLDER)])


def _encoding(source: Source, report: ExportReport, repo_id: str | None) -> str:
    folder, shape, imitated = _folder(repo_id), source.encoder.architecture, source.imitated_width
    vectors = "`vectors` are the hidden states of the last layer, averaged over the tokens of a sentence."
    if source.lineage is not None:
        vectors = vectors_in_words(shape.hidden_size, imitated)
    parts = []
    if report.format == "onnx":
        vectors += f" {_inputs(source)} the output is `last_hidden_state`."
        code = onnx_code(folder, _graph(report), shape.hidden_size, imitated)
        parts += ["\nWith ONNX Runtime:\n", code, *_other_graph(report)]
    return "\n".join(
        [vectors, *parts, "\nWith Transformers:\n", torch_code(folder, shape.family, shape.hidden_size, imitated)]
    )


def _classifying(source: Source, report: ExportReport, repo_id: str | None) -> str:
    kind, tokenizer = source.kind, source.encoder.tokenizer
    assert kind is not None
    columns = 1 if source.record is None else len(source.record.task["columns"])
    words, parts = output_in_words(kind, tokenizer.model_max_length), []
    if report.format == "onnx":
        words += f" {_inputs(source)} the output is `logits`."
        code = onnx_usage(_folder(repo_id), _graph(report), kind, columns, tokenizer)
        parts += ["\nWith ONNX Runtime and Tokenizers alone:\n", code, *_other_graph(report)]
    return "\n".join([words, *parts, "\nWith Transformers:\n", torch_usage(repo_id or PLACEHOLDER, kind, columns)])


def _inputs(source: Source) -> str:
    names = ", ".join(f"`{name}`" for name in source.input_names)
    return f"Inputs are {names}, int64 of any batch and up to {source.encoder.architecture.max_length} tokens;"


def _graph(report: ExportReport) -> str:
    """Return the graph for the usage code: the int8 graph if there is one, because the user requested it."""
    return GRAPH if report.scheme is None else INT8_GRAPH


def _other_graph(report: ExportReport) -> list[str]:
    if report.scheme is None:
        return []
    return [
        f"This is the int8 graph; quantised are {report.scheme}. The float graph is used alike: `{GRAPH}` in place of "
        f"`{INT8_GRAPH}`."
    ]


def _shape(source: Source, report: ExportReport) -> str:
    classes = [("classes", ", ".join(source.labels))] if source.labels else []
    sizes = [(f"`{name}`", f"{size / 1e6:.2f} MB") for name, size in report.files.items()]
    head = source.kind is not None or source.embedder is not None
    return shape_table(source.encoder.architecture, report.parameters, [*classes, *sizes], head=head)


def _checks(source: Source, report: ExportReport) -> str:
    outputs = "logits"
    if source.kind is None:
        outputs = "hidden states of real tokens" if source.embedder is None else "vectors"
    lines = [_check_words(name, check, outputs) for name, check in report.checks.items()]
    lines += [f"`{name}` on text: {decisions.in_words()}." for name, decisions in report.decisions.items()]
    cost = report.int8 or report.vectors
    if cost is not None:
        lines.append(f"`{INT8_GRAPH}` against `{GRAPH}`: {cost.in_words()}.")
    return bullets([*lines, *(f"Note: {note}." for note in report.notes)])


def _check_words(name: str, check: Check, outputs: str) -> str:
    shapes = ", ".join(f"{batch} x {length}" for batch, length in check.shapes)
    return (
        f"`{name}` computes what the model computes: {outputs} deviate by at most "
        f"{check.max_abs_error:.2g} ({check.tolerance:g} is allowed; batch x length: {shapes}; padded)."
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
    reference = report.timings[0]
    speed = f"speed against the {reference.model} in {reference.runtime}"
    return fill("latencies", timings=table(("model", "runtime", "median", "IQR", speed), rows), **report.probe)
