from __future__ import annotations

import copy
import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plain_kd
import pytest
import torch
from processes import Started
from safetensors.torch import save

from kdnas_env.core.architecture import FAMILIES
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training import kd_trainer
from kdnas_env.distillation.training.full_kd import FullKDResult, FullKDSettings, distil
from kdnas_env.distillation.training.kd_data import Collator, CorpusSamples, LengthGroupedOrder, teaching_batch
from kdnas_env.distillation.training.kd_trainer import DistillationModel, read_curve
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.packed import PackedEncoder
from kdnas_env.distillation.training.recipe import Recipe
from kdnas_env.distillation.training.resuming import last_checkpoint
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import KDNASError, RunError

RECIPE = Recipe(learning_rate=8e-4, train_embeddings=True)
LONG = FullKDSettings(epochs=4, evaluations=4)
BRIEF = FullKDSettings(epochs=1, evaluations=1)


def start(workload: Workload, recipe: Recipe = RECIPE, **student: Any) -> MiniKD:
    return MiniKD(replace(workload, trimmed=False), plain_kd.tiny_student(**student), recipe, Fidelity(0))


def run(
    kd: MiniKD, folder: Path, settings: FullKDSettings = LONG, *, in_loop: bool = False, **how: Any
) -> FullKDResult:
    samples = CorpusSamples(kd.workload, kd.workload.train, cached=not in_loop)
    return distil(kd, samples, settings, folder, teacher_in_loop=in_loop, **how)


