"""What a task makes of a student: a classifier where it has labels, else an embedding model.

Each kind is a file of its own behind :class:`Product`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.exporting.measuring import Measured, TeacherFiles
from kdnas_env.exporting.record import ClassifierRecord, EmbedderRecord
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.distill_options import DistillOptions
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.run_estimate import Effort
from kdnas_env.pipeline.run_options import PipelineOptions
from kdnas_env.pipeline.search_options import SearchOptions
from kdnas_env.support.progress import Progress


@dataclass(frozen=True)
class Opening:
    """What was read before a run.

    Attributes:
        lines: What the run is for, in lines.
        effort: What is to be done beside search and long distillation; None where that is not estimated.
    """

    lines: tuple[str, ...]
    effort: Effort | None = None


class Learning(Protocol):
    """What students of one distillation need in order to learn a task: its teacher, its text and its settings."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the students depend on, as a run records it."""

    def make(self, student: Path, folder: Path, progress: Progress) -> object:
        """Have a student learn the task, unless it did before, and return its record.

        Args:
            student: Folder of the student.
            folder: Folder of the product.
            progress: Receives what is done.
        """


class Measuring(Protocol):
    """Measures an exported product."""

    def __call__(self, model: Path, export: Path, latency: LatencySettings, beside: TeacherFiles) -> Measured:
        """Measure it.

        Args:
            model: Folder of the product.
            export: Folder of its export.
            latency: How files are timed.
            beside: Files of teachers.
        """


class Product(ABC):
    """What a task makes of a student.

    Attributes:
        folder: Name of its folder beside that of the student, and of the step that makes it.
        marker: File in this folder that says that it is whole.
        words: What it is called.
        library: What loads it.
        steps: Steps of the run that makes it.
        score: What its score is, in words.
    """

    folder: ClassVar[str]
    marker: ClassVar[str]
    words: ClassVar[str]
    library: ClassVar[str]
    steps: ClassVar[tuple[str, ...]]
    score: ClassVar[str]

    @property
    def places(self) -> tuple[str, str]:
        """Names of the folders that a run leaves of the chosen candidate: the product, and its export."""
        return self.folder, "export"

    @abstractmethod
    def check(self, task: TaskOptions) -> None:
        """Check what is cheap to check.

        Raises:
            KDNASError: If there is no such task, or something is not installed.
        """

    @abstractmethod
    def read(self, task: TaskOptions) -> None:
        """Read what of a task may be malformed, before a folder is made.

        Raises:
            KDNASError: If it is.
        """

    @abstractmethod
    def leave_out(self, options: DistillOptions, search: SearchOptions) -> None:
        """Write down the texts that are evaluated, so that students are not distilled on them.

        Args:
            options: The distillation.
            search: The search whose students are distilled.

        Raises:
            KDNASError: If the task cannot be read.
        """

    @abstractmethod
    def record(self, folder: Path) -> ClassifierRecord | EmbedderRecord | None:
        """Return what is known of the product in a folder; None if there is none yet."""

    @abstractmethod
    def learning(self, options: DistillOptions, teacher: Teacher, seed: int, progress: Progress) -> Learning:
        """Make ready what students need in order to learn the task.

        Args:
            options: The distillation.
            teacher: Teacher of the students.
            seed: Seed of everything random.
            progress: Receives what is done.

        Raises:
            KDNASError: If the task or its text cannot be read.
        """

    @abstractmethod
    def opened(self, options: PipelineOptions) -> Opening:
        """Read what can be refused before a run.

        Raises:
            KDNASError: If something cannot be had.
        """

    @abstractmethod
    def searched(self, options: PipelineOptions) -> TaskOptions:
        """Return the task that the search tries its students on."""

    @abstractmethod
    def measuring(self, options: PipelineOptions, progress: Progress) -> Measuring:
        """Return what measures the exports of a run.

        Args:
            options: What was asked for.
            progress: Receives what is done.
        """

    @abstractmethod
    def commands(self, folder: Path) -> Sequence[tuple[str, str]]:
        """Return commands that use the product in a folder, each after what it does."""
