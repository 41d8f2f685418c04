"""Data shared by all students of a search: the teacher's states on the corpus, and values derived from them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdnas_env.core.architecture import CORPUS_TOKENS, FULL
from kdnas_env.distillation.student.layers import SLICED_TYPES
from kdnas_env.distillation.teacher.cache import HiddenStateCache, open_cache, read_rows
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus, load_corpus, token_rows
from kdnas_env.distillation.text.retokenising import Retokenised, retokenise
from kdnas_env.distillation.text.vocabulary import choose_tokens
from kdnas_env.distillation.training.packed import PackedBatch, pack_samples
from kdnas_env.distillation.training.recipe import Recipe
from kdnas_env.errors import CorpusError, SpaceError, TeacherError
from kdnas_env.support.progress import SILENT, Progress

_MEASURING_TOKENS = 2048
_RESIDENT_SHARE = 0.25
_SMALLEST_CORPUS = 32


@dataclass(frozen=True, eq=False)
class TeachingBatch:
    """Some samples of the corpus, with the teacher's states of their tokens or the location of these states.

    Attributes:
        packed: The tokens.
        rows: Rows of the tokens in the cache, int64 ``(tokens,)``; ignored if ``taught`` is given.
        taught: States of the teacher by layer, ``(tokens, hidden_size)`` each, if already computed.
        places: If the student reads other tokens than the teacher: for each of the teacher's tokens, the index in
            ``packed`` of the token that it is aligned with, int64 ``(teacher's tokens,)``.
        original: The teacher's tokens, if the student reads other tokens and the teacher's states are not computed yet.
    """

    packed: PackedBatch
    rows: NDArray[np.int64]
    taught: Mapping[int, Tensor] | None = None
    places: Tensor | None = None
    original: PackedBatch | None = None

    def compared(self, states: Tensor) -> Tensor:
        """Return the student's states that are compared with the teacher's, ``(teacher's tokens, width)``."""
        return states if self.places is None else states.index_select(0, self.places)


@dataclass(frozen=True, eq=False)
class Workload:
    """A teacher, a corpus and the teacher's hidden states on it.

    Attributes:
        teacher: The teacher.
        corpus: The corpus.
        cache: The teacher's hidden states on ``train`` and ``heldout``.
        train: Training samples, int64.
        heldout: Held-out samples, int64.
        device: Device on which students are trained.
        trimmed: Whether the vocabulary in training is reduced to the tokens that occur.
        retokenised: The corpus in the tokens of a smaller vocabulary, if students have one; see
            :meth:`of_vocabulary`.
    """

    teacher: Teacher
    corpus: Corpus
    cache: HiddenStateCache
    train: NDArray[np.int64]
    heldout: NDArray[np.int64]
    device: torch.device
    trimmed: bool = True
    retokenised: Retokenised | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of teacher, corpus, precision and splits."""
        digest = hashlib.sha256(f"{self.teacher.fingerprint} {self.corpus.fingerprint} {self.cache.dtype}".encode())
        for samples in (self.train, self.heldout):
            digest.update(np.ascontiguousarray(samples, dtype=np.int64).tobytes() + b"|")
        return digest.hexdigest()

    @cached_property
    def vocabulary(self) -> NDArray[np.int64]:
        """Sorted token ids used in training: the ids that occur in the samples if ``trimmed``, else all."""
        if not self.trimmed:
            return np.arange(self.teacher.architecture.vocab_size)
        rows = token_rows(self.corpus.offsets, np.concatenate([self.train, self.heldout]))
        return np.unique(self.corpus.input_ids[rows]).astype(np.int64)

    @cached_property
    def train_means(self) -> Tensor:
        """Mean of each layer's states over the training tokens, float32 ``(layers + 1, hidden_size)``."""
        total = torch.zeros(self.cache.num_layers + 1, self.cache.hidden_size, dtype=torch.float64)
        count = 0
        for batch in self.batches(measuring_batches(self.corpus, self.train)):
            for layer in range(self.cache.num_layers + 1):
                total[layer] += self.states((layer,), batch.rows).sum(0, dtype=torch.float64).cpu()
            count += len(batch.rows)
        return (total / count).float().to(self.device)

    def kept_tokens(self, vocabulary: int) -> NDArray[np.int64] | None:
        """Choose the tokens of students, by their count in all samples that are not held out.

        Args:
            vocabulary: :attr:`kdnas_env.core.architecture.StudentConfig.vocabulary`.

        Returns:
            Ids of the tokens, ascending, int64; None for the whole vocabulary.

        Raises:
            SpaceError: If the tokenizer cannot be reduced, or there is no room for words.
        """
        if vocabulary == FULL:
            return None
        if vocabulary not in self._kept:
            size = max(self.teacher.tokenizer.get_vocab().values()) + 1
            ids = self.corpus.input_ids[token_rows(self.corpus.offsets, self.corpus.train_full)]
            counts = np.bincount(ids, minlength=size).astype(np.int64)
            try:
                self._kept[vocabulary] = choose_tokens(
                    self.teacher.tokenizer, counts, None if vocabulary == CORPUS_TOKENS else vocabulary
                )
            except CorpusError as error:
                raise SpaceError(str(error)) from error
        return self._kept[vocabulary]

    def of_vocabulary(self, vocabulary: int) -> Workload:
        """Return the workload of students with a smaller vocabulary; this workload for the whole vocabulary.

        Its corpus is in the tokens of the students, with the ids of the whole vocabulary. Its batches align each of the
        teacher's tokens with one of these tokens.

        Raises:
            SpaceError: See :meth:`kept_tokens`.
        """
        kept = self.kept_tokens(vocabulary)
        if kept is None:
            return self
        if vocabulary not in self._retokenised:
            self._retokenised[vocabulary] = self.in_tokens(kept)
        return self._retokenised[vocabulary]

    def in_tokens(self, kept: NDArray[np.int64]) -> Workload:
        """Return the workload of students with these tokens."""
        teacher = self.teacher
        retokenised = retokenise(self.corpus, teacher.tokenizer, kept, longest=teacher.architecture.max_length)
        return replace(self, corpus=retokenised.corpus, retokenised=retokenised)

    @cached_property
    def _kept(self) -> dict[int, NDArray[np.int64]]:
        return {}

    @cached_property
    def _retokenised(self) -> dict[int, Workload]:
        return {}

    def batches(self, plan: Sequence[NDArray[np.int64]]) -> Iterator[TeachingBatch]:
        """Yield the batches of a plan of sample ids; tokens are numbered by their index in ``vocabulary``."""
        for samples in plan:
            places = (
                None if self.retokenised is None else torch.from_numpy(self.retokenised.rows(samples)).to(self.device)
            )
            yield TeachingBatch(self.packed(samples), self.cache.token_rows(samples), places=places)

    def packed(self, samples: NDArray[np.int64]) -> PackedBatch:
        """Return samples as one batch; tokens are numbered by their index in ``vocabulary``."""
        return pack_samples(self.corpus, samples, device=self.device, token_ids=self._token_ids)

    def taught(self, layers: Sequence[int], batch: TeachingBatch) -> Tensor:
        """Return the teacher's states of a batch, like :meth:`states`."""
        if batch.taught is None:
            return self.states(layers, batch.rows)
        return _concatenated(batch.taught, layers)

    def states(self, layers: Sequence[int], rows: NDArray[np.int64]) -> Tensor:
        """Read the teacher's states with concatenated layers, float32 ``(tokens, len(layers) * hidden_size)``.

        Raises:
            CacheError: If the cache file was truncated.
        """
        if self._resident is None:
            # Only the rows of the batch are read from disk.
            parts = {layer: torch.from_numpy(self.cached(layer, rows)).to(self.device) for layer in set(layers)}
        else:
            places = torch.from_numpy(rows).to(self.device)
            parts = {layer: self._resident[layer].index_select(0, places) for layer in set(layers)}
        return _concatenated(parts, layers)

    def cached(self, layer: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read the states of one layer in the dtype of the cache, ``(tokens, hidden_size)``.

        Raises:
            CacheError: If the cache file was truncated.
        """
        return read_rows(self._maps[layer], rows)

    def subset(self, fraction: float, seed: int) -> NDArray[np.int64]:
        """Draw a fraction of the training samples; with one seed, a larger subset contains the smaller ones."""
        count = max(1, round(fraction * len(self.train)))
        chosen: NDArray[np.int64] = np.sort(np.random.default_rng([seed, 1]).permutation(self.train)[:count])
        return chosen

    @cached_property
    def _maps(self) -> list[np.memmap[Any, np.dtype[Any]]]:
        return [self.cache.states(layer) for layer in range(self.cache.num_layers + 1)]

    @cached_property
    def _resident(self) -> list[Tensor] | None:
        """All states on the GPU in the dtype of the cache, if they leave most of its memory free; else None."""
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if sum(states.nbytes for states in self._maps) > _RESIDENT_SHARE * free:
            return None
        # A copy, because PyTorch warns about read-only memory maps.
        every = np.arange(self.cache.tokens)
        return [torch.from_numpy(read_rows(states, every)).to(self.device) for states in self._maps]

    @cached_property
    def _token_ids(self) -> NDArray[np.int64]:
        places = np.full(self.teacher.architecture.vocab_size, -1, dtype=np.int64)
        places[self.vocabulary] = np.arange(len(self.vocabulary))
        return places


def open_workload(
    teacher: Teacher,
    corpus: str | Mapping[str, Any],
    recipe: Recipe,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_dtype: str = "float16",
    progress: Progress = SILENT,
) -> tuple[Workload, str]:
    """Read a corpus, and the teacher's states on the samples that mini-KD needs.

    Args:
        teacher: The teacher.
        corpus: See :func:`read_text`.
        recipe: The recipe, which may mask tokens.
        cache_dir: Folder of the teacher's hidden states; None for the user's cache folder.
        cache_dtype: ``float16`` or ``float32``.
        progress: Receives the progress of the preparations.

    Returns:
        The workload, and the SHA-256 (hex) of the tokenised corpus before masking.

    Raises:
        CorpusError: If the corpus cannot be read.
        CacheError: If the hidden states cannot be cached.
        TeacherError: If the teacher lacks parts that the recipe's objective needs.
    """
    _check_objective(teacher, recipe)
    progress.begin("preparing corpus")
    text = read_text(corpus, recipe, teacher.tokenizer)
    taught = as_taught(text, recipe, teacher.tokenizer)
    progress.begin("preparing hidden states")
    cache = open_cache(teacher, taught, cache_dir, dtype=cache_dtype, on_progress=progress.advance)
    return Workload(teacher, taught, cache, taught.train, taught.heldout, teacher.device), text.fingerprint


def _check_objective(teacher: Teacher, recipe: Recipe) -> None:
    if recipe.objective == "relations" and teacher.architecture.family not in SLICED_TYPES:
        raise TeacherError(
            f"the objective 'relations' needs queries and keys, which kdnas does not find in teacher {teacher.name!r} "
            f"of type {teacher.architecture.family!r}; use the objective 'hidden_states', or a teacher of type "
            f"{list(SLICED_TYPES)}"
        )


def read_text(corpus: str | Mapping[str, Any], recipe: Recipe, tokenizer: Any) -> Corpus:
    """Read and tokenise the corpus of mini-KD.

    Args:
        corpus: Name, folder or file of the corpus, or a mapping of arguments of
            :func:`kdnas_env.distillation.text.corpus.load_corpus`, including ``source``.
        recipe: The recipe; the corpus must fill at least one of its batches.
        tokenizer: The teacher's tokenizer.

    Raises:
        CorpusError: If the corpus cannot be read, or its options are malformed.
    """
    options: dict[str, Any] = {"source": corpus} if isinstance(corpus, str) else dict(corpus)
    if "source" not in options:
        raise CorpusError(f"the corpus {options!r} has no source; give a name, folder or file under 'source'")
    options.setdefault("min_samples", max(recipe.batch_size, _SMALLEST_CORPUS))
    try:
        return load_corpus(options.pop("source"), tokenizer, **options)
    except TypeError as error:
        raise CorpusError(f"the corpus has an unknown option: {error}") from error


def as_taught(text: Corpus, recipe: Recipe, tokenizer: Any) -> Corpus:
    """Return a corpus as teacher and students read it: masked if the recipe asks for it."""
    if not recipe.mask_probability:
        return text
    from kdnas_env.distillation.text.corpus import corrupt_corpus

    return corrupt_corpus(text, tokenizer, recipe.mask_probability, text.report.seed)


def _concatenated(parts: Mapping[int, Tensor], layers: Sequence[int]) -> Tensor:
    """Concatenate the states of some layers, float32."""
    # Converted first, because automatic mixed precision on the CPU cannot concatenate float16.
    states = [parts[layer].float() for layer in layers]
    return torch.cat(states, dim=1) if len(states) > 1 else states[0]


def measuring_batches(corpus: Corpus, samples: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Group samples of similar length into large batches, for evaluation passes."""
    order = samples[np.argsort(corpus.lengths[samples], kind="stable")]
    ends = np.cumsum(corpus.lengths[order]) // _MEASURING_TOKENS
    return np.split(order, np.flatnonzero(np.diff(ends)) + 1)


def training_batches(
    corpus: Corpus, samples: NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Split samples into batches of similar length, in random order.

    Samples of equal length are shuffled first, so batches differ between epochs.

    Returns:
        ``ceil(len(samples) / batch_size)`` arrays of sample ids; every sample is in exactly one array.
    """
    shuffled = rng.permutation(samples)
    order = shuffled[np.argsort(corpus.lengths[shuffled], kind="stable")]
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[index] for index in rng.permutation(len(batches))]
