"""Measures the latency of students relative to their teacher."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Latency
from kdnas_env.errors import LatencyError
from kdnas_env.latency.analytic import analytic_latency
from kdnas_env.latency.interleave import PairedTimes, Pass, interleave, interquartile_range, select_clock
from kdnas_env.latency.settings import ANALYTIC, MEASURED, LatencySettings
from kdnas_env.support.cpu_lock import pinned_threads, probe_lock, training_lock

if TYPE_CHECKING:
    from torch import nn


class LatencyProbe:
    """Determines the latency of students of one teacher; the teacher is prepared once.

    It runs encoders only, without pooler and head, in eval and inference mode, on random token ids without padding.
    Each measurement times student and teacher interleaved and holds the CPU lock alone
    (:func:`kdnas_env.support.cpu_lock.probe_lock`). Models, thread counts and random states stay unchanged.

    Attributes:
        architecture: The teacher's architecture.
        settings: Runtime, inputs and duration of the probe.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        architecture: EncoderArchitecture,
        settings: LatencySettings | None = None,
    ) -> None:
        """Prepare the teacher.

        Args:
            teacher: Its encoder, a model of transformers; may be None for runtime ``analytic``.
            architecture: Its architecture.
            settings: Runtime, inputs and duration of the probe.

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
        """Whether the probe runs models; False if the architectures suffice."""
        return self.settings.runtime != ANALYTIC

    def measure(
        self, model: nn.Module | None, student: StudentConfig, *, enough: Callable[[Latency], bool] | None = None
    ) -> Latency:
        """Determine the latency of a student.

        Call it outside :func:`kdnas_env.support.cpu_lock.training_lock`. Out-of-memory errors are passed on unchanged.

        Args:
            model: The student's encoder, a model of transformers on any device and in any mode; may be None for runtime
                ``analytic``.
            student: Its architecture.
            enough: Called with the latency so far after each round from the third on; returning True ends the
                measurement, which is then less precise.

        Returns:
            Medians over all passes, and the median of the ratios of the rounds. With one thread on the CPU, times are
            CPU times (see :func:`kdnas_env.latency.interleave.select_clock`).

        Raises:
            LatencyError: If the model is missing or cannot be exported.
            RunError: If the CPU lock cannot be used.
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
            raise LatencyError(f"runtime {self.settings.runtime!r} needs models, but the model of the {role} is None")
        module = import_module(f"kdnas_env.latency.{MEASURED[self.settings.runtime]}")
        load: Callable[[nn.Module, LatencySettings], Pass] = module.load
        # An export disturbs the probes of other processes as much as training does.
        with training_lock():
            return load(model, self.settings)
