"""Fine-tuning and probing real encoders: learning, repeatability and absence of side effects."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import torch

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.encoding import PooledEncoder, encode, outputs, pad
from kdnas_env.tasks.finetuning import FinetuneSettings, default_epochs, default_learning_rate, finetune
from kdnas_env.tasks.probing import linear_probe
from kdnas_env.tasks.scores import TaskScore, majority_class
from kdnas_env.tasks.specs import GLUE_TASKS, TASKS, Split, TaskData
from kdnas_env.testing.clauses import global_states

FAST = FinetuneSettings(epochs=1, batch_size=8, device="cpu")


@pytest.fixture(scope="module")
def teacher(tiny_teacher_dirs: dict[str, Path]) -> Teacher:
    return load_teacher(tiny_teacher_dirs["bert"])


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_all_tasks_are_scored(name: str, teacher: Teacher, hub_layout: Path) -> None:
    task = load_task(name, hub_layout)
    tuned = finetune(teacher.model, teacher.tokenizer, task, FAST)
    for score in (majority_class(task), tuned):
        check_metrics(score, name)
    assert tuned.details["steps"] == 3
    assert len(tuned.details["train_loss"]) == 1


@pytest.mark.parametrize("name", ["cola", "mnli", "stsb"])
def test_probes_of_two_and_three_classes_and_of_numbers_are_scored(
    name: str, teacher: Teacher, hub_layout: Path
) -> None:
    task = load_task(name, hub_layout)
    check_metrics(linear_probe(teacher.model, teacher.tokenizer, task, device="cpu"), name)


def check_metrics(score: TaskScore, name: str) -> None:
    assert set(score.metrics) == set(TASKS[name].splits)
    assert all(set(metrics) == set(TASKS[name].metrics) for metrics in score.metrics.values())
    assert -1 <= score.score <= 1


@pytest.mark.parametrize("name", ["sst2", "mrpc", "stsb"])
def test_what_can_be_learnt_is_learnt(name: str, teacher: Teacher) -> None:
    task = small_tasks.easy_task(name, samples=48)
    floor = majority_class(task).score
    settings = FinetuneSettings(learning_rate=3e-3, epochs=4, batch_size=8, device="cpu")
    tuned = finetune(teacher.model, teacher.tokenizer, task, settings)
    assert tuned.score > 0.9 > floor
    assert tuned.details["train_loss"][-1] < tuned.details["train_loss"][0]
    assert linear_probe(teacher.model, teacher.tokenizer, task, device="cpu").score > 0.9


def test_similarities_are_predicted_in_their_own_unit(teacher: Teacher) -> None:
    """A constant answer (the mean) has correlation 0, so a score above 0 is learnt."""
    assert majority_class(small_tasks.easy_task("stsb")).score == 0.0
    assert majority_class(small_tasks.easy_task("stsb")).details["answer"] == pytest.approx(2.5, abs=0.5)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "albert", "distilbert", "electra"])
def test_every_family(family: str, tiny_teacher_dirs: dict[str, Path]) -> None:
    model = load_teacher(tiny_teacher_dirs[family])
    task = small_tasks.easy_task("mrpc", samples=16)
    assert 0 <= finetune(model.model, model.tokenizer, task, FAST).score <= 1


def test_a_seed_decides_everything_and_nothing_global_changes(teacher: Teacher) -> None:
    task = small_tasks.easy_task("sst2", samples=24)
    weights = copy.deepcopy(teacher.model.state_dict())
    before = global_states()
    settings = FinetuneSettings(learning_rate=1e-3, epochs=1, batch_size=8, device="cpu")
    first = finetune(teacher.model, teacher.tokenizer, task, settings, 1)
    probed = linear_probe(teacher.model, teacher.tokenizer, task, 1, device="cpu")
    assert global_states() == before
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    again = finetune(teacher.model, teacher.tokenizer, task, settings, 1)
    other = finetune(teacher.model, teacher.tokenizer, task, settings, 2)
    assert again.metrics == first.metrics
    assert again.details == first.details
    assert other.details["train_loss"] != first.details["train_loss"]
    assert linear_probe(teacher.model, teacher.tokenizer, task, 1, device="cpu").metrics == probed.metrics
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_nothing_is_printed_or_left_behind(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    steps: list[tuple[int, int]] = []
    finetune(
        teacher.model,
        teacher.tokenizer,
        small_tasks.easy_task("sst2", samples=24),
        FAST,
        on_progress=lambda *at: steps.append(at),
    )
    linear_probe(teacher.model, teacher.tokenizer, small_tasks.easy_task("sst2", samples=24), device="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert list(tmp_path.iterdir()) == []
    assert steps == [(1, 3), (2, 3), (3, 3)]


class Killed(Exception):
    """Raised to simulate a killed training."""


SIX = FinetuneSettings(learning_rate=1e-3, epochs=6, batch_size=8, device="cpu")
"""Six epochs of three steps (24 samples in batches of 8); each epoch but the last saves a checkpoint."""


@pytest.fixture(scope="module")
def whole(teacher: Teacher) -> TaskScore:
    """An uninterrupted training."""
    return finetune(teacher.model, teacher.tokenizer, small_tasks.easy_task("sst2", samples=24), SIX, 3)


@pytest.mark.parametrize("last", [1, 9, 16])
def test_a_training_that_was_killed_goes_on_to_the_same_end(
    last: int, teacher: Teacher, whole: TaskScore, tmp_path: Path
) -> None:
    task = small_tasks.easy_task("sst2", samples=24)

    def kill(done: int, total: int) -> None:
        if done == last:
            raise Killed

    steps: list[int] = []
    with pytest.raises(Killed):
        finetune(teacher.model, teacher.tokenizer, task, SIX, 3, checkpoints=tmp_path / "it", on_progress=kill)
    (tmp_path / "it" / "checkpoint-17").mkdir(parents=True)  # half-written
    resumed = finetune(
        teacher.model,
        teacher.tokenizer,
        task,
        SIX,
        3,
        checkpoints=tmp_path / "it",
        on_progress=lambda done, total: steps.append(done),
    )
    assert steps == list(range(3 * ((last - 1) // 3) + 1, 19))
    assert resumed.details == whole.details
    assert resumed.metrics == whole.metrics


def test_a_checkpoint_that_cannot_be_read_is_named(teacher: Teacher, tmp_path: Path) -> None:
    task, twice = small_tasks.easy_task("sst2", samples=16), FinetuneSettings(epochs=3, batch_size=8, device="cpu")
    finetune(teacher.model, teacher.tokenizer, task, twice, checkpoints=tmp_path)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-4"
    (checkpoint / "optimizer.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"checkpoint-4' cannot be read"):
        finetune(teacher.model, teacher.tokenizer, task, twice, checkpoints=tmp_path)


def test_padding_does_not_matter(teacher: Teacher) -> None:
    """The vector of a sequence does not depend on a longer one in its batch; the mean ignores padding."""
    split = Split((["us all .", "the actor quietly moves anyone who waits for two long hours ."],), np.array([0, 1]))
    examples = encode(teacher.tokenizer, split, 128)
    cpu = torch.device("cpu")
    for pooling in ("mean", "cls"):
        model = PooledEncoder(teacher.model, pooling).eval()
        with torch.inference_mode():
            together = model(**pad(examples, teacher.tokenizer.pad_token_id))
            alone = torch.cat([model(**pad([example], 0)) for example in examples])
            states = teacher.model(**pad(examples[:1], 0)).last_hidden_state[0]
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone[0], states.mean(0) if pooling == "mean" else states[0])
        torch.testing.assert_close(outputs(model, examples, 0, cpu), together, rtol=1e-4, atol=1e-5)


def test_pairs_are_encoded_together(teacher: Teacher) -> None:
    split = Split((["us all"], ["critics"]), np.array([0]))
    (example,) = encode(teacher.tokenizer, split, 128)
    assert example["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert len(encode(teacher.tokenizer, split, 5)[0]["input_ids"]) == 5
    with pytest.raises(KDNASError, match=r"max_length is 4, which leaves no room .* at least 5"):
        encode(teacher.tokenizer, split, 4)


def test_a_loss_that_is_not_finite_is_an_error(teacher: Teacher) -> None:
    broken: Any = copy.deepcopy(teacher.model)
    with torch.no_grad():
        broken.embeddings.LayerNorm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="loss is nan"):
        finetune(broken, teacher.tokenizer, small_tasks.easy_task("sst2", samples=16), FAST)
    with pytest.raises(FloatingPointError, match="not finite"):
        linear_probe(broken, teacher.tokenizer, small_tasks.easy_task("sst2", samples=16), device="cpu")


def test_a_class_that_is_alone(teacher: Teacher) -> None:
    """Cross-validation cannot choose a setting if a class has one sample, or if there is only one class."""
    task = small_tasks.easy_task("sst2", samples=16)
    for labels in (np.zeros(16, dtype=np.int64), np.eye(16, dtype=np.int64)[0]):
        train = Split(task.train.texts, labels)
        score = linear_probe(
            teacher.model, teacher.tokenizer, TaskData(task.spec, train, task.evaluation, ""), device="cpu"
        )
        assert score.details["chosen"] == {}
        assert 0 <= score.score <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("batch_size", 0),
        ("epochs", 0),
        ("epochs", 1.5),
        ("max_length", None),
        ("pooling", "max"),
        ("dropout", 1.0),
        ("warmup_fraction", -0.1),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(KDNASError, match=f"{name}.*{value!r}" if name != "pooling" else "unknown pooling 'max'"):
        FinetuneSettings(**{name: value})


def test_unknown_settings() -> None:
    assert FinetuneSettings().changed({"epochs": 7}).epochs == 7
    with pytest.raises(KDNASError, match="unknown setting 'lr'"):
        FinetuneSettings().changed({"lr": 1e-3})


def test_defaults() -> None:
    assert default_learning_rate(768) == 5e-5
    rates = [default_learning_rate(width) for width in (64, 128, 192, 384, 768, 1024)]
    assert rates == sorted(rates, reverse=True)
    assert [default_epochs(task) for task in ("mrpc", "wnli", "sst2")] == [5, 5, 3]
