"""Teachers of types that kdnas knows nothing of: each is proven by the conformance suite, on a tiny one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas_env.core.architecture import PLAIN_TYPES
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import TeacherError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, MiniKDSettings
from kdnas_env.testing.teachers import TeacherConformance
from kdnas_env.testing.tiny_encoders import TINY_ENCODERS, save_tiny_encoder, tiny_texts

REFUSED = {
    "convbert": r"'convbert' depend on the padding behind a text .*; choose a teacher of another type",
    "fnet": r"'fnet' depend on the padding behind a text",
    "bart": r"'bart' is encoder and decoder, and transformers has no class for its encoder alone",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {kind: save_tiny_encoder(folder / kind, kind) for kind in TINY_ENCODERS}


class TestForeignTeachers(TeacherConformance):
    @pytest.fixture(params=[kind for kind in TINY_ENCODERS if kind not in REFUSED])
    def folder(self, request: pytest.FixtureRequest, tiny: dict[str, Path]) -> Path:
        return tiny[request.param]


class TestPlainTeachers(TeacherConformance):
    @pytest.fixture
    def folder(self, tiny_teacher_dirs: dict[str, Path]) -> Path:
        return tiny_teacher_dirs["bert"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_teach_is_refused_with_what_it_is(kind: str, tiny: dict[str, Path]) -> None:
    with pytest.raises(TeacherError, match=REFUSED[kind]):
        load_teacher(tiny[kind])


@pytest.mark.parametrize("kind", ["modernbert", "mpnet", "roformer", "xlm-roberta-xl", "t5", "qwen3", "gemma3_text"])
def test_states_are_those_of_the_model(kind: str, tiny: dict[str, Path]) -> None:
    from transformers import AutoModel, T5EncoderModel

    teacher = load_teacher(tiny[kind])
    batch = dict(teacher.tokenizer(tiny_texts()[:3], return_tensors="pt", padding=True))
    model = (T5EncoderModel if kind == "t5" else AutoModel).from_pretrained(tiny[kind]).eval()
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(teacher.hidden_states(**batch), expected, strict=True):
        torch.testing.assert_close(ours[real], theirs[real])


def test_a_padding_token_is_chosen_and_said(tiny: dict[str, Path]) -> None:
    teacher = load_teacher(tiny["qwen3"])
    assert teacher.tokenizer.pad_token == "<|endoftext|>"
    assert teacher.architecture.pad_token_id == teacher.tokenizer.pad_token_id
    assert teacher.notes == (
        f"the tokenizer of teacher {str(tiny['qwen3'])!r} has no padding token; '<|endoftext|>' serves as one",
    )
    assert load_teacher(tiny["mpnet"]).notes == ()


def test_a_teacher_of_very_long_inputs_has_students_of_moderate_tables(tmp_path: Path) -> None:
    teacher = load_teacher(save_tiny_encoder(tmp_path, "modernbert", max_position_embeddings=8192))
    assert teacher.architecture.max_length == teacher.tokenizer.model_max_length == 512


def test_the_fingerprint_tells_settings_that_change_states(tiny: dict[str, Path], tmp_path: Path) -> None:
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


def test_relations_of_what_nobody_can_find_are_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"'relations' needs queries and keys.*'modernbert'; use .*'hidden_states'"):
        MiniKDEvaluator(settings(tiny["modernbert"], tmp_path, objective="relations"))


def test_no_type_is_both() -> None:
    assert not set(PLAIN_TYPES) & set(TINY_ENCODERS)
