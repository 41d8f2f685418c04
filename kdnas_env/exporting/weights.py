"""Writing a model in the hub's layout: weights, configuration, tokenizer, lineage and projection."""

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
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.tasks.heads import load_classifier
from kdnas_env.tasks.vectors import SentenceVectors, open_embedder

WEIGHTS = "model.safetensors"

_TOKENIZER_CONFIG = "tokenizer_config.json"


def write_weights(source: Source, folder: Path) -> Any:
    """Write a model with all its files to a folder, and return the model as loaded from there.

    Raises:
        ExportError: If the reloaded weights differ, or the reloaded tokenizer does not make the inputs of the model.
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
            f"the weights of {source.encoder.name!r} differ after writing and reading them back; try another "
            "version of transformers"
        )
    return reloaded


def _equal(model: Any, other: Any) -> bool:
    ours, theirs = model.state_dict(), {} if other is None else other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def write_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights, configuration and tokenizer; see :func:`write_tokenizer`.

    Raises:
        OSError: If they cannot be written.
    """
    with quiet_transformers():
        model.save_pretrained(folder)
    write_tokenizer(tokenizer, folder)


def write_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer whose ``model_input_names`` apply wherever it is loaded.

    Raises:
        OSError: If it cannot be written.
    """
    with quiet_transformers():
        tokenizer.save_pretrained(folder)
    # Otherwise loading it restores the default input names of its class.
    path = folder / _TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "model_input_names": list(tokenizer.model_input_names)})


def check_tokenizer(tokenizer: Any, folder: Path, what: str) -> None:
    """Check that a written tokenizer, when loaded by transformers, makes the inputs of the model.

    Args:
        tokenizer: The tokenizer that was written.
        folder: The folder.
        what: For the message: the model.

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
            f"the tokenizer of {what} makes {sorted(ours)} after writing and reading it back, but the model expects "
            f"{sorted(tokenizer.model_input_names)}; or its ids changed. Try another version of transformers"
        )
