from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plain_kd
import pytest
import tiny_teachers
import torch
from transformers import AutoConfig, AutoModel

from kdnas_env.distillation.student.layers import activation_function, embedding_tables, encoder_layers, heads_first
from kdnas_env.distillation.training.packed import PackedEncoder, attention_block, pack_samples
from kdnas_env.distillation.training.workload import Workload

CPU = torch.device("cpu")


def shaken_teacher(workload: Workload) -> Workload:
    model: Any = copy.deepcopy(workload.teacher.model)
    plain_kd.shake(model)
    return replace(workload, teacher=replace(workload.teacher, model=model))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_the_parts_of_a_layer_reproduce_the_layer(
    family: str, pairs: bool, make_workload: Callable[..., Workload]
) -> None:
    workload = shaken_teacher(make_workload(family, pairs))
    model, samples = workload.teacher.model, workload.train[:9]
    expected, mask = plain_kd.padded_forward(model, workload, samples)
    batch = pack_samples(workload.corpus, samples, device=CPU)
    encoder = PackedEncoder(model, position_offset=workload.teacher.architecture.position_offset)
    torch.testing.assert_close(encoder.embed(batch), expected[0][mask.bool()])
    layers = encoder_layers(model)
    assert len(layers) == tiny_teachers.LAYERS
    for layer, before, after in zip(layers, expected[:-1], expected[1:], strict=True):
        attended = attention_block(layer, tiny_teachers.HEADS, before[mask.bool()], batch)
        torch.testing.assert_close(encoder.ffn_block(layer, attended), after[mask.bool()], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_shared_layers_appear_as_often_as_they_are_run(groups: int) -> None:
    config = tiny_teachers.build_config("albert", 50, num_hidden_layers=4, num_hidden_groups=groups)
    layers = encoder_layers(AutoModel.from_config(config))
    used = [id(layer.query) for layer in layers]
    assert used == [used[0]] * (4 // groups) + [used[-1]] * (4 - 4 // groups)
    assert len(set(used)) == groups


@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_embedding_tables(family: str, make_workload: Callable[..., Workload]) -> None:
    workload = make_workload(family)
    tables, teacher = embedding_tables(workload.teacher.model), workload.teacher.architecture
    width = tiny_teachers.HIDDEN // (2 if family in ("albert", "electra") else 1)
    assert tables.word.weight.shape == (teacher.vocab_size, width)
    assert tables.position.weight.shape == (tiny_teachers.POSITIONS, width)
    assert tables.norm.weight.shape == (width,)
    assert (tables.segment is None) == (family == "distilbert")
    assert (tables.expansion is None) == (width == tiny_teachers.HIDDEN)


def test_electra_of_one_width_has_no_map() -> None:
    model = AutoModel.from_config(tiny_teachers.build_config("electra", 50, embedding_size=tiny_teachers.HIDDEN))
    assert embedding_tables(model).expansion is None


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_activation_is_the_one_configured(family: str) -> None:
    config = AutoConfig.for_model(family, **{"activation" if family == "distilbert" else "hidden_act": "relu"})
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert activation_function(model)(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]


def test_heads_first() -> None:
    states = torch.arange(2 * 3 * 6).view(2, 3, 6)
    split = heads_first(states, 2)
    assert split.shape == (2, 2, 3, 3)
    assert split[1, 0, 2].tolist() == states[1, 2, :3].tolist()
    assert split[1, 1, 2].tolist() == states[1, 2, 3:].tolist()
