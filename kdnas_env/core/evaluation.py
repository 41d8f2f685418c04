"""The record of one evaluation, and the protocol of evaluators.

An :class:`Evaluation` has raw quantities only. The reward is computed from them (:mod:`kdnas_env.core.reward`), so that
a change of alpha, beta or clipping needs no new evaluation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_number, check_whole
from kdnas_env.support.untrusted import parse_json, restore

MOST_EPOCHS = 100_000
"""Maximum number of epochs, because loss curves have one entry per epoch."""


class Status(StrEnum):
    """How an evaluation ended."""

    OK = "ok"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    INVALID = "invalid"
    STOPPED = "stopped"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    """The student breaks a limit that is known before distillation; a search with limits does not distil it."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The effort of one evaluation.

    Attributes:
        epochs: Passes over the proxy subset.
        data_fraction: Share of the proxy subset that is used, in (0, 1].
        seed: Seed of initialisation and data order, shared by all candidates (common random numbers).

    Raises:
        KDNASError: If a value is out of range or has the wrong type.
    """

    epochs: int = 2
    data_fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("epochs", self.epochs, at_least=0, at_most=MOST_EPOCHS, advice="0 solves the closed forms only")
        check_number("data_fraction", self.data_fraction, above=0, at_most=1)
        check_whole("seed", self.seed, at_least=0)


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency probe of a student and its teacher, interleaved.

    Attributes:
        median_ms: Median milliseconds of one forward pass of the student.
        iqr_ms: Interquartile range of the same, in milliseconds.
        count: Timed passes.
        teacher_median_ms: Median of the teacher in the same probe, in milliseconds.
        teacher_iqr_ms: Interquartile range of the teacher.
        ratio: Median of the paired student/teacher ratios (robust against drift of the machine's clock).
        ratio_iqr: Interquartile range of the paired ratios.
        runtime: ``torch``, ``onnxruntime``, ``onnxruntime-int8`` or ``analytic``.
        device: Device of the probe.
        threads: Threads of the runtime.
        batch_size: Sequences per pass.
        sequence_length: Tokens per sequence.
    """

    median_ms: float
    iqr_ms: float
    count: int
    teacher_median_ms: float
    teacher_iqr_ms: float
    ratio: float
    ratio_iqr: float
    runtime: str
    device: str = "cpu"
    threads: int = 1
    batch_size: int = 1
    sequence_length: int = 50

    @property
    def speedup(self) -> float:
        """How many times faster than the teacher."""
        return 1.0 / self.ratio


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Raw outcome of evaluating one architecture.

    Loss curves have one entry per epoch, the first of which (epoch 0) was taken before any optimiser step.
    A failed evaluation has all values that were measured; other values are absent, never NaN.

    Attributes:
        config: The architecture.
        fidelity: The requested effort.
        status: How it ended.
        train_loss: Raw distillation loss on training tokens, per epoch.
        heldout_loss: Raw distillation loss on held-out tokens in eval mode, per epoch.
        train_unexplained: The same divided by the variance of the teacher's states (1 - R^2), training.
        heldout_unexplained: The same, held-out. One minus its last entry is the quality ``imitation``.
        task_divergence: Mean divergence from the soft labels of the task's teacher on held-out text after a task stage
            (mean squared error where the task asks for a number); None if it was not measured.
        task_unexplained: The same divided by that of a student that answers with the mean soft label. One minus it is
            the quality ``task``.
        epoch_seconds: Wall seconds of each epoch, evaluation included.
        wall_seconds: Wall seconds of the whole evaluation, latency probe included.
        latency: The latency probe, or None if it did not run.
        parameters: Parameters of the student encoder, embeddings included.
        flops: Floating-point operations of one forward pass at the probe's batch and length.
        peak_memory_bytes: Peak resident memory (CPU) or allocated memory (CUDA) during training.
        device: Device that trained.
        error: Reason of a failure, or an empty string.
        details: Further plain data (recipe, step counts, versions).

    Raises:
        KDNASError: If a loss, a divergence or a number of seconds is not finite.
    """

    config: StudentConfig
    fidelity: Fidelity
    status: Status
    train_loss: tuple[float, ...] = ()
    heldout_loss: tuple[float, ...] = ()
    train_unexplained: tuple[float, ...] = ()
    heldout_unexplained: tuple[float, ...] = ()
    task_divergence: float | None = None
    task_unexplained: float | None = None
    epoch_seconds: tuple[float, ...] = ()
    wall_seconds: float = 0.0
    latency: Latency | None = None
    parameters: int = 0
    flops: int = 0
    peak_memory_bytes: int = 0
    device: str = "cpu"
    error: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train_loss", "heldout_loss", "train_unexplained", "heldout_unexplained", "epoch_seconds"):
            values = tuple(map(float, getattr(self, name)))
            if not all(map(math.isfinite, values)):
                raise KDNASError(f"{name} holds a value that is not finite: {values}; cut the curve and set status")
            object.__setattr__(self, name, values)
        for name in ("task_divergence", "task_unexplained"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise KDNASError(f"{name} is {value}; expected a finite number, or None if it was not measured")

    @property
    def ok(self) -> bool:
        """Whether the evaluation produced a usable quality."""
        return self.status is Status.OK

    def to_json(self) -> str:
        """Serialise to JSON; :meth:`from_json` restores an equal record."""
        return json.dumps({**asdict(self), "config": self.config.to_dict()}, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Restore a record written by :meth:`to_json`.

        Raises:
            KDNASError: If the text is no such record.
        """
        try:
            made = restore(cls, parse_json(text))
            made.config.check()
            if made.latency is not None and made.latency.ratio <= 0:
                raise ValueError(f"ratio is {made.latency.ratio}; expected a positive number")
        except ValueError as error:
            raise KDNASError(f"the text is not a record of an evaluation: {error}") from error
        return made


