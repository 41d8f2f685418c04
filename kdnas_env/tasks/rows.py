"""The rows of a comparison: the models that are scored and compared."""

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
"""Kinds of rows, in display order."""

_TITLES = {
    CLOSED_FORMS: "closed forms",
    EMBEDDINGS: "teacher's embeddings",
    RANDOM: "random weights",
    MAJORITY: "majority class",
}


@dataclass(frozen=True, eq=False)
class AsItIs:
    """How to score a model without training.

    Attributes:
        method: Name of the scoring method, such as :data:`kdnas_env.tasks.scores.OWN_HEAD`.
        identity: Fingerprint of everything besides the encoder that determines the scores.
        score: Returns the score, given the task, the seed and the device.
    """

    method: str
    identity: str
    score: Callable[[TaskData, int, str | None], TaskScore]


@dataclass(frozen=True, eq=False)
class Model:
    """A model to score.

    Attributes:
        encoder: Loaded, with its tokenizer and fingerprint.
        lineage: Origin of a student, if its folder has one.
        title: Display name.
        as_it_is: How to score it without training; None if it is trained on the task.
    """

    encoder: Teacher
    lineage: Lineage | None
    title: str
    as_it_is: AsItIs | None = None

    def with_own_head(self) -> Model:
        """Return the model, to be scored with its own head and without training."""
        digest = hashlib.sha256((locate(self.encoder.name) / "model.safetensors").read_bytes())

        def score(task: TaskData, seed: int, device: str | None) -> TaskScore:
            return score_own_head(self.encoder, task, seed, device=device)

        own = AsItIs(OWN_HEAD, f"with its head {digest.hexdigest()}", score)
        return replace(self, title=f"{self.title}, its own head", as_it_is=own)

    def with_vectors(self, embedder: Any, fingerprint: str) -> Model:
        """Return the model, to be scored by the cosines of its vectors and without training.

        Args:
            embedder: The ``SentenceTransformer`` that makes them.
            fingerprint: Fingerprint of everything that determines the vectors.
        """

        def score(task: TaskData, seed: int, device: str | None) -> TaskScore:
            return score_similarity(embedder, task, seed, device=device)

        return replace(self, as_it_is=AsItIs(COSINE, f"with its vectors {fingerprint}", score))

    @property
    def identity(self) -> str:
        """Fingerprint of everything about the model that determines its scores."""
        if self.as_it_is is None:
            return self.encoder.fingerprint
        return f"{self.encoder.fingerprint} {self.as_it_is.identity}"


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a comparison.

    Attributes:
        name: One of ``ROWS``, or ``student-2`` and so on.
        title: Display name.
        identity: Fingerprint of everything that determines its scores, except data and settings.
        encoder: Returns the encoder for a seed; None for the majority class.
        tokenizer: The encoder's tokenizer.
        parameters: Number of parameters of the encoder.
        shape: The model that determines size and speed; None for the majority class.
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
        """Whether a model or head is trained for each seed."""
        return self.encoder is not None and self.as_it_is is None

    @property
    def as_it_is(self) -> AsItIs | None:
        """How to score it without training; None if it is trained on the task, or is not a model."""
        same = self.shape is not None and self.kind in (TEACHER, STUDENT)
        return self.shape.as_it_is if self.shape is not None and same else None

    @property
    def tokenizer_identity(self) -> str:
        """SHA-256 (hex) of the tokenizer, which affects the scores too."""
        return tokenizer_fingerprint(self.tokenizer)

    @property
    def kind(self) -> str:
        """Its kind, one of ``ROWS``."""
        return STUDENT if self.name.startswith(STUDENT) else self.name


def load_model(name: str | os.PathLike[str]) -> Model:
    """Load a model from a folder in the hub's layout, or from the hub.

    Raises:
        KDNASError: If it does not exist, or is not an encoder that kdnas supports.
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
    """Load the teacher that a model was distilled from; None if its lineage is unknown.

    Raises:
        KDNASError: If it cannot be loaded.
        RunError: If the teacher has changed since the distillation.
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
    """Return the tasks that a model is scored on by default.

    Args:
        model: The model.
        teacher: Its teacher; None for that of its lineage.
        data: Folder of GLUE, if given.
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

    The undistilled rows have the architecture of the first model. The majority class is always included, because scores
    cannot be interpreted without it.

    Args:
        models: The models, the main one first.
        teacher: Their teacher, if known.
        names: Kinds of rows to include; empty for all possible ones.
        cache_dir: Cache folder of the teacher's hidden states.
        device: Device to build undistilled students on.

    Raises:
        KDNASError: If a name is unknown, or such a row is impossible.
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
