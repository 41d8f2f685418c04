"""The short task stage: its measurements, its texts, and absence of side effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import tiny_teachers
import torch
from torch.distributions import Categorical, kl_divergence

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import Recipe
from kdnas_env.distillation.training.workload import Workload, open_workload
from kdnas_env.errors import KDNASError
from kdnas_env.tasks.divergence import departure
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.search_task import SearchTask, open_stage
from kdnas_env.tasks.specs import EMBEDDING, TASKS, Split, TaskData
from kdnas_env.tasks.stage import StageSettings, TaskStage, stage_samples
from kdnas_env.tasks.teacher import TaskTeacher, TeacherSettings, task_teacher
from kdnas_env.tasks.vectors import embedding_teacher, vector_teacher

STUDENT = StudentConfig(2, 2, 16, 32)
SETTINGS = StageSettings(samples=120, heldout=60, batch_size=8, learning_rate=2e-3)
TUNING = FinetuneSettings(learning_rate=2e-3, epochs=2, batch_size=8, device="cpu")
NUMBERS = replace(TASKS["rotten_tomatoes"], labels=(), metrics=("pearson",))
KINDS: Mapping[str, TaskData] = {
    "classification": small_tasks.easy_task(samples=40),
    "regression": small_tasks.easy_task(spec=NUMBERS, samples=40),
    "multi-label": small_tasks.multi_label_task(samples=40),
}


@pytest.fixture(scope="module")
def workload(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workload:
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    cache = tmp_path_factory.mktemp("states")
    return open_workload(teacher, str(tiny_corpus_file), Recipe(), cache_dir=cache)[0]


@pytest.fixture(scope="module")
def student(workload: Workload) -> Any:
    return MiniKD(workload, STUDENT, Recipe(), Fidelity(epochs=0)).export()


@pytest.fixture(scope="module")
def teachers(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskTeacher]:
    cache = tmp_path_factory.mktemp("teachers")
    settings = TeacherSettings(rates=(1.0,), finetuning=TUNING)
    taught = {kind: task_teacher(workload.teacher, task, settings, cache_dir=cache) for kind, task in KINDS.items()}
    return {**taught, EMBEDDING: vector_teacher(workload.teacher)}


@pytest.mark.parametrize("kind", [*KINDS, EMBEDDING])
def test_a_student_learns_what_the_teacher_says(
    kind: str, workload: Workload, student: Any, teachers: dict[str, TaskTeacher], tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    random_state = torch.get_rng_state()
    unexplained = []
    for epochs in (0, 2):
        stage = TaskStage(workload, kind, teachers[kind], replace(SETTINGS, epochs=epochs), tmp_path)
        first, again = (stage.run(student, STUDENT, Fidelity()) for _ in range(2))
        assert first == again
        assert first.unexplained == first.divergence / first.reference
        unexplained.append(first.unexplained)
    assert unexplained[1] < unexplained[0] < 1
    assert stage.run(student, STUDENT, Fidelity(seed=1)) != first
    assert stage.run(student, STUDENT, Fidelity(data_fraction=0.1, epochs=7)) == first
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())


def test_soft_labels_of_the_corpus_are_those_of_its_texts(
    workload: Workload, teachers: dict[str, TaskTeacher], tmp_path: Path
) -> None:
    taught, corpus = teachers["classification"], workload.corpus
    samples = corpus.heldout[:5]
    texts = [
        taught.tokenizer.decode(corpus.input_ids[corpus.offsets[s] : corpus.offsets[s + 1]], skip_special_tokens=True)
        for s in samples
    ]
    np.testing.assert_allclose(taught.corpus_soft_labels(corpus, samples, tmp_path), taught.logits([texts]), rtol=1e-4)
    assert len(list(tmp_path.glob("soft-labels-*.safetensors"))) == 1


def test_what_is_judged_on_is_trained_on_by_neither(workload: Workload) -> None:
    corpus = workload.corpus
    train, heldout = stage_samples(corpus, SETTINGS)
    assert len(heldout) == 60
    assert len(train) == 120
    assert set(corpus.heldout) <= set(heldout)
    assert not set(heldout) & {*train, *corpus.train}
    everything = stage_samples(corpus, StageSettings())
    assert not set(everything[0]) & set(everything[1])
    assert set(corpus.train) <= set(everything[0])


def test_a_stage_may_have_text_of_its_own(workload: Workload, tmp_path: Path) -> None:
    """Separate texts are useful if the task's teacher was trained on the corpus of the search."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(tiny_teachers.sentences()[:90]), encoding="utf-8")
    stage = {"samples": 40, "heldout": 20}
    tested = Split((tiny_teachers.sentences()[89:91],), np.zeros(2))
    task = replace(small_tasks.easy_task(), evaluation={"test": tested})
    text = SearchTask.of({"name": "rotten_tomatoes", "unlabelled": str(path), "stage": stage}).text(workload, task)
    assert text.corpus.report.dropped_without == 1
    assert text.corpus.report.source == str(path)
    assert [len(part) for part in stage_samples(text.corpus, StageSettings(**stage))] == [40, 20]
    for unused in ({"name": "rotten_tomatoes", "unlabelled": "none"}, {"name": "cola"}):
        assert SearchTask.of(unused).text(workload, task) is workload


