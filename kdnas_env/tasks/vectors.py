"""Text vectors of a teacher and of embedding students."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnas_env.distillation.student.vocabulary_cut import MODULES
from kdnas_env.distillation.teacher.loading import Teacher, locate
from kdnas_env.errors import DependencyError
from kdnas_env.support.arrays import Floats32
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import SILENT, OnProgress
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.random_state import preserved_rng
from kdnas_env.tasks.labelling import CHUNK_SAMPLES, cached_chunk
from kdnas_env.tasks.teacher import TaskTeacher
from kdnas_env.tasks.tensor_cache import cached_tensors, drop_unfinished, unfinished_folder

BATCH_SIZE = 64
"""Texts per forward pass."""


@dataclass(frozen=True, eq=False)
class EmbeddingTeacher:
    """A frozen model that computes text vectors.

    Attributes:
        model: A ``SentenceTransformer``.
        name: Name of the teacher.
        fingerprint: SHA-256 (hex) of everything that determines its vectors.
    """

    model: Any
    name: str
    fingerprint: str

    @property
    def width(self) -> int:
        """Width of a vector."""
        return int(self.model.get_embedding_dimension())

    def vectors(
        self,
        texts: Sequence[str],
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        on_progress: OnProgress = SILENT.advance,
    ) -> Floats32:
        """Return unit vectors of texts, float32 ``(texts, width)``, computed once and cached.

        An interrupted computation resumes from its finished parts.

        Args:
            texts: The texts.
            cache_dir: Cache folder; None for :func:`kdnas_env.support.atomic.default_cache_directory`.
            on_progress: Called with the number of finished texts, unless the vectors were cached.
        """
        name = f"vectors-{fingerprint_of([self.fingerprint, list(texts)])[:32]}"

        def make() -> tuple[dict[str, Tensor], None]:
            unfinished = unfinished_folder(name, cache_dir)
            parts = []
            for first in range(0, len(texts), CHUNK_SAMPLES):
                part = texts[first : first + CHUNK_SAMPLES]
                file = None if unfinished is None else unfinished / f"{first}.npy"
                parts.append(cached_chunk(file, len(part), partial(self._compute_vectors, part)))
                on_progress(first + len(part), len(texts))
            return {"vectors": torch.from_numpy(np.concatenate(parts))}, None

        tensors, _ = cached_tensors(name, make, cache_dir)
        drop_unfinished(name, cache_dir)
        return tensors["vectors"].numpy()

    def _compute_vectors(self, texts: Sequence[str]) -> Floats32:
        with training_lock():
            return vectors(self.model, texts)


def embedding_teacher(teacher: Teacher, max_length: int | None = None) -> EmbeddingTeacher:
    """Return the vector model of a teacher: its own Sentence Transformers modules, else mean pooling.

    Args:
        teacher: The teacher.
        max_length: Maximum length of a text in tokens; None for the teacher's own.

    Raises:
        DependencyError: If sentence-transformers is not installed.
    """
    st, modules = sentence_transformers_library()
    folder = locate(teacher.name)
    with quiet_transformers(), preserved_rng():
        if (folder / MODULES).exists():
            model = st.SentenceTransformer(str(folder), device=str(teacher.device), local_files_only=True)
        else:
            width = teacher.architecture.hidden_size
            parts = [modules.Transformer(str(folder)), modules.Pooling(width, "mean"), modules.Normalize()]
            model = st.SentenceTransformer(modules=parts, device=str(teacher.device))
    model.requires_grad_(False).eval()
    own = model.max_seq_length or teacher.tokenizer.model_max_length
    model.max_seq_length = min(own, max_length or own, teacher.tokenizer.model_max_length)
    layout = [repr(module) for module in list(model)[1:]]
    fingerprint = fingerprint_of([teacher.fingerprint, layout, model.max_seq_length])
    return EmbeddingTeacher(model, teacher.name, fingerprint)


def vector_teacher(teacher: Teacher) -> TaskTeacher:
    """Return a teacher's vector model as a task teacher, whose soft labels are unit vectors.

    It embeds texts without a prompt, at their length in the corpus.

    Raises:
        DependencyError: If sentence-transformers is not installed.
    """
    made = embedding_teacher(teacher)
    members = (_UnitVectors(made.model),)
    return TaskTeacher(
        members, teacher.tokenizer, made.model.max_seq_length, made.fingerprint, {"head": "none"}, teacher.name
    )


def open_embedder(folder: str | os.PathLike[str]) -> Any:
    """Load an embedding student as a ``SentenceTransformer`` on the CPU, without running code of its folder.

    Raises:
        DependencyError: If sentence-transformers is not installed.
    """
    st, _ = sentence_transformers_library()
    with quiet_transformers(), preserved_rng():
        return st.SentenceTransformer(os.fspath(folder), device="cpu", local_files_only=True).eval()


class _UnitVectors(nn.Module):
    """A ``SentenceTransformer`` as a function of the inputs of its encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, **inputs: Tensor) -> Tensor:
        """Return unit vectors, float32 ``(batch, width)``."""
        return nn.functional.normalize(self.model(inputs)["sentence_embedding"].float(), dim=1)


class SentenceVectors(nn.Module):
    """An embedding student as a function of the encoder's inputs, for graph export.

    Args:
        encoder: Its encoder, a model of transformers.
        model: The ``SentenceTransformer``.
    """

    def __init__(self, encoder: nn.Module, model: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.after = nn.ModuleList(list(model)[1:])
        self.eval()

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors ``(batch, width)``, and the encoder's states ``(batch, length, hidden_size)``."""
        states: Tensor = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        features = {"token_embeddings": states, "attention_mask": attention_mask}
        for module in self.after:
            features = module(features)
        return features["sentence_embedding"], states


def vectors(model: Any, texts: Sequence[str]) -> Floats32:
    """Return unit vectors of texts by a ``SentenceTransformer``, float32 ``(texts, width)``."""
    made = model.encode(
        list(texts), batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(made, dtype=np.float32)


def sentence_transformers_library() -> tuple[Any, Any]:
    """Return the package sentence-transformers, and its modules.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import sentence_transformers
        from sentence_transformers.sentence_transformer import modules
    except ImportError as error:
        raise DependencyError(
            f'embedding students need the extra embedding ({error}); install it with pip install "kdnas[embedding]"'
        ) from error
    return sentence_transformers, modules
