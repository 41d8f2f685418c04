"""A roofline model of latency (Williams et al. 2009): computed, not measured, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig, factorised, student_embedding_size
from kdnas_env.core.evaluation import Latency
from kdnas_env.latency.settings import LatencySettings, ReferenceMachine

_FLOAT_BYTES = 4

_ACTIVATION_FLOPS = {"relu": 1, "silu": 90, "gelu": 190, "gelu_new": 340}
"""Cost per element, in matrix-product operations that take the same time; fitted with the reference machine."""

_UNKNOWN_ACTIVATION_FLOPS = _ACTIVATION_FLOPS["gelu"]


@dataclass(frozen=True)
class Operator:
    """One kernel of a forward pass.

    Attributes:
        flops: Floating-point operations, a multiply-add counting two.
        bytes: Bytes read and written: weights and activations, each once.
    """

    flops: int
    bytes: int

    def seconds(self, machine: ReferenceMachine, threads: int) -> float:
        """Return the modelled time: the maximum of arithmetic and memory time, plus the launch overhead."""
        arithmetic = self.flops / (machine.gflops * 1e9 * threads)
        memory = self.bytes / (machine.gigabytes_per_second * 1e9)
        return max(arithmetic, memory) + machine.overhead_us * 1e-6


@dataclass(frozen=True)
class _Shape:
    layers: int
    hidden: int
    inner: int
    activation: str
    embedding: int
    tables: int
    mapped: bool  # Whether a linear map projects the embeddings to the layers, even if the widths are equal.

    @classmethod
    def of_student(cls, student: StudentConfig, teacher: EncoderArchitecture) -> _Shape:
        return cls(
            layers=student.num_hidden_layers,
            hidden=student.hidden_size,
            inner=student.intermediate_size,
            activation=student.hidden_act,
            embedding=student_embedding_size(student, teacher),
            tables=3,
            mapped=factorised(student),
        )

    @classmethod
    def of_teacher(cls, teacher: EncoderArchitecture) -> _Shape:
        return cls(
            layers=teacher.num_hidden_layers,
            hidden=teacher.hidden_size,
            inner=teacher.intermediate_size,
            activation=teacher.as_student().hidden_act,
            embedding=teacher.embedding_size,
            tables=2 if teacher.family == "distilbert" else 3,
            mapped=teacher.family == "albert" or teacher.embedding_size != teacher.hidden_size,
        )


def analytic_latency(student: StudentConfig, teacher: EncoderArchitecture, settings: LatencySettings) -> Latency:
    """Model the latency of a student and its teacher on the reference machine.

    Each operator costs the maximum of its arithmetic at peak speed and its memory traffic at full bandwidth, plus a
    constant launch overhead. The costs of all operators add up. ALBERT shares weights between layers but computes each
    layer, so it costs as much as other families. Equal arguments give bit-identical results.

    Returns:
        A record with no timed passes and an interquartile range of 0.
    """
    student_ms = _milliseconds(_Shape.of_student(student, teacher), settings)
    teacher_ms = _milliseconds(_Shape.of_teacher(teacher), settings)
    return Latency(
        median_ms=student_ms,
        iqr_ms=0.0,
        count=0,
        teacher_median_ms=teacher_ms,
        teacher_iqr_ms=0.0,
        ratio=student_ms / teacher_ms,
        ratio_iqr=0.0,
        runtime=settings.runtime,
        device=settings.device,
        threads=settings.threads,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
    )


def _milliseconds(shape: _Shape, settings: LatencySettings) -> float:
    operators = _operators(shape, settings.batch_size, settings.sequence_length)
    return 1e3 * sum(operator.seconds(settings.reference, settings.threads) for operator in operators)


def _operators(shape: _Shape, batch: int, length: int) -> Iterator[Operator]:
    """Yield the operators of a forward pass, in order."""
    tokens = batch * length
    for _ in range(shape.tables):
        yield _elementwise(2 * tokens * shape.embedding)  # Look a row up and add it.
    yield _elementwise(2 * tokens * shape.embedding)  # LayerNorm
    if shape.mapped:
        yield _linear(tokens, shape.embedding, shape.hidden)
    for _ in range(shape.layers):
        for _ in ("query", "key", "value"):
            yield _linear(tokens, shape.hidden, shape.hidden)
        yield Operator(4 * batch * length * length * shape.hidden, _FLOAT_BYTES * 4 * tokens * shape.hidden)
        yield _linear(tokens, shape.hidden, shape.hidden)
        yield _elementwise(5 * tokens * shape.hidden)  # Add, LayerNorm
        yield _linear(tokens, shape.hidden, shape.inner)
        activation = _ACTIVATION_FLOPS.get(shape.activation, _UNKNOWN_ACTIVATION_FLOPS)
        yield Operator(activation * tokens * shape.inner, _FLOAT_BYTES * 2 * tokens * shape.inner)
        yield _linear(tokens, shape.inner, shape.hidden)
        yield _elementwise(5 * tokens * shape.hidden)


def _linear(tokens: int, inputs: int, outputs: int) -> Operator:
    weights = inputs * outputs + outputs
    return Operator(2 * tokens * inputs * outputs, _FLOAT_BYTES * (weights + tokens * (inputs + outputs)))


def _elementwise(elements: int) -> Operator:
    """Return an operator dominated by memory traffic, with one operation per element."""
    return Operator(elements, _FLOAT_BYTES * elements)
