"""The teacher of a task: its own head or a cached fine-tuning, and its soft labels."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import tiny_teachers
import torch
from processes import Started
from progress_log import ProgressLog

from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.tasks import encoding, finetuning, labelling
from kdnas_env.tasks import teacher as module
from kdnas_env.tasks.encoding import batch_outputs, encode, outputs
from kdnas_env.tasks.finetuning import FinetuneSettings
from kdnas_env.tasks.own_heads import own_head
from kdnas_env.tasks.specs import CLASSIFICATION, TASKS, TEST, TRAIN, VALIDATION, Split, TaskData
from kdnas_env.tasks.splits import choosing_splits
from kdnas_env.tasks.teacher import TeacherSettings, task_teacher
from kdnas_env.testing.tiny_encoders import save_tiny_encoder

FAST = TeacherSettings(
    rates=(1.0, 2.0), finetuning=FinetuneSettings(learning_rate=1e-3, epochs=2, batch_size=8, device="cpu")
)
ONCE = TeacherSettings(rates=(1.0,), finetuning=replace(FAST.finetuning, epochs=1))


def small_task(seed: int = 0) -> TaskData:
    return small_tasks.easy_task(samples=40, seed=seed)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the seed of each fine-tuning."""
    seeds: list[int] = []
    real = finetuning.fit

    def fit(encoder: Any, tokenizer: Any, task: Any, settings: Any, seed: int, **options: Any) -> Any:
        seeds.append(seed)
        return real(encoder, tokenizer, task, settings, seed, **options)

    monkeypatch.setattr(module, "fit", fit)
    return seeds


def test_it_is_fine_tuned_once_and_kept(tiny_teacher_dirs: dict[str, Path], tmp_path: Path, counted: list[int]) -> None:
    teacher, task = load_teacher(tiny_teacher_dirs["bert"]), small_task()
    first = task_teacher(teacher, task, FAST, cache_dir=tmp_path)
    assert counted == [0, 0]
    assert [tried["learning_rate"] for tried in first.record["tried"]] == [1e-3, 2e-3]
    assert first.record["chosen"]["score"] == max(tried["score"] for tried in first.record["tried"]) > 0.6
    again = task_teacher(teacher, task, FAST, cache_dir=tmp_path)
    assert counted == [0, 0]
    texts = [task.evaluation[TEST].texts[0][:7]]
    assert np.array_equal(first.logits(texts), again.logits(texts))
    assert first.logits(texts).shape == (7, 2)
    assert (again.fingerprint, again.record) == (first.fingerprint, first.record)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".lock"}
    other = task_teacher(teacher, small_task(seed=1), FAST, cache_dir=tmp_path)
    assert other.fingerprint != first.fingerprint
    assert len(counted) == 4


def test_one_with_tied_weights_is_kept(tmp_path: Path) -> None:
    teacher, task = load_teacher(save_tiny_encoder(tmp_path / "t5", "t5")), small_task()
    first, again = (task_teacher(teacher, task, ONCE, cache_dir=tmp_path / "cache") for _ in range(2))
    texts = [task.evaluation[TEST].texts[0][:7]]
    assert np.array_equal(first.logits(texts), again.logits(texts))


