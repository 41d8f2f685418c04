from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.latency import LatencySettings
from kdnas_env.latency.interleave import MAX_BLOCK, PairedTimes, interleave, interquartile_range, select_clock

PATIENT = LatencySettings(max_seconds=1e9, precision=1e-9, min_rounds=5, max_rounds=40)
"""Settings under which only the number of rounds ends a probe."""


class Machine:
    """A simulated machine: its speed is a function of virtual time, and it records the order of passes.

    Attributes:
        now: Virtual time in nanoseconds.
        trace: Name of the model of each pass.
    """

    def __init__(self, slowdown: Callable[[int], float] = lambda now: 1.0) -> None:
        self.now = 0
        self.trace: list[str] = []
        self.slowdown = slowdown

    def clock(self) -> int:
        return self.now

    def model(self, name: str, nanoseconds: float) -> Callable[[], None]:
        def run() -> None:
            self.trace.append(name)
            self.now += round(nanoseconds * self.slowdown(self.now))

        return run


@given(student=st.integers(1_000, 10**9), teacher=st.integers(1_000, 10**9))
def test_a_steady_machine_gives_the_exact_ratio_at_once(student: int, teacher: int) -> None:
    machine = Machine()
    settings = replace(PATIENT, precision=0.005)
    times = interleave(machine.model("s", student), machine.model("t", teacher), settings, machine.clock)
    assert times.ratios == pytest.approx([student / teacher] * settings.min_rounds)


@given(ratio=st.floats(0.05, 20))
def test_linear_drift_cancels(ratio: float) -> None:
    machine = Machine(lambda now: 1 + now / 5e10)
    student, teacher = machine.model("s", ratio * 1e7), machine.model("t", 1e7)
    times = interleave(student, teacher, PATIENT, machine.clock)
    assert float(np.median(times.ratios)) == pytest.approx(ratio, rel=0.002)


def test_bursts_of_foreign_work_do_not_move_the_median() -> None:
    rng = np.random.default_rng(0)
    machine = Machine(lambda now: 10.0 if rng.random() < 0.05 else 1.0)
    times = interleave(machine.model("s", 2e6), machine.model("t", 8e6), PATIENT, machine.clock)
    assert times.student_ns.max() >= 10 * np.median(times.student_ns)
    assert float(np.median(times.ratios)) == pytest.approx(0.25)


def test_rounds_are_balanced_blocks_after_a_warm_up() -> None:
    machine = Machine()
    settings = replace(PATIENT, warmup_passes=2, max_rounds=5)
    times = interleave(machine.model("s", 1e6), machine.model("t", 4e6), settings, machine.clock)
    assert "".join(machine.trace) == "sstt" + 5 * "ssssttssss"
    assert times.student_ns.shape == (5, 8)
    assert times.teacher_ns.shape == (5, 2)


@given(ratio=st.floats(1e-4, 1e4))
def test_blocks_last_equally_long_within_their_limit(ratio: float) -> None:
    machine = Machine()
    times = interleave(machine.model("s", ratio * 1e6), machine.model("t", 1e6), PATIENT, machine.clock)
    student, teacher = times.student_ns.shape[1] // 2, times.teacher_ns.shape[1] // 2
    assert min(student, teacher) == 1
    assert max(student, teacher) == pytest.approx(min(max(ratio, 1 / ratio), MAX_BLOCK), abs=0.51)


def test_noise_is_measured_for_longer() -> None:
    def rounds(noise: float, max_rounds: int = 1000) -> int:
        rng = np.random.default_rng(0)
        machine = Machine(lambda now: float(rng.lognormal(0, noise)))
        settings = replace(PATIENT, precision=0.005, max_rounds=max_rounds)
        return len(interleave(machine.model("s", 1e6), machine.model("t", 1e6), settings, machine.clock).ratios)

    assert PATIENT.min_rounds == rounds(0) < rounds(0.03) < rounds(0.1) < 1000
    assert rounds(0.1, max_rounds=17) == 17


def test_time_is_up_after_the_fewest_rounds() -> None:
    machine = Machine()
    settings = replace(PATIENT, max_seconds=1e-9)
    assert len(interleave(machine.model("s", 1e6), machine.model("t", 1e6), settings, machine.clock).ratios) == 5


def test_it_ends_as_soon_as_the_times_are_enough() -> None:
    machine = Machine()
    heard: list[int] = []

    def enough(times: PairedTimes) -> bool:
        heard.append(len(times.ratios))
        return len(times.ratios) == 4

    times = interleave(machine.model("s", 1e6), machine.model("t", 1e6), PATIENT, machine.clock, enough=enough)
    assert heard == [3, 4]
    assert len(times.ratios) == 4


@pytest.fixture(params=[True, False])
def collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    was = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was else gc.disable)()


def test_garbage_collection_rests_while_passes_are_timed(collecting: bool) -> None:
    seen: list[bool] = []
    interleave(lambda: seen.append(gc.isenabled()), lambda: None, PATIENT, time.perf_counter_ns)
    assert not any(seen[PATIENT.warmup_passes :])
    assert gc.isenabled() is collecting


def test_garbage_collection_resumes_after_an_exception() -> None:
    def work() -> None:
        next(left)

    left = iter(range(20))
    with pytest.raises(StopIteration):
        interleave(work, lambda: None, PATIENT, time.perf_counter_ns)
    assert gc.isenabled()


def test_only_one_cpu_thread_is_timed_by_its_cpu_time() -> None:
    assert select_clock(LatencySettings()) is time.thread_time_ns
    assert select_clock(LatencySettings(threads=2)) is time.perf_counter_ns
    assert select_clock(LatencySettings(device="cuda")) is time.perf_counter_ns


def test_interquartile_range() -> None:
    assert interquartile_range(np.arange(5)) == 2.0
    assert interquartile_range(np.array([[1, 1], [1, 9]])) == pytest.approx(2.0)
