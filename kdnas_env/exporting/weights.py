"""A model in hub layout: weights, configuration, tokenizer, lineage and projection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from kdnas_env.distillation.student.folder import write_lineage, write_projection
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import ExportError
from kdnas_env.exporting.source import Source
from kdnas_env.support.atomic import write_json
from kdnas_env.support.libraries import quiet_transformers
from kdnas_env.tasks.heads import load_classifier
from kdnas_env.tasks.vectors import SentenceVectors, open_embedder

WEIGHTS = "model.safetensors"

_TOKENIZER_CONFIG = "tokenizer_config.json"


def write_weights(source: Source, folder: Path) -> Any:
    """Write a model into a folder with everything that belongs to it, and return the model as it is read back.

    Raises:
        ExportError: If it is read back with other weights, or its tokenizer, read as others read it, does not make
            the inputs of the model.
        OSError: If it cannot be written.
    """
    if source.embedder is None:
        write_model(source.model, source.encoder.tokenizer, folder)
    else:
        with quiet_transformers():
            source.embedder.save_pretrained(str(folder), create_model_card=False)
        write_tokenizer(source.encoder.tokenizer, folder)
    if source.lineage is not None:
        write_lineage(source.lineage, folder, absolute=False)
    if source.record is not None:
        source.record.write(folder, absolute=False)
    if source.embedded is not None:
        source.embedded.write(folder, absolute=False)
    if source.projection is not None:
        write_projection(folder, source.projection)
    check_tokenizer(source.encoder.tokenizer, folder, repr(source.encoder.name))
    if source.embedder is not None:
        reloaded: Any = SentenceVectors(load_teacher(folder).model, open_embedder(folder))
    else:
        reloaded = load_teacher(folder).model if source.classifier is None else load_classifier(folder)
    if not _equal(source.model, reloaded):
        raise ExportError(
            f"the weights of {source.encoder.name!r} are others once they are written and read back; try another "
            "version of transformers"
        )
    return reloaded


def _equal(model: Any, other: Any) -> bool:
    ours, theirs = model.state_dict(), {} if other is None else other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights, configuration and tokenizer; the tokenizer makes its ``model_input_names`` wherever it is loaded.

    Raises:
        OSError: If they cannot be written.
    """
    with quiet_transformers():
        model.save_pretrained(folder)
    write_tokenizer(tokenizer, folder)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer that makes its ``model_input_names`` wherever it is loaded.

    Raises:
        OSError: If it cannot be written.
    """
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    # By default it makes what its class is used to.
    path = folder / _TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "model_input_names": list(tokenizer.model_input_names)})


def check_tokenizer(tokenizer: Any, folder: Path, what: str) -> None:
    """Refuse a folder whose tokenizer, read as others read it, does not make what the model takes.

    Args:
        tokenizer: The tokenizer that was written.
        folder: The folder.
        what: The model, for the message.

    Raises:
        ExportError: If it makes other inputs, or other ids.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        written = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    text = "a sentence, and another"
    ours, theirs = (dict(read(text, truncation=True)) for read in (written, tokenizer))
    if set(ours) != set(tokenizer.model_input_names) or ours != theirs:
        raise ExportError(
            f"the tokenizer of {what} makes {sorted(ours)} once it is written and read back, where the model takes "
            f"{sorted(tokenizer.model_input_names)}, or other ids than before; try another version of transformers"
        )
