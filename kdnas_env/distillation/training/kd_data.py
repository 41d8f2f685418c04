"""Training data of full distillation: corpus samples in batches of similar length, with the teacher's states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kdnas_env.distillation.text.corpus import Corpus, token_rows
from kdnas_env.distillation.training.packed import PackedBatch, pack_tokens
from kdnas_env.distillation.training.workload import TeachingBatch, Workload, training_batches

_CPU = torch.device("cpu")
_NO_ROWS = np.empty(0, dtype=np.int64)
_TAUGHT, _PLACES, _ORIGINAL = "taught_", "places", "original_"
_ORDER = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """The tokens of one sample.

    Attributes:
        ids: Token ids, int64 ``(tokens,)``.
        segments: Segments of the tokens, or None for all 0.
        rows: Rows of the tokens in the cache of the teacher's states, or None if the states are not cached.
        places: If the student reads other tokens than the teacher: for each of the teacher's tokens, the index in
            ``ids`` of the token that it is aligned with, int64 ``(teacher's tokens,)``.
        original: The teacher's tokens, if the student reads others.
    """

    ids: NDArray[np.int64]
    segments: NDArray[np.int64] | None
    rows: NDArray[np.int64] | None = None
    places: NDArray[np.int64] | None = None
    original: Sample | None = None


class CorpusSamples(Dataset[Sample]):
    """Samples of a corpus in memory.

    Args:
        workload: The corpus, and the teacher's states.
        sample_ids: Ids of the samples, int64.
        cached: Whether the teacher's states on these samples are cached.
    """

    def __init__(self, workload: Workload, sample_ids: NDArray[np.int64], *, cached: bool) -> None:
        self.workload, self.sample_ids, self.cached = workload, sample_ids, cached

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, index: int) -> Sample:
        sample, retokenised = self.sample_ids[index : index + 1], self.workload.retokenised
        return replace(
            _tokens_of(self.workload.corpus, sample),
            rows=self.workload.cache.token_rows(sample) if self.cached else None,
            places=None if retokenised is None else retokenised.rows(sample),
            original=None if retokenised is None else _tokens_of(retokenised.original, sample),
        )

    def of(self, workload: Workload) -> CorpusSamples:
        """Return the same samples in the tokens of another workload of the same corpus."""
        return CorpusSamples(workload, self.sample_ids, cached=self.cached)


def _tokens_of(corpus: Corpus, sample: NDArray[np.int64]) -> Sample:
    rows = token_rows(corpus.offsets, sample)
    types = corpus.token_type_ids
    return Sample(corpus.input_ids[rows].astype(np.int64), None if types is None else types[rows].astype(np.int64))


class LengthGroupedOrder(Sampler[int]):
    """A sample order in which each batch has samples of similar length; the order changes every epoch.

    Args:
        corpus: The corpus.
        sample_ids: The samples, int64.
        batch_size: Samples per step, over all processes.
        seed: Seed of the orders.

    Attributes:
        epoch: The current epoch, from 0; set it before the epoch begins.
    """

    def __init__(self, corpus: Corpus, sample_ids: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.epoch = 0
        self._corpus, self._sample_ids, self._batch_size, self._seed = corpus, sample_ids, batch_size, seed

    def __len__(self) -> int:
        return len(self._sample_ids)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, _ORDER, self.epoch])
        batches = training_batches(self._corpus, self._sample_ids, self._batch_size, rng)
        # A short batch would shift the boundaries of all later batches.
        batches.sort(key=lambda batch: len(batch) < self._batch_size)
        yield from np.searchsorted(self._sample_ids, np.concatenate(batches)).tolist()


@dataclass(frozen=True)
class Collator:
    """Collates samples into tensors by name, on the CPU, for :func:`teaching_batch`.

    Attributes:
        workload: Holds the teacher's cached states.
        layers: Teacher layers to read.
    """

    workload: Workload
    layers: tuple[int, ...]

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Collate."""
        inputs = _packed(samples)
        places = [sample.places for sample in samples if sample.places is not None]
        if places:
            starts = np.cumsum([0, *(len(sample.ids) for sample in samples[:-1])])
            moved = [start + part for start, part in zip(starts, places, strict=True)]
            inputs[_PLACES] = torch.from_numpy(np.concatenate(moved))
            original = _packed([sample.original for sample in samples if sample.original is not None])
            inputs |= {f"{_ORIGINAL}{name}": value for name, value in original.items()}
        rows = [sample.rows for sample in samples if sample.rows is not None]
        if rows:
            for layer in self.layers:
                inputs[f"{_TAUGHT}{layer}"] = torch.from_numpy(self.workload.cached(layer, np.concatenate(rows)))
        return {name: value for name, value in inputs.items() if value is not None}


def _packed(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the fields of a :class:`PackedBatch` of some samples."""
    segments = [sample.segments for sample in samples if sample.segments is not None]
    packed = pack_tokens(
        np.concatenate([sample.ids for sample in samples]),
        np.concatenate(segments) if segments else None,
        np.array([len(sample.ids) for sample in samples]),
        _CPU,
    )
    return {field.name: getattr(packed, field.name) for field in fields(packed)}


def teaching_batch(inputs: Mapping[str, Any]) -> TeachingBatch:
    """Rebuild a batch from the tensors of a :class:`Collator`, on whichever device they are."""
    taught: dict[int, Tensor] = {
        int(name.removeprefix(_TAUGHT)): value for name, value in inputs.items() if name.startswith(_TAUGHT)
    }
    places = inputs.get(_PLACES)
    original = None if places is None else _unpacked(inputs, _ORIGINAL)
    return TeachingBatch(_unpacked(inputs), _NO_ROWS, taught or None, places, original)


def _unpacked(inputs: Mapping[str, Any], prefix: str = "") -> PackedBatch:
    values: dict[str, Any] = {field.name: inputs.get(f"{prefix}{field.name}") for field in fields(PackedBatch)}
    return PackedBatch(**values)
