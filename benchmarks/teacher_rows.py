"""What can be had of a teacher for little time: a static model, and the teacher with fewer layers."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.training.mapping import map_layers
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.tasks.encoding import outputs

STATIC_WIDTH, RARITY = 256, 1e-4
"""Model2Vec's defaults: width after PCA, and the coefficient of its smooth inverse frequencies."""


class StaticModel(nn.Module):
    """Mean of the vectors of tokens, of length 1."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag.from_pretrained(torch.from_numpy(vectors), mode="mean")
        self.config = SimpleNamespace(pad_token_id=0)

    def get_input_embeddings(self) -> Any:
        """Return the table, which says how many tokens there are."""
        return self.table

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the vectors of sequences without padding, ``(batch, width)``."""
        pooled: Tensor = nn.functional.normalize(self.table(input_ids), dim=1)
        return pooled

    def encode(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> NDArray[np.float32]:
        """Return the vectors of texts, ``(texts, width)``; unknown tokens are left out."""
        encoded = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=max_length)
        known = [[token for token in ids if token != tokenizer.unk_token_id] for ids in encoded["input_ids"]]
        return np.concatenate([self(torch.tensor([ids or [tokenizer.pad_token_id]])).numpy() for ids in known])


def static_vectors(teacher: Teacher) -> NDArray[np.float32]:
    """Return a vector a token: the mean of the teacher's states of the token alone, its principal components, weighted.

    Tokens are weighted by their place in the vocabulary, which stands for their frequency.
    """
    tokenizer = teacher.tokenizer
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    count = len(tokenizer)
    examples = [{"input_ids": [first, token, last], "attention_mask": [1, 1, 1]} for token in range(count)]
    with training_lock():
        means = outputs(_MeanStates(teacher.model), examples, tokenizer.pad_token_id, teacher.device).numpy()
    components = PCA(min(STATIC_WIDTH, means.shape[1]), random_state=0).fit_transform(means)
    shares = 1 / np.arange(2, count + 2)
    weights = RARITY / (RARITY + shares / shares.sum())
    return np.asarray(components * weights[:, None], dtype=np.float32)


class _MeanStates(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states.mean(1)


def spread_layers(teacher: Teacher, layers: int) -> Any:
    """Return a copy of the teacher with layers from all of it, the last among them."""
    every = teacher.architecture.num_hidden_layers
    return _with_layers(teacher, {pair.teacher[0] - 1 for pair in map_layers("uniform", layers, every)})


def first_layers(teacher: Teacher, layers: int) -> Any:
    """Return a copy of the teacher with its first layers."""
    return _with_layers(teacher, range(layers))


def _with_layers(teacher: Teacher, kept: Collection[int]) -> Any:
    every = teacher.architecture.num_hidden_layers
    model: Any = copy.deepcopy(teacher.model)
    stack = next(part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == every)
    for place in reversed(range(every)):
        if place not in kept:
            del stack[place]
    model.config.num_hidden_layers = len(kept)
    return model
