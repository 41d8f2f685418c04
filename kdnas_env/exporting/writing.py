"""From a model to a folder that others can use: written, checked, measured and described."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from kdnas_env.errors import ExportError
from kdnas_env.exporting.cards.export import export_card
from kdnas_env.exporting.check import RELOADED_TOLERANCE, Check, Forward, check_equal, graph_forward, torch_forward
from kdnas_env.exporting.folder import EXPORT, checked_target, written_whole
from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH, write_float_graph, write_int8_graph
from kdnas_env.exporting.quantise import QuantisationCost, quantisation_cost
from kdnas_env.exporting.report import ExportReport
from kdnas_env.exporting.source import Source, load_source
from kdnas_env.exporting.text import sample_text
from kdnas_env.exporting.timing import Timing, time_export
from kdnas_env.exporting.weights import WEIGHTS, write_weights
from kdnas_env.latency.onnx_runtime import require_onnx
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.libraries import installed_versions
from kdnas_env.support.progress import SILENT, Progress

LATENCY = LatencySettings()
"""Batch 1, 50 tokens, one thread."""

_PROBE = ("batch_size", "sequence_length", "threads")

_PACKAGES = ("kdnas", "torch", "transformers", "onnx", "onnxruntime")


def write_export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str = "safetensors",
    int8: bool = False,
    latency: LatencySettings | None = LATENCY,
    repo_id: str | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export an encoder as a clean folder in hub layout: weights, configuration, tokenizer, card, lineage, projection.

    It is loaded back: its weights must be those of the model, bit for bit, and its outputs equal but for rounding.

    For ONNX Runtime, ``onnx/model.onnx`` lies beside the weights: inputs ``input_ids``, ``attention_mask`` and, where
    the model has segments, ``token_type_ids``, each int64 ``(batch, sequence)`` of any size; output
    ``last_hidden_state``. It is checked against the model to 1e-4, absolute. With ``int8``,
    ``onnx/model_quantized.onnx`` lies beside it, and the report says what it costs.

    Args:
        model: A student's folder, another folder in hub layout, or a hub name, of a supported encoder.
        out: Folder of the export; an older export is replaced.
        format: ``safetensors`` or ``onnx``.
        int8: Whether to quantise the graph too.
        latency: How latencies are measured; None for not at all. The runtime is not taken from here: all are measured.
        repo_id: Name that the export will have on the hub, for its model card.
        progress: Told what is being done.

    Raises:
        ExportError: If the model is no encoder that can be exported or has a head for a task, the export does not
            compute what the model computes, or it cannot be written. Nothing is left behind.
        DependencyError: If it is to ONNX and the extra ``onnx`` is not installed.
        RunError: If the model is the folder of a run, its lineage is malformed, or the lock of the cores cannot be
            used.
    """
    if format == "onnx":
        require_onnx("an export to ONNX")
    elif int8:
        raise ExportError(f"int8 quantises the graph, which an export to {format} has not; export to onnx")
    target = checked_target(out, model)
    progress.begin("loading the model")
    source = load_source(model)
    architecture, names = source.encoder.architecture, source.input_names
    if latency is not None and latency.sequence_length > architecture.max_length:
        raise ExportError(
            f"sequence_length is {latency.sequence_length}; the model takes at most {architecture.max_length} tokens"
        )
    original = torch_forward(source.encoder.model)
    threads = 1 if latency is None else latency.threads
    forwards: dict[str, Forward] = {"torch": original}
    checks: dict[str, Check] = {}
    notes: list[str | None] = [*source.notes]
    cost: QuantisationCost | None = None
    timings: tuple[Timing, ...] = ()
    with written_whole(target) as folder:
        progress.begin("writing weights and tokenizer")
        reloaded = torch_forward(write_weights(source, folder).model)
        checks[WEIGHTS] = check_equal(
            f"the written {WEIGHTS}", reloaded, original, architecture, names, tolerance=RELOADED_TOLERANCE
        )
        if format == "onnx":
            progress.begin("exporting the graph")
            with training_lock():
                graph = graph_forward(write_float_graph(source, folder, threads))
                checks[GRAPH] = check_equal("the graph", graph, original, architecture, names)
            forwards["onnxruntime"] = graph
        if int8:
            progress.begin("quantising to int8")
            with training_lock():
                quantised = graph_forward(write_int8_graph(source, folder, threads))
                cost, note = _cost(source, folder, quantised, graph)
            forwards["onnxruntime int8"] = quantised
            notes.append(note)
        if latency is not None:
            progress.begin("measuring latencies")
            timings, note = time_export(source, forwards, latency)
            notes.append(note)
        report = ExportReport(
            folder=str(target),
            format=format,
            model=os.fspath(model),
            parameters=sum(parameter.numel() for parameter in source.encoder.model.parameters()),
            files=_sizes(folder),
            checks=checks,
            int8=cost,
            timings=timings,
            probe={} if latency is None else {name: getattr(latency, name) for name in _PROBE},
            notes=tuple(note for note in notes if note is not None),
            versions=installed_versions(*_PACKAGES),
        )
        write_json(folder / EXPORT, report.to_dict())
        write_text(folder / "README.md", export_card(source, report, repo_id))
    progress.end()
    return report


def _cost(source: Source, folder: Path, quantised: Forward, original: Forward) -> tuple[QuantisationCost, str | None]:
    text = sample_text(source)
    unexplained, cosine = quantisation_cost(quantised, original, text.batches)
    if not np.isfinite(unexplained):
        raise ExportError("the int8 graph computes numbers that are not finite; export without int8")
    sizes = ((folder / name).stat().st_size for name in (GRAPH, INT8_GRAPH))
    return QuantisationCost(unexplained, cosine, text.sentences, text.origin, *sizes), text.note


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file of weights."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".onnx", ".data"))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
