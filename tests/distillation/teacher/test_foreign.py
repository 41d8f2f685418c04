"""Teachers of any type: the conformance suite checks a tiny model of each type, with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas_env.core.architecture import PLAIN_TYPES, StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.errors import TeacherError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.testing.teachers import TeacherConformance
from kdnas_env.testing.tiny_encoders import TINY_ENCODERS, save_tiny_encoder, tiny_texts

REFUSED = {
    "convbert": r"'convbert' depend on the padding after a text .*; choose a teacher of another type",
    "fnet": r"'fnet' depend on the padding after a text",
    "nystromformer": r"'nystromformer' depend on the padding after a text",
    "bart": r"'bart' is encoder and decoder, and transformers has no class for its encoder alone",
}


class TinyFolders(dict[str, Path]):
    """Folders of tiny encoders by type, each created on first access."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, kind: str) -> Path:
        self[kind] = save_tiny_encoder(self._folder / kind, kind)
        return self[kind]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyFolders:
    return TinyFolders(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded() -> Callable[[Path], Teacher]:
    """Return a function that loads each teacher once."""
    return cache(load_teacher)


class TestTeachers(TeacherConformance):
    @pytest.fixture(params=[kind for kind in TINY_ENCODERS if kind not in REFUSED])
    def folder(self, request: pytest.FixtureRequest, tiny: TinyFolders) -> Path:
        return tiny[request.param]

    @pytest.fixture
    def teacher(self, folder: Path, loaded: Callable[[Path], Teacher]) -> Teacher:
        return loaded(folder)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_teach_is_refused_with_what_it_is(kind: str, tiny: TinyFolders) -> None:
    with pytest.raises(TeacherError, match=REFUSED[kind]):
        load_teacher(tiny[kind])


@pytest.mark.parametrize("kind", ["modernbert", "mpnet", "roformer", "xlm-roberta-xl", "t5", "qwen3", "gemma3_text"])
def test_states_are_those_of_the_model(kind: str, tiny: TinyFolders) -> None:
    from transformers import AutoModel, T5EncoderModel

    teacher = load_teacher(tiny[kind])
    batch = dict(teacher.tokenizer(tiny_texts()[:3], return_tensors="pt", padding=True))
    model = (T5EncoderModel if kind == "t5" else AutoModel).from_pretrained(tiny[kind]).eval()
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(teacher.hidden_states(**batch), expected, strict=True):
        torch.testing.assert_close(ours[real], theirs[real])


def test_a_padding_token_is_chosen_and_said(tiny: TinyFolders) -> None:
    teacher = load_teacher(tiny["qwen3"])
    assert teacher.tokenizer.pad_token == "<|endoftext|>"
    assert teacher.architecture.pad_token_id == teacher.tokenizer.pad_token_id
    assert teacher.notes == (
        f"the tokenizer of teacher {str(tiny['qwen3'])!r} has no padding token; '<|endoftext|>' is used instead",
    )
    assert load_teacher(tiny["mpnet"]).notes == ()


def test_a_teacher_of_very_long_inputs_has_students_of_moderate_tables(tmp_path: Path) -> None:
    teacher = load_teacher(save_tiny_encoder(tmp_path, "modernbert", max_position_embeddings=8192))
    assert teacher.architecture.max_length == teacher.tokenizer.model_max_length == 512


def test_the_fingerprint_tells_settings_that_change_states(tiny: TinyFolders, tmp_path: Path) -> None:
    others: tuple[dict[str, Any], ...] = ({}, {"local_attention": 4}, {"norm_eps": 0.1})
    fingerprints = {
        load_teacher(save_tiny_encoder(tmp_path / str(place), "modernbert", **changes)).fingerprint
        for place, changes in enumerate(others)
    }
    assert len(fingerprints) == 3
    assert load_teacher(tiny["modernbert"]).fingerprint in fingerprints
    config = json.loads((tiny["modernbert"] / "config.json").read_text())
    other = save_tiny_encoder(tmp_path / "other", "modernbert")
    (other / "config.json").write_text(
        json.dumps(config | {"architectures": ["ModernBertForMaskedLM"], "attention_dropout": 0.3, "dtype": "float32"})
    )
    assert load_teacher(other).fingerprint in fingerprints


def settings(teacher: Path, folder: Path, **recipe: Any) -> MiniKDSettings:
    (folder / "texts.txt").write_text("\n".join(tiny_texts()))
    corpus = {"source": str(folder / "texts.txt")}
    return MiniKDSettings(
        teacher=str(teacher), corpus=corpus, recipe=recipe, latency="analytic", cache_dir=folder / "cache", device="cpu"
    )


def test_relations_of_what_nobody_can_find_are_refused(tiny: TinyFolders, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"'relations' needs queries and keys.*'modernbert'; use .*'hidden_states'"):
        MiniKDEvaluator(settings(tiny["modernbert"], tmp_path, objective="relations"))


def test_every_plain_type_is_among_them() -> None:
    assert set(PLAIN_TYPES) <= set(TINY_ENCODERS)


# --- other kinds of checkpoints ---


@pytest.mark.parametrize("kind", ["modernbert", "mpnet", "deberta-v2", "roformer", "xlm-roberta-xl", "nomic_bert"])
def test_a_checkpoint_of_a_masked_language_model_gives_its_encoder(
    kind: str, tiny: TinyFolders, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    model: Any = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(tiny[kind])).eval()
    teacher = load_teacher(save_with_tokenizer(model, tiny[kind], tmp_path))
    assert teacher.left_out
    check_last_states(teacher, model)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "gpt2"])
