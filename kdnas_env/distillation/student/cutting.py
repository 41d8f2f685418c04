"""Cut an encoder and its tokenizer to some of the tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdnas_env.distillation.text.vocabulary import cut_tokenizer
from kdnas_env.support.libraries import quiet_transformers

_TOKENIZER, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_OLD_FILES = ("vocab.txt", "vocab.json", "merges.txt", "*.model", "added_tokens.json")


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


@torch.no_grad()
def cut_embeddings(model: Any, kept: NDArray[np.int64]) -> None:
    """Keep only some rows of a model's embedding table, and update its configuration."""
    places = {int(old): new for new, old in enumerate(kept)}
    table = model.get_input_embeddings()
    padding = None if table.padding_idx is None else places.get(table.padding_idx)
    weight = table.weight[torch.from_numpy(kept)].clone()
    model.set_input_embeddings(torch.nn.Embedding(len(kept), weight.shape[1], padding_idx=padding, _weight=weight))
    config = model.config
    config.vocab_size = len(kept)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, places.get(value))
