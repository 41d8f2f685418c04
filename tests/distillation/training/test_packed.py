from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plain_kd
import pytest
import tiny_teachers
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.architecture import FAMILIES, student_position_offset
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.distillation.training.packed import NO_DROPOUT, Dropout, PackedEncoder, attention_block, pack_samples
from kdnas_env.distillation.training.workload import Workload

CPU = torch.device("cpu")


def samples_of(corpus: Corpus, equal: bool) -> np.ndarray[Any, Any]:
    """Choose samples: either of equal length, or unsorted and of different lengths."""
    lengths = corpus.lengths
    samples = np.flatnonzero(lengths == np.bincount(lengths).argmax())[:6] if equal else np.array([40, 3, 170, 8, 99])
    assert (len(set(lengths[samples])) == 1) == equal
    return samples


def shaken_student(workload: Workload, family: str, **changes: Any) -> tuple[Any, int]:
    """Build a student whose parameters all differ from their initial values; also return its position offset."""
    student = plain_kd.tiny_student(family, **changes)
    model = build_student(student, workload.teacher.architecture, seed=0).eval()
    plain_kd.shake(model)
    return model, student_position_offset(student, workload.teacher.architecture)


# --- batches ---


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_padding_and_packing_are_inverse(lengths: list[int], width: int) -> None:
    offsets = np.cumsum([0, *lengths])
    tokens = int(offsets[-1])
    ids = np.arange(tokens, dtype=np.int32)
    samples = np.arange(len(lengths))
    corpus = Corpus(ids, None, offsets, samples, samples, samples, report=None, fingerprint="")  # type: ignore[arg-type]
    batch = pack_samples(corpus, samples, device=CPU)
    states = torch.randn(tokens, width, generator=torch.Generator().manual_seed(0))
    padded = batch.pad(states)
    assert padded.shape == (len(lengths), max(lengths), width)
    assert torch.equal(batch.pack(padded), states)
    assert batch.tokens == tokens
    for row, length in enumerate(lengths):
        assert torch.equal(padded[row, :length], states[offsets[row] : offsets[row + 1]])
        assert not padded[row, length:].any()


def test_a_batch_names_tokens_positions_and_segments(make_workload: Callable[..., Workload]) -> None:
    corpus = make_workload("bert", pairs=True).corpus
    samples = np.array([9, 2, 30])
    batch = pack_samples(corpus, samples, device=CPU)
    spans = [slice(corpus.offsets[i], corpus.offsets[i + 1]) for i in samples]
    assert batch.input_ids.tolist() == [token for span in spans for token in corpus.input_ids[span]]
    assert batch.positions.tolist() == [place for i in samples for place in range(corpus.lengths[i])]
    assert corpus.token_type_ids is not None
    assert batch.segments is not None
    assert batch.segments.tolist() == [kind for span in spans for kind in corpus.token_type_ids[span]]
    assert set(batch.segments.tolist()) == {0, 1}
    assert (batch.sequences, batch.length) == (3, max(corpus.lengths[samples]))


def test_nothing_is_masked_where_nothing_is_padded(workload: Workload) -> None:
    batch = pack_samples(workload.corpus, samples_of(workload.corpus, equal=True), device=CPU)
    assert batch.mask is None
    assert batch.slots is None


# --- the encoder ---


