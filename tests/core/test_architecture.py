from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import students
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoConfig,
    BertConfig,
    BertModel,
    GPT2Config,
    RobertaConfig,
    RobertaModel,
    T5Config,
)

from kdnas_env.core.architecture import (
    FAMILIES,
    PLAIN_TYPES,
    EncoderArchitecture,
    StudentConfig,
    count_parameters,
    forward_flops,
    student_embedding_size,
    student_position_offset,
)
from kdnas_env.errors import SpaceError, TeacherError

MODELS = {
    "bert": (BertConfig, BertModel),
    "albert": (AlbertConfig, AlbertModel),
    "roberta": (RobertaConfig, RobertaModel),
}


def teacher(**overrides: Any) -> EncoderArchitecture:
    values = {
        "family": "bert",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_size": 256,
        "intermediate_size": 512,
        "hidden_act": "gelu",
        "vocab_size": 311,
        "max_length": 40,
        "type_vocab_size": 2,
        "embedding_size": 256,
        "pad_token_id": 0,
        "layer_norm_eps": 1e-12,
    }
    return EncoderArchitecture(**{**values, **overrides})


TEACHERS = {
    "bert": teacher(),
    "roberta": teacher(family="roberta", type_vocab_size=1, pad_token_id=1),
    "albert": teacher(family="albert", embedding_size=48),
}


def build(student: StudentConfig, teacher: EncoderArchitecture) -> Any:
    """Build a student straight from transformers, as its documentation says."""
    config_class, model_class = MODELS[student.family]
    extra = {"embedding_size": student_embedding_size(student, teacher)} if student.family == "albert" else {}
    config = config_class(
        num_hidden_layers=student.num_hidden_layers,
        num_attention_heads=student.num_attention_heads,
        hidden_size=student.hidden_size,
        intermediate_size=student.intermediate_size,
        hidden_act=student.hidden_act,
        vocab_size=teacher.vocab_size,
        type_vocab_size=teacher.type_vocab_size,
        pad_token_id=teacher.pad_token_id,
        max_position_embeddings=teacher.max_length + student_position_offset(student, teacher),
        **extra,
    )
    return model_class(config, add_pooling_layer=False)


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 2, 64, 96), (3, 4, 128, 40), (2, 3, 192, 512)])
def test_parameter_count_equals_the_real_model(name: str, family: str, shape: tuple[int, int, int, int]) -> None:
    student = StudentConfig(*shape, "gelu", family)
    model = build(student, TEACHERS[name])
    assert count_parameters(student, TEACHERS[name]) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_equal_those_of_the_real_forward_pass(family: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    student, own = StudentConfig(3, 4, 128, 320, "gelu", family), TEACHERS["bert"]
    model = build(student, own).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.ones((2, 11), dtype=torch.int64))
    assert forward_flops(student, own, batch=2, length=11) == counter.get_total_flops()


@pytest.mark.parametrize("kind", PLAIN_TYPES)
def test_reads_the_configuration_of_every_supported_teacher(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    read = EncoderArchitecture.from_pretrained_config(config)
    assert read.family == kind
    assert read.num_hidden_layers == config.num_hidden_layers
    assert read.hidden_size == config.hidden_size
    assert read.num_attention_heads == config.num_attention_heads
    assert read.vocab_size == config.vocab_size
    assert read.as_student().family in FAMILIES
    assert read.max_length + read.position_offset == config.max_position_embeddings


def test_a_plain_type_as_a_decoder_is_refused() -> None:
    with pytest.raises(TeacherError, match="'bert' with is_decoder is a decoder"):
        EncoderArchitecture.from_pretrained_config(BertConfig(is_decoder=True))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (GPT2Config(), (12, 12, 768, 3072, "gelu_new", 512)),
        (T5Config(), (6, 8, 512, 2048, "relu", 512)),
        (AutoConfig.for_model("modernbert"), (22, 12, 768, 1152, "gelu", 512)),
        (AutoConfig.for_model("mpnet"), (12, 12, 768, 3072, "gelu", 510)),
        (AutoConfig.for_model("gemma3_text"), (26, 8, 2304, 9216, "gelu_new", 512)),
        (AutoConfig.for_model("qwen3", num_attention_heads=6, hidden_size=64), (32, 2, 64, 22016, "silu", 512)),
    ],
)
def test_reads_the_sizes_of_any_type_under_customary_names(config: Any, shape: tuple[Any, ...]) -> None:
    read = EncoderArchitecture.from_pretrained_config(config)
    student = read.as_student()
    assert not read.plain
    assert read.type_vocab_size == 1
    assert student.family == "bert"
    assert (
        student.num_hidden_layers,
        student.num_attention_heads,
        student.hidden_size,
        student.intermediate_size,
        student.hidden_act,
        read.max_length,
    ) == shape


