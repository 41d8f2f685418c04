from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plain_kd
import pytest
import tiny_teachers
import torch
from pairwise import all_pairs

from kdnas_env.core.architecture import FAMILIES, StudentConfig, student_embedding_size, student_position_offset
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.student.layers import embedding_tables
from kdnas_env.distillation.training.embeddings import EmbeddingBasis, copy_embeddings, embedding_basis
from kdnas_env.distillation.training.packed import PackedEncoder
from kdnas_env.distillation.training.projection import Moments
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import KDNASError

METHODS = ("pca", "token_means")


def summed(basis: EmbeddingBasis, workload: Workload) -> torch.Tensor:
    """Return the sum of the word, position and segment rows for each training token, ``(tokens, coordinates)``."""
    corpus = workload.corpus
    parts = []
    for sample in workload.train:
        span = slice(int(corpus.offsets[sample]), int(corpus.offsets[sample + 1]))
        ids = torch.from_numpy(corpus.input_ids[span].astype(np.int64))
        kinds = torch.zeros_like(ids)
        if corpus.token_type_ids is not None:
            kinds = torch.from_numpy(corpus.token_type_ids[span].astype(np.int64))
        parts.append(basis.word[ids] + basis.position[: len(ids)] + basis.segment[kinds])
    return torch.cat(parts)


def teacher_tables(workload: Workload) -> EmbeddingBasis:
    """Return the teacher's embedding tables, read from the transformers model."""
    embeddings: Any = workload.teacher.model.embeddings
    teacher = workload.teacher.architecture
    position = embeddings.position_embeddings.weight
    word = embeddings.word_embeddings.weight
    segments = getattr(embeddings, "token_type_embeddings", None)
    first = len(position) - teacher.max_length
    return EmbeddingBasis(
        word.detach(),
        position[first:].detach(),
        torch.zeros(1, word.shape[1]) if segments is None else segments.weight.detach(),
    )


def started(student: StudentConfig, workload: Workload, method: str) -> PackedEncoder:
    """Build a student and initialise its embeddings."""
    architecture = workload.teacher.architecture
    model = build_student(student, architecture, seed=0)
    if method != "random":
        copy_embeddings(model, student, workload, embedding_basis(workload, method))
    offset = student_position_offset(student, architecture)
    return PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)


def unexplained(encoder: PackedEncoder, workload: Workload) -> float:
    """Return the share of all teacher layers that linear maps of the embeddings do not explain, on training tokens."""
    error = spread = 0.0
    (batch,) = workload.batches([workload.train])
    with torch.no_grad():
        states = encoder.embed(batch.packed)
        for layer in range(1, tiny_teachers.LAYERS + 1):
            target = workload.states((layer,), batch.rows)
            moments = Moments()
            moments.add(states, target)
            error += moments.solve(1e-4).squared_error
            spread += float((target - target.mean(0)).square().sum())
    return error / spread


