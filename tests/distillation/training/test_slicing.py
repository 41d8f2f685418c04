from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import plain_kd
import pytest
import tiny_teachers
import torch

from kdnas_env.core.architecture import FAMILIES, PLAIN_TYPES, StudentConfig, student_position_offset
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.student.layers import SLICED_TYPES, embedding_tables, encoder_layers
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training.embeddings import EmbeddingBasis, copy_embeddings, embedding_basis
from kdnas_env.distillation.training.packed import PackedEncoder
from kdnas_env.distillation.training.projection import Moments
from kdnas_env.distillation.training.slicing import slice_layers
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.testing.tiny_encoders import save_tiny_encoder

ONE_WIDTH = ("bert", "roberta", "xlm-roberta", "distilbert")
"""Teachers whose embeddings are as wide as their layers."""


def own_coordinates(workload: Workload) -> EmbeddingBasis:
    """Return the teacher's embeddings unchanged: a student of the same width gets exactly these."""
    tables, teacher = embedding_tables(workload.teacher.model), workload.teacher.architecture
    word = tables.word.weight
    segment = torch.zeros(1, word.shape[1]) if tables.segment is None else tables.segment.weight
    return EmbeddingBasis(word, tables.position.weight[teacher.position_offset :], segment)


def sliced(student: StudentConfig, workload: Workload, basis: EmbeddingBasis | None = None) -> PackedEncoder:
    architecture = workload.teacher.architecture
    model = build_student(student, architecture, seed=0)
    copy_embeddings(model, student, workload, basis or embedding_basis(workload, "token_means"))
    offset = student_position_offset(student, architecture)
    encoder = PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)
    slice_layers(encoder, workload, workload.train)
    return encoder


def unexplained(encoder: PackedEncoder, workload: Workload, layers: dict[int, int]) -> float:
    """Return the share of teacher layers that linear maps of student layers do not explain, on held-out tokens."""
    (train,), (heldout,) = workload.batches([workload.train]), workload.batches([workload.heldout])
    error = spread = 0.0
    with torch.no_grad():
        seen, unseen = encoder(train.packed), encoder(heldout.packed)
    for ours, theirs in layers.items():
        moments = Moments()
        moments.add(seen[ours], workload.states((theirs,), train.rows))
        fit = moments.solve(1e-4)
        target = workload.states((theirs,), heldout.rows)
        error += float((unseen[ours] @ fit.weight.float() + fit.bias.float() - target).square().sum())
        spread += float((target - workload.train_means[theirs]).square().sum())
    return error / spread


def changed(workload: Workload, change: Callable[[Any], None], directory: Path) -> Workload:
    """Return the workload with a teacher whose layers are changed."""
    model: Any = copy.deepcopy(workload.teacher.model)
    with torch.no_grad():
        for layer in encoder_layers(model):
            change(layer)
    teacher = replace(workload.teacher, model=model, fingerprint="changed")
    return plain_kd.workload_of(teacher, workload.corpus, directory)


def test_layers_fill_what_factorised_embeddings_leave_empty(make_workload: Callable[..., Workload]) -> None:
    workload = make_workload("bert")
    whole = plain_kd.tiny_student()
    encoder = sliced(replace(whole, embedding_size=8), workload)
    (batch,) = workload.batches([workload.train])
    with torch.no_grad():
        first, second, *_ = encoder(batch.packed)
    assert torch.linalg.matrix_rank(first - first.mean(0)) == 8 - 1  # LayerNorm of the embeddings removes one dimension
    assert torch.linalg.matrix_rank(second - second.mean(0)) > 16
    random = build_student(replace(whole, embedding_size=8), workload.teacher.architecture, seed=0)
    copy_embeddings(random, whole, workload, embedding_basis(workload, "token_means"))
    unsliced = PackedEncoder(random, position_offset=0, vocabulary=workload.vocabulary)
    pairs = {1: 1, 2: 3}
    assert unexplained(encoder, workload, pairs) < unexplained(unsliced, workload, pairs)


# --- the best case: nothing needs to be left out ---


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("teacher", ONE_WIDTH)
def test_a_student_of_the_teachers_shape_becomes_the_teacher(
    teacher: str, family: str, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher)
    student = replace(workload.teacher.architecture.as_student(), family=family)
    encoder = sliced(student, workload, own_coordinates(workload))
    assert unexplained(encoder, workload, {1: 1, 2: 2, 3: 3}) < 0.01


