"""Students of a finished distillation, and the folders of the students that a user names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.pipeline.work import Finished
from kdnas_env.searching.run_folder import STUDENT
from kdnas_env.support.untrusted import shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kdnas_env.exporting.record import ClassifierRecord, EmbedderRecord

DISTILLED = "distilled.json"
"""File in the folder of a distilled student: its architecture, losses and learning curve."""


@dataclass(frozen=True)
class DistilledStudent:
    """A student after the long distillation.

    Attributes:
        path: Folder with the student and its curve.
        config: Its architecture.
        started_at: Unexplained variance on held-out text before the distillation.
        unexplained: Unexplained variance of the saved student.
        seconds: Duration of the distillation, in seconds.
        curve: Learning curve, one point per evaluation: ``step``, ``epoch``, ``unexplained``, ``seconds``.
    """

    path: Path
    config: StudentConfig
    started_at: float
    unexplained: float
    seconds: float
    curve: Sequence[Mapping[str, float]]

    @classmethod
    def of(cls, path: Path, result: Mapping[str, Any]) -> DistilledStudent:
        """Make it from the content of its ``distilled.json``."""
        numbers = {name: result[name] for name in ("started_at", "unexplained", "seconds", "curve")}
        return cls(path, StudentConfig.from_dict(result["student"]), **numbers)

    @property
    def name(self) -> str:
        """``best``, its family, or a folder name made from its architecture."""
        return self.path.name

    @property
    def unstable(self) -> bool:
        """Whether the training lost more than half of its gain by the end. The saved student is the best one."""
        return self.curve[-1]["unexplained"] > (self.started_at + self.unexplained) / 2

    @property
    def folder(self) -> Path:
        """Folder of the model: weights, configuration, tokenizer and a model card."""
        return self.path / STUDENT

    def model(self) -> PreTrainedModel:
        """Load it, as an encoder of transformers."""
        from kdnas_env.distillation.student.folder import load_student

        model: PreTrainedModel = load_student(self.folder)
        return model


@dataclass(frozen=True)
class _MadeFromStudent:
    """A model that was made from a student, in a folder beside the student's."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the student that it was made from: of the folder that holds both."""
        return self.folder.resolve().parent.name


@dataclass(frozen=True)
class DistilledClassifier(_MadeFromStudent):
    """A student that learnt a task.

    Attributes:
        folder: Folder of the model, as transformers loads it: weights, configuration, tokenizer and a model card.
        record: Its record: its task, its score and that of its teacher.
    """

    record: ClassifierRecord = field(repr=False)

    def model(self) -> PreTrainedModel:
        """Load it, as a classifier of transformers."""
        from transformers import AutoModelForSequenceClassification

        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(self.folder, local_files_only=True)
        return model


@dataclass(frozen=True)
class DistilledEmbedder(_MadeFromStudent):
    """A student that learnt to embed texts.

    Attributes:
        folder: Folder of the model, as Sentence Transformers loads it.
        record: Its record: its scores and its origin.
    """

    record: EmbedderRecord = field(repr=False)

    def model(self) -> Any:
        """Load it, as a ``SentenceTransformer``."""
        from kdnas_env.tasks.vectors import open_embedder

        return open_embedder(self.folder)


@dataclass(frozen=True, repr=False)
class DistillRun(Finished):
    """A finished distillation.

    Attributes:
        path: Its folder.
        options: Its settings.
        students: The students; empty if a student's folder was named.
        classifiers: The students with a head for the task, if the task has labels.
        embedders: The students with a head for the teacher's vectors, with the task embedding.
        notes: Notes on the preparation of the text, in sentences.
    """

    path: Path
    options: DistillOptions
    students: tuple[DistilledStudent, ...]
    classifiers: tuple[DistilledClassifier, ...] = ()
    embedders: tuple[DistilledEmbedder, ...] = ()
    notes: tuple[str, ...] = ()


@runtime_checkable
class HasProducts(Protocol):
    """A finished run with a task, see :class:`kdnas_env.pipeline.run.result.PipelineRun`."""

    @property
    def products(self) -> Mapping[str, Path]:
        """Folders of its products, the model of the task first."""


Students = (
    HasProducts
    | str
    | os.PathLike[str]
    | SearchRun
    | DistilledStudent
    | DistilledClassifier
    | DistilledEmbedder
    | DistillRun
)
"""References to students: a folder, a name on the hub, or the result of a search or a distillation."""


def student_folders(students: Students) -> tuple[str, ...]:
    """Return the folders of students, the main one first; for a name on the hub, the name.

    Raises:
        KDNASError: If the argument is no model.
    """
    match students:
        case SearchRun():
            return (str(students.path / STUDENT),)
        case DistilledStudent() | DistilledClassifier() | DistilledEmbedder():
            return (str(students.folder),)
        case DistillRun():
            return tuple(
                str(student.folder) for student in students.embedders or students.classifiers or students.students
            )
        case HasProducts(products=products) if products:
            return (str(next(iter(products.values()))),)
        case str() | os.PathLike():
            return (os.fspath(students),)
        case _:
            raise KDNASError(
                f"{shown(students)} is no model; expected a folder, a name on the hub, or what a search or a "
                "distillation returned"
            )
