"""What is exported: an encoder with its tokenizer, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kdnas_env.distillation.student.folder import (
    PROJECTION,
    Lineage,
    fits,
    imitated_width,
    read_lineage,
    read_projection,
)
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.errors import ExportError, KDNASError, TeacherError
from kdnas_env.exporting.hub import hub_name
from kdnas_env.searching.run_folder import check_is_no_run
from kdnas_env.support.atomic import expanded

_PRETRAINING = (
    "pooler",
    "cls",
    "lm_head",
    "predictions",
    "sop_classifier",
    "vocab_transform",
    "vocab_layer_norm",
    "vocab_projector",
    "generator_predictions",
    "generator_lm_head",
    "discriminator_predictions",
)
"""What pretraining leaves beside the encoders of transformers; any other weights are of a head for a task."""

_MODULES = "modules.json"


@dataclass(frozen=True, eq=False)
class Source:
    """A model to export.

    Attributes:
        encoder: Model, tokenizer and architecture.
        lineage: Where it comes from; None if its folder does not say.
        projection: What maps its hidden states to its teacher's; None if its folder has none.
        notes: What of its folder is not exported.
    """

    encoder: Teacher
    lineage: Lineage | None
    projection: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model: segments only where it has more than one."""
        segments = ("token_type_ids",) if self.encoder.architecture.type_vocab_size > 1 else ()
        return ("input_ids", "attention_mask", *segments)

    @property
    def imitated_width(self) -> int | None:
        """Width of the teacher's last layer, if the projection maps the last layer to it."""
        if self.lineage is None:
            return None
        return imitated_width(self.projection, resolve_recipe(self.lineage.recipe).mapping)

    @property
    def base_model(self) -> str | None:
        """Hub name of the teacher, or of the model itself if that has no lineage; None for a folder."""
        return hub_name(self.encoder.name if self.lineage is None else self.lineage.teacher)


def load_source(model: str | os.PathLike[str]) -> Source:
    """Load a model to export: from safetensors only, running no code of it.

    Args:
        model: A student's folder, another folder in hub layout, or a hub name, of a supported encoder.

    Raises:
        ExportError: If it cannot be had, is no such encoder, or has a head for a task.
        RunError: If it is the folder of a run, or its lineage is malformed.
        DependencyError: If it is ``demo``, and the extra is not installed.
    """
    check_is_no_run(model)
    try:
        encoder = load_teacher(model)
    except TeacherError as error:
        # Teachers and students are loaded alike, so the message speaks of a teacher.
        raise ExportError(f"model {os.fspath(model)!r} cannot be exported: {error}") from error
    folder = expanded(model)
    projection = read_projection(folder)
    if projection is not None and not fits(projection, encoder.architecture.hidden_size):
        raise ExportError(
            f"the projection in {str(folder / PROJECTION)!r} is not of the model beside it; remove it, or export the "
            "folder as kdnas wrote it"
        )
    return Source(encoder, read_lineage(folder), projection, tuple(_left_out(encoder, folder)))


def _left_out(encoder: Teacher, folder: Path) -> Iterator[str]:
    """Say what of a checkpoint is not exported.

    Raises:
        ExportError: If it is a head for a task, without which the model would be of no use.
    """
    prefix = f"{encoder.model.base_model_prefix}."
    parts = dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in encoder.left_out)
    heads = [part for part in parts if part not in _PRETRAINING]
    if heads:
        raise ExportError(
            f"model {encoder.name!r} has a head for a task ({', '.join(heads)}), and kdnas exports encoders alone. To "
            f"export its encoder without the head, save that first: AutoModel.from_pretrained({encoder.name!r})."
            f"save_pretrained(FOLDER) and AutoTokenizer.from_pretrained({encoder.name!r}).save_pretrained(FOLDER)"
        )
    if parts:
        yield f"exported without what belongs to its pretraining alone: {', '.join(parts)}"
    if os.path.isfile(folder / _MODULES):
        yield f"exported without what Sentence Transformers does after the encoder (its pooling, {_MODULES})"


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
