"""The model to export: an encoder, a classifier or an embedding student, with tokenizer and origin."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from kdnas_env.distillation.checkpoint import read_config
from kdnas_env.distillation.student.folder import (
    PROJECTION,
    Lineage,
    fits,
    imitated_width,
    read_lineage,
    read_projection,
)
from kdnas_env.distillation.student.vocabulary_cut import MODULES
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher, locate
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.errors import ExportError, KDNASError, TeacherError, one_line
from kdnas_env.exporting.hub import hub_name
from kdnas_env.exporting.record import ClassifierRecord, EmbedderRecord, read_classifier_record, read_embedder_record
from kdnas_env.searching.run_folder import check_is_no_run
from kdnas_env.support.atomic import expanded
from kdnas_env.tasks.heads import PROBLEM_TYPES, load_classifier
from kdnas_env.tasks.specs import CLASSIFICATION, MULTI_LABEL, REGRESSION
from kdnas_env.tasks.vectors import SentenceVectors, open_embedder

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
"""Parts that pretraining leaves in checkpoints of encoders; any other part is a head for a task."""

_CLASSIFIER = "ForSequenceClassification"
"""Suffix of the class names of text classifiers in transformers."""


@dataclass(frozen=True, eq=False)
class Source:
    """A model to export.

    Attributes:
        encoder: Encoder, tokenizer and architecture.
        lineage: Origin of the encoder; None if unknown.
        projection: Maps the encoder's hidden states to its teacher's; None if there is none.
        notes: Parts of the folder that are not exported.
        classifier: Encoder with classification head, as loaded by ``AutoModelForSequenceClassification``; None for a
            plain encoder.
        record: Record of a classifier that kdnas trained; None for others.
        embedder: An embedding student, as loaded by Sentence Transformers; None for others.
        embedded: Its record; None for others.
    """

    encoder: Teacher
    lineage: Lineage | None
    projection: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()
    classifier: Any = None
    record: ClassifierRecord | None = None
    embedder: Any = None
    embedded: EmbedderRecord | None = None

    @cached_property
    def model(self) -> Any:
        """The exported model: a model of transformers, or the vector model of an embedding student."""
        if self.embedder is not None:
            return SentenceVectors(self.encoder.model, self.embedder)
        return self.encoder.model if self.classifier is None else self.classifier

    @property
    def role(self) -> str:
        """Role of the model, as text."""
        if self.embedder is not None:
            return "embedding student"
        return "encoder" if self.classifier is None else "classifier"

    @property
    def kind(self) -> str | None:
        """Kind of the classifier's task, one of :data:`kdnas_env.tasks.specs.KINDS`; None for others."""
        if self.classifier is None:
            return None
        config = self.classifier.config
        if config.problem_type == PROBLEM_TYPES[MULTI_LABEL]:
            return MULTI_LABEL
        return REGRESSION if config.num_labels == 1 else CLASSIFICATION

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classifier's outputs, in order; empty for others."""
        names = {} if self.classifier is None else self.classifier.config.id2label
        return tuple(names[number] for number in sorted(names))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the model; ``token_type_ids`` only if it has more than one segment type."""
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
        """Hub name of the teacher, or of the model itself if it has no lineage; None for a folder."""
        return hub_name(self.encoder.name if self.lineage is None else self.lineage.teacher)


def load_source(model: str | os.PathLike[str]) -> Source:
    """Load a model to export, from safetensors only and without running its code.

    Args:
        model: Folder of a student, classifier or embedding student, another folder in the hub's layout, or a hub name;
            it must be a supported encoder with or without a classification head.

    Raises:
        ExportError: If it cannot be found, is not such a model, or has another head.
        RunError: If it is the folder of a run, or its lineage or record is malformed.
        DependencyError: If it is ``demo`` or an embedding student, and the extra is not installed.
    """
    check_is_no_run(model)
    try:
        encoder = load_teacher(model, role="model")
    except TeacherError as error:
        raise ExportError(f"model {os.fspath(model)!r} cannot be exported: {error}") from error
    folder = expanded(model)
    projection = read_projection(folder)
    if projection is not None and not fits(projection, encoder.architecture.hidden_size):
        raise ExportError(
            f"the projection in {str(folder / PROJECTION)!r} does not fit the model there; remove it, or export the "
            "folder as kdnas wrote it"
        )
    embedded = read_embedder_record(folder)
    if embedded is not None:
        embedder = open_embedder(folder)
        # Other libraries' tokenizers do not know the maximum length of Sentence Transformers.
        tokenizer = copy.deepcopy(encoder.tokenizer)
        tokenizer.model_max_length = min(embedder.max_seq_length, tokenizer.model_max_length)
        encoder = replace(encoder, tokenizer=tokenizer)
        return Source(encoder, read_lineage(folder), embedder=embedder, embedded=embedded)
    classifier = _load_classifier(encoder)
    notes = tuple(_left_out(encoder, folder, classifier is not None))
    record = None if classifier is None else read_classifier_record(folder)
    return Source(encoder, read_lineage(folder), projection, notes, classifier, record)


def _load_classifier(encoder: Teacher) -> Any:
    """Return a checkpoint's encoder with its classification head; None if it has no such head."""
    folder = locate(encoder.name)
    config = read_config(f"model {encoder.name!r}", folder)
    if not any(name.endswith(_CLASSIFIER) for name in config.architectures or ()):
        return None
    try:
        classifier = load_classifier(folder)
    except Exception as error:  # transformers raises many types of errors for weights that do not fit
        raise ExportError(f"the head of model {encoder.name!r} cannot be loaded: {one_line(error)}") from error
    if classifier is None:
        raise ExportError(
            f"model {encoder.name!r} is a {config.architectures[0]} by its config.json, but lacks weights of its head; "
            "export the folder that it was saved to"
        )
    return classifier


def _left_out(encoder: Teacher, folder: Path, classifies: bool) -> Iterator[str]:
    """Yield notes on parts of a checkpoint that are not exported.

    Raises:
        ExportError: If such a part is a head without which the model would be useless.
    """
    prefix = f"{encoder.model.base_model_prefix}."
    parts = dict.fromkeys(name.removeprefix(prefix).partition(".")[0] for name in encoder.left_out)
    heads = [part for part in parts if part not in _PRETRAINING]
    if heads and not classifies:
        raise ExportError(
            f"model {encoder.name!r} has a head for a task ({', '.join(heads)}); kdnas exports encoders and models for "
            "sequence classification. To export its encoder without the head, save that first: "
            f"AutoModel.from_pretrained({encoder.name!r}).save_pretrained(FOLDER) and "
            f"AutoTokenizer.from_pretrained({encoder.name!r}).save_pretrained(FOLDER)"
        )
    if parts and not classifies:
        yield f"exported without parts that serve only its pretraining: {', '.join(parts)}"
    if os.path.isfile(folder / MODULES):
        yield f"exported without the Sentence Transformers modules after the encoder (its pooling, {MODULES})"


def load_lineage_teacher(source: Source) -> tuple[Teacher | None, str | None]:
    """Return the teacher of a student, or None and the reason; for a model without lineage, None and None."""
    if source.lineage is None:
        return None, None
    name = source.lineage.teacher
    try:
        teacher = load_teacher(name)
    except KDNASError as error:
        return None, f"the teacher was not timed: {error}"
    if teacher.fingerprint != source.lineage.teacher_fingerprint:
        return None, f"the teacher was not timed: {name!r} has changed since the student was distilled"
    return teacher, None
