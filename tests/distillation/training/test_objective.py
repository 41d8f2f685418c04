from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plain_kd
import pytest
import tiny_teachers
import torch
from pairwise import all_pairs

from kdnas_env.core.architecture import FAMILIES, student_position_offset
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.training.mapping import LayerPair, map_layers
from kdnas_env.distillation.training.objective import HiddenStateObjective, Objective, RelationObjective, Score
from kdnas_env.distillation.training.packed import PackedEncoder
from kdnas_env.distillation.training.recipe import MAPPINGS
from kdnas_env.distillation.training.workload import Workload

TEACHERS = ["bert", "roberta", "distilbert", "albert"]

Gradients = dict[str, torch.Tensor]


def student_of(workload: Workload, family: str, **changes: Any) -> Any:
    """Build a student whose parameters all differ from their initial values, without dropout."""
    model = build_student(plain_kd.tiny_student(family, **changes), workload.teacher.architecture, seed=0).eval()
    plain_kd.shake(model)
    return model


def packed(model: Any, workload: Workload) -> PackedEncoder:
    student = plain_kd.tiny_student(model.config.model_type)
    offset = student_position_offset(student, workload.teacher.architecture)
    return PackedEncoder(model, position_offset=offset, vocabulary=workload.vocabulary)


def hidden_states(
    workload: Workload,
    pairs: Sequence[LayerPair],
    *,
    projection: str = "gradient",
    shared: bool = False,
    ridge: float = 1e-4,
) -> HiddenStateObjective:
    return HiddenStateObjective(
        workload,
        pairs,
        plain_kd.tiny_student().hidden_size,
        projection=projection,
        shared=shared,
        ridge=ridge,
        generator=torch.Generator().manual_seed(0),
    )


def chosen(workload: Workload, equal: bool) -> np.ndarray[Any, Any]:
    """Choose training samples: either of equal length, or unsorted and of different lengths."""
    lengths = workload.corpus.lengths[workload.train]
    samples = workload.train[lengths == np.bincount(lengths).argmax()][:5] if equal else workload.train[[9, 0, 4, 21]]
    assert (len(set(workload.corpus.lengths[samples])) == 1) == equal
    return samples


def fast(
    encoder: PackedEncoder, objective: Objective, workload: Workload, samples: np.ndarray[Any, Any]
) -> tuple[float, Gradients]:
    (batch,) = workload.batches([samples])
    error, count = objective.terms(encoder(batch.packed), batch)
    loss = error / count
    torch.autograd.backward(loss)
    gradients = {name: parameter.grad for name, parameter in encoder.named_trainable() if parameter.grad is not None}
    return loss.item(), gradients


def compare(workload: Workload, ours: tuple[float, Gradients], loss: torch.Tensor, model: Any) -> None:
    """Check loss and the gradient of every parameter against those of the plain model."""
    torch.autograd.backward(loss)
    assert ours[0] == pytest.approx(loss.item(), rel=1e-5)
    vocabulary = torch.from_numpy(workload.vocabulary)
    others = np.setdiff1d(np.arange(workload.teacher.architecture.vocab_size), workload.vocabulary)
    compared = 0
    for name, parameter in model.named_parameters():
        expected = parameter.grad
        if expected is None:
            assert name not in ours[1], name
            continue
        if name == "embeddings.word_embeddings.weight":
            assert not expected[others].any()
            expected = expected[vocabulary]
        assert expected.any(), name
        scale = float(expected.abs().max())
        torch.testing.assert_close(ours[1][name], expected, atol=1e-5 * scale + 1e-7, rtol=2e-3, msg=name)
        compared += 1
    assert compared > 15


# --- the fast path is exact ---


