"""The latency of students, each beside its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Latency
from kdnas_env.errors import LatencyError
from kdnas_env.latency.analytic import analytic_latency
from kdnas_env.latency.interleave import PairedTimes, Pass, interleave, interquartile_range, select_clock
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.cpu_lock import pinned_threads, probe_lock, training_lock

if TYPE_CHECKING:
    from torch import nn


class LatencyProbe:
    """Finds the latency of students of one teacher; the teacher is prepared once.

    Encoders only, without pooler and head, in eval and inference mode, on random token ids without padding. Every
    measurement times student and teacher interleaved, holds the cores of the machine for itself
    (:func:`kdnas_env.support.cpu_lock.probe_lock`), and leaves models, thread counts and random states as they were.

    Attributes:
        architecture: The teacher's architecture.
        settings: What to run, and how long.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        architecture: EncoderArchitecture,
        settings: LatencySettings | None = None,
    ) -> None:
        """Prepare the teacher.

        Args:
            teacher: Its encoder of transformers; None will do for runtime ``analytic``.
            architecture: Its architecture.
            settings: What to run, and how long.

        Raises:
            LatencyError: If the sequences are too long for the teacher, the model is missing, the device cannot be
                used, or the model cannot be exported.
            DependencyError: If the runtime is not installed.
        """
        self.architecture = architecture
        self.settings = settings or LatencySettings()
        if self.settings.sequence_length > architecture.max_length:
            raise LatencyError(
                f"sequence_length is {self.settings.sequence_length}; the teacher takes at most "
                f"{architecture.max_length} tokens"
            )
        self._teacher = self._load(teacher, "teacher") if self.needs_models else None

    @property
    def needs_models(self) -> bool:
        """Whether models are run; False where the architectures suffice."""
        return self.settings.runtime != "analytic"

    def measure(
        self, model: nn.Module | None, student: StudentConfig, *, enough: Callable[[Latency], bool] | None = None
    ) -> Latency:
        """Find the latency of a student.

        Call it outside of :func:`kdnas_env.support.cpu_lock.training_lock`. Out-of-memory errors pass through as they
        are.

        Args:
            model: The student's encoder of transformers, on any device and in any mode; None will do for runtime
                ``analytic``.
            student: Its architecture.
            enough: Called with the latency so far after each round but the first ones; a true value ends the
                measurement, which is then less precise.

        Returns:
            Medians over all passes, and the median of the ratios of rounds of passes. Times of one thread on the
            CPU are CPU times (see :func:`kdnas_env.latency.interleave.select_clock`).

        Raises:
            LatencyError: If the model is missing or cannot be exported.
            RunError: If the lock of the cores cannot be used.
        """
        if self._teacher is None:
            return analytic_latency(student, self.architecture, self.settings)
        run = self._load(model, "student")
        with probe_lock(), pinned_threads(self.settings.threads):
            times = interleave(
                run,
                self._teacher,
                self.settings,
                select_clock(self.settings),
                enough=None if enough is None else lambda times: enough(self._latency(times)),
            )
        return self._latency(times)

    def _latency(self, times: PairedTimes) -> Latency:
        return Latency(
            median_ms=float(np.median(times.student_ns)) / 1e6,
            iqr_ms=interquartile_range(times.student_ns) / 1e6,
            count=times.student_ns.size,
            teacher_median_ms=float(np.median(times.teacher_ns)) / 1e6,
            teacher_iqr_ms=interquartile_range(times.teacher_ns) / 1e6,
            ratio=float(np.median(times.ratios)),
            ratio_iqr=interquartile_range(times.ratios),
            runtime=self.settings.runtime,
            device=self.settings.device,
            threads=self.settings.threads,
            batch_size=self.settings.batch_size,
            sequence_length=self.settings.sequence_length,
        )

    def _load(self, model: nn.Module | None, role: str) -> Pass:
        if model is None:
            raise LatencyError(f"runtime {self.settings.runtime!r} runs models, but that of the {role} is None")
        from kdnas_env.latency import onnx_runtime, torch_runtime

        load = torch_runtime.load if self.settings.runtime == "torch" else onnx_runtime.load
        # Exports are as much of a burden to others' probes as training is.
        with training_lock():
            return load(model, self.settings)