def test_a_damaged_teacher_is_made_anew(tiny_teacher_dirs: dict[str, Path], tmp_path: Path, counted: list[int]) -> None:
    teacher, task = load_teacher(tiny_teacher_dirs["bert"]), small_task()
    texts = [task.evaluation[TEST].texts[0][:7]]
    before = task_teacher(teacher, task, ONCE, cache_dir=tmp_path).logits(texts)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    for damaged in (whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert np.array_equal(task_teacher(teacher, task, ONCE, cache_dir=tmp_path).logits(texts), before)
    assert len(counted) == 4


def fine_tune_until_killed(folder: Path, cache: Path) -> None:
    """Fine-tune a teacher; the process kills itself in the second of two fine-tunings."""
    real, begun = finetuning.fit, list[Any]()

    def advance(done: int, total: int) -> None:
        if len(begun) == 2 and done == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    def fit(*given: Any, **named: Any) -> Any:
        begun.append(given)
        return real(*given, **{**named, "on_progress": advance})

    pytest.MonkeyPatch().setattr(module, "fit", fit)
    task_teacher(load_teacher(folder), small_task(), FAST, cache_dir=cache)


def test_a_killed_fine_tuning_goes_on_after_its_last_epoch(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path, counted: list[int]
) -> None:
    """The second of two fine-tunings is killed in the last of its two epochs of 5 steps."""
    folder, cache = tiny_teacher_dirs["bert"], tmp_path / "cache"
    killed = Started(fine_tune_until_killed, folder, cache)
    output = killed.read(timeout=120)
    assert killed.returncode == -signal.SIGKILL, output
    teacher, task = load_teacher(folder), small_task()
    log = ProgressLog()
    resumed = task_teacher(teacher, task, FAST, cache_dir=cache, progress=log)
    assert counted == [0]
    assert log.steps == [(step, 10) for step in range(6, 11)]
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    assert len(list(cache.glob("*.safetensors"))) == 1
    whole = task_teacher(teacher, task, FAST, cache_dir=tmp_path / "other")
    assert (resumed.record, resumed.fingerprint) == (whole.record, whole.fingerprint)
    texts = [task.evaluation[TEST].texts[0][:7]]
    assert np.array_equal(resumed.logits(texts), whole.logits(texts))


def test_three_teachers_are_averaged(tiny_teacher_dirs: dict[str, Path], tmp_path: Path, counted: list[int]) -> None:
    teacher, task = load_teacher(tiny_teacher_dirs["bert"]), small_task()
    three = task_teacher(teacher, task, replace(ONCE, teachers=3), cache_dir=tmp_path)
    assert counted == [0, 1, 2]
    inputs = teacher.tokenizer(["us all ."], return_tensors="pt")
    with torch.no_grad():
        logits = [member(**inputs).numpy()[0] for member in three.members]
    assert not np.allclose(logits[0], logits[1])
    np.testing.assert_allclose(three.logits([["us all ."]])[0], np.mean(logits, axis=0), rtol=1e-4, atol=1e-6)


def test_soft_labels_are_computed_once_and_mapped(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, task = load_teacher(tiny_teacher_dirs["bert"]), small_tasks.easy_task("stsb", samples=40)
    taught = task_teacher(teacher, task, ONCE, cache_dir=tmp_path)
    texts = [column[:9] for column in task.evaluation[VALIDATION].texts]
    first = taught.soft_labels(texts, tmp_path)
    assert np.array_equal(first, taught.logits(texts))
    assert first.shape == (9,)
    monkeypatch.setattr(module.TaskTeacher, "_outputs", None)
    assert np.array_equal(taught.soft_labels(texts, tmp_path), first)


@pytest.mark.parametrize("members", [1, 2])
def test_a_labelling_that_was_stopped_goes_on_with_equal_labels(
    members: int, tiny_teacher_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, texts = load_teacher(tiny_teacher_dirs["bert"]), [tiny_teachers.sentences()[:90]]
    taught = task_teacher(teacher, small_task(), replace(ONCE, teachers=members), cache_dir=tmp_path)
    padding = teacher.tokenizer.pad_token_id
    monkeypatch.setattr(encoding, "_PREDICTING_TOKENS", 60)
    monkeypatch.setattr(labelling, "CHUNK_SAMPLES", 20)
    examples = encode(teacher.tokenizer, Split(tuple(texts), np.zeros(90)), taught.max_length)
    together = [outputs(member, examples, padding, torch.device("cpu")).numpy() for member in taught.members]

    def stop(done: int, total: int) -> None:
        assert total == 90
        told.append(done)
        if len(told) == 3:
            raise KeyboardInterrupt

    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        taught.soft_labels(texts, tmp_path, on_progress=stop)
    (unfinished,) = tmp_path.glob("soft-labels-*-unfinished")
    assert len(list(unfinished.iterdir())) == 3
    first = unfinished / "0-0.npy"
    first.write_bytes(first.read_bytes()[:-7])
    computed: list[int] = []

    def counting(*given: Any) -> torch.Tensor:
        computed.append(1)
        return batch_outputs(*given)

    monkeypatch.setattr(labelling, "batch_outputs", counting)
    labels = taught.soft_labels(texts, tmp_path, on_progress=lambda done, total: told.append(done))
    np.testing.assert_array_equal(labels, np.mean(together, axis=0, dtype=np.float32))
    chunks = (len(told) - 3) // members
    assert (told[-1], len(computed)) == (90, members * chunks - 2)
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("labels", "fits"),
    [(("no", "yes"), [0, 1]), (("YES", "No"), [1, 0]), (("LABEL_0", "LABEL_1"), None), (("no", "yes", "so"), None)],
)
def test_a_head_whose_labels_fit_is_used_as_it_is(
    labels: tuple[str, ...], fits: list[int] | None, tmp_path: Path, counted: list[int]
) -> None:
    folder = tiny_teachers.save_classifier(tmp_path / "teacher", labels)
    teacher = load_teacher(folder)
    spec = small_tasks.named_spec(("no", "yes"))
    task = small_tasks.easy_task(spec=spec)
    found = own_head(teacher, spec)
    if fits is None:
        assert found is None
        return
    taught = task_teacher(teacher, task, FAST, cache_dir=tmp_path)
    assert (counted, taught.record) == ([], {"head": "own"})
    turned = task_teacher(teacher, small_tasks.easy_task(spec=small_tasks.named_spec(("yes", "no"))), FAST)
    assert turned.fingerprint != taught.fingerprint
    np.testing.assert_array_equal(turned.logits([["us all ."]])[:, ::-1], taught.logits([["us all ."]]))
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**teacher.tokenizer(["us all ."], return_tensors="pt")).logits[:, fits]
    np.testing.assert_allclose(taught.logits([["us all ."]]), logits.numpy(), rtol=1e-4, atol=1e-6)


def test_labels_without_names_fit_classes_that_are_numbers(tmp_path: Path, tiny_teacher_dirs: dict[str, Path]) -> None:
    folder = tiny_teachers.save_classifier(tmp_path / "teacher", ("LABEL_0", "LABEL_1"))
    assert own_head(load_teacher(folder), TASKS["sst2"]) is not None
    assert own_head(load_teacher(folder), TASKS["rte"]) is None
    named = tiny_teachers.save_classifier(tmp_path / "named", ("POSITIVE", "NEGATIVE"))
    head = own_head(load_teacher(named), TASKS["sst2"])
    assert head is not None
    assert head.order == [1, 0]
    assert own_head(load_teacher(tiny_teacher_dirs["bert"]), TASKS["sst2"]) is None


def test_nothing_is_chosen_on_what_is_scored() -> None:
    """GLUE tasks are scored on their validation split, so a tenth of the training split is held out."""
    glue = small_tasks.easy_task("sst2")
    training, choosing = choosing_splits(glue)
    assert (len(training.train), len(choosing)) == (len(glue.train) - 12, 12)
    assert training.spec.kind == CLASSIFICATION
    own: TaskData = small_tasks.easy_task(spec=TASKS["rotten_tomatoes"])
    assert choosing_splits(own) == (own, own.evaluation[VALIDATION])
    assert TRAIN not in own.evaluation
