"""What is exported: an encoder with its tokenizer, and where it comes from."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kdnas_env.distill.student_folder import Lineage, read_lineage
from kdnas_env.distill.teacher import Teacher, load_teacher
from kdnas_env.errors import KDNASError, TeacherError
from kdnas_env.export.errors import ExportError
from kdnas_env.export.hub import hub_name
from kdnas_env.files import expanded


@dataclass(frozen=True, eq=False)
class Source:
    """A model to export.

    Attributes:
        encoder: Model, tokenizer and architecture.
        lineage: Where it comes from; None if its folder does not say.
    """

    encoder: Teacher
    lineage: Lineage | None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model: segments only where it has more than one."""
        segments = ("token_type_ids",) if self.encoder.architecture.type_vocab_size > 1 else ()
        return ("input_ids", "attention_mask", *segments)

    @property
    def base_model(self) -> str | None:
        """Hub name of the teacher, or of the model itself if that has no lineage; None for a folder."""
        return hub_name(self.encoder.name if self.lineage is None else self.lineage.teacher)


def load_source(model: str | os.PathLike[str]) -> Source:
    """Load a model to export: from safetensors only, running no code of it.

    Args:
        model: A student's folder, another folder in hub layout, or a hub name, of a supported encoder.

    Raises:
        ExportError: If it cannot be had, or is no such encoder.
        RunError: If its lineage is malformed.
        DependencyError: If it is ``demo``, and the extra is not installed.
    """
    try:
        encoder = load_teacher(model)
    except TeacherError as error:
        # Teachers and students are loaded alike, so the message speaks of a teacher.
        raise ExportError(f"model {os.fspath(model)!r} cannot be exported: {error}") from error
    return Source(encoder, read_lineage(expanded(model)))


def load_lineage_teacher(source: Source) -> tuple[Teacher | None, str | None]:
    """Return the teacher of a student, or None and the reason why not; a model without lineage has neither."""
    if source.lineage is None:
        return None, None
    name = source.lineage.teacher
    try:
        teacher = load_teacher(name)
    except KDNASError as error:
        return None, f"the teacher was not timed: {error}"
    if teacher.fingerprint != source.lineage.teacher_fingerprint:
        return None, f"the teacher was not timed: {name!r} is not what the student was distilled from"
    return teacher, None