def test_a_checkpoint_of_a_causal_language_model_gives_its_decoder(
    kind: str, tiny: TinyFolders, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny[kind])).eval()
    check_last_states(load_teacher(save_with_tokenizer(model, tiny[kind], tmp_path)), model)


def test_of_an_encoder_decoder_the_encoder_is_loaded(tiny: TinyFolders, tmp_path: Path) -> None:
    from transformers import AutoConfig, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(AutoConfig.from_pretrained(tiny["t5"])).eval()
    teacher = load_teacher(save_with_tokenizer(model, tiny["t5"], tmp_path))
    assert not [name for name, _ in teacher.model.named_parameters() if "decoder" in name]
    check_last_states(teacher, model.encoder)


@pytest.mark.parametrize("kind", ["modernbert", "t5", "qwen3"])
def test_shards_and_half_precision(kind: str, tiny: TinyFolders, tmp_path: Path) -> None:
    whole = load_teacher(tiny[kind])
    model: Any = whole.model
    for parameter in model.parameters():
        parameter.copy_(parameter.half())
    ids = torch.arange(2, 9)[None]
    expected = whole.hidden_states(ids)[-1]
    model.half().save_pretrained(tmp_path, max_shard_size="20KB")
    whole.tokenizer.save_pretrained(tmp_path)
    assert len([*tmp_path.glob("model-*.safetensors")]) > 1
    sharded = load_teacher(tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in sharded.model.parameters())
    assert sharded.fingerprint == load_teacher(tmp_path).fingerprint
    torch.testing.assert_close(sharded.hidden_states(ids)[-1], expected)


def test_a_configuration_of_more_than_the_weights_is_refused(tiny: TinyFolders, tmp_path: Path) -> None:
    folder = save_with_tokenizer(load_teacher(tiny["modernbert"]).model, tiny["modernbert"], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 10**8}))
    with pytest.raises(TeacherError, match=r"they have .* bytes, but config.json describes 3,2.* parameters"):
        load_teacher(folder)


def save_with_tokenizer(model: Any, source: Path, folder: Path) -> Path:
    model.save_pretrained(folder)
    for file in source.glob("*token*"):
        shutil.copy(file, folder)
    return folder


def check_last_states(teacher: Teacher, model: Any) -> None:
    ids = torch.arange(2, 9)[None]
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(teacher.hidden_states(ids)[-1], expected)


# --- initial embeddings of a student ---


def test_a_student_starts_from_the_means_of_states_and_learns_positions(tiny: TinyFolders, tmp_path: Path) -> None:
    student = StudentConfig(1, 2, 24, 48)
    losses = {}
    for method in ("random", "pca", "token_means"):
        evaluator = MiniKDEvaluator(settings(tiny["modernbert"], tmp_path, embeddings=method))
        kd = MiniKD(evaluator.workload, student, evaluator.recipe, Fidelity(epochs=1))
        words, positions = kd.encoder.word, kd.encoder.tables.position.weight
        before = words.clone(), positions.detach().clone()
        losses[method], _ = (result.heldout.unexplained for result in kd.epochs())
        assert torch.equal(words, before[0])
        assert not torch.equal(positions, before[1])
    assert losses["token_means"] < losses["pca"] < losses["random"]