# --- pca ---


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_principal_components_are_uncorrelated_and_ordered(
    family: str, pairs: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(family, pairs)
    coordinates = summed(embedding_basis(workload, "pca"), workload).double()
    torch.testing.assert_close(coordinates.mean(0), torch.zeros(coordinates.shape[1]).double(), atol=1e-4, rtol=0)
    covariance = coordinates.T @ coordinates / len(coordinates)
    variances = covariance.diagonal()
    assert torch.all(variances[:-1] >= variances[1:] - 1e-6)
    torch.testing.assert_close(covariance, variances.diag(), atol=1e-4 * float(variances[0]), rtol=0)


@pytest.mark.parametrize("pairs", [False, True], ids=["sentences", "pairs"])
@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_principal_components_turn_the_tables_and_lose_nothing(
    family: str, pairs: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(family, pairs)
    basis, tables = embedding_basis(workload, "pca"), teacher_tables(workload)
    assert basis.word.shape == tables.word.shape
    assert (
        basis.position.shape == tables.position.shape == (workload.teacher.architecture.max_length, basis.word.shape[1])
    )
    assert basis.segment.shape == tables.segment.shape
    # Models use only the sum of word, position and segment, so the distances between sums are compared.
    ours, theirs = summed(basis, workload), summed(tables, workload)
    torch.testing.assert_close(torch.cdist(ours, ours), torch.cdist(theirs, theirs), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(
        torch.cdist(basis.word, basis.word), torch.cdist(tables.word, tables.word), atol=2e-3, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("teacher", "family"), [("bert", "bert"), ("roberta", "roberta"), ("albert", "albert"), ("distilbert", "bert")]
)
def test_a_student_as_wide_as_its_teacher_has_the_geometry_of_its_embeddings(
    teacher: str, family: str, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher)
    student = replace(workload.teacher.architecture.as_student(), family=family)
    model = started(student, workload, "pca").model
    embeddings = model.embeddings
    offset = student_position_offset(student, workload.teacher.architecture)
    ours = EmbeddingBasis(
        embeddings.word_embeddings.weight.detach(),
        embeddings.position_embeddings.weight.detach()[offset:],
        embeddings.token_type_embeddings.weight.detach(),
    )
    one, other = summed(ours, workload), summed(teacher_tables(workload), workload)
    torch.testing.assert_close(torch.cdist(one, one), torch.cdist(other, other), atol=2e-3, rtol=1e-3)


# --- token means ---


@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_token_means_explain_most(family: str, width: int, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(family)
    student = plain_kd.tiny_student(hidden_size=width)
    random, pca, means = (unexplained(started(student, workload, method), workload) for method in ("random", *METHODS))
    assert means < pca
    assert means < random
    assert means < 0.9


@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_tokens_that_do_not_occur_are_placed_among_the_others(
    family: str, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(family)
    basis = embedding_basis(workload, "token_means")
    seen = np.unique(np.concatenate([np.arange(s, e) for s, e in spans(workload)]))
    trained = np.unique(workload.corpus.input_ids[seen])
    others = np.setdiff1d(np.arange(len(basis.word)), trained)
    assert len(others) > 10
    assert torch.isfinite(basis.word).all()
    sizes = basis.word.norm(dim=1)
    assert float(sizes[others].median()) > 0.2 * float(sizes[trained].median())
    assert float(sizes[others].max()) < 5 * float(sizes[trained].max())
    # These are the teacher's embeddings in other coordinates, so different embeddings remain different.
    teacher = teacher_tables(workload).word[others]
    far = torch.pdist(teacher) > 1e-3
    assert torch.all(torch.pdist(basis.word[others])[far] > 0)


def spans(workload: Workload) -> list[tuple[int, int]]:
    offsets = workload.corpus.offsets
    return [(int(offsets[sample]), int(offsets[sample + 1])) for sample in workload.train]


def test_a_frequent_token_stands_where_its_states_are(workload: Workload) -> None:
    """After n occurrences, an embedding moves n / (n + 2) of the way to the mean of its states."""
    basis = embedding_basis(workload, "token_means")
    encoder_states = summed(basis, workload)
    ids = torch.from_numpy(
        np.concatenate([workload.corpus.input_ids[s:e] for s, e in spans(workload)]).astype(np.int64)
    )
    rows = workload.cache.token_rows(workload.train)
    targets = workload.states((1, 2, 3), rows) - workload.train_means[1:].flatten()
    moments = Moments()
    moments.add(encoder_states, targets)
    predicted = encoder_states @ moments.solve(1e-6).weight.float()
    counts = torch.bincount(ids)
    token = int(counts.argmax())
    residual = (targets - predicted)[ids == token].mean(0).norm()
    assert residual < 0.1 * targets[ids == token].mean(0).norm()


# --- students ---


@pytest.mark.parametrize(("family", "teacher", "method"), all_pairs(FAMILIES, tiny_teachers.FAMILIES, METHODS))
def test_a_student_keeps_the_first_coordinates(
    family: str, teacher: str, method: str, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher)
    architecture = workload.teacher.architecture
    basis = embedding_basis(workload, method)
    # 12 is narrower than every basis; 24 is wider than the basis of a teacher with factorised embeddings.
    for width in (12, 24):
        student = plain_kd.tiny_student(family, hidden_size=width)
        model = build_student(student, architecture, seed=0).requires_grad_(False)
        copy_embeddings(model, student, workload, basis)
        tables = embedding_tables(model)
        size = student_embedding_size(student, architecture)
        kept = min(size, basis.word.shape[1])
        assert tables.segment is not None
        offset = student_position_offset(student, architecture)
        for table, values, start in (
            (tables.word.weight, basis.word, 0),
            (tables.position.weight, basis.position, offset),
            (tables.segment.weight, basis.segment, 0),
        ):
            assert len(table) == start + len(values)
            assert table.shape[1] == size
            assert torch.equal(table[start:, :kept], values[:, :kept])
            assert not table[:start].any()
            assert not table[:, kept:].any()
        if tables.expansion is not None:
            vector = torch.arange(1.0, size + 1)
            assert tables.expansion(vector).tolist() == [*vector.tolist(), *[0.0] * (width - size)]


def test_a_student_wider_than_the_basis_loses_nothing(make_workload: Callable[..., Workload]) -> None:
    workload = make_workload("electra")
    basis = embedding_basis(workload, "pca")
    assert basis.word.shape[1] == tiny_teachers.HIDDEN // 2
    model = started(plain_kd.tiny_student(), workload, "pca").model
    words = model.embeddings.word_embeddings.weight.detach()
    torch.testing.assert_close(torch.cdist(words, words), torch.cdist(basis.word, basis.word), atol=1e-3, rtol=1e-3)


def test_equal_calls_give_equal_bases(workload: Workload) -> None:
    for method in METHODS:
        one, other = embedding_basis(workload, method), embedding_basis(workload, method)
        assert torch.equal(one.word, other.word)


def test_heldout_text_is_not_looked_at(workload: Workload) -> None:
    other = replace(workload, heldout=workload.heldout[:3])
    for method in METHODS:
        assert torch.equal(embedding_basis(workload, method).word, embedding_basis(other, method).word)


@pytest.mark.parametrize("method", ["random", "svd"])
def test_unknown_methods_are_refused(method: str, workload: Workload) -> None:
    with pytest.raises(KDNASError, match=f"embeddings '{method}' are not derived from the teacher's; choose 'pca' or"):
        embedding_basis(workload, method)
