"""A model in hub layout: weights, configuration, tokenizer, lineage and projection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdnas_env.distillation.student.folder import write_lineage, write_projection
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import ExportError
from kdnas_env.exporting.source import Source
from kdnas_env.support.atomic import write_json
from kdnas_env.support.libraries import quiet_transformers

WEIGHTS = "model.safetensors"

_TOKENIZER_CONFIG = "tokenizer_config.json"


def write_weights(source: Source, folder: Path) -> Teacher:
    """Write a model into a folder, and return what it is read as.

    Raises:
        ExportError: If it is read back with other weights, or its tokenizer, read as others read it, does not make
            the inputs of the model.
        OSError: If it cannot be written.
    """
    model: Any = source.encoder.model
    with quiet_transformers():
        model.save_pretrained(folder)
        source.encoder.tokenizer.save_pretrained(folder)
    _name_inputs(source, folder / _TOKENIZER_CONFIG)
    if source.lineage is not None:
        write_lineage(source.lineage, folder, absolute=False)
    if source.projection is not None:
        write_projection(folder, source.projection)
    _check_tokenizer(source, folder)
    reloaded = load_teacher(folder)
    if reloaded.fingerprint != source.encoder.fingerprint:
        raise ExportError(
            f"the weights of {source.encoder.name!r} are others once they are written and read back; try another "
            "version of transformers"
        )
    return reloaded


def _name_inputs(source: Source, path: Path) -> None:
    """Have the tokenizer make what the model takes; by default it makes what its class is used to."""
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "model_input_names": list(source.input_names)})


def _check_tokenizer(source: Source, folder: Path) -> None:
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    text = "a sentence, and another"
    ours, theirs = dict(tokenizer(text)), dict(source.encoder.tokenizer(text))
    if set(ours) != set(source.input_names) or ours != theirs:
        raise ExportError(
            f"the tokenizer of {source.encoder.name!r} makes {sorted(ours)} once it is written and read back, where "
            f"the model takes {sorted(source.input_names)}, or other ids than before; try another version of "
            "transformers"
        )