@pytest.mark.parametrize("teacher", ONE_WIDTH)
def test_a_shallower_student_begins_as_its_teacher_does(teacher: str, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(teacher)
    student = replace(workload.teacher.architecture.as_student(), family="bert", num_hidden_layers=2)
    encoder = sliced(student, workload, own_coordinates(workload))
    assert unexplained(encoder, workload, {1: 1, 2: 2}) < 0.01


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
def test_heads_that_write_nothing_are_left_out(
    pairs: bool, make_workload: Callable[..., Workload], tmp_path: Path
) -> None:
    size = tiny_teachers.HIDDEN // tiny_teachers.HEADS

    def silence(layer: Any) -> None:
        for head in (0, 2):
            layer.attention_output.weight[:, head * size : (head + 1) * size] = 0

    workload = changed(make_workload("bert", pairs), silence, tmp_path)
    student = replace(workload.teacher.architecture.as_student(), num_attention_heads=2)
    # A student with one head loses a head that has output, so it differs from the teacher.
    enough, fewer = (
        unexplained(sliced(kept, workload, own_coordinates(workload)), workload, {1: 1, 2: 2, 3: 3})
        for kept in (student, replace(student, num_attention_heads=1))
    )
    assert enough < 0.01
    assert fewer > 5 * enough


def test_neurons_that_write_nothing_or_always_the_same_are_left_out(workload: Workload, tmp_path: Path) -> None:
    def silence(layer: Any) -> None:
        layer.ffn_out.weight[:, 10:30] = 0
        layer.ffn_in.weight[40:52] = 0
        layer.ffn_in.bias[40:52] = 3.0

    quiet = changed(workload, silence, tmp_path)
    student = replace(quiet.teacher.architecture.as_student(), intermediate_size=tiny_teachers.FFN - 32)
    enough, fewer = (
        unexplained(sliced(kept, quiet, own_coordinates(quiet)), quiet, {1: 1, 2: 2, 3: 3})
        for kept in (student, replace(student, intermediate_size=tiny_teachers.FFN - 48))
    )
    assert enough < 0.01
    assert fewer > 5 * enough


# --- students of other shapes ---


@pytest.mark.parametrize("width", [32, 24])
@pytest.mark.parametrize("teacher", ONE_WIDTH)
def test_it_beats_random_layers(teacher: str, width: int, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(teacher)
    student = plain_kd.tiny_student(hidden_size=width, num_attention_heads=4, intermediate_size=2 * width)
    architecture, basis = workload.teacher.architecture, embedding_basis(workload, "token_means")
    model = build_student(student, architecture, seed=0)
    copy_embeddings(model, student, workload, basis)
    random = PackedEncoder(model, position_offset=0, vocabulary=workload.vocabulary)
    layers = {1: 1, 2: 2}
    assert unexplained(sliced(student, workload, basis), workload, layers) < unexplained(random, workload, layers)


SHAPES = ((3, 4, 32, 64), (2, 2, 24, 40), (3, 8, 16, 16), (1, 1, 40, 128), (2, 4, 32, 200))


# Each student family is tested with every shape.
@pytest.mark.parametrize(
    ("family", "teacher", "shape"),
    [(*families, SHAPES[n % 5]) for n, families in enumerate(product(FAMILIES, tiny_teachers.FAMILIES))],
)
def test_any_student_takes_after_any_teacher(
    family: str, teacher: str, shape: tuple[int, int, int, int], make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher)
    student = StudentConfig(*shape, hidden_act="relu", family=family)
    before = torch.random.get_rng_state()
    encoder, again = (sliced(student, workload) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    untouched = build_student(student, workload.teacher.architecture, seed=0)
    for name, parameter in encoder.model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert torch.equal(parameter, again.model.get_parameter(name)), name
        if parameter.ndim > 1 and "embedding" not in name:
            assert not torch.equal(parameter, untouched.get_parameter(name)), name
    error = unexplained(encoder, workload, {shape[0]: shape[0]})
    assert np.isfinite(error)
    assert error < 1.0


def test_heads_and_neurons_to_spare_stay_random(workload: Workload) -> None:
    student = StudentConfig(2, 8, 64, 100, family="bert")
    encoder = sliced(student, workload)
    untouched = build_student(student, workload.teacher.architecture, seed=0)
    spare_rows = slice(tiny_teachers.HEADS * 8, None)
    for index, layer in enumerate(encoder.layers):
        start = untouched.encoder.layer[index]
        for ours, theirs in (
            (layer.query, start.attention.self.query),
            (layer.key, start.attention.self.key),
            (layer.value, start.attention.self.value),
        ):
            changed_rows = (ours.weight != theirs.weight).any(dim=1)
            assert changed_rows[: spare_rows.start].all()
            assert not changed_rows[spare_rows].any()
        written = layer.attention_output.weight != start.attention.output.dense.weight
        assert not written[:, spare_rows].any()
        assert torch.equal(
            layer.ffn_in.weight[tiny_teachers.FFN :], start.intermediate.dense.weight[tiny_teachers.FFN :]
        )
        assert not torch.equal(layer.ffn_in.weight, start.intermediate.dense.weight)


def test_a_shared_layer_is_started_once_for_its_first_place(make_workload: Callable[..., Workload]) -> None:
    workload = make_workload("albert")
    student = plain_kd.tiny_student("albert")
    deep, shallow = (
        dict(sliced(replace(student, num_hidden_layers=layers), workload).model.named_parameters()) for layers in (3, 1)
    )
    assert deep.keys() == shallow.keys()
    assert all(torch.equal(parameter, shallow[name]) for name, parameter in deep.items())


def test_few_samples_are_enough_to_run(workload: Workload) -> None:
    student = plain_kd.tiny_student()
    model = build_student(student, workload.teacher.architecture, seed=0)
    copy_embeddings(model, student, workload, embedding_basis(workload, "pca"))
    encoder = PackedEncoder(model, position_offset=0, vocabulary=workload.vocabulary)
    slice_layers(encoder, workload, workload.train[:1])
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


# --- other types whose layers have the same maps ---


def without_positions(kind: str, folder: Path) -> Path:
    """Save a tiny encoder that uses no positions, because the student in the test has none."""
    from transformers import AutoModel

    changes = {"relative_attention": False, "position_biased_input": False} if kind == "deberta-v2" else {}
    save_tiny_encoder(folder, kind, **changes)
    model: Any = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # RoFormer rotates queries and keys by position; with zero queries, positions have no effect.
            if "position_embeddings" in name or "attention_bias" in name or (kind == "roformer" and ".query." in name):
                parameter.zero_()
    model.save_pretrained(folder)
    return folder


# RemBERT is excluded: unlike a student's, the output of its embeddings is not normalised.
@pytest.mark.parametrize("kind", sorted({*SLICED_TYPES} - {*PLAIN_TYPES, "rembert"}))
def test_but_for_positions_such_a_student_becomes_its_teacher_too(
    kind: str, tiny_corpus_file: Path, tmp_path: Path
) -> None:
    teacher = load_teacher(without_positions(kind, tmp_path / kind))
    corpus = load_corpus(str(tiny_corpus_file), teacher.tokenizer, proxy_fraction=1.0)
    workload = plain_kd.workload_of(teacher, corpus, tmp_path / "cache")
    architecture = teacher.architecture
    student = architecture.as_student()
    words = torch.zeros(architecture.vocab_size, architecture.hidden_size)
    words[torch.from_numpy(workload.vocabulary)] = embedded_words(workload)
    zeros = torch.zeros(architecture.max_length, architecture.hidden_size)
    basis = EmbeddingBasis(words, zeros, zeros[: architecture.type_vocab_size])
    encoder = sliced(student, workload, basis)
    layers = {layer: layer for layer in range(1, architecture.num_hidden_layers + 1)}
    assert unexplained(encoder, workload, layers) < 0.01
    assert unexplained(sliced(replace(student, num_attention_heads=1), workload, basis), workload, layers) > 0.02


def embedded_words(workload: Workload) -> torch.Tensor:
    """Return the output of the teacher's embeddings for each token that occurs; positions have no effect."""
    ids = torch.from_numpy(workload.vocabulary)[:, None]
    return workload.teacher.hidden_states(ids)[0][:, 0]
