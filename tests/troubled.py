"""Evaluators that are slow, die, hang or raise, in any process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import CacheError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
CONFIGS = list(SPACE)[::37][:24]


@dataclass(frozen=True)
class Troubled:
    """A planted evaluator with faults; it is picklable, and a factory of itself.

    Attributes:
        seconds: Duration of each epoch.
        folder: Folder for one file per begun evaluation, named by student, process and time; empty for none.
        deadly: The student whose evaluation kills the worker.
        deaths: How often it kills the worker; 0 for always.
        hanging: The student whose evaluation hangs, once.
        raising: The student whose evaluation raises.
        hungry: The student whose evaluation needs more memory than there is.
        held: Students whose evaluation waits until the folder contains a file named ``go``.
        start_error: Message of the error that the factory raises; ``die`` kills the process instead.
        identity: Appended to the fingerprint.
    """

    seconds: float = 0.0
    folder: str = ""
    deadly: StudentConfig | None = None
    deaths: int = 0
    hanging: StudentConfig | None = None
    raising: StudentConfig | None = None
    hungry: StudentConfig | None = None
    held: tuple[StudentConfig, ...] = ()
    start_error: str = ""
    identity: str = ""

    deterministic = True

    def __call__(self) -> Troubled:
        if self.start_error == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.start_error:
            raise CacheError(self.start_error)
        return self

    @property
    def fingerprint(self) -> str:
        return PlantedEvaluator(SPACE).fingerprint + self.identity

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        for config in configs:
            tries = self._note(config)
            if config == self.deadly and (not self.deaths or tries <= self.deaths):
                os.kill(os.getpid(), signal.SIGKILL)
            if config == self.hanging and tries == 1:
                time.sleep(600)
            while config in self.held and not (Path(self.folder) / "go").exists():
                time.sleep(0.01)
            if config == self.hungry:
                bytearray(1 << 50)
            if config == self.raising:
                raise CacheError("the cache is gone")

        def slowly(report: EpochReport) -> bool:
            time.sleep(self.seconds)
            return bool(on_epoch and on_epoch(report))

        return PlantedEvaluator(SPACE).evaluate(configs, fidelity, on_epoch=slowly)

    def _note(self, config: StudentConfig) -> int:
        """Record that an evaluation begins; return how often it has begun."""
        if not self.folder:
            return 1
        name = str(config).replace("/", "_")
        (Path(self.folder) / f"{name} {os.getpid()} {time.monotonic_ns()}").touch()
        return begun(Path(self.folder), config)


def begun(folder: Path, config: StudentConfig) -> int:
    """Return how often the evaluation of a student has begun."""
    return len(notes(folder, config))


def notes(folder: Path, config: StudentConfig) -> list[Path]:
    """Return the files of begun evaluations of a student, named by student, process and time."""
    return list(folder.glob(f"{str(config).replace('/', '_')} *"))
