"""Teacher types that differ from another type only in name, and give the same students."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_teachers
import torch

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.folder import load_student
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import TeacherError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings

RELATIVES = {"camembert": "xlm-roberta", "data2vec-text": "roberta", "ernie": "bert"}
"""Types, each with the type that it equals except for its name."""


@pytest.mark.parametrize("kind", RELATIVES)
@pytest.mark.parametrize("head", [False, True])
def test_states_are_those_of_the_model(kind: str, head: bool, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tiny_teachers.save_teacher(tmp_path / kind, kind, head=head)
    teacher = load_teacher(folder)
    batch = teacher.tokenizer(tiny_teachers.sentences()[:3], return_tensors="pt", padding=True)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(teacher.hidden_states(**batch), expected, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "relative"), RELATIVES.items())
def test_students_are_those_of_the_relative(kind: str, relative: str, tiny_corpus_file: Path, tmp_path: Path) -> None:
    """Both types get the same random weights, so their losses must be equal."""
    losses = []
    for name in (kind, relative):
        evaluator = MiniKDEvaluator(
            MiniKDSettings(
                teacher=str(tiny_teachers.save_teacher(tmp_path / name, name)),
                corpus={"source": str(tiny_corpus_file), "proxy_fraction": 1.0},
                latency="analytic",
                cache_dir=tmp_path / "cache",
                device="cpu",
            )
        )
        whole = evaluator.workload.teacher.architecture.as_student()
        student = StudentConfig(2, 2, 16, 32, "gelu", whole.family)
        made = [evaluator.distil(whole, Fidelity(0)).evaluation, evaluator.distil(student, Fidelity(1)).evaluation]
        losses.append([loss for evaluation in made for loss in evaluation.heldout_unexplained])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][-2] < 1


def test_task_ids_are_refused(tmp_path: Path) -> None:
    folder = tiny_teachers.save_teacher(tmp_path / "ernie", "ernie", use_task_id=True)
    with pytest.raises(TeacherError, match="its embeddings have task ids"):
        load_teacher(folder)


def test_a_folder_of_such_a_type_is_loaded_whole(tmp_path: Path) -> None:
    folder = tiny_teachers.save_teacher(tmp_path / "camembert", "camembert")
    assert load_student(folder).config.model_type == "camembert"
