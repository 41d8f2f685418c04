"""Latencies of an export, its model and its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.errors import ExportError, one_line
from kdnas_env.exporting.check import Batch, Forward, graph_forward, random_batch, torch_forward
from kdnas_env.exporting.onnx import main_output, write_float_graph
from kdnas_env.exporting.source import Source, load_lineage_teacher
from kdnas_env.latency.interleave import Pass, interleave, interquartile_range, select_clock
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.cpu_lock import pinned_threads, probe_lock, training_lock
from kdnas_env.support.scratch import scratch_folder


@dataclass(frozen=True)
class Timing:
    """Latency of a model in a runtime.

    Attributes:
        model: ``student`` or ``teacher``; ``model`` for a model without lineage.
        runtime: ``torch`` (eager), ``onnxruntime`` or ``onnxruntime int8``.
        median_ms: Median over all passes, in milliseconds.
        iqr_ms: Interquartile range over all passes, in milliseconds.
        count: Number of passes.
        speedup: Time of the reference divided by the time of this model, median over rounds; 1 for the reference.
    """

    model: str
    runtime: str
    median_ms: float
    iqr_ms: float
    count: int
    speedup: float


@dataclass(frozen=True, eq=False)
class Contender:
    """A model in a runtime, to be timed.

    Attributes:
        model: See :class:`Timing`.
        runtime: See :class:`Timing`.
        forward: The forward pass.
        batch: Its inputs.
    """

    model: str
    runtime: str
    forward: Forward
    batch: Batch

    @property
    def run(self) -> Pass:
        """One forward pass."""

        def run() -> None:
            self.forward(self.batch)

        return run


def time_export(
    source: Source, forwards: Mapping[str, Forward], settings: LatencySettings
) -> tuple[tuple[Timing, ...], str | None]:
    """Time a model in several runtimes, and its teacher in those that are not quantised.

    Args:
        source: The model.
        forwards: Its forward passes by runtime, ``torch`` first.
        settings: Batch size, length, threads, and duration.

    Returns:
        The timings, of which the first is the reference: the teacher in PyTorch, or the model itself without a teacher.
        Also the reason if the teacher of the lineage was not timed.

    Raises:
        RunError: If the CPU lock cannot be used.
    """
    teacher, note = load_lineage_teacher(source)
    batch = _full_batch(source, settings)
    role = "model" if source.lineage is None else "student"
    contenders = [Contender(role, runtime, forward, batch) for runtime, forward in forwards.items()]
    if teacher is not None:
        theirs, note = _teacher_contenders(teacher, settings, "onnxruntime" in forwards)
        contenders = theirs + contenders
    return time_all(contenders[0], contenders[1:], settings), note


def _teacher_contenders(
    teacher: Teacher, settings: LatencySettings, with_graph: bool
) -> tuple[list[Contender], str | None]:
    source = Source(teacher, None)
    batch = _full_batch(source, settings)
    contenders = [Contender("teacher", "torch", torch_forward(teacher.model), batch)]
    if not with_graph:
        return contenders, None
    try:
        with scratch_folder("onnx") as scratch, training_lock():
            session = write_float_graph(source, scratch, settings.threads)
    except (ExportError, OSError) as error:
        return contenders, f"the teacher was not timed in onnxruntime: {one_line(error)}"
    return [*contenders, Contender("teacher", "onnxruntime", graph_forward(session, main_output(source)), batch)], None


def _full_batch(source: Source, settings: LatencySettings) -> Batch:
    """Draw random tokens without padding."""
    generator = np.random.default_rng(settings.seed)
    shape = (1, settings.sequence_length)
    rows = [
        random_batch(source.encoder.architecture, source.input_names, shape, generator)
        for _ in range(settings.batch_size)
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in source.input_names}


def time_all(reference: Contender, others: Sequence[Contender], settings: LatencySettings) -> tuple[Timing, ...]:
    """Time several models, each interleaved with the same reference (:func:`kdnas_env.latency.interleave.interleave`).

    Args:
        reference: The model to compare with.
        others: The other models; if empty, the reference is interleaved with itself.
        settings: Threads and duration.

    Returns:
        The reference, then the others.

    Raises:
        RunError: If the CPU lock cannot be used.
    """
    clock = select_clock(settings)
    with probe_lock(), pinned_threads(settings.threads):
        pairs = [interleave(other.run, reference.run, settings, clock) for other in others or [reference]]
    passes = np.concatenate([pair.teacher_ns.ravel() for pair in pairs])
    timings = [_timing(reference, passes, 1.0)]
    for other, pair in zip(others, pairs, strict=False):
        timings.append(_timing(other, pair.student_ns, float(np.median(1 / pair.ratios))))
    return tuple(timings)


def _timing(contender: Contender, passes: NDArray[np.int64], speedup: float) -> Timing:
    return Timing(
        contender.model,
        contender.runtime,
        float(np.median(passes)) / 1e6,
        interquartile_range(passes) / 1e6,
        passes.size,
        speedup,
    )