@pytest.mark.parametrize("equal", [False, True], ids=["mixed lengths", "equal lengths"])
@pytest.mark.parametrize(
    ("teacher", "pairs"), [("bert", False), ("bert", True), ("roberta", True), ("distilbert", True)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_those_of_the_padded_model(
    family: str, teacher: str, pairs: bool, equal: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher, pairs)
    model, offset = shaken_student(workload, family, num_hidden_layers=3, hidden_act="silu")
    samples = samples_of(workload.corpus, equal)
    with torch.no_grad():
        states = PackedEncoder(model, position_offset=offset)(pack_samples(workload.corpus, samples, device=CPU))
        expected, mask = plain_kd.padded_forward(model, workload, samples)
    assert len(states) == len(expected) == 4
    for ours, theirs in zip(states, expected, strict=True):
        torch.testing.assert_close(ours, theirs[mask.bool()], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trimmed_vocabulary_changes_nothing_but_the_numbers(family: str, workload: Workload) -> None:
    model, offset = shaken_student(workload, family)
    whole = PackedEncoder(model, position_offset=offset)
    trimmed = PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)
    assert len(trimmed.word) == len(workload.vocabulary) < len(whole.word)
    samples = workload.train[:5]
    batch = next(workload.batches([samples]))
    for ours, theirs in zip(
        trimmed(batch.packed), whole(pack_samples(workload.corpus, samples, device=CPU)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_trained_words_are_written_back_and_others_left(workload: Workload) -> None:
    model, offset = shaken_student(workload, "bert")
    before = model.embeddings.word_embeddings.weight.detach().clone()
    encoder = PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)
    with torch.no_grad():
        encoder.word.add_(1.0)
    assert torch.equal(model.embeddings.word_embeddings.weight, before)
    assert encoder.write_back() is model
    expected = before.clone()
    expected[torch.from_numpy(workload.vocabulary)] += 1.0
    assert torch.equal(model.embeddings.word_embeddings.weight, expected)


def test_what_is_trained_is_named_as_in_the_model(workload: Workload) -> None:
    model, offset = shaken_student(workload, "albert")
    encoder = PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)
    trainable = dict(encoder.named_trainable())
    assert trainable.keys() == dict(model.named_parameters()).keys()
    assert trainable.pop("embeddings.word_embeddings.weight") is encoder.word
    assert all(parameter is model.get_parameter(name) for name, parameter in trainable.items())


# --- dropout ---


def test_dropout_draws_from_its_generator_only() -> None:
    states = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    before = torch.random.get_rng_state()
    one, other = (Dropout(0.3, torch.Generator().manual_seed(2)) for _ in range(2))
    first = one(states)
    assert torch.equal(first, other(states))
    assert not torch.equal(first, one(states))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    ones = torch.ones(400, 500)
    dropped = Dropout(0.3, torch.Generator().manual_seed(0))(ones)
    # 200,000 draws: the share's standard deviation is 0.001.
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0.0, 1 / 0.7])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


def test_no_dropout_is_the_identity() -> None:
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert NO_DROPOUT(states) is states


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_dropout_outside_its_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        Dropout(probability)


@pytest.mark.parametrize("equal", [False, True], ids=["mixed lengths", "equal lengths"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_with_dropout_is_the_same_attention(family: str, equal: bool, workload: Workload) -> None:
    model, offset = shaken_student(workload, family)
    batch = pack_samples(workload.corpus, samples_of(workload.corpus, equal), device=CPU)
    encoder = PackedEncoder(model, position_offset=offset)
    # A probability this small drops nothing, but still runs the code for dropout.
    for ours, theirs in zip(encoder(batch, Dropout(1e-12, torch.Generator())), encoder(batch), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_dropped_attention_is_right_on_average(workload: Workload) -> None:
    model, offset = shaken_student(workload, "bert")
    encoder = PackedEncoder(model, position_offset=offset)
    batch = pack_samples(workload.corpus, samples_of(workload.corpus, equal=False), device=CPU)
    # Without its LayerNorm, the attention block is linear in everything to which dropout applies.
    no_norm: Any = torch.nn.Identity()
    layer = replace(encoder.layers[0], attention_norm=no_norm)
    states = encoder.embed(batch).detach()
    dropout = Dropout(0.2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = attention_block(layer, encoder.heads, states, batch)
        draws = torch.stack([attention_block(layer, encoder.heads, states, batch, dropout) for _ in range(2000)])
    error = (draws.mean(0) - exact).abs()
    assert float((error / draws.std(0)).max()) < 5 / 2000**0.5
    assert float(draws.std(0).min()) > 0


@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_teachers_run_packed_too(family: str, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(family, pairs=True)
    samples = workload.train[:7]
    encoder = PackedEncoder(workload.teacher.model, position_offset=workload.teacher.architecture.position_offset)
    rows = workload.cache.token_rows(samples)
    for layer, states in enumerate(encoder(pack_samples(workload.corpus, samples, device=CPU))):
        torch.testing.assert_close(states, workload.states((layer,), rows), atol=2e-5, rtol=1e-4)