@pytest.fixture(scope="module")
def whole(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> FullKDResult:
    """An uninterrupted training with the settings ``LONG``."""
    return run(start(workload), tmp_path_factory.mktemp("whole"))


def go_on(workload: Workload, result: FullKDResult) -> MiniKD:
    student, model = plain_kd.tiny_student(), copy.deepcopy(result.model)
    return MiniKD(replace(workload, trimmed=False), student, RECIPE, Fidelity(0), start=model)


def losses(result: FullKDResult) -> list[float]:
    return [point["unexplained"] for point in result.curve]


def assert_same(one: FullKDResult, other: FullKDResult) -> None:
    assert losses(one) == losses(other)
    for (name, ours), (_, theirs) in zip(one.model.state_dict().items(), other.model.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs), name
    for name, tensor in one.projection.items():
        assert torch.equal(tensor, other.projection[name]), name


# --- batches ---


def test_every_sample_comes_once_an_epoch_among_those_of_its_length(workload: Workload) -> None:
    lengths = workload.corpus.lengths[workload.train]
    order = LengthGroupedOrder(workload.corpus, workload.train, 8, seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        order.epoch = epoch
        epochs.append(list(order))
    assert sorted(epochs[0]) == list(range(len(workload.train)))
    assert epochs[0] == epochs[2] != epochs[1]
    batches = [lengths[epochs[0][at : at + 8]] for at in range(0, len(epochs[0]), 8)]
    assert [len(batch) for batch in batches[:-1]] == [8] * (len(batches) - 1)
    spread = np.mean([batch.max() - batch.min() for batch in batches])
    assert spread < 0.5 * (lengths.max() - lengths.min())


@pytest.mark.parametrize("objective", ["hidden_states", "relations"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_the_loss_of_a_batch_is_that_of_mini_kd_with_the_teacher_cached_or_in_the_loop(
    family: str, objective: str, pairs: bool, make_workload: Callable[..., Workload]
) -> None:
    kd = start(make_workload("bert", pairs), Recipe(objective=objective), family=family)
    if kd.objective.solved:
        kd.fit()
    chosen = kd.workload.train[[3, 11, 30]]
    error, count = kd.terms(next(kd.workload.batches([chosen])))
    teacher = kd.workload.teacher
    run_teacher = PackedEncoder(teacher.model, position_offset=teacher.architecture.position_offset)
    for cached in (True, False):
        samples = CorpusSamples(kd.workload, chosen, cached=cached)
        inputs = Collator(kd.workload, kd.objective.teacher_layers)([samples[index] for index in range(3)])
        assert (teaching_batch(inputs).taught is None) is not cached
        loss = DistillationModel(kd, None if cached else run_teacher)(**inputs)["loss"]
        torch.testing.assert_close(loss, error / count, rtol=1e-4, atol=1e-6)


# --- training ---


@pytest.mark.parametrize("in_loop", [False, True], ids=["cached", "in the loop"])
def test_a_student_is_distilled_well_past_its_start(in_loop: bool, workload: Workload, tmp_path: Path) -> None:
    result = run(start(workload), tmp_path, replace(LONG, epochs=8), in_loop=in_loop)
    assert len(result.curve) == 5
    assert min(losses(result)) < 0.8 * losses(result)[0]
    assert result.best["unexplained"] == min(losses(result))
    assert result.curve[-1]["step"] == 8 * -(-len(workload.train) // RECIPE.batch_size)
    assert not result.stopped_early


def test_what_comes_back_is_the_student_of_the_best_evaluation(workload: Workload, whole: FullKDResult) -> None:
    again = go_on(workload, whole)
    assert again.carry_over(whole.projection)
    assert again.heldout_score().unexplained == pytest.approx(whole.best["unexplained"], rel=1e-5)


def test_a_carried_projection_is_not_solved_anew_before_the_first_step(
    workload: Workload, whole: FullKDResult, tmp_path: Path
) -> None:
    kd = go_on(workload, whole)
    assert kd.carry_over(whole.projection)
    second = run(kd, tmp_path, BRIEF, carried=True)
    assert second.curve[0]["unexplained"] == pytest.approx(whole.best["unexplained"], rel=1e-5)
    assert not kd.carry_over({"projection.weight": torch.zeros(1, 2, 3)})


def test_equal_calls_give_equal_students_and_leave_global_random_states_alone(
    workload: Workload, whole: FullKDResult, tmp_path: Path
) -> None:
    torch.rand(3)
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    again = run(start(workload), tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), repr(np.random.get_state())) == before[1:]  # noqa: NPY002
    assert_same(whole, again)


def test_parts_of_a_batch_do_what_the_whole_does(workload: Workload, whole: FullKDResult, tmp_path: Path) -> None:
    parts = run(start(workload), tmp_path / "parts", replace(LONG, accumulation=2))
    assert [point["step"] for point in whole.curve] == [point["step"] for point in parts.curve]
    # A whole batch averages the loss over tokens; its parts have equal weight, whatever their lengths.
    assert losses(parts)[-1] == pytest.approx(losses(whole)[-1], rel=0.05)


def test_training_ends_early_without_improvement(workload: Workload, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=0.3, warmup_fraction=0.0)
    settings = FullKDSettings(epochs=20, evaluations=20, patience=2)
    result = run(start(workload, recipe), tmp_path, settings)
    assert result.stopped_early
    trained = losses(result)[1:]
    assert len(trained) - 1 - trained.index(min(trained)) == 2
    again = run(start(workload, recipe), tmp_path, settings)
    assert_same(result, again)


def test_a_student_that_training_spoils_is_kept_as_it_was(workload: Workload, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=0.3, warmup_fraction=0.0)
    kd = start(workload, recipe)
    kd.fit()
    before = {name: tensor.clone() for name, tensor in kd.encoder.model.state_dict().items()}
    result = run(kd, tmp_path, BRIEF)
    assert result.best["step"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in result.model.state_dict().items())


# --- interruptions ---


def test_an_interrupted_training_goes_on_to_the_same_student(
    workload: Workload, whole: FullKDResult, tmp_path: Path
) -> None:
    for stop in (13, 22):

        def interrupt(done: int, total: int, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(start(workload), tmp_path / "parts", on_progress=interrupt)
        assert any((tmp_path / "parts").glob("checkpoint-*"))
    assert_same(whole, run(start(workload), tmp_path / "parts"))


def test_a_half_written_checkpoint_is_left_out(workload: Workload, whole: FullKDResult, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(start(workload), tmp_path / "parts", on_progress=interrupt)
    broken = tmp_path / "parts" / "checkpoint-24"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    assert_same(whole, run(start(workload), tmp_path / "parts"))


class Harm:
    """Creates a folder when unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_not_run(name: str, workload: Workload, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(start(workload), tmp_path / "parts", on_progress=interrupt)
    (checkpoint,) = list((tmp_path / "parts").glob("checkpoint-*"))[-1:]
    assert (checkpoint / name).exists()
    torch.save(Harm(str(tmp_path / "harm")), checkpoint / name)
    with pytest.raises(RunError, match=r"checkpoint .* cannot be read: .*; remove it to resume"):
        run(start(workload), tmp_path / "parts")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "[3]", '[{"step": "x", "seconds": 1, "unexplained": 1}]'])
def test_a_damaged_curve_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(text)
    with pytest.raises(RunError, match="is damaged; remove it"):
        read_curve(tmp_path)


def test_a_folder_that_is_called_like_a_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-12"


def train_long(teacher_folder: Path, corpus_file: Path, cache: Path, folder: Path) -> None:
    """Train a student and print each step; runs in a process that the test kills."""
    torch.set_num_threads(1)
    teacher = load_teacher(teacher_folder)
    workload = plain_kd.workload_of(teacher, load_corpus(corpus_file, teacher.tokenizer), cache)
    settings = replace(LONG, epochs=5, evaluations=5, patience=None)
    result = run(start(workload), folder, settings, on_progress=lambda done, total: print(done, flush=True))
    torch.save(result.model.state_dict(), folder / "student.pt")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_student(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path, moments: random.Random
) -> None:
    def training(name: str) -> Started:
        return Started(train_long, tiny_teacher_dirs["bert"], tiny_corpus_file, tmp_path / "cache", tmp_path / name)

    whole = training("whole")
    assert (whole.read(), whole.returncode)[1] == 0
    for _ in range(2):
        process = training("parts")
        # Wait for some steps, then kill at a random moment: in a step, an evaluation or a checkpoint.
        for _ in range(moments.randint(1, 15)):
            process.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the training ended before it was killed"
    last = training("parts")
    assert (last.read(), last.returncode)[1] == 0
    one, other = (torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- errors ---


def test_a_loss_that_is_not_finite_ends_the_training_and_keeps_the_last_checkpoint(
    workload: Workload, whole: FullKDResult, tmp_path: Path
) -> None:
    kd = start(workload)

    def poison(done: int, total: int) -> None:
        if done == 20:
            with torch.no_grad():
                kd.encoder.layers[0].ffn_in.weight.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match=r"not finite: at or before step 2\d"):
        run(kd, tmp_path, on_progress=poison)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-16", "checkpoint-8"]
    assert_same(whole, run(start(workload), tmp_path))


def test_memory_that_does_not_suffice_for_a_batch_does_for_its_parts(
    workload: Workload, whole: FullKDResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    kd = start(workload)
    terms = kd.terms

    def little_memory(batch: Any, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and batch.packed.sequences > 3:
            raise torch.OutOfMemoryError("no memory")
        return terms(batch, *arguments)

    monkeypatch.setattr(kd, "terms", little_memory)
    result = run(kd, tmp_path, FullKDSettings(epochs=2, evaluations=2), say=said.append)
    assert result.accumulation == 4
    assert said == [f"out of memory: continuing with each batch in {parts} parts" for parts in (2, 4)]
    assert losses(result)[-1] < losses(result)[0]
    assert losses(result)[0] == losses(whole)[0]


def test_memory_for_not_a_single_sample_is_an_error(
    workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kd = start(workload)

    def no_memory(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    kd.fit()
    monkeypatch.setattr(kd.encoder, "forward", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        run(kd, tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_hidden_layers": 3}, "student num_hidden_layers is"),
        ({"recipe": replace(RECIPE, learning_rate=1e-3)}, "recipe learning_rate is"),
        ({"settings": replace(LONG, epochs=7)}, "settings epochs is"),
    ],
)
def test_checkpoints_of_something_else_are_refused(
    changes: dict[str, Any], what: str, workload: Workload, tmp_path: Path
) -> None:
    run(start(workload), tmp_path, BRIEF)
    (tmp_path / "identity.json").write_text(
        json.dumps({**json.loads((tmp_path / "identity.json").read_text()), "settings": _plain(LONG)})
    )
    settings = changes.pop("settings", LONG)
    with pytest.raises(RunError, match=f"belong to another distillation: the {what} not .*name another folder"):
        run(start(workload, **changes), tmp_path, settings)


def _plain(settings: FullKDSettings) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if name != "accumulation"}


def test_no_space_left_is_told_and_the_last_checkpoint_stays(
    workload: Workload, whole: FullKDResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: Any) -> bytes:
        if (tmp_path / "parts" / "checkpoint-16").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(state)

    monkeypatch.setattr(kd_trainer, "save", full)
    with pytest.raises(RunError, match=r"No space left on device"):
        run(start(workload), tmp_path / "parts")
    monkeypatch.undo()
    assert (tmp_path / "parts" / "checkpoint-16").exists()
    assert_same(whole, run(start(workload), tmp_path / "parts"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number, at least 1"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"epochs": None}, "neither epochs nor max_steps is given"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        FullKDSettings(**options)


def test_steps_are_those_of_the_epochs_or_less() -> None:
    assert FullKDSettings(epochs=3).steps(100, 8) == 39
    assert FullKDSettings(epochs=3, max_steps=20).steps(100, 8) == 20
    assert FullKDSettings(epochs=None, max_steps=20).steps(None, 8) == 20
    with pytest.raises(KDNASError, match="a stream is endless"):
        FullKDSettings(epochs=3).steps(None, 8)
