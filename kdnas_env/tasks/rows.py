"""The rows of a comparison: models that are scored side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.student.folder import Lineage, read_lineage
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher, locate
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.errors import DependencyError, KDNASError, TeacherError
from kdnas_env.support.atomic import expanded
from kdnas_env.tasks.baselines import CLOSED_FORMS, EMBEDDINGS, RANDOM, Undistilled, random_encoder
from kdnas_env.tasks.encoding import tokenizer_fingerprint
from kdnas_env.tasks.own_heads import score_own_head
from kdnas_env.tasks.scores import COSINE, OWN_HEAD, TaskScore
from kdnas_env.tasks.similarity import score_similarity
from kdnas_env.tasks.specs import EMBEDDED_TASK, GLUE_TASKS, TaskData

TEACHER, STUDENT, MAJORITY = "teacher", "student", "majority"
ROWS = (TEACHER, STUDENT, CLOSED_FORMS, EMBEDDINGS, RANDOM, MAJORITY)
"""Rows by name, in the order they are shown."""

_TITLES = {
    CLOSED_FORMS: "closed forms",
    EMBEDDINGS: "teacher's embeddings",
    RANDOM: "random weights",
    MAJORITY: "majority class",
}


@dataclass(frozen=True, eq=False)
class AsItIs:
    """How a model is scored without training.

    Attributes:
        method: What the scores are called, such as :data:`kdnas_env.tasks.scores.OWN_HEAD`.
        identity: What decides them beside the encoder.
        score: Returns the score on a task, under a seed, on a device.
    """

    method: str
    identity: str
    score: Callable[[TaskData, int, str | None], TaskScore]


@dataclass(frozen=True, eq=False)
class Model:
    """A model that was named to be scored.

    Attributes:
        encoder: Loaded, with its tokenizer and fingerprint.
        lineage: Origin of a student, if its folder has one.
        title: What it is called where people read.
        as_it_is: How it is scored without training; None if it is trained on the task.
    """

    encoder: Teacher
    lineage: Lineage | None
    title: str
    as_it_is: AsItIs | None = None

    def with_own_head(self) -> Model:
        """Return the model as one that is scored with its own head, as it is."""
        digest = hashlib.sha256((locate(self.encoder.name) / "model.safetensors").read_bytes())

        def score(task: TaskData, seed: int, device: str | None) -> TaskScore:
            return score_own_head(self.encoder, task, seed, device=device)

        own = AsItIs(OWN_HEAD, f"with its head {digest.hexdigest()}", score)
        return replace(self, title=f"{self.title}, its own head", as_it_is=own)

    def with_vectors(self, embedder: Any, fingerprint: str) -> Model:
        """Return the model as one that is scored by the cosines of its vectors, as it is.

        Args:
            embedder: The ``SentenceTransformer`` that makes them.
            fingerprint: What decides them.
        """

        def score(task: TaskData, seed: int, device: str | None) -> TaskScore:
            return score_similarity(embedder, task, seed, device=device)

        return replace(self, as_it_is=AsItIs(COSINE, f"with its vectors {fingerprint}", score))

    @property
    def identity(self) -> str:
        """What decides its scores: the encoder, and what makes it score as it is."""
        if self.as_it_is is None:
            return self.encoder.fingerprint
        return f"{self.encoder.fingerprint} {self.as_it_is.identity}"


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a comparison.

    Attributes:
        name: One of ``ROWS``, or ``student-2`` and so on.
        title: What it is called where people read.
        identity: What decides its scores, beside data and settings.
        encoder: Returns the encoder for a seed; None for the majority class.
        tokenizer: The encoder's.
        parameters: Of the encoder.
        shape: The model whose size and speed it has; None for the majority class.
    """

    name: str
    title: str
    identity: str
    encoder: Callable[[int], nn.Module] | None = None
    tokenizer: Any = None
    parameters: int = 0
    shape: Model | None = None

    @property
    def trained(self) -> bool:
        """Whether a head is trained for each seed."""
        return self.encoder is not None and self.as_it_is is None

    @property
    def as_it_is(self) -> AsItIs | None:
        """How it is scored without training; None if it is trained on the task, or is no model."""
        same = self.shape is not None and self.kind in (TEACHER, STUDENT)
        return self.shape.as_it_is if self.shape is not None and same else None

    @property
    def tokenizer_identity(self) -> str:
        """SHA-256 (hex) of the tokenizer, which decides the scores as well."""
        return tokenizer_fingerprint(self.tokenizer)

    @property
    def kind(self) -> str:
        """The one of ``ROWS`` that it is of."""
        return STUDENT if self.name.startswith(STUDENT) else self.name