@pytest.mark.parametrize(
    ("family", "teacher", "pairs", "equal", "shared"),
    all_pairs(FAMILIES, TEACHERS, [False, True], [False, True], [False, True]),
)
def test_hidden_states_equal_the_plain_loss_and_gradients(
    family: str, teacher: str, pairs: bool, equal: bool, shared: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher, pairs)
    samples = chosen(workload, equal)
    layers = map_layers("uniform+last", 2, tiny_teachers.LAYERS)
    model = student_of(workload, family)
    objective = hidden_states(workload, layers, shared=shared)
    plain_model, plain_objective = copy.deepcopy(model), copy.deepcopy(objective.projection)
    ours = fast(packed(model, workload), objective, workload, samples)
    loss = plain_kd.hidden_state_loss(plain_model, workload, samples, layers, plain_objective)
    compare(workload, ours, loss, plain_model)
    for parameter, expected in zip(objective.projection.parameters(), plain_objective.parameters(), strict=True):
        assert parameter.shape[0] == (1 if shared else 2)
        torch.testing.assert_close(parameter.grad, expected.grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_every_mapping_equals_the_plain_loss(mapping: str, workload: Workload) -> None:
    layers = map_layers(mapping, 2, tiny_teachers.LAYERS)
    samples = chosen(workload, equal=False)
    model = student_of(workload, "bert")
    objective = hidden_states(workload, layers)
    plain_model, plain_projection = copy.deepcopy(model), copy.deepcopy(objective.projection)
    ours = fast(packed(model, workload), objective, workload, samples)
    loss = plain_kd.hidden_state_loss(plain_model, workload, samples, layers, plain_projection)
    compare(workload, ours, loss, plain_model)


@pytest.mark.parametrize(
    ("family", "teacher", "pairs", "equal"), all_pairs(FAMILIES, TEACHERS, [False, True], [False, True])
)
def test_relations_equal_the_plain_loss_and_gradients(
    family: str, teacher: str, pairs: bool, equal: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = make_workload(teacher, pairs)
    samples = chosen(workload, equal)
    model = student_of(workload, family)
    plain_model = copy.deepcopy(model)
    encoder = packed(model, workload)
    objective = RelationObjective(workload, encoder)
    assert objective.heads == tiny_teachers.HEADS
    assert not list(objective.parameters())
    ours = fast(encoder, objective, workload, samples)
    loss = plain_kd.relation_loss(plain_model, workload, samples, last_maps, heads=tiny_teachers.HEADS)
    compare(workload, ours, loss, plain_model)


def last_maps(model: Any) -> tuple[Any, Any, Any]:
    """Return the query, key and value maps of the last layer, by their names in transformers."""
    kind = model.config.model_type
    if kind == "distilbert":
        attention = model.transformer.layer[-1].attention
        return attention.q_lin, attention.k_lin, attention.v_lin
    attention = (
        model.encoder.albert_layer_groups[-1].albert_layers[-1].attention
        if kind == "albert"
        else model.encoder.layer[-1].attention.self
    )
    return attention.query, attention.key, attention.value


def test_relation_heads_divide_the_students_width(workload: Workload) -> None:
    for width, heads in ((24, 4), (18, 2), (15, 1)):
        model = student_of(workload, "bert", hidden_size=width, num_attention_heads=3)
        objective = RelationObjective(workload, packed(model, workload))
        assert objective.heads == heads


# --- scores ---


def test_scores() -> None:
    score = Score(error=6.0, reference=12.0, count=4)
    assert score.loss == 1.5
    assert score.unexplained == 0.5


@pytest.mark.parametrize("mapping", ["uniform+last", "tinybert"])
def test_a_student_that_knows_nothing_leaves_all_unexplained(mapping: str, workload: Workload) -> None:
    layers = map_layers(mapping, 2, tiny_teachers.LAYERS)
    objective = hidden_states(workload, layers)
    with torch.no_grad():
        objective.projection.weight.zero_()
        for index, pair in enumerate(layers):
            objective.projection.bias[index] = workload.train_means[list(pair.teacher)].flatten()
    encoder = packed(student_of(workload, "bert"), workload)
    with torch.no_grad():
        for batch in workload.batches([workload.heldout[:4], workload.train[:3]]):
            error, count = objective.terms(encoder(batch.packed), batch)
            assert float(error) == pytest.approx(objective.reference(batch), rel=1e-5)
            assert count == sum(len(pair.teacher) for pair in layers) * len(batch.rows) * tiny_teachers.HIDDEN


def test_even_relations_leave_all_unexplained(workload: Workload) -> None:
    model = student_of(workload, "bert")
    for linear in last_maps(model):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    encoder = packed(model, workload)
    objective = RelationObjective(workload, encoder)
    with torch.no_grad():
        for equal in (False, True):
            (batch,) = workload.batches([chosen(workload, equal)])
            error, count = objective.terms(encoder(batch.packed), batch)
            assert float(error) == pytest.approx(objective.reference(batch), rel=1e-5)
            assert count == len(batch.rows) * tiny_teachers.HEADS


def test_the_teachers_own_relations_leave_nothing(workload: Workload) -> None:
    encoder = PackedEncoder(workload.teacher.model, position_offset=0, vocabulary=workload.vocabulary)
    objective = RelationObjective(workload, encoder)
    (batch,) = workload.batches([chosen(workload, equal=False)])
    with torch.no_grad():
        error, _ = objective.terms(encoder(batch.packed), batch)
    assert abs(float(error)) < 1e-5 * objective.reference(batch)


# --- the closed form ---


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("shared", [False, True], ids=["own maps", "shared map"])
@pytest.mark.parametrize("mapping", ["uniform+last", "tinybert"])
def test_the_error_of_a_fit_is_that_of_the_solved_projection(
    mapping: str, shared: bool, ridge: float, workload: Workload
) -> None:
    layers = map_layers(mapping, 2, tiny_teachers.LAYERS)
    objective = hidden_states(workload, layers, projection="ridge", shared=shared, ridge=ridge)
    assert objective.solved
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    encoder = packed(student_of(workload, "bert"), workload)
    plan = [workload.train[:20], workload.train[20:]]
    with torch.no_grad():
        error, count = objective.fit((encoder(batch.packed), batch) for batch in workload.batches(plan))
        direct = [objective.terms(encoder(batch.packed), batch) for batch in workload.batches(plan)]
    assert error == pytest.approx(sum(float(part) for part, _ in direct), rel=1e-4)
    assert count == sum(part for _, part in direct)


def test_a_fit_is_the_best_of_all_projections(workload: Workload) -> None:
    layers = map_layers("uniform", 2, tiny_teachers.LAYERS)
    objective = hidden_states(workload, layers, projection="ridge", ridge=0.0)
    encoder = packed(student_of(workload, "bert"), workload)
    (batch,) = workload.batches([workload.train])
    with torch.no_grad():
        states = encoder(batch.packed)
        best, _ = objective.fit([(states, batch)])
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            for parameter in objective.projection.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
            error, _ = objective.terms(states, batch)
            assert float(error) > best


def test_an_objective_without_a_closed_form_is_not_solved(workload: Workload) -> None:
    layers = map_layers("uniform", 2, tiny_teachers.LAYERS)
    assert not hidden_states(workload, layers).solved
    encoder = packed(student_of(workload, "bert"), workload)
    objective = RelationObjective(workload, encoder)
    assert not objective.solved
    with pytest.raises(NotImplementedError):
        objective.fit([])
