"""Exporting a model to a folder for use elsewhere: writing, checking, measuring and describing it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdnas_env.errors import ExportError
from kdnas_env.exporting.cards.export import export_card
from kdnas_env.exporting.check import (
    RELOADED_TOLERANCE,
    TOLERANCE,
    Check,
    Forward,
    check_equal,
    graph_forward,
    torch_forward,
)
from kdnas_env.exporting.decisions import Decisions, compare_decisions, logits_on
from kdnas_env.exporting.folder import EXPORT, checked_target, written_whole
from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH, main_output, write_float_graph, write_int8_graph
from kdnas_env.exporting.quantisation_cost import QuantisationCost, VectorCost, quantisation_cost, vector_cost
from kdnas_env.exporting.report import Attempt, ExportReport
from kdnas_env.exporting.source import Source, load_source
from kdnas_env.exporting.text import TaskText, Text, sample_text, task_text
from kdnas_env.exporting.timing import Timing, time_export
from kdnas_env.exporting.weights import WEIGHTS, write_weights
from kdnas_env.latency.onnx_runtime import require_onnx
from kdnas_env.latency.quantise import SCHEMES
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.packages import installed_versions
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.tasks.specs import REGRESSION, TaskData

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
    probabilities: bool = False,
    latency: LatencySettings | None = LATENCY,
    repo_id: str | None = None,
    task: TaskData | None = None,
    progress: Progress = SILENT,
) -> ExportReport:
    """Export a model as a folder in the hub's layout, with all its files.

    The folder holds weights, configuration, tokenizer and card; if known, also lineage, projection (of an encoder) and
    record (of a classifier or embedding student). The export is loaded back and checked: its weights must equal those
    of the model bit for bit, and its outputs up to rounding.

    For ONNX Runtime, the folder also holds ``onnx/model.onnx``. Its inputs are ``input_ids``, ``attention_mask`` and,
    if the model has segments, ``token_type_ids``, each int64 ``(batch, sequence)`` of any size. Its output is
    ``last_hidden_state`` for an encoder, ``logits`` for a classifier, and ``sentence_embedding`` (unit vectors) and
    ``token_embeddings`` for an embedding student. Outputs are checked against the model to 1e-4.

    With ``int8``, the folder also holds ``onnx/model_quantized.onnx``, and the report gives its loss of accuracy. The
    limits are: for a classifier with labels, 0.4 points of score plus the standard error of the loss, on the split for
    selecting settings (never on scored splits); without labels, 1 % of its decisions, or one decision for few texts;
    for an encoder, 1 % unexplained variance of its states; for an embedding student, 0.01 below 1 for the cosine of the
    vectors and for Spearman's correlation of their similarities. If the loss is larger, only the weights are quantised;
    if it still is, only the embedding tables; otherwise the export fails.
    embedding tables alone, or not exported.

    Args:
        model: Folder of a student, classifier or embedding student, another folder in the hub's layout, or a hub name;
            it must be a supported encoder with or without a classification head.
        out: Folder of the export; a previous export is replaced.
        format: ``safetensors`` or ``onnx``.
        int8: Whether to quantise the graph too.
        probabilities: Whether the graphs of a classifier also return ``probabilities``.
        latency: Latency settings; None measures none. Its runtime is ignored, because all runtimes are measured.
        repo_id: Future name of the export on the hub, for its model card.
        task: Task with labels for comparing decisions; None for the task in the classifier's record.
        progress: Receives the steps.

    Raises:
        ExportError: If the model cannot be exported, has another head, does not fit the task, or loses too much
            accuracy by int8; if the export does not compute what the model computes, or cannot be written. Nothing is
            left behind.
        DependencyError: If the format is ONNX and the extra ``onnx`` is not installed, or the model is an embedding
            student and the extra ``embedding`` is not.
        RunError: If the model is the folder of a run, its lineage or record is malformed, or the CPU lock cannot be
            used.
    """
    if format == "onnx":
        require_onnx("an export to ONNX")
    elif int8 or probabilities:
        raise ExportError(
            f"{'int8' if int8 else 'probabilities'} is for ONNX graphs, which an export to {format} does not have; "
            "export to onnx"
        )
    target = checked_target(out, model)
    progress.begin("loading the model")
    source = load_source(model)
    longest = source.encoder.architecture.max_length
    if latency is not None and latency.sequence_length > longest:
        raise ExportError(f"sequence_length is {latency.sequence_length}; the model takes at most {longest} tokens")
    if source.kind is None and task is not None:
        raise ExportError(f"model {os.fspath(model)!r} is an {source.role}, which makes no decisions; leave task out")
    if probabilities and source.kind in (None, REGRESSION):
        raise ExportError(f"model {os.fspath(model)!r} predicts no classes; leave probabilities out")
    timings: tuple[Timing, ...] = ()
    with written_whole(target) as folder:
        export = _Export(source, folder, 1 if latency is None else latency.threads, task)
        progress.begin("writing weights and tokenizer")
        export.add_weights()
        if format == "onnx":
            progress.begin("exporting the graph")
            export.add_graph(probabilities)
        if int8:
            progress.begin("quantising to int8")
            export.add_int8_graph()
        if latency is not None:
            progress.begin("measuring latencies")
            timings, note = time_export(source, export.forwards, latency)
            export.notes.append(note)
        report = ExportReport(
            folder=str(target),
            format=format,
            model=os.fspath(model),
            parameters=sum(parameter.numel() for parameter in source.model.parameters()),
            files=_sizes(folder),
            checks=export.checks,
            int8=export.cost if isinstance(export.cost, QuantisationCost) else None,
            timings=timings,
            probe={} if latency is None else {name: getattr(latency, name) for name in _PROBE},
            notes=tuple(note for note in export.notes if note is not None),
            versions=installed_versions(*_PACKAGES),
            decisions=export.decisions,
            scheme=export.scheme,
            vectors=export.cost if isinstance(export.cost, VectorCost) else None,
            tried=tuple(export.tried),
        )
        write_json(folder / EXPORT, report.to_dict())
        write_text(folder / "README.md", export_card(source, report, repo_id))
    progress.end()
    return report


class _Export:
    """An export in progress, with its measurements."""

    def __init__(self, source: Source, folder: Path, threads: int, task: TaskData | None) -> None:
        self.source, self.folder, self.threads, self.task = source, folder, threads, task
        self.forwards: dict[str, Forward] = {"torch": torch_forward(source.model)}
        self.checks: dict[str, Check] = {}
        self.decisions: dict[str, Decisions] = {}
        self.notes: list[str | None] = [*source.notes]
        self.cost: QuantisationCost | VectorCost | None = None
        self.scheme: str | None = None
        self.tried: list[Attempt] = []

    def add_weights(self) -> None:
        reloaded = torch_forward(write_weights(self.source, self.folder))
        self._check(WEIGHTS, f"the written {WEIGHTS}", reloaded, RELOADED_TOLERANCE)

    def add_graph(self, probabilities: bool) -> None:
        if self.source.kind is not None:
            self.notes.append(self._scored.text.note)
        with training_lock():
            session = write_float_graph(self.source, self.folder, self.threads, probabilities=probabilities)
            self.forwards["onnxruntime"] = graph_forward(session, main_output(self.source))
            self._check(GRAPH, "the graph", self.forwards["onnxruntime"])
            if self.source.kind is not None:
                self.decisions[GRAPH] = self._scored.compare(self.forwards["onnxruntime"])

    def add_int8_graph(self) -> None:
        """Write the first int8 graph whose loss of accuracy is acceptable.

        Raises:
            ExportError: If there is none.
        """
        with training_lock():
            for scheme in SCHEMES:
                session = write_int8_graph(self.source, self.folder, self.threads, scheme)
                quantised = graph_forward(session, main_output(self.source))
                cost = self._cost(quantised)
                tried = Attempt(scheme, (self.folder / INT8_GRAPH).stat().st_size, cost.acceptable, cost)
                self.tried.append(tried)
                if tried.accepted:
                    self._keep(scheme, cost, quantised)
                    return
        raise ExportError(
            f"int8 changes the {self.source.role} too much; {cost.allowed}: {'; '.join(self._refused)}. Nothing was "
            "written; export without int8"
        )

    def _keep(self, scheme: str, cost: QuantisationCost | VectorCost | Decisions, quantised: Forward) -> None:
        self.scheme, self.forwards["onnxruntime int8"] = scheme, quantised
        if isinstance(cost, Decisions):
            self.decisions[INT8_GRAPH] = self._scored.compare(quantised)
        else:
            self.cost = cost
            self.notes.append(self._text.note)
        self.notes += [f"int8 of {words}" for words in self._refused]

    @property
    def _refused(self) -> list[str]:
        return [f"{tried.scheme} was refused: {tried.cost.in_words()}" for tried in self.tried if not tried.accepted]

    def _check(self, name: str, what: str, forward: Forward, tolerance: float = TOLERANCE) -> None:
        architecture, names = self.source.encoder.architecture, self.source.input_names
        self.checks[name] = check_equal(what, forward, self.forwards["torch"], architecture, names, tolerance=tolerance)

    def _cost(self, quantised: Forward) -> QuantisationCost | VectorCost | Decisions:
        if self.source.kind is not None:
            return self._choosing.compare(quantised)
        text = self._text
        if self.source.embedder is not None:
            return vector_cost(quantised, self.forwards["onnxruntime"], text)
        unexplained, cosine = quantisation_cost(quantised, self.forwards["onnxruntime"], text.batches)
        sizes = ((self.folder / name).stat().st_size for name in (GRAPH, INT8_GRAPH))
        return QuantisationCost(unexplained, cosine, text.sentences, text.origin, *sizes)

    @cached_property
    def _text(self) -> Text:
        return sample_text(self.source)

    @cached_property
    def _task_text(self) -> TaskText:
        return task_text(self.source, self.task)

    @cached_property
    def _scored(self) -> _Reference:
        return _Reference.of(self.source, self.forwards["torch"], self._task_text.scored)

    @cached_property
    def _choosing(self) -> _Reference:
        text = self._task_text.choosing
        return self._scored if text is self._scored.text else _Reference.of(self.source, self.forwards["torch"], text)


@dataclass(frozen=True, eq=False)
class _Reference:
    """Texts, and the logits of the PyTorch classifier for them."""

    kind: str
    text: Text
    logits: NDArray[np.float32]

    @classmethod
    def of(cls, source: Source, forward: Forward, text: Text) -> _Reference:
        assert source.kind is not None
        return cls(source.kind, text, logits_on(forward, text))

    def compare(self, forward: Forward) -> Decisions:
        return compare_decisions(logits_on(forward, self.text), self.logits, self.kind, self.text)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each weights file."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".onnx", ".data"))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
