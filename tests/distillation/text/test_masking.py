from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_teachers
import torch

from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import corrupt_corpus
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import CorpusError


def test_probability_0_returns_the_same_corpus(workload: Workload) -> None:
    assert corrupt_corpus(workload.corpus, workload.teacher.tokenizer, 0.0, 1) is workload.corpus


@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_everything_but_token_ids_stays(family: str, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(family, pairs=True)
    corpus, tokenizer = workload.corpus, workload.teacher.tokenizer
    before = corpus.input_ids.copy()
    corrupted = corrupt_corpus(corpus, tokenizer, 0.15, 1)
    assert np.array_equal(corpus.input_ids, before)
    assert corrupted.input_ids.dtype == np.int32
    assert not corrupted.input_ids.flags.writeable
    assert corrupted.fingerprint != corpus.fingerprint
    for name in ("token_type_ids", "offsets", "train", "heldout", "train_full", "report"):
        assert getattr(corrupted, name) is getattr(corpus, name)
    special = np.isin(before, tokenizer.all_special_ids)
    assert special.any()
    assert np.array_equal(corrupted.input_ids[special], before[special])
    new = corrupted.input_ids[corrupted.input_ids != before]
    assert set(new[np.isin(new, tokenizer.all_special_ids)]) == {tokenizer.mask_token_id}
    assert new.max() < workload.teacher.architecture.vocab_size


@pytest.mark.parametrize("probability", [0.15, 0.6, 1.0])
def test_shares_are_those_of_bert(probability: float, workload: Workload) -> None:
    corpus, tokenizer = workload.corpus, workload.teacher.tokenizer
    ordinary = ~np.isin(corpus.input_ids, tokenizer.all_special_ids)
    masked = kept = changed = total = 0
    for seed in range(40):
        ids = corrupt_corpus(corpus, tokenizer, probability, seed).input_ids
        total += ordinary.sum()
        masked += (ids == tokenizer.mask_token_id).sum()
        changed += (ordinary & (ids != corpus.input_ids) & (ids != tokenizer.mask_token_id)).sum()
        kept += (ordinary & (ids == corpus.input_ids)).sum()
    assert total > 40_000
    assert masked / total == pytest.approx(0.8 * probability, abs=0.01)
    # A random token sometimes equals the original token.
    choices = len(tokenizer) - len(tokenizer.all_special_ids)
    assert changed / total == pytest.approx(0.1 * probability * (1 - 1 / choices), abs=0.01)
    assert kept / total == pytest.approx(1 - probability + 0.1 * probability, abs=0.01)


def test_random_tokens_come_from_the_whole_vocabulary(workload: Workload) -> None:
    corpus, tokenizer = workload.corpus, workload.teacher.tokenizer
    seen: set[int] = set()
    for seed in range(60):
        ids = corrupt_corpus(corpus, tokenizer, 1.0, seed).input_ids
        seen |= set(ids[ids != corpus.input_ids].tolist())
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    assert seen == ordinary | {tokenizer.mask_token_id}


def test_the_seed_decides(workload: Workload) -> None:
    corpus, tokenizer = workload.corpus, workload.teacher.tokenizer
    one, again, other = (corrupt_corpus(corpus, tokenizer, 0.3, seed) for seed in (7, 7, 8))
    assert np.array_equal(one.input_ids, again.input_ids)
    assert one.fingerprint == again.fingerprint != other.fingerprint


def test_the_teacher_sees_the_corrupted_text(workload: Workload, tmp_path: Path) -> None:
    corrupted = corrupt_corpus(workload.corpus, workload.teacher.tokenizer, 0.5, 0)
    cache = open_cache(workload.teacher, corrupted, tmp_path, dtype="float32")
    sample = workload.train[:1]
    ids, mask, _ = corrupted.padded(sample, 0)
    assert not np.array_equal(ids, workload.corpus.padded(sample, 0)[0])
    mine = workload.teacher.hidden_states(torch.from_numpy(ids), torch.from_numpy(mask))[-1][0]
    np.testing.assert_allclose(cache.states(3)[cache.token_rows(sample)], mine, atol=2e-5, rtol=1e-4)


def test_a_tokenizer_without_mask_token_is_refused(workload: Workload, tiny_teacher_dirs: dict[str, Path]) -> None:
    tokenizer = load_teacher(tiny_teacher_dirs["bert"]).tokenizer
    tokenizer.mask_token = None
    with pytest.raises(CorpusError, match=r"has no mask token.*set mask_probability to 0"):
        corrupt_corpus(workload.corpus, tokenizer, 0.15, 0)
    assert corrupt_corpus(workload.corpus, tokenizer, 0.0, 0) is workload.corpus


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_probabilities_out_of_range_are_refused(probability: float, workload: Workload) -> None:
    with pytest.raises(CorpusError, match=r"the masking probability is .*; expected a number in \[0, 1\]"):
        corrupt_corpus(workload.corpus, workload.teacher.tokenizer, probability, 0)
