"""Teachers with a smaller vocabulary: the same encoder with a subset of the embedding rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.student.cutting import write_cut
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import TeacherError

_MODULES = "modules.json"
_SENTENCE_FILES = (_MODULES, "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling")
"""Files with sentence-transformers settings, which do not depend on the vocabulary."""


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
            f"the tokenizer of teacher {teacher.name!r} ({type(teacher.tokenizer).__name__}) cannot be cut: loaded "
            "again, it has other tokens; use the whole vocabulary"
        )
    return cut


def _modules(source: Path) -> list[str]:
    """Return the folders of the Sentence Transformers modules after the encoder, such as a linear head."""
    try:
        modules = json.loads((source / _MODULES).read_text(encoding="utf-8"))
        paths = [str(module["path"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path for path in paths if path and Path(path).name == path and path != ".."]
