from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import tiny_teachers
import torch

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.tasks.embedding import EmbeddingDistillation, EmbeddingSettings, distil_embedder
from kdnas_env.tasks.vector_scores import score_vectors
from kdnas_env.tasks.vectors import EmbeddingTeacher, embedding_teacher, vectors

TEXTS = tiny_teachers.sentences()
SETTINGS = EmbeddingSettings(epochs=4, batch_size=16, learning_rate=3e-3, patience=4)

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def teacher(tiny_teacher_dirs: dict[str, Path]) -> EmbeddingTeacher:
    return embedding_teacher(load_teacher(tiny_teacher_dirs["bert"]))


@pytest.fixture(scope="module")
def student(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Teacher:
    root = tmp_path_factory.mktemp("student")
    folder = small_tasks.save_tiny_student(root / "student", tiny_teacher_dirs["bert"], tiny_corpus_file, root)
    return load_teacher(folder)


@pytest.fixture(scope="module")
def distilled(student: Teacher, teacher: EmbeddingTeacher, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return distil_embedder(student, teacher, TEXTS, SETTINGS, cache_dir=tmp_path_factory.mktemp("cache"), device="cpu")


def unit(values: Any) -> Any:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_vectors_are_the_mean_over_the_tokens_without_other_instructions(
    tiny_teacher_dirs: dict[str, Path], teacher: EmbeddingTeacher, tmp_path: Path
) -> None:
    encoder = load_teacher(tiny_teacher_dirs["bert"])
    states = encoder.hidden_states(**encoder.tokenizer(TEXTS[0], return_tensors="pt"))[-1][0]
    made = teacher.vectors(TEXTS[:2], tmp_path)
    np.testing.assert_allclose(made[0], torch.nn.functional.normalize(states.mean(0), dim=0), atol=1e-6)
    assert made.shape == (2, teacher.width)
    assert (teacher.vectors(TEXTS[:2], tmp_path) == made).all()


def test_vectors_whose_computing_was_killed_are_not_computed_again(
    teacher: EmbeddingTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.tasks.vectors.CHUNK_SAMPLES", 20)
    computed: list[int] = []

    class KilledError(Exception):
        pass

    def count(model: Any, texts: Any) -> Any:
        computed.append(len(texts))
        return vectors(model, texts)

    def kill(done: int, total: int) -> None:
        assert total == 50
        if done == 40:
            raise KilledError

    monkeypatch.setattr("kdnas_env.tasks.vectors.vectors", count)
    with pytest.raises(KilledError):
        teacher.vectors(TEXTS[:50], tmp_path, on_progress=kill)
    made = teacher.vectors(TEXTS[:50], tmp_path)
    assert computed == [20, 20, 10]
    np.testing.assert_allclose(made, vectors(teacher.model, TEXTS[:50]), atol=1e-6)
    assert not [*tmp_path.glob("*unfinished*")]


def test_the_teachers_own_instructions_are_read(tiny_teacher_dirs: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = str(tmp_path / "teacher")
    parts = [Transformer(str(tiny_teacher_dirs["bert"]), max_seq_length=7), Pooling(tiny_teachers.HIDDEN, "cls")]
    SentenceTransformer(modules=parts, device="cpu", prompts={"query": "find: "}).save_pretrained(folder)
    encoder = load_teacher(folder)
    own = embedding_teacher(encoder)
    assert own.model.max_seq_length == 7
    assert own.model.prompts["query"] == "find: "
    ids = encoder.tokenizer(TEXTS[0], return_tensors="pt", truncation=True, max_length=7)
    first = encoder.hidden_states(**ids)[-1][0, 0]
    np.testing.assert_allclose(vectors(own.model, TEXTS[:1])[0], torch.nn.functional.normalize(first, dim=0), atol=1e-6)
    assert own.fingerprint != embedding_teacher(encoder, 5).fingerprint


def test_a_student_learns_to_embed_like_its_teacher(distilled: EmbeddingDistillation) -> None:
    before, after = distilled.closed_form.spearman[0], distilled.score.spearman[0]
    assert after > 0.8
    assert after > before
    assert distilled.score.recall_in_teachers[0] > 0.5
    assert [point["epoch"] for point in distilled.curve] == list(range(1, 5))
    assert distilled.texts == len(TEXTS) - 2 * 40


def test_a_training_that_makes_it_worse_is_undone(student: Teacher, teacher: EmbeddingTeacher, tmp_path: Path) -> None:
    spoiling = EmbeddingSettings(epochs=1, batch_size=16, learning_rate=0.5)
    stages: list[str] = []
    made = distil_embedder(student, teacher, TEXTS, spoiling, cache_dir=tmp_path, device="cpu", on_stage=stages.append)
    assert stages == ["closed form", "training", "scoring"]
    assert made.curve[0]["loss"] > 0
    assert made.score == made.closed_form


def test_the_closed_form_alone_beats_chance(student: Teacher, teacher: EmbeddingTeacher, tmp_path: Path) -> None:
    settings = EmbeddingSettings(epochs=0)
    made = distil_embedder(student, teacher, TEXTS, settings, cache_dir=tmp_path, device="cpu")
    assert made.curve == ()
    assert made.score == made.closed_form
    assert made.score.spearman[1] > 0
    assert len(made.model.encode(["a text"])[0]) == teacher.width


def test_an_interrupted_training_goes_on_to_the_same_end(
    student: Teacher, teacher: EmbeddingTeacher, distilled: EmbeddingDistillation, tmp_path: Path
) -> None:
    """The comparison with ``distilled`` also shows that equal seeds give equal students."""

    class StoppedError(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        if step == steps // 2:
            raise StoppedError

    given: dict[str, Any] = {"checkpoints": tmp_path / "checkpoints", "cache_dir": tmp_path, "device": "cpu"}
    with pytest.raises(StoppedError):
        distil_embedder(student, teacher, TEXTS, SETTINGS, on_progress=stop, **given)
    steps = []
    resumed = distil_embedder(
        student, teacher, TEXTS, SETTINGS, on_progress=lambda step, _: steps.append(step), **given
    )
    assert steps[0] > 1
    assert resumed.score == distilled.score
    state, other = resumed.model.state_dict(), distilled.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in other)


def test_scores_of_equal_vectors_are_perfect_and_of_others_are_not() -> None:
    rng = np.random.default_rng(0)
    theirs = unit(rng.normal(size=(100, 96)))
    same = score_vectors(theirs, theirs)
    for values in (same.spearman, same.overlap, same.recall, same.overlap_in_teachers, same.recall_in_teachers):
        assert values == pytest.approx((1, 1, 1))
    assert same.cosine == pytest.approx((1, 1, 1))
    assert set(same.truncated) == {"64"}

    chance = score_vectors(unit(rng.normal(size=(100, 96))), theirs)
    assert chance.spearman[1] < 0 < chance.spearman[2]
    assert chance.overlap[0] < 0.4

    # A rotation preserves similarities, but rotated vectors cannot search an index of the original vectors.
    rotation = np.linalg.qr(rng.normal(size=(96, 96)))[0]
    turned = score_vectors(unit(theirs @ rotation), theirs)
    assert turned.spearman[0] == pytest.approx(1, abs=1e-4)
    assert turned.overlap[0] > 0.95
    assert turned.overlap_in_teachers[0] < 0.5


def test_too_little_text_is_refused(student: Teacher, teacher: EmbeddingTeacher) -> None:
    with pytest.raises(KDNASError, match="there are 50 distinct texts; expected at least 120, of which 80 are held"):
        distil_embedder(student, teacher, TEXTS[:50] * 3, SETTINGS)
    with pytest.raises(KDNASError, match="20 texts are too few for nearest neighbours; give at least 40"):
        score_vectors(np.eye(20, dtype=np.float32), np.eye(20, dtype=np.float32))
