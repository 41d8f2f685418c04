"""The interface of products: the model that a student becomes by learning a task.

A task with labels gives classifiers, the task ``embedding`` embedding models. Each kind is a file with a subclass of
:class:`Product`.
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
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.distill.products.effort import Effort
from kdnas_env.pipeline.options import TaskOptions
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.support.progress import Progress


@dataclass(frozen=True)
class Opening:
    """Result of the checks before a run.

    Attributes:
        lines: Description of the task, line by line.
        effort: Work beside search and long distillation; None if it is not estimated.
    """

    lines: tuple[str, ...]
    effort: Effort | None = None


class Learning(Protocol):
    """Teaches a task to the students of a distillation: holds the teacher, the text and the settings of the task."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the data that the students learn from, as a run records them."""

    def make(self, student: Path, folder: Path, progress: Progress) -> object:
        """Teach a student the task, unless its product exists already, and return the record.

        Args:
            student: Folder of the student.
            folder: Folder of the product.
            progress: Receives the progress.
        """


class Measuring(Protocol):
    """Measures an exported product."""

    def __call__(self, model: Path, export: Path, latency: LatencySettings, beside: TeacherFiles) -> Measured:
        """Measure it.

        Args:
            model: Folder of the product.
            export: Folder of its export.
            latency: How files are timed.
            beside: Files of the teachers that are measured at the same time.
        """


class Product(ABC):
    """A kind of product.

    Attributes:
        folder: Name of the product's folder, beside that of the student, and of the step that makes it.
        marker: File in this folder that shows that the product is complete.
        words: Name of the product in messages.
        library: Library that loads it.
        steps: Steps of a run that makes it.
        score: Meaning of its score, in words.
    """

    folder: ClassVar[str]
    marker: ClassVar[str]
    words: ClassVar[str]
    library: ClassVar[str]
    steps: ClassVar[tuple[str, ...]]
    score: ClassVar[str]

    @property
    def places(self) -> tuple[str, str]:
        """Folders that a run copies from the chosen candidate: the product and its export."""
        return self.folder, "export"

    @abstractmethod
    def check(self, task: TaskOptions) -> None:
        """Run the checks of a task that read no data.

        Raises:
            KDNASError: If there is no such task, or something is not installed.
        """

    @abstractmethod
    def read(self, task: TaskOptions) -> None:
        """Read the data of a task, so that errors in it are raised before a folder is created.

        Raises:
            KDNASError: If it is.
        """

    @abstractmethod
    def leave_out(self, options: DistillOptions, search: SearchOptions) -> None:
        """Write the texts of the evaluated splits to a file, so that students are not distilled on them.

        Args:
            options: The distillation.
            search: The search whose students are distilled.

        Raises:
            KDNASError: If the task cannot be read.
        """

    @abstractmethod
    def record(self, folder: Path) -> ClassifierRecord | EmbedderRecord | None:
        """Return the record of the product in a folder; None if there is none."""

    @abstractmethod
    def learning(self, options: DistillOptions, teacher: Teacher, seed: int, progress: Progress) -> Learning:
        """Prepare teacher, text and settings of the task.

        Args:
            options: The distillation.
            teacher: Teacher of the students.
            seed: Seed of everything random.
            progress: Receives the progress.

        Raises:
            KDNASError: If the task or its text cannot be read.
        """

    @abstractmethod
    def opened(self, task: TaskOptions, seed: int) -> Opening:
        """Check a task before a run, and describe it.

        Args:
            task: The task.
            seed: Seed of the run.

        Raises:
            KDNASError: If data, a model or a package cannot be loaded.
        """

    @abstractmethod
    def searched(self, task: TaskOptions, quality: str) -> TaskOptions:
        """Return the task by which the search evaluates students.

        Args:
            task: The task of the run.
            quality: The quality that the search rewards.
        """

    @abstractmethod
    def measuring(
        self,
        task: TaskOptions,
        teacher: str,
        format: str,
        *,
        seed: int,
        device: str | None,
        cache_dir: str | None,
        progress: Progress,
    ) -> Measuring:
        """Return the function that measures the exports of a run.

        Args:
            task: The task.
            teacher: Name or folder of the teacher.
            format: The exported file that is measured.
            seed: Seed of the run.
            device: Device of the models.
            cache_dir: Cache folder of the teacher's outputs.
            progress: Receives the progress.
        """

    @abstractmethod
    def commands(self, folder: Path) -> Sequence[tuple[str, str]]:
        """Return commands that use the product in a folder, as pairs of a description and a command."""
