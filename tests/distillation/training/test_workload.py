from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plain_kd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.distillation.training.workload import Workload, measuring_batches, training_batches
from kdnas_env.errors import CacheError
from kdnas_env.support.cpu_lock import pinned_threads

sentence_lengths = st.lists(st.integers(1, 400), min_size=1, max_size=60)


def corpus_of(lengths: list[int]) -> Corpus:
    offsets = np.cumsum([0, *lengths])
    samples = np.arange(len(lengths))
    return Corpus(
        np.zeros(offsets[-1], dtype=np.int32),
        None,
        offsets,
        samples,
        samples,
        samples,
        report=None,  # type: ignore[arg-type]
        fingerprint="",
    )


def test_vocabulary_is_what_occurs(workload: Workload) -> None:
    corpus = workload.corpus
    expected = {int(token) for i in (*workload.train, *workload.heldout) for token in tokens_of(corpus, i)}
    assert workload.vocabulary.tolist() == sorted(expected)
    assert len(expected) < workload.teacher.architecture.vocab_size


def tokens_of(corpus: Corpus, sample: int) -> np.ndarray[Any, Any]:
    return corpus.input_ids[corpus.offsets[sample] : corpus.offsets[sample + 1]]


@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
def test_batches_carry_the_teachers_states_of_their_tokens(family: str, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(family, pairs=True)
    samples = workload.heldout[[4, 0, 9]]
    (batch,) = workload.batches([samples])
    vocabulary = torch.from_numpy(workload.vocabulary)
    expected = np.concatenate([tokens_of(workload.corpus, i) for i in samples])
    assert vocabulary[batch.packed.input_ids].tolist() == expected.tolist()
    states = plain_kd.teacher_forward(workload, samples)
    real = torch.from_numpy(np.arange(states[0].shape[1]) < workload.corpus.lengths[samples][:, None])
    for layers in ((0,), (3,), (1, 3), (2, 2)):
        joined = torch.cat([states[layer] for layer in layers], dim=-1)[real]
        read = workload.states(layers, batch.rows)
        assert read.dtype == torch.float32
        torch.testing.assert_close(read, joined, atol=2e-5, rtol=1e-4)


def test_half_precision_states_are_read_as_float32(workload: Workload, tmp_path: Any) -> None:
    # Two forward passes of the teacher are bit-identical only with the same number of threads.
    with pinned_threads(1):
        whole, half = (
            replace(workload, cache=open_cache(workload.teacher, workload.corpus, tmp_path, dtype=dtype))
            for dtype in ("float32", "float16")
        )
    rows = half.cache.token_rows(half.train[:3])
    states = half.states((1, 2), rows)
    assert states.dtype == torch.float32
    assert torch.equal(states, whole.states((1, 2), rows).half().float())


def test_states_that_are_cut_short_while_they_are_read_are_told(workload: Workload, tmp_path: Path) -> None:
    mapped, fresh = (replace(workload, cache=open_cache(workload.teacher, workload.corpus, tmp_path)) for _ in range(2))
    rows = mapped.cache.token_rows(mapped.heldout[-2:])
    mapped.states((1, 3), rows)
    os.truncate(mapped.cache.directory / "states.bin", 4096)
    # If the length were not checked, reading the missing part would kill the process.
    with pytest.raises(CacheError, match=r"states.bin were truncated while they were in use"):
        mapped.states((1, 3), rows)
    with pytest.raises(CacheError, match="were truncated"):
        mapped.cached(3, rows)
    with pytest.raises(CacheError, match=r"can no longer be read.*open the cache again"):
        fresh.states((3,), rows)


def test_samples_that_are_not_cached_are_refused(workload: Workload) -> None:
    absent = np.setdiff1d(np.arange(len(workload.corpus)), workload.cache.sample_ids)[:1]
    with pytest.raises(CacheError, match=f"sample {absent[0]} is not among"):
        next(workload.batches([absent]))


def test_means_are_over_training_tokens(workload: Workload) -> None:
    rows = workload.cache.token_rows(workload.train)
    assert workload.train_means.shape == (4, 32)
    for layer, mean in enumerate(workload.train_means):
        np.testing.assert_allclose(mean, workload.cache.states(layer)[rows].mean(0, dtype=np.float64), atol=1e-6)


def test_fingerprint_tells_workloads_apart(
    workload: Workload, make_workload: Callable[..., Workload], tmp_path: Any
) -> None:
    half = open_cache(workload.teacher, workload.corpus, tmp_path, dtype="float16")
    others = [
        make_workload("roberta"),
        make_workload("bert", pairs=True),
        replace(workload, cache=half),
        replace(workload, train=workload.train[1:]),
        replace(workload, heldout=workload.heldout[1:]),
        replace(workload, train=np.append(workload.train, workload.heldout), heldout=workload.heldout[:0]),
    ]
    assert len({workload.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1
    assert replace(workload, train=workload.train.copy()).fingerprint == workload.fingerprint


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 2**64))
def test_larger_shares_hold_smaller_ones(workload: Workload, one: float, other: float, seed: int) -> None:
    small, large = (workload.subset(share, seed) for share in sorted((one, other)))
    assert set(small) <= set(large) <= set(workload.train)
    assert len(small) == max(1, round(min(one, other) * len(workload.train)))
    assert small.tolist() == sorted(set(small))


def test_another_seed_draws_another_share(workload: Workload) -> None:
    assert workload.subset(1.0, 3).tolist() == workload.train.tolist()
    assert workload.subset(0.5, 3).tolist() == workload.subset(0.5, 3).tolist() != workload.subset(0.5, 4).tolist()


@given(sentence_lengths)
def test_measuring_takes_every_sample_once_in_batches_of_bounded_size(lengths: list[int]) -> None:
    corpus = corpus_of(lengths)
    batches = measuring_batches(corpus, np.arange(len(lengths)))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(0 < corpus.lengths[batch].sum() < 2048 + 400 for batch in batches)
    assert [corpus.lengths[i] for batch in batches for i in batch] == sorted(lengths)


@given(sentence_lengths, st.integers(1, 20), st.integers(0, 9))
def test_training_takes_every_sample_once_in_batches_of_similar_length(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    corpus, samples = corpus_of(lengths), np.arange(len(lengths))
    batches = training_batches(corpus, samples, batch_size, np.random.default_rng(seed))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sorted(len(batch) for batch in batches)[1:] == [batch_size] * (len(batches) - 1)
    assert sorted(np.concatenate(batches)) == samples.tolist()
    spans = sorted((min(found), max(found)) for found in (corpus.lengths[batch] for batch in batches))
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_order_and_batches_change_from_epoch_to_epoch(workload: Workload) -> None:
    rng = np.random.default_rng(0)
    epochs = [training_batches(workload.corpus, workload.train, 4, rng) for _ in range(2)]
    first, second = ({tuple(sorted(batch)) for batch in epoch} for epoch in epochs)
    assert first != second
    again = training_batches(workload.corpus, workload.train, 4, np.random.default_rng(0))
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in epochs[0]]