def test_texts_of_pairs_are_for_tasks_of_pairs(workload: Workload) -> None:
    pairs = replace(small_tasks.easy_task(), spec=TASKS["rte"])
    with pytest.raises(KDNASError, match="the corpus has texts of 1 columns, the task 'rte' of 2"):
        SearchTask.of("rte").text(workload, pairs)


def test_the_task_without_labels_asks_for_the_vectors_of_the_teacher(workload: Workload, tmp_path: Path) -> None:
    taught, made = vector_teacher(workload.teacher), embedding_teacher(workload.teacher)
    texts = tiny_teachers.sentences()[:5]
    np.testing.assert_allclose(taught.logits([texts]), made.vectors(texts, tmp_path), atol=1e-6)
    stage = open_stage(workload, SearchTask.of("embedding"), cache_dir=tmp_path)
    assert stage.identity["teacher"] == made.fingerprint
    assert stage.identity["text"] == workload.corpus.fingerprint


def test_the_departure_of_vectors_is_that_of_their_directions() -> None:
    rng = np.random.default_rng(0)
    own, taught = (torch.from_numpy(rng.normal(0.5, 1, (40, 6))) for _ in range(2))
    found = departure(EMBEDDING, own, taught)
    cosines = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(own.numpy(), taught.numpy(), strict=True)
    ]
    assert found.divergence == pytest.approx(1 - np.mean(cosines))
    assert departure(EMBEDDING, 3 * own, taught).divergence == pytest.approx(found.divergence)
    assert departure(EMBEDDING, taught.mean(0).expand_as(taught), taught).unexplained == pytest.approx(1)
    assert -0.5 < found.agreement < 0.5
    assert departure(EMBEDDING, 2 * taught, taught).agreement == pytest.approx(1)


def test_divergences_are_those_of_distributions() -> None:
    rng = torch.Generator().manual_seed(0)
    own, taught = torch.randn(40, 3, generator=rng).double(), torch.randn(40, 3, generator=rng).double()
    mean = Categorical(probs=taught.softmax(1).mean(0))
    found = departure("classification", own, taught)
    assert found.divergence == pytest.approx(
        float(kl_divergence(Categorical(logits=taught), Categorical(logits=own)).mean())
    )
    assert found.reference == pytest.approx(float(kl_divergence(Categorical(logits=taught), mean).mean()))
    assert found.agreement == pytest.approx(float((own.argmax(1) == taught.argmax(1)).double().mean()))
    same = departure("classification", taught + 3.0, taught)
    assert same.divergence == pytest.approx(0, abs=1e-12)
    assert same.agreement == 1.0
    several = departure("multi-label", own, taught)
    pairs = [torch.stack([torch.zeros_like(values), values], -1) for values in (taught, own)]
    classes = kl_divergence(Categorical(logits=pairs[0]), Categorical(logits=pairs[1]))
    assert several.divergence == pytest.approx(float(classes.sum(1).mean()))
    numbers = departure("regression", own[:, 0], taught[:, 0])
    assert numbers.reference == pytest.approx(float(taught[:, 0].var(correction=0)))
    assert numbers.unexplained == pytest.approx(float((own[:, 0] - taught[:, 0]).square().mean()) / numbers.reference)
    with pytest.raises(FloatingPointError, match="not finite"):
        departure("regression", own[:, 0] / 0, taught[:, 0])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("squad", "unknown task 'squad'"),
        ({}, "task .* is malformed: .*name"),
        ({"name": "imdb", "epochs": 3}, "unknown field.*epochs"),
        ({"name": "imdb", "stage": {"samples": 0}}, "samples is 0; expected a whole number, at least 8"),
        ({"name": "imdb", "stage": {"warmup_fraction": 1.0}}, "warmup_fraction is 1.0"),
    ],
)
def test_a_malformed_task_is_refused(task: Any, message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        SearchTask.of(task)