def load_model(name: str | os.PathLike[str]) -> Model:
    """Load a model from a folder in hub layout, or from the hub.

    Raises:
        KDNASError: If it does not exist, or is not an encoder that kdnas knows.
        RunError: If its lineage is malformed.
    """
    name = os.fspath(name)
    lineage = read_lineage(expanded(name))
    try:
        encoder = load_teacher(name, role="model")
    except DependencyError:
        raise
    except TeacherError as error:
        raise KDNASError(f"the model {name!r} cannot be loaded as an encoder: {error}") from error
    return Model(encoder, lineage, teacher_title(name) if lineage is None else str(lineage.student))


def lineage_teacher(model: Model) -> Model | None:
    """Load the teacher that a model was distilled from; None if it does not say.

    Raises:
        KDNASError: If it cannot be loaded.
        RunError: If it is not what it was.
    """
    if model.lineage is None:
        return None
    teacher = load_model(model.lineage.teacher)
    model.lineage.check_teacher(teacher.encoder.fingerprint)
    return teacher


def teacher_name(model: str | os.PathLike[str], given: str | None) -> str | None:
    """Return the teacher to compare with: the one given, else that of the model's lineage, if any."""
    lineage = read_lineage(expanded(model))
    return given or (None if lineage is None else lineage.teacher)


def default_tasks(model: str | os.PathLike[str], teacher: str | None, data: str | None) -> tuple[str, ...]:
    """Return the tasks that a model is scored on unless some are named.

    Args:
        model: The model.
        teacher: Its teacher; None for that of its lineage.
        data: Folder of GLUE, if one is named.
    """
    embedded = data is None and "demo" in (os.fspath(model), teacher_name(model, teacher))
    return (EMBEDDED_TASK,) if embedded else GLUE_TASKS


def build_rows(
    models: Sequence[Model],
    teacher: Model | None,
    names: Sequence[str] = (),
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    device: str | None = None,
) -> list[Row]:
    """Return the rows of a comparison.

    The undistilled rows are of the first model's architecture. The majority class is always among the rows: no score
    can be read without it.

    Args:
        models: The models, the main one first.
        teacher: Their teacher, if known.
        names: Kinds of rows that are wanted; none for all there can be.
        cache_dir: Folder of the teacher's hidden states.
        device: Where undistilled students are started.

    Raises:
        KDNASError: If a name is unknown, or there can be no such row.
    """
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        raise KDNASError(f"unknown row {unknown[0]!r}; choose from {list(ROWS)}")
    first = models[0]
    undistilled = None if first.lineage is None else Undistilled(first.lineage, cache_dir, device)
    possible = _possible(teacher, undistilled)
    impossible = [name for name in names if name not in possible]
    if impossible:
        raise KDNASError(
            f"there can be no row {impossible[0]!r}: "
            + (
                "no teacher is known; name it with `teacher`"
                if impossible[0] == TEACHER
                else "the folder of the model does not say how it was distilled (kdnas.json), or its recipe has no "
                "such start"
            )
        )
    wanted = [name for name in ROWS if name in possible and (not names or name in names or name == MAJORITY)]
    rows: list[Row] = []
    for name in wanted:
        if name == TEACHER:
            assert teacher is not None
            rows.append(_model_row(name, teacher))
        elif name == STUDENT:
            rows += [
                _model_row(name if index == 1 else f"{name}-{index}", model)
                for index, model in enumerate(models, start=1)
            ]
        elif name == MAJORITY:
            rows.append(Row(name, _TITLES[name], name))
        else:
            rows.append(_undistilled_row(name, first, undistilled))
    return rows


def student_shape(model: Model) -> StudentConfig:
    """Return the architecture of a model, in the nearest student family."""
    return model.encoder.architecture.as_student()


def _possible(teacher: Model | None, undistilled: Undistilled | None) -> set[str]:
    starts = () if undistilled is None else undistilled.starts
    return {STUDENT, MAJORITY, RANDOM, *starts, *((TEACHER,) if teacher is not None else ())}


def _model_row(name: str, model: Model) -> Row:
    encoder = model.encoder
    return Row(
        name,
        model.title,
        model.identity,
        encoder=lambda seed: encoder.model,
        tokenizer=encoder.tokenizer,
        parameters=_parameters(model),
        shape=model,
    )


def _undistilled_row(name: str, model: Model, undistilled: Undistilled | None) -> Row:
    config = model.encoder.model.config
    return Row(
        name,
        _TITLES[name],
        f"{name} of {model.encoder.fingerprint}",
        encoder=(
            (lambda seed: random_encoder(config, seed))
            if undistilled is None or name == RANDOM
            else (lambda seed: undistilled.encoder(name, seed))
        ),
        tokenizer=model.encoder.tokenizer,
        parameters=_parameters(model),
        shape=model,
    )


def _parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.encoder.model.parameters())
