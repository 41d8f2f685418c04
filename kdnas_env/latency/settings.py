"""Settings of a latency probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdnas_env.errors import LatencyError
from kdnas_env.support.checks import check_number, check_whole

INT8 = "onnxruntime-int8"
"""ONNX Runtime on a graph that is quantised in the same way as an int8 export."""

ANALYTIC = "analytic"
"""The model of a reference machine, which runs nothing."""

ONNX_RUNTIMES = ("onnxruntime", INT8)
"""Runtimes that need the extra ``onnx``."""

MEASURED: Mapping[str, str] = {"torch": "torch_runtime", **dict.fromkeys(ONNX_RUNTIMES, "onnx_runtime")}
"""Runtimes that run models, each with its module in this folder. ``load`` of the module prepares a model."""

RUNTIMES = (*MEASURED, ANALYTIC)


@dataclass(frozen=True)
class ReferenceMachine:
    """The machine of the analytic model.

    The defaults describe one server core with AVX-512 that runs eager PyTorch. They were fitted to measurements of
    students of all-MiniLM-L6-v2.

    Attributes:
        gflops: Peak speed of matrix products, in 10^9 floating-point operations per second and thread.
        gigabytes_per_second: Memory bandwidth for weights and activations, in 10^9 bytes per second.
        overhead_us: Time to launch an operator, in microseconds.
    """

    gflops: float = 94.0
    gigabytes_per_second: float = 8.0
    overhead_us: float = 29.0

    def __post_init__(self) -> None:
        for name in ("gflops", "gigabytes_per_second", "overhead_us"):
            check_number(name, getattr(self, name), above=0, error=LatencyError)


@dataclass(frozen=True)
class LatencySettings:
    """Settings of a latency probe. They are plain data and part of a workload's fingerprint.

    A probe runs rounds of interleaved passes until the ratio is precise enough or the time is up.

    Attributes:
        runtime: ``torch`` (eager), ``onnxruntime`` (exported, all graph optimisations), ``onnxruntime-int8`` (the same,
            weights and activations quantised to int8) or ``analytic`` (a roofline model of a reference machine, which
            is the same on every machine).
        batch_size: Sequences per pass.
        sequence_length: Tokens per sequence, without padding.
        threads: Threads of the runtime.
        device: Device of the probe; only runtime ``torch`` supports others than ``cpu``.
        warmup_passes: Untimed passes of each model before the first round.
        min_rounds: Minimum number of rounds, even if they exceed ``max_seconds``.
        max_rounds: Maximum number of rounds.
        max_seconds: Seconds since the first round after which no further round starts.
        precision: Relative standard error of the median ratio at which the probe stops.
        seed: Seed of the token ids.
        reference: The machine of runtime ``analytic``.
    """

    runtime: str = "torch"
    batch_size: int = 1
    sequence_length: int = 50
    threads: int = 1
    device: str = "cpu"
    warmup_passes: int = 3
    min_rounds: int = 5
    max_rounds: int = 200
    max_seconds: float = 1.5
    precision: float = 0.005
    seed: int = 0
    reference: ReferenceMachine = field(default_factory=ReferenceMachine)

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise LatencyError(f"unknown runtime {self.runtime!r}; choose from {list(RUNTIMES)}")
        for name in ("batch_size", "sequence_length", "threads", "warmup_passes", "min_rounds", "max_rounds"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), at_least=1, error=LatencyError))
        for name in ("max_seconds", "precision"):
            check_number(name, getattr(self, name), above=0, error=LatencyError)
        if self.max_rounds < self.min_rounds:
            raise LatencyError(f"max_rounds is {self.max_rounds}; expected at least min_rounds, {self.min_rounds}")
        if self.runtime != "torch" and self.device != "cpu":
            raise LatencyError(
                f"runtime {self.runtime!r} does not support device {self.device!r}; use 'cpu', or 'torch'"
            )
