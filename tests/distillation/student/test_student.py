from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_kd
import pytest
import tiny_teachers
import torch
from torch import nn
from transformers import AutoModel

from kdnas_env.core.architecture import FAMILIES, StudentConfig, count_parameters, student_position_offset
from kdnas_env.distillation.student.building import (
    INITIALIZER_RANGE,
    build_student,
    empty_student,
    special_tokens,
    student_pretrained_config,
)
from kdnas_env.distillation.student.folder import load_student
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import SpaceError


@pytest.mark.parametrize("teacher", tiny_teachers.FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_searched_is_the_teachers(
    family: str, teacher: str, make_workload: Callable[..., Workload]
) -> None:
    theirs = make_workload(teacher).teacher
    # No family uses this epsilon by default.
    student, architecture = plain_kd.tiny_student(family), replace(theirs.architecture, layer_norm_eps=3e-4)
    config = student_pretrained_config(student, architecture, special_tokens(theirs))
    assert config.model_type == family
    assert config.vocab_size == architecture.vocab_size
    assert config.pad_token_id == architecture.pad_token_id == theirs.tokenizer.pad_token_id
    norms = [module for module in empty_student(student, architecture).modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {config.layer_norm_eps} == {3e-4}
    assert config.type_vocab_size == architecture.type_vocab_size
    offset = student_position_offset(student, architecture)
    assert config.max_position_embeddings == architecture.max_length + offset
    for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        assert getattr(config, name, None) == getattr(theirs.tokenizer, name)
    shape = student.to_dict()
    assert {name: getattr(config, name) for name in shape if name != "family"} == {
        name: value for name, value in shape.items() if name != "family"
    }


@pytest.mark.parametrize("teacher", tiny_teachers.FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_as_many_as_counted(family: str, teacher: str, make_workload: Callable[..., Workload]) -> None:
    architecture = make_workload(teacher).teacher.architecture
    for student in (plain_kd.tiny_student(family), StudentConfig(3, 2, 8, 136, "relu", family)):
        model = build_student(student, architecture, seed=0)
        assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(student, architecture)


@pytest.mark.parametrize("teacher", tiny_teachers.FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_student_loads_and_runs_the_same(
    family: str, teacher: str, make_workload: Callable[..., Workload], tmp_path: Path
) -> None:
    workload = make_workload(teacher, pairs=True)
    theirs = workload.teacher
    student = plain_kd.tiny_student(family)
    model = build_student(student, theirs.architecture, seed=3, special=special_tokens(theirs)).eval()
    plain_kd.shake(model)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    longest = workload.corpus.lengths.argmax()
    samples = np.array([0, longest, 5])
    with torch.no_grad():
        expected, _ = plain_kd.padded_forward(model, workload, samples)
        actual, _ = plain_kd.padded_forward(loaded, workload, samples)
        # The longest input that the teacher accepts.
        ids = torch.full((1, theirs.architecture.max_length), workload.vocabulary[0])
        assert torch.equal(loaded(ids).last_hidden_state, model(ids).last_hidden_state)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


SMALL = {
    "static": plain_kd.tiny_student(num_hidden_layers=0),
    "factorised": plain_kd.tiny_student(embedding_size=8),
    "static, factorised": plain_kd.tiny_student(num_hidden_layers=0, embedding_size=8),
    "factorised albert": plain_kd.tiny_student("albert", embedding_size=8),
}


@pytest.mark.parametrize("name", SMALL)
def test_students_of_smaller_embeddings_are_native_models(name: str, workload: Workload, tmp_path: Path) -> None:
    student, teacher = SMALL[name], workload.teacher
    model = build_student(student, teacher.architecture, seed=3, special=special_tokens(teacher)).eval()
    plain_kd.shake(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(student, teacher.architecture)
    model.save_pretrained(tmp_path)
    ids = torch.from_numpy(workload.vocabulary[None, :12])
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        for loaded in (AutoModel.from_pretrained(tmp_path).eval(), load_student(tmp_path)):
            assert torch.equal(loaded(ids).last_hidden_state, expected)
    assert expected.shape == (1, 12, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_start_as_documented(family: str, workload: Workload) -> None:
    architecture = workload.teacher.architecture
    model = build_student(plain_kd.tiny_student(family), architecture, seed=1).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            count = parameter.numel()
            assert float(parameter.std()) == pytest.approx(INITIALIZER_RANGE, rel=5 / (2 * count) ** 0.5), name
            assert abs(float(parameter.mean())) < 5 * INITIALIZER_RANGE / count**0.5
        else:
            expected = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            assert parameter.unique().tolist() == [expected], name
    assert not model.embeddings.word_embeddings.weight[architecture.pad_token_id].any()


def test_students_share_random_numbers_where_they_share_shapes(workload: Workload) -> None:
    architecture = workload.teacher.architecture
    small = dict(build_student(plain_kd.tiny_student(), architecture, seed=5).named_parameters())
    deep = dict(
        build_student(
            plain_kd.tiny_student(num_hidden_layers=3, intermediate_size=16), architecture, seed=5
        ).named_parameters()
    )
    assert small.keys() < deep.keys()
    for name, parameter in small.items():
        if parameter.shape == deep[name].shape:
            assert torch.equal(parameter, deep[name]), name
    queries = [deep[f"encoder.layer.{index}.attention.self.query.weight"] for index in range(3)]
    assert not torch.equal(queries[0], queries[1])
    other = dict(build_student(plain_kd.tiny_student(), architecture, seed=6).named_parameters())
    assert all(not torch.equal(parameter, other[name]) for name, parameter in small.items() if parameter.ndim > 1)


def test_building_leaves_global_random_numbers_alone(workload: Workload) -> None:
    before = (torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate())  # noqa: NPY002
    for family in FAMILIES:
        build_student(plain_kd.tiny_student(family), workload.teacher.architecture, seed=0)
        empty_student(plain_kd.tiny_student(family), workload.teacher.architecture)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_student_has_finite_weights_and_usable_buffers(family: str, workload: Workload) -> None:
    model = empty_student(plain_kd.tiny_student(family), workload.teacher.architecture).eval()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    with torch.no_grad():
        states = model(torch.tensor([[5, 6, 7]])).last_hidden_state
    assert not states.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, "5 heads do not divide hidden_size 24"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected 1 to"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected 0 to"),
        ({"family": "roberta", "embedding_size": 8}, "has factorised embeddings, which kdnas cannot build for roberta"),
        ({"hidden_act": "step"}, "unknown activation 'step'; transformers knows"),
        ({"family": "gpt2"}, "unknown student family 'gpt2'; choose from"),
    ],
)
def test_students_that_cannot_be_built_are_refused(
    changes: dict[str, object], message: str, workload: Workload
) -> None:
    with pytest.raises(SpaceError, match=message):
        build_student(plain_kd.tiny_student(**changes), workload.teacher.architecture, seed=0)  # type: ignore[arg-type]
