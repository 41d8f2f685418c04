"""Cut an encoder and its tokenizer to some of the tokens: of a student, or of a teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.text.vocabulary import cut_tokenizer
from kdnas_env.errors import TeacherError
from kdnas_env.support.quiet import quiet_transformers

_TOKENIZER, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_OLD_FILES = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "added_tokens.json")
MODULES = "modules.json"
"""File that lists the modules of a Sentence Transformers model."""

_SENTENCE_FILES = (MODULES, "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling")
"""Files with sentence-transformers settings, which do not depend on the vocabulary."""


def write_cut(model: Any, tokenizer: Any, kept: NDArray[np.int64], folder: Path) -> None:
    """Write an encoder and its tokenizer with only some of the tokens, in hub layout.

    Args:
        model: The encoder, with or without a head; its embeddings are replaced.
        tokenizer: Its fast tokenizer; not changed.
        kept: Ids of the kept tokens, ascending, see :func:`kdnas_env.distillation.text.vocabulary.choose_tokens`.
        folder: Folder to write to.

    Raises:
        CorpusError: If the type of the tokenizer cannot be reduced.
        OSError: If the folder cannot be written.
    """
    state = cut_tokenizer(tokenizer, kept)
    cut_embeddings(model, kept)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for pattern in _OLD_FILES:
        for file in folder.glob(pattern):
            file.unlink()
    (folder / _TOKENIZER).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    settings.pop("added_tokens_decoder", None)
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def write_cut_teacher(teacher: Teacher, model: Any, source: Path, kept: NDArray[np.int64], folder: Path) -> Teacher:
    """Write a teacher with only some of the tokens, in hub layout, and load it.

    For texts that use only kept tokens, it produces the same tokens (with new ids) and the same hidden states.

    Args:
        teacher: The teacher.
        model: The model to write: the teacher's encoder, with or without a head; its embeddings are replaced.
        source: The teacher's folder.
        kept: Ids of the kept tokens, ascending, see :func:`kdnas_env.distillation.text.vocabulary.choose_tokens`.
        folder: An empty folder.

    Raises:
        CorpusError: If the type of its tokenizer cannot be reduced.
        TeacherError: If the written folder does not load as a teacher, or its tokens differ.
    """
    write_cut(model, teacher.tokenizer, kept, folder)
    for name in dict.fromkeys((*_SENTENCE_FILES, *_modules(source))):
        file = source / name
        if file.is_dir():
            shutil.copytree(file, folder / name)
        elif file.exists():
            shutil.copyfile(file, folder / name)
    cut = load_teacher(folder)
    expected = {token: new for new, token in enumerate(teacher.tokenizer.convert_ids_to_tokens(kept.tolist()))}
    if cut.tokenizer.get_vocab() != expected:
        raise TeacherError(
            f"the tokenizer of teacher {teacher.name!r} ({type(teacher.tokenizer).__name__}) cannot be reduced: "
            "loaded from the written file, it has other tokens; use the whole vocabulary"
        )
    return cut


@torch.no_grad()
def cut_embeddings(model: Any, kept: NDArray[np.int64]) -> None:
    """Keep only some rows of a model's embedding table, and update its configuration."""
    new_ids = {int(old): new for new, old in enumerate(kept)}
    table = model.get_input_embeddings()
    padding = None if table.padding_idx is None else new_ids.get(table.padding_idx)
    weight = table.weight[torch.from_numpy(kept)].clone()
    model.set_input_embeddings(torch.nn.Embedding(len(kept), weight.shape[1], padding_idx=padding, _weight=weight))
    config = model.config
    config.vocab_size = len(kept)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, new_ids.get(value))


def _modules(source: Path) -> list[str]:
    """Return the folders of the Sentence Transformers modules after the encoder, such as a linear head."""
    try:
        modules = json.loads((source / MODULES).read_text(encoding="utf-8"))
        paths = [str(module["path"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path for path in paths if path and Path(path).name == path and path != ".."]
