"""Live evaluations of tiny students: the contents of records, and failures as records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_teachers
import torch

from kdnas_env.core.architecture import StudentConfig, count_parameters, forward_flops
from kdnas_env.core.evaluation import EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import CacheError, CorpusError, KDNASError, LatencyError, TeacherError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.evaluators.stored import StoredEvaluator

STUDENT = StudentConfig(2, 2, 16, 32)
Make = Callable[..., MiniKDEvaluator]


@pytest.fixture(scope="module")
def settings(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> MiniKDSettings:
    return MiniKDSettings(
        teacher=str(tiny_teacher_dirs["bert"]),
        corpus=str(tiny_corpus_file),
        latency="analytic",
        cache_dir=tmp_path_factory.mktemp("cache"),
        device="cpu",
    )


@pytest.fixture(scope="module")
def make(settings: MiniKDSettings) -> Make:
    return lambda **changes: MiniKDEvaluator(replace(settings, **changes))


@pytest.fixture(scope="module")
def evaluator(make: Make) -> MiniKDEvaluator:
    return make()


def evaluate(evaluator: Evaluator, student: StudentConfig = STUDENT, **fidelity: Any) -> Evaluation:
    [evaluation] = evaluator.evaluate([student], Fidelity(**{"epochs": 2, **fidelity}))
    return evaluation


def without_times(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, wall_seconds=0.0, epoch_seconds=(), peak_memory_bytes=0)


def test_a_record_is_complete(evaluator: MiniKDEvaluator) -> None:
    evaluation = evaluate(evaluator)
    teacher = evaluator.workload.teacher.architecture
    assert evaluation.status is Status.OK
    for curve in (
        evaluation.train_loss,
        evaluation.heldout_loss,
        evaluation.train_unexplained,
        evaluation.heldout_unexplained,
        evaluation.epoch_seconds,
    ):
        assert len(curve) == 3
    assert evaluation.heldout_unexplained[-1] < evaluation.heldout_unexplained[0] < 1
    assert evaluation.parameters == count_parameters(STUDENT, teacher)
    assert evaluation.flops == forward_flops(STUDENT, teacher, batch=1, length=50)
    assert evaluation.latency is not None
    assert evaluation.latency.runtime == "analytic"
    assert evaluation.wall_seconds >= sum(evaluation.epoch_seconds)
    assert evaluation.peak_memory_bytes > 0
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A custom task: whether a sentence contains "film"; returned as settings."""
    rows = [{"text": text, "label": int("film" in text)} for text in tiny_teachers.sentences()]
    path = tmp_path_factory.mktemp("task") / "film.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    finetuning = {"learning_rate": 2e-3, "epochs": 1, "batch_size": 8}
    stage = {"samples": 40, "heldout": 30, "batch_size": 8, "learning_rate": 2e-3}
    return {"name": str(path), "teacher": {"rates": [1.0], "finetuning": finetuning}, "stage": stage}


def test_a_task_is_measured_beside_imitation_and_changes_nothing_else(
    make: Make, evaluator: MiniKDEvaluator, task: dict[str, Any]
) -> None:
    plain, evaluator = evaluator, make(task=task)
    assert evaluator.deterministic
    before, record = (without_times(evaluate(one, epochs=1)) for one in (plain, evaluator))
    assert record == without_times(evaluate(make(task=task), epochs=1))
    assert record.task_divergence is not None
    assert record.task_unexplained is not None
    assert record.task_unexplained > record.task_divergence > 0
    assert replace(record, task_divergence=None, task_unexplained=None) == before
    assert Evaluation.from_json(record.to_json()) == record
    assert KDReward(quality="task")(record).loss == record.task_unexplained
    assert KDReward()(record) == KDReward()(before)
    ours, theirs = (one.distil(STUDENT, Fidelity(epochs=1)).model.state_dict() for one in (evaluator, plain))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    longer = {**task, "stage": {**task["stage"], "epochs": 2}}
    assert len({plain.fingerprint, evaluator.fingerprint, make(task=longer).fingerprint}) == 3


def test_a_task_stage_that_fails_is_a_record(make: Make, task: dict[str, Any]) -> None:
    record = evaluate(make(task={**task, "stage": {**task["stage"], "learning_rate": 1e30}}))
    assert record.status is Status.DIVERGED
    assert "task" in record.error
    assert (record.task_divergence, record.task_unexplained, record.latency) == (None, None, None)


def test_bfloat16_gives_nearly_the_same_on_the_cpu(make: Make, evaluator: MiniKDEvaluator) -> None:
    whole, half = evaluate(evaluator), evaluate(make(precision="bfloat16"))
    assert half.status is Status.OK, half.error
    assert half.heldout_unexplained == pytest.approx(whole.heldout_unexplained, rel=0.02)
    assert half.heldout_unexplained != whole.heldout_unexplained