@given(students())
def test_student_plain_data_round_trip(student: StudentConfig) -> None:
    assert StudentConfig.from_dict(student.to_dict()) == student


def test_configurations_of_one_network_are_equal() -> None:
    plain = StudentConfig(2, 2, 8, 8, "silu")
    other = StudentConfig(np.int64(2), np.int32(2), 8, 8, "swish")  # type: ignore[arg-type]
    assert (other, str(other), hash(other)) == (plain, str(plain), hash(plain))
    assert type(other.num_hidden_layers) is int
    assert replace(plain, hidden_act="gelu_python").hidden_act == "gelu"


GOOD = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"num_hidden_layers": 2, "depth": 3}, r"unknown field\(s\) \['depth'\]; known fields are"),
        ({"num_hidden_layers": 2}, "incomplete or malformed student configuration"),
        (
            {"num_hidden_layers": "x", "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8},
            "incomplete or malformed student configuration",
        ),
        ({**GOOD, "hidden_size": 0}, "hidden_size is 0; expected 1 to"),
        ({**GOOD, "hidden_size": 10**30}, "hidden_size is 1000"),
        ({**GOOD, "hidden_size": 8.5}, "hidden_size is 8.5; expected a whole number"),
        ({**GOOD, "hidden_size": float("inf")}, "hidden_size is inf"),
        ({**GOOD, "hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; expected a text"),
        ({**GOOD, "family": "../evil"}, "unknown student family '../evil'"),
        (GOOD | {3: 4}, r"unknown field\(s\) \[3\]"),
        (None, "None is not a mapping"),
        (5, "5 is not a mapping"),
    ],
)
def test_malformed_student_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        StudentConfig.from_dict(data)


@given(students())
def test_what_is_printed_can_be_read(student: StudentConfig) -> None:
    assert StudentConfig.parse(str(student)) == student


@pytest.mark.parametrize(
    "text", ["", "bert", "3L/192h/6a/384f/gelu", "bert 3L/192h/6a/384f", "bert 3L/192h/6a/384f/gelu x"]
)
def test_what_is_no_student_is_refused(text: str) -> None:
    with pytest.raises(SpaceError, match=re.escape(repr(text)) + r" is not a student; expected the form"):
        StudentConfig.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "albert 3L/8h/1a/8f/gelu vocabulary=some",
        "bert 1L/8h/0a/8f/gelu",
        "else 1L/8h/1a/8f/gelu",
        "bert ٣L/8h/1a/8f/gelu",
        "bert " + "9" * 5000,
    ],
)
def test_what_no_network_can_be_is_not_read(text: str) -> None:
    with pytest.raises(SpaceError, match=r"is not a student|expected 1 to|unknown student family"):
        StudentConfig.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": "x"}, "num_hidden_layers is 'x'; expected a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected 0 to"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 7}, "7 heads do not divide"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"pad_token_id": "x"}, "pad_token_id is 'x'"),
        ({"max_position_embeddings": None}, "max_length is None"),
        ({"hidden_act": 3}, "hidden_act is 3; expected a text"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    ],
)
def test_malformed_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    class Config:
        model_type = "bert"

        def to_dict(self) -> dict[str, Any]:
            return {**BertConfig().to_dict(), **changes}

    with pytest.raises(TeacherError, match=message):
        EncoderArchitecture.from_pretrained_config(Config())
