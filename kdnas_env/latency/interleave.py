"""Interleaved timing of two models, so that a slower machine affects both alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdnas_env.latency.settings import LatencySettings

Pass = Callable[[], None]
"""One forward pass; the call returns when the pass is complete."""

Clock = Callable[[], int]
"""Returns a time in nanoseconds since a fixed point."""

MAX_BLOCK = 16
"""Maximum passes per block, so that a tiny student leaves time for enough rounds."""

EARLIEST = 3
"""Minimum number of rounds before a probe may be stopped early, so that one disturbed round does not decide."""


@dataclass(frozen=True, eq=False)
class PairedTimes:
    """Times of a student and a teacher in each round.

    Attributes:
        student_ns: Nanoseconds of each pass of the student, int64 ``(rounds, passes)``.
        teacher_ns: Nanoseconds of each pass of the teacher, int64 ``(rounds, passes)``.
    """

    student_ns: NDArray[np.int64]
    teacher_ns: NDArray[np.int64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Ratio of the student's to the teacher's median time in each round, float64 ``(rounds,)``."""
        ratios: NDArray[np.float64] = np.median(self.student_ns, axis=1) / np.median(self.teacher_ns, axis=1)
        return ratios


def interquartile_range(values: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Return the interquartile range of all values."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low)


def select_clock(settings: LatencySettings) -> Clock:
    """Return the clock of a probe, in nanoseconds.

    With one thread on the CPU, this is the CPU time of the thread, which on an idle core equals wall time. On a busy
    machine, the scheduler interrupts the teacher's long passes more often than a student's short ones, so a ratio of
    wall times would be biased, not only noisy. All other settings use wall time.
    """
    fine = time.get_clock_info("thread_time").resolution < 1e-6
    return time.thread_time_ns if settings.device == "cpu" and settings.threads == 1 and fine else time.perf_counter_ns


def interleave(
    student: Pass,
    teacher: Pass,
    settings: LatencySettings,
    clock: Clock,
    *,
    enough: Callable[[PairedTimes], bool] | None = None,
) -> PairedTimes:
    """Time two models in rounds: a block of the student, two blocks of the teacher, a block of the student.

    Within a round, a linear drift of the machine's speed cancels out (ABBA design). A block has as many passes as fit
    into one pass of the slower model, so that each model runs mostly from caches that it has filled itself. Garbage
    collection is paused.

    Args:
        student: Forward pass of the student.
        teacher: Forward pass of the teacher.
        settings: Number of warm-up passes, and when to stop.
        clock: Returns nanoseconds; :func:`select_clock` chooses it.
        enough: Called with the times so far after each round from ``EARLIEST`` on; returning True ends the probe.
    """
    student_size, teacher_size = _block_sizes(student, teacher, settings.warmup_passes, clock)
    student_ns: list[list[int]] = []
    teacher_ns: list[list[int]] = []
    with _garbage_collection_paused():
        start = time.perf_counter()
        while not _should_stop(student_ns, teacher_ns, time.perf_counter() - start, settings):
            if enough is not None and len(student_ns) >= EARLIEST and enough(_paired(student_ns, teacher_ns)):
                break
            before = _timed(student, student_size, clock)
            teacher_ns.append(_timed(teacher, 2 * teacher_size, clock))
            student_ns.append(before + _timed(student, student_size, clock))
    return _paired(student_ns, teacher_ns)


def _paired(student_ns: list[list[int]], teacher_ns: list[list[int]]) -> PairedTimes:
    return PairedTimes(np.array(student_ns, dtype=np.int64), np.array(teacher_ns, dtype=np.int64))


def _block_sizes(student: Pass, teacher: Pass, passes: int, clock: Clock) -> tuple[int, int]:
    best = min(_timed(student, passes, clock)), min(_timed(teacher, passes, clock))
    sizes = (min(round(max(best) / max(own, 1)), MAX_BLOCK) for own in best)
    return next(sizes), next(sizes)


def _timed(run: Pass, passes: int, clock: Clock) -> list[int]:
    times = []
    for _ in range(passes):
        start = clock()
        run()
        times.append(clock() - start)
    return times


def _should_stop(
    student_ns: list[list[int]], teacher_ns: list[list[int]], seconds: float, settings: LatencySettings
) -> bool:
    rounds = len(student_ns)
    if rounds < settings.min_rounds:
        return False
    if rounds >= settings.max_rounds or seconds >= settings.max_seconds:
        return True
    return _relative_error(_paired(student_ns, teacher_ns).ratios) <= settings.precision


def _relative_error(ratios: NDArray[np.float64]) -> float:
    """Return the relative standard error of the median, estimated from the interquartile range of a normal variable."""
    deviation = interquartile_range(ratios) / 1.349
    return float(math.sqrt(math.pi / 2 / len(ratios)) * deviation / np.median(ratios))


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