def test_equal_evaluators_give_equal_records(make: Make) -> None:
    one, other = make(), make()
    assert one.deterministic
    assert one.fingerprint == other.fingerprint
    record = without_times(evaluate(one, epochs=1))
    assert record == without_times(evaluate(other, epochs=1))
    # A record does not depend on what was evaluated before.
    evaluate(one, StudentConfig(3, 4, 32, 64, "relu", "albert"), epochs=1)
    assert record == without_times(evaluate(one, epochs=1))
    assert record.heldout_loss != evaluate(one, epochs=1, seed=1).heldout_loss


def test_records_depend_on_their_own_number_of_threads_only(make: Make) -> None:
    before = torch.get_num_threads()
    evaluator = make(threads=2)
    records = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            records.append(without_times(evaluate(evaluator, epochs=1, data_fraction=0.2)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert records[0] == records[1]
    assert records[0].details["threads"] == 2
    assert make().threads == before
    assert make(threads=1).fingerprint == evaluator.fingerprint


def test_the_student_of_a_record_can_be_had(evaluator: MiniKDEvaluator) -> None:
    distilled = evaluator.distil(STUDENT, Fidelity(epochs=1))
    assert without_times(distilled.evaluation) == without_times(evaluate(evaluator, epochs=1))
    again = evaluator.distil(STUDENT, Fidelity(epochs=1)).model.state_dict()
    for name, tensor in distilled.model.state_dict().items():
        assert torch.equal(tensor, again[name])
    assert distilled.model.config.vocab_size == evaluator.workload.teacher.architecture.vocab_size


def test_latency_is_measured(make: Make) -> None:
    evaluator = make(latency={"runtime": "torch", "max_seconds": 0.05, "sequence_length": 16})
    assert not evaluator.deterministic
    latency = evaluate(evaluator, epochs=0).latency
    assert latency is not None
    assert latency.median_ms > 0
    assert latency.sequence_length == 16
    assert math.isclose(latency.ratio, latency.median_ms / latency.teacher_median_ms, rel_tol=0.5)


@pytest.mark.parametrize(
    ("teacher", "family", "recipe"),
    [
        ("bert", "albert", "seed"),
        ("roberta", "bert", "seed"),
        ("xlm-roberta", "roberta", "default"),
        ("albert", "albert", "default"),
        ("distilbert", "roberta", "seed"),
        ("electra", "bert", "default"),
    ],
)
def test_every_teacher_family_and_recipe(
    teacher: str, family: str, recipe: str, make: Make, tiny_teacher_dirs: dict[str, Path]
) -> None:
    evaluator = make(teacher=str(tiny_teacher_dirs[teacher]), recipe=recipe)
    evaluation = evaluate(evaluator, replace(STUDENT, family=family), epochs=1)
    assert evaluation.ok, evaluation.error
    if recipe == "default":
        assert evaluation.heldout_unexplained[-1] < 1


def test_masked_text_is_another_workload(make: Make, evaluator: MiniKDEvaluator) -> None:
    masked = make(recipe={"mask_probability": 0.15})
    assert evaluator.workload.corpus.fingerprint != masked.workload.corpus.fingerprint
    assert evaluate(masked, epochs=1).ok


def test_the_fingerprint_tells_workloads_apart(make: Make, tiny_teacher_dirs: dict[str, Path], settings: Any) -> None:
    others = [
        make(),
        make(recipe={"batch_size": 4}),
        make(latency={"runtime": "analytic", "sequence_length": 20}),
        make(corpus={"source": settings.corpus, "seed": 1}),
        make(teacher=str(tiny_teacher_dirs["electra"])),
        make(precision="bfloat16"),
    ]
    assert len({evaluator.fingerprint for evaluator in others}) == len(others)


def test_an_environment_tells_whether_teacher_or_text_is_another(
    make: Make, tiny_teacher_dirs: dict[str, Path], settings: Any, tmp_path: Path
) -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        evaluator = make(**changes)
        space = SearchSpace.from_dict({"num_hidden_layers": [1, 2]}, evaluator.workload.teacher.architecture)
        return KDNASEnv(space, StoredEvaluator(evaluator, tmp_path / "store.sqlite")).identity

    def changed(**changes: Any) -> set[str]:
        other = identity(**changes)
        return {name for name in before if before[name] != other[name]}

    before = identity()
    assert changed() == set()
    text = Path(settings.corpus)
    other = tmp_path / f"other{text.suffix}"
    other.write_bytes(b"".join(text.read_bytes().splitlines(keepends=True)[:-3]))
    assert changed(corpus=str(other)) == {"corpus", "workload"}
    assert changed(recipe={"batch_size": 4}) == {"workload"}
    assert "teacher" in changed(teacher=str(tiny_teacher_dirs["electra"]))


def test_reports_and_stopping(evaluator: MiniKDEvaluator) -> None:
    reports: list[EpochReport] = []
    students = [STUDENT, StudentConfig(1, 2, 16, 16)]

    def stop_the_second(report: EpochReport) -> bool:
        reports.append(report)
        return report.candidate == 1 and report.epoch == 1

    first, second = evaluator.evaluate(students, Fidelity(epochs=2), on_epoch=stop_the_second)
    assert [(report.candidate, report.epoch) for report in reports] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert first.status is Status.OK
    assert tuple(report.heldout_unexplained for report in reports[:3]) == first.heldout_unexplained
    assert second.status is Status.STOPPED
    assert len(second.heldout_unexplained) == 2
    assert second.latency is None


def test_the_probe_of_a_student_that_is_much_too_slow_ends_early(make: Make) -> None:
    latency = {"runtime": "torch", "sequence_length": 16, "min_rounds": 40, "max_rounds": 40}
    [hopeless] = make(latency=latency, limits={"speedup": 1e6}).evaluate([STUDENT], Fidelity(epochs=0))
    [within] = make(latency=latency, limits={"speedup": 1e-6}).evaluate([STUDENT], Fidelity(epochs=0))
    assert hopeless.latency is not None
    assert within.latency is not None
    assert 3 * hopeless.latency.count < within.latency.count


@pytest.mark.parametrize("runtime", ["analytic", "torch"])
def test_who_breaks_a_limit_is_measured_and_not_distilled(make: Make, runtime: str) -> None:
    latency = {"runtime": runtime, "sequence_length": 16, "max_seconds": 0.05}
    reports: list[EpochReport] = []
    strict = make(latency=latency, limits={"speedup": 1e6})
    [infeasible] = strict.evaluate([STUDENT], Fidelity(epochs=2), on_epoch=lambda report: reports.append(report))
    assert infeasible.status is Status.INFEASIBLE
    assert "is below 1e+06" in infeasible.error
    assert infeasible.latency is not None
    assert infeasible.parameters == count_parameters(STUDENT, strict.workload.teacher.architecture)
    assert infeasible.heldout_unexplained == ()
    assert reports == []
    # A student that keeps the limits is distilled as if there were none.
    wide, unlimited = make(latency=latency, limits={"speedup": 1e-6}), make(latency=latency)
    assert wide.fingerprint == strict.fingerprint == unlimited.fingerprint
    assert evaluate(wide, epochs=1).heldout_unexplained == evaluate(unlimited, epochs=1).heldout_unexplained


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        (StudentConfig(2, 3, 16, 32), "3 heads do not divide hidden_size 16"),
        (StudentConfig(4, 2, 16, 32), "a student of 4 layers cannot learn from a teacher of 3"),
        (replace(STUDENT, hidden_act="sigmoidal"), "unknown activation 'sigmoidal'"),
    ],
)
def test_what_cannot_be_built_is_invalid(evaluator: MiniKDEvaluator, student: StudentConfig, reason: str) -> None:
    evaluation = evaluate(evaluator, student)
    assert evaluation.status is Status.INVALID
    assert reason in evaluation.error
    assert evaluation.heldout_unexplained == ()


