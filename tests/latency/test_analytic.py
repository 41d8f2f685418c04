from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import students, teachers

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.latency import LatencyProbe, LatencySettings, ReferenceMachine
from kdnas_env.latency.analytic import analytic_latency

SETTINGS = LatencySettings(runtime="analytic")
GROWING = ("num_hidden_layers", "hidden_size", "intermediate_size")


@given(student=students(), teacher=teachers())
def test_equal_inputs_give_bit_identical_and_finite_latencies(
    student: StudentConfig, teacher: EncoderArchitecture
) -> None:
    latency = analytic_latency(student, teacher, SETTINGS)
    assert latency == analytic_latency(replace(student), replace(teacher), SETTINGS)
    assert 0 < latency.ratio < math.inf
    assert latency.ratio == latency.median_ms / latency.teacher_median_ms
    assert (latency.iqr_ms, latency.ratio_iqr, latency.count, latency.runtime) == (0, 0, 0, "analytic")


@given(student=students(), teacher=teachers(), name=st.sampled_from(GROWING), factor=st.integers(2, 4))
def test_a_larger_student_is_slower(
    student: StudentConfig, teacher: EncoderArchitecture, name: str, factor: int
) -> None:
    larger = replace(student, **{name: factor * getattr(student, name)})
    assert (
        analytic_latency(larger, teacher, SETTINGS).median_ms > analytic_latency(student, teacher, SETTINGS).median_ms
    )


@given(teacher=teachers().filter(lambda teacher: teacher.embedding_size == teacher.hidden_size))
def test_a_teacher_is_as_fast_as_the_student_of_its_shape(teacher: EncoderArchitecture) -> None:
    three_tables = replace(teacher, family="bert")
    assert analytic_latency(three_tables.as_student(), three_tables, SETTINGS).ratio == 1.0


def test_sharing_weights_saves_no_time(bert_base: EncoderArchitecture) -> None:
    albert = replace(bert_base, family="albert", embedding_size=128)
    assert analytic_latency(albert.as_student(), albert, SETTINGS).ratio == 1.0
    plain = analytic_latency(bert_base.as_student(), bert_base, SETTINGS).median_ms
    factorised = analytic_latency(albert.as_student(), albert, SETTINGS).median_ms
    assert factorised == pytest.approx(plain, rel=0.01)


def test_the_reference_machine_bounds_the_time() -> None:
    """With one bottleneck (arithmetic, launches or memory traffic), the time agrees with a count by hand."""
    teacher = EncoderArchitecture("bert", 12, 12, 768, 3072, "relu", 30522, 512, 2, 768, 0, 1e-12)
    arithmetic = ReferenceMachine(gflops=50.0, gigabytes_per_second=1e12, overhead_us=1e-9)
    launches = ReferenceMachine(gflops=1e12, gigabytes_per_second=1e12, overhead_us=10.0)
    traffic = ReferenceMachine(gflops=1e12, gigabytes_per_second=10.0, overhead_us=1e-9)

    def milliseconds(reference: ReferenceMachine, **settings: Any) -> float:
        chosen = replace(SETTINGS, reference=reference, **settings)
        return analytic_latency(teacher.as_student(), teacher, chosen).median_ms

    matrix_products = 12 * (2 * 50 * (4 * 768**2 + 2 * 768 * 3072) + 4 * 50**2 * 768)
    assert milliseconds(arithmetic) == pytest.approx(matrix_products / 50e9 * 1e3, rel=0.01)
    assert milliseconds(arithmetic, threads=2) == pytest.approx(milliseconds(arithmetic) / 2)
    assert milliseconds(launches) == pytest.approx((4 + 12 * 10) * 0.01)
    assert milliseconds(launches, batch_size=8) == pytest.approx(milliseconds(launches))
    weights = 4 * 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert weights / 10e9 * 1e3 < milliseconds(traffic) < 1.3 * weights / 10e9 * 1e3


def test_a_probe_needs_no_models(bert_base: EncoderArchitecture) -> None:
    probe = LatencyProbe(None, bert_base, SETTINGS)
    student = StudentConfig(3, 4, 384, 1536)
    assert not probe.needs_models
    assert probe.measure(None, student) == analytic_latency(student, bert_base, SETTINGS)


@pytest.mark.slow
def test_the_model_ranks_students_as_the_clock_does() -> None:
    from scipy.stats import spearmanr

    from kdnas_env.distillation.student.building import build_student
    from kdnas_env.distillation.teacher.loading import load_teacher

    teacher = load_teacher("demo")
    measured = LatencyProbe(teacher.model, teacher.architecture, LatencySettings(warmup_passes=1, max_rounds=5))
    modelled = LatencyProbe(None, teacher.architecture, SETTINGS)
    # Neither depth nor width alone determines the order of these shapes.
    shapes = ((1, 96, 1), (1, 192, 1), (2, 96, 4), (1, 384, 1), (2, 384, 1), (3, 384, 1), (6, 192, 4))
    configs = [StudentConfig(layers, 4, hidden, factor * hidden) for layers, hidden, factor in shapes]
    ratios = [
        (
            modelled.measure(None, config).ratio,
            measured.measure(build_student(config, teacher.architecture, seed=0), config).ratio,
        )
        for config in configs
    ]
    assert spearmanr(*zip(*ratios, strict=True)).statistic >= 0.9