@dataclass(frozen=True)
class EpochReport:
    """The progress of an evaluation, after one epoch.

    Attributes:
        config: The candidate.
        candidate: Its position in the batch of candidates, from 0.
        candidates: Size of the batch.
        epoch: Finished epochs; 0 is the report before the first step.
        epochs: Requested epochs.
        heldout_unexplained: Held-out loss over teacher variance so far.
        seconds: Wall seconds since the candidate started.
    """

    config: StudentConfig
    candidate: int
    candidates: int
    epoch: int
    epochs: int
    heldout_unexplained: float
    seconds: float


EpochCallback = Callable[[EpochReport], bool | None]
"""Called after each epoch; a true return value stops the candidate (status ``stopped``)."""


def report_epochs(
    config: StudentConfig,
    candidate: int,
    candidates: int,
    epochs: int,
    losses: Sequence[float],
    seconds: Sequence[float],
    on_epoch: EpochCallback | None,
) -> int | None:
    """Report epochs with known results to a callback, one by one, until it stops the candidate.

    Args:
        config: The candidate.
        candidate: Its position among the candidates.
        candidates: Number of candidates.
        epochs: Requested epochs.
        losses: Held-out loss over teacher variance for each epoch that the candidate reached.
        seconds: Seconds since the candidate started, by epoch.
        on_epoch: The callback, or None.

    Returns:
        The number of reported epochs, including epoch 0, if the candidate was stopped; else None. A candidate cannot be
        stopped after its last epoch.
    """
    if on_epoch is None:
        return None
    for epoch, loss in enumerate(losses):
        report = EpochReport(config, candidate, candidates, epoch, epochs, loss, seconds[epoch])
        if on_epoch(report) and epoch < epochs:
            return epoch + 1
    return None


@runtime_checkable
class Evaluator(Protocol):
    """Evaluates architectures, in batches.

    Optional attributes:

    - ``tabular = True``: results cost nothing and never change; environments keep them from one episode to the next.
    - ``parallel = True``: several students are evaluated at once; environments pass a whole round if agents announce it
      (``prefetch``).
    - ``evaluate_each``: a method with the arguments of ``evaluate``, which yields the index in the batch and the record
      of each student as soon as it is finished.
    - ``fingerprints``: maps ``teacher`` and ``corpus`` to their fingerprints, to explain a changed fingerprint.
    - ``known``: a method that returns the results at a fidelity without records
      (:meth:`kdnas_env.evaluators.tabular.TabularEvaluator.known`).

    Attributes:
        deterministic: Whether equal calls return equal results (wall seconds aside).
        fingerprint: Identifies the workload: teacher, corpus, recipe and latency settings.
    """

    @property
    def deterministic(self) -> bool:
        """Whether equal calls return equal results."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of the workload, stable across processes."""
        ...

    def evaluate(
        self,
        configs: Sequence[StudentConfig],
        fidelity: Fidelity,
        *,
        on_epoch: EpochCallback | None = None,
    ) -> list[Evaluation]:
        """Evaluate a batch; one record per config, in order. Failures are records, not exceptions."""
        ...