def test_divergence_is_recorded(make: Make) -> None:
    wild = make(recipe={"base": "seed", "learning_rate": 1e30, "max_grad_norm": None})
    evaluation = evaluate(wild, epochs=3)
    assert evaluation.status is Status.DIVERGED
    assert "not finite" in evaluation.error
    assert len(evaluation.heldout_loss) >= 1


def test_lack_of_memory_is_recorded(evaluator: MiniKDEvaluator) -> None:
    evaluation = evaluate(evaluator, StudentConfig(1, 1, 2**20, 2**20))
    assert evaluation.status is Status.OUT_OF_MEMORY, evaluation.error
    assert evaluate(evaluator).ok


def test_a_lost_cache_is_raised(make: Make, tmp_path: Path) -> None:
    evaluator = make(cache_dir=tmp_path)
    (evaluator.workload.cache.directory / "states.bin").unlink()
    with pytest.raises(CacheError, match="can no longer be read"):
        evaluate(evaluator)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"teacher": "/no/such/folder"}, TeacherError, "unknown teacher"),
        ({"corpus": "/no/such/file.txt"}, CorpusError, "/no/such/file.txt"),
        ({"corpus": {"split": "train"}}, CorpusError, "has no source"),
        ({"corpus": {"source": "demo", "colour": "blue"}}, CorpusError, "colour"),
        ({"recipe": "nouvelle"}, KDNASError, "unknown recipe"),
        ({"recipe": {"colour": "blue"}}, KDNASError, "colour"),
        ({"latency": {"colour": "blue"}}, LatencyError, "colour"),
        ({"latency": {"sequence_length": 500}}, LatencyError, "500"),
        ({"precision": "float8"}, KDNASError, "float8"),
        ({"threads": 0}, KDNASError, "threads is 0"),
        ({"device": "abacus"}, TeacherError, "abacus"),
    ],
)
def test_bad_settings(make: Make, changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make(**changes)


def test_a_corpus_shorter_than_a_batch(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps({"text": f"the actor surprises us all {n}"}) + "\n" for n in range(20)))
    with pytest.raises(CorpusError, match="shorter than one batch"):
        make(corpus=str(path))
    assert evaluate(make(corpus={"source": str(path), "min_samples": 4}), epochs=1).ok
