"""Task distillation: training texts, early stopping, and resuming a killed training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_tasks
import tiny_teachers
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.tasks.classifier import Classifier, Objective
from kdnas_env.tasks.distilling import TaskDistillation, TaskDistillationSettings, distil_task
from kdnas_env.tasks.finetuning import FinetuneSettings, labelled_examples
from kdnas_env.tasks.heads import NATIVE
from kdnas_env.tasks.scores import majority_class
from kdnas_env.tasks.specs import TASKS, TEST, TaskData
from kdnas_env.tasks.teacher import TaskTeacher, TeacherSettings, task_teacher
from kdnas_env.tasks.training import Plan, set_attention_dropout, set_dropout, train

TUNING = FinetuneSettings(learning_rate=2e-3, epochs=3, batch_size=8, pooling=NATIVE, device="cpu")
TASK = small_tasks.easy_task(samples=64)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("student")
    return load_teacher(tiny_teachers.save_teacher(folder, "bert", seed=1, num_hidden_layers=1))


@pytest.fixture(scope="module")
def taught(tiny_teacher_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> TaskTeacher:
    settings = TeacherSettings(rates=(1.0,), finetuning=replace(TUNING, epochs=4))
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    return task_teacher(teacher, TASK, settings, cache_dir=tmp_path_factory.mktemp("cache"))


def distilled(student: Teacher, taught: TaskTeacher, cache: Path, **options: Any) -> TaskDistillation:
    settings = options.pop("settings", TaskDistillationSettings(finetuning=TUNING, patience=3))
    task = options.pop("task", TASK)
    return distil_task(student.model, student.tokenizer, task, taught, settings, cache_dir=cache, **options)


@pytest.mark.parametrize("pooling", ["mean", NATIVE])
def test_a_student_learns_from_labelled_and_unlabelled_text(
    pooling: str, student: Teacher, taught: TaskTeacher, tmp_path: Path
) -> None:
    unlabelled = [*tiny_teachers.sentences()[:40], TASK.evaluation[TEST].texts[0][0].upper(), "us all .", "us all ."]
    settings = TaskDistillationSettings(finetuning=replace(TUNING, pooling=pooling), patience=3)
    found = distilled(student, taught, tmp_path, unlabelled=[unlabelled], settings=settings)
    details = found.score.details
    assert found.score.score > 0.9 > majority_class(TASK).score
    assert [(point["stage"], point["epoch"]) for point in details["curve"]] == [
        *(("soft-labels", epoch) for epoch in (1, 2, 3)),
        *(("labels", epoch) for epoch in (1, 2)),
    ]
    assert all(set(point) == {"stage", "epoch", "train_loss", "loss", "score"} for point in details["curve"])
    assert details["curve"][2]["loss"] < details["curve"][0]["loss"]
    known = {text for split in (TASK.train, *TASK.evaluation.values()) for text in split.texts[0]}
    new = len({*unlabelled} - known) - 1  # one differs from a known text only in case
    assert (details["unlabelled_samples"], details["unlabelled_left_out"]) == (new, len(unlabelled) - new)
    json.dumps(found.score.to_dict())
    assert json.dumps(found.score.details["teacher"]) == json.dumps(taught.fingerprint)


def test_a_student_learns_with_the_dropout_that_is_asked_for(
    student: Teacher, taught: TaskTeacher, tmp_path: Path
) -> None:
    as_it_is = TaskDistillationSettings(finetuning=TUNING, label_epochs=0)
    config: Any = student.model.config

    def learnt(settings: TaskDistillationSettings) -> tuple[set[float], float]:
        found = distilled(student, taught, tmp_path, settings=settings)
        assert found.model.pretrained().config.hidden_dropout_prob == config.hidden_dropout_prob == 0.1
        parts = {part.p for name, part in dropouts(found.model) if "attention.self" not in name}
        assert {part.p for name, part in dropouts(found.model) if "attention.self" in name} == {0.0}
        return parts, found.score.details["curve"][-1]["train_loss"]

    assert learnt(as_it_is)[0] == {0.1}
    without, loss = learnt(replace(as_it_is, dropout=0.0))
    assert without == {0.0}
    half, higher = learnt(replace(as_it_is, dropout=0.5))
    assert half == {0.5}
    assert higher > 1.2 * loss


def dropouts(model: nn.Module) -> list[tuple[str, nn.Dropout]]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Dropout)]


@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_attention_weights_have_a_dropout_of_their_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = AutoModel.from_config(tiny_teachers.build_config(family, 100))
    set_dropout(model.train(), 0.3)
    attend, seen = functional.scaled_dot_product_attention, list[float]()

    def record(*inputs: Any, **options: Any) -> torch.Tensor:
        seen.append(options["dropout_p"])
        return attend(*inputs, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", record)
    for probability in (0.0, 0.5):
        seen.clear()
        set_attention_dropout(model, probability)
        first, second = (model(torch.tensor([[5, 6, 7]])).last_hidden_state for _ in range(2))
        assert seen == [probability] * 2 * tiny_teachers.LAYERS
        assert not torch.equal(first, second)  # hidden states keep their dropout


class Killed(Exception):
    """Raised to simulate a killed training."""


@pytest.fixture(scope="module")
def whole(student: Teacher, taught: TaskTeacher, tmp_path_factory: pytest.TempPathFactory) -> TaskDistillation:
    """An uninterrupted distillation."""
    return distilled(student, taught, tmp_path_factory.mktemp("whole"), task=small_tasks.easy_task(samples=40))


@pytest.mark.parametrize("killed", [(1, 3), (1, 14), (2, 1), (2, 9)])
def test_a_distillation_that_was_killed_goes_on_to_the_same_end(
    killed: tuple[int, int], student: Teacher, taught: TaskTeacher, whole: TaskDistillation, tmp_path: Path
) -> None:
    """An epoch has 5 steps (40 samples in batches of 8); the folder of checkpoints is moved before resuming."""
    task, stages = small_tasks.easy_task(samples=40), [0]

    def kill(done: int, total: int) -> None:
        stages[0] += done == 1
        if (stages[0], done) == killed:
            raise Killed

    with pytest.raises(Killed):
        distilled(student, taught, tmp_path, task=task, checkpoints=tmp_path / "it", on_progress=kill)
    shutil.move(tmp_path / "it", tmp_path / "moved")
    resumed = distilled(student, taught, tmp_path, task=task, checkpoints=tmp_path / "moved")
    again = distilled(student, taught, tmp_path, task=task, checkpoints=tmp_path / "moved")
    for found in (resumed, again):
        assert found.score.details == whole.score.details
        assert found.score.metrics == whole.score.metrics
        weights = found.model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.model.state_dict().items())


def test_training_ends_with_the_best_epoch(student: Teacher, tmp_path: Path) -> None:
    """Two epochs without improvement end the training; the model gets the weights of the lowest loss."""
    task = small_tasks.easy_task(samples=16)
    plan = Plan(1e-3, 8, 8, 0.1, 0.01, 0, torch.device("cpu"), patience=2)
    examples = labelled_examples(student.tokenizer, task.train, 32)
    seen: list[torch.Tensor] = []
    model = TUNING.classifier(student.model, task, 0)

    def validate() -> dict[str, float]:
        seen.append(model.network.output.weight.detach().clone())
        return {"loss": (3.0, 1.0, 2.0, 2.0, 0.0)[len(seen) - 1]}

    trained = train(model, examples, 0, plan, tmp_path, lambda done, total: None, validate)
    assert [point["loss"] for point in trained.validations] == [3.0, 1.0, 2.0, 2.0]
    assert torch.equal(model.network.output.weight, seen[1])
    resumed = TUNING.classifier(student.model, task, 0)
    again = train(resumed, examples, 0, plan, tmp_path, lambda done, total: None, validate)
    assert again == trained
    assert torch.equal(resumed.network.output.weight, seen[1])


# For comparison: an untrained student scores 0.83 and 0, a constant answer 0 and 0.60.
@pytest.mark.parametrize(("kind", "least"), [("stsb", 0.9), ("multi-label", 0.65)])
def test_numbers_and_several_classes(
    kind: str, least: float, student: Teacher, tiny_teacher_dirs: dict[str, Path], tmp_path: Path
) -> None:
    task = small_tasks.easy_task("stsb") if kind == "stsb" else small_tasks.multi_label_task()
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    taught = task_teacher(
        teacher, task, TeacherSettings(rates=(2.0,), finetuning=replace(TUNING, epochs=2)), cache_dir=tmp_path
    )
    settings = TaskDistillationSettings(temperature=2.0, patience=3, finetuning=TUNING)
    found = distilled(student, taught, tmp_path, task=task, settings=settings)
    assert found.score.score > least > majority_class(task).score


def model_of(task: TaskData, student: Teacher, objective: Objective) -> Classifier:
    model = TUNING.classifier(student.model, task, 0)
    model.objective = objective
    return model


def test_losses_follow_their_formulas(student: Teacher) -> None:
    logits, soft = torch.tensor([[1.0, -2.0], [0.5, 0.0]]), torch.tensor([[3.0, 1.0], [-1.0, 2.0]])
    labels = torch.tensor([0, 1])
    easy = small_tasks.easy_task()
    divergence = functional.kl_div((logits / 2).log_softmax(-1), (soft / 2).softmax(-1), reduction="batchmean") * 4
    loss = model_of(easy, student, Objective(0.25, 2.0)).loss(logits, labels, soft)
    assert float(loss) == pytest.approx(float(0.25 * functional.cross_entropy(logits, labels) + 0.75 * divergence))
    assert float(model_of(easy, student, Objective(0.0, 3.0)).loss(soft, labels, soft)) == pytest.approx(0.0, abs=1e-6)
    # With several classes per text, each class is a binary decision.
    pairs = torch.stack([logits, torch.zeros_like(logits)], -1), torch.stack([soft, torch.zeros_like(soft)], -1)
    each = functional.kl_div((pairs[0] / 2).log_softmax(-1), (pairs[1] / 2).softmax(-1), reduction="sum") / 4 * 4
    found = model_of(small_tasks.multi_label_task(), student, Objective(0.0, 2.0)).loss(logits, torch.zeros(2, 2), soft)
    assert float(found) == pytest.approx(float(each), rel=1e-5)
    similar = small_tasks.easy_task("stsb")
    numbers = model_of(similar, student, Objective(0.5)).loss(logits[:, 0], labels.double(), soft[:, 0])
    errors = (logits[:, 0] - labels) ** 2 + (logits[:, 0] - soft[:, 0]) ** 2
    assert float(numbers) == pytest.approx(float(errors.mean() / 2) / similar.train.labels.std() ** 2, rel=1e-5)


@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_a_native_head_begins_with_what_the_encoder_says_of_the_first_token(
    family: str, tiny_teacher_dirs: dict[str, Path]
) -> None:
    activation = {"distilbert": torch.relu, "electra": functional.gelu}.get(family, torch.tanh)
    teacher, task = load_teacher(tiny_teacher_dirs[family]), small_tasks.easy_task()
    before = torch.get_rng_state()
    model, same, other = (TUNING.classifier(teacher.model, task, seed).eval() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    inputs = teacher.tokenizer(["us all .", "critics"], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = activation(teacher.model(**inputs).last_hidden_state[:, 0])
        logits = model(**inputs)
        torch.testing.assert_close(logits, states @ model.network.output.weight.T)
        assert torch.equal(same(**inputs), logits)
        assert not torch.allclose(other(**inputs), logits)


def test_a_static_student_has_no_native_head() -> None:
    from transformers import BertConfig, BertModel

    static = BertModel(BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=0, num_attention_heads=1))
    with pytest.raises(KDNASError, match="a student of 0 layers has no native classifier"):
        TUNING.classifier(static, small_tasks.easy_task(), 0)


def test_a_family_without_a_head_that_is_known(student: Teacher) -> None:
    import copy

    encoder: Any = copy.deepcopy(student.model)
    encoder.config.model_type = "modernbert"
    with pytest.raises(KDNASError, match="'modernbert' is not known to kdnas"):
        TUNING.classifier(encoder, small_tasks.easy_task(), 0)


def test_what_is_out_of_range(student: Teacher, taught: TaskTeacher, tmp_path: Path) -> None:
    with pytest.raises(KDNASError, match=r"unlabelled text has 2 columns; the task 'rotten_tomatoes' has 1"):
        distilled(student, taught, tmp_path, unlabelled=[["a"], ["b"]])
    with pytest.raises(KDNASError, match="temperature is 0"):
        TaskDistillationSettings(temperature=0)
    with pytest.raises(KDNASError, match=r"label_weight is 1\.5"):
        TaskDistillationSettings(label_weight=1.5)
    with pytest.raises(KDNASError, match="dropout is 1"):
        TaskDistillationSettings(dropout=1.0)
    assert TASKS["rotten_tomatoes"].scored == (TEST,)
