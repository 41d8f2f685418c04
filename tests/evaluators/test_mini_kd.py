"""Live evaluations of tiny students: what a record holds, and how failures become records."""

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


@pytest.fixture
def settings(tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path) -> MiniKDSettings:
    return MiniKDSettings(
        teacher=str(tiny_teacher_dirs["bert"]),
        corpus=str(tiny_corpus_file),
        latency="analytic",
        cache_dir=tmp_path / "cache",
        device="cpu",
    )


@pytest.fixture
def make(settings: MiniKDSettings) -> Make:
    return lambda **changes: MiniKDEvaluator(replace(settings, **changes))


def evaluate(evaluator: Evaluator, student: StudentConfig = STUDENT, **fidelity: Any) -> Evaluation:
    [evaluation] = evaluator.evaluate([student], Fidelity(**{"epochs": 2, **fidelity}))
    return evaluation


def without_times(evaluation: Evaluation) -> Evaluation:
    return replace(evaluation, wall_seconds=0.0, epoch_seconds=(), peak_memory_bytes=0)


def test_a_record_is_complete(make: Make) -> None:
    evaluator = make()
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


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """A task of one's own: whether a sentence names a film."""
    rows = [{"text": text, "label": int("film" in text)} for text in tiny_teachers.sentences()]
    path = tmp_path / "film.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    finetuning = {"learning_rate": 2e-3, "epochs": 4, "batch_size": 8}
    stage = {"samples": 100, "heldout": 60, "batch_size": 8, "learning_rate": 2e-3}
    return {"name": str(path), "teacher": {"rates": [1.0], "finetuning": finetuning}, "stage": stage}


def test_a_task_is_measured_beside_imitation_and_changes_nothing_else(make: Make, task: dict[str, Any]) -> None:
    plain, evaluator = make(), make(task=task)
    assert evaluator.deterministic
    before, record = without_times(evaluate(plain)), without_times(evaluate(evaluator))
    assert record == without_times(evaluate(make(task=task)))
    assert record.task_divergence is not None
    assert record.task_unexplained is not None
    assert record.task_unexplained > record.task_divergence > 0
    assert replace(record, task_divergence=None, task_unexplained=None) == before
    assert Evaluation.from_json(record.to_json()) == record
    assert KDReward(quality="task")(record).loss == record.task_unexplained
    assert KDReward()(record) == KDReward()(before)
    weights = evaluator.distil(STUDENT, Fidelity()).model.state_dict()
    assert all(
        torch.equal(weights[name], value)
        for name, value in plain.distil(STUDENT, Fidelity()).model.state_dict().items()
    )
    longer = {**task, "stage": {**task["stage"], "epochs": 2}}
    assert len({plain.fingerprint, evaluator.fingerprint, make(task=longer).fingerprint}) == 3


def test_a_task_stage_that_fails_is_a_record(make: Make, task: dict[str, Any]) -> None:
    record = evaluate(make(task={**task, "stage": {**task["stage"], "learning_rate": 1e30}}))
    assert record.status is Status.DIVERGED
    assert "task" in record.error
    assert (record.task_divergence, record.task_unexplained, record.latency) == (None, None, None)


def test_bfloat16_gives_nearly_the_same_on_the_cpu(make: Make) -> None:
    whole, half = evaluate(make()), evaluate(make(precision="bfloat16"))
    assert half.status is Status.OK, half.error
    assert half.heldout_unexplained == pytest.approx(whole.heldout_unexplained, rel=0.02)
    assert half.heldout_unexplained != whole.heldout_unexplained


def test_equal_evaluators_give_equal_records(make: Make) -> None:
    one, other = make(), make()
    assert one.deterministic
    assert one.fingerprint == other.fingerprint
    assert without_times(evaluate(one)) == without_times(evaluate(other))
    # A record does not depend on what was evaluated before.
    evaluate(one, StudentConfig(3, 4, 32, 64, "relu", "albert"))
    assert without_times(evaluate(one)) == without_times(evaluate(other))
    assert evaluate(one).heldout_loss != evaluate(one, seed=1).heldout_loss


def test_records_depend_on_their_own_number_of_threads_only(make: Make) -> None:
    before = torch.get_num_threads()
    evaluator = make(threads=2)
    records = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            records.append(without_times(evaluate(evaluator, epochs=1)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert records[0] == records[1]
    assert records[0].details["threads"] == 2
    assert make().threads == before
    assert make(threads=1).fingerprint == evaluator.fingerprint


def test_the_student_of_a_record_can_be_had(make: Make) -> None:
    evaluator = make()
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


@pytest.mark.parametrize("family", ["bert", "albert", "roberta"])
@pytest.mark.parametrize("recipe", ["default", "seed"])
def test_every_family_by_every_recipe(make: Make, family: str, recipe: str) -> None:
    evaluation = evaluate(make(recipe=recipe), replace(STUDENT, family=family), epochs=1)
    assert evaluation.ok, evaluation.error


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "albert", "distilbert", "electra"])
def test_every_teacher(make: Make, tiny_teacher_dirs: dict[str, Path], family: str) -> None:
    evaluation = evaluate(make(teacher=str(tiny_teacher_dirs[family])), epochs=1)
    assert evaluation.ok, evaluation.error
    assert evaluation.heldout_unexplained[-1] < 1


def test_masked_text_is_another_workload(make: Make) -> None:
    plain, masked = make(), make(recipe={"mask_probability": 0.15})
    assert plain.workload.corpus.fingerprint != masked.workload.corpus.fingerprint
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


def test_reports_and_stopping(make: Make) -> None:
    reports: list[EpochReport] = []
    students = [STUDENT, StudentConfig(1, 2, 16, 16)]

    def stop_the_second(report: EpochReport) -> bool:
        reports.append(report)
        return report.candidate == 1 and report.epoch == 1

    first, second = make().evaluate(students, Fidelity(epochs=2), on_epoch=stop_the_second)
    assert [(report.candidate, report.epoch) for report in reports] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert first.status is Status.OK
    assert tuple(report.heldout_unexplained for report in reports[:3]) == first.heldout_unexplained
    assert second.status is Status.STOPPED
    assert len(second.heldout_unexplained) == 2
    assert second.latency is None


@pytest.mark.parametrize("runtime", ["analytic", "torch"])
def test_who_breaks_a_limit_is_measured_and_not_distilled(make: Make, runtime: str) -> None:
    latency = {"runtime": runtime, "sequence_length": 16}
    reports: list[EpochReport] = []
    strict = make(latency=latency, limits={"speedup": 1e6})
    [infeasible] = strict.evaluate([STUDENT], Fidelity(epochs=2), on_epoch=lambda report: reports.append(report))
    assert infeasible.status is Status.INFEASIBLE
    assert "is below 1e+06" in infeasible.error
    assert infeasible.latency is not None
    assert infeasible.parameters == count_parameters(STUDENT, strict.workload.teacher.architecture)
    assert infeasible.heldout_unexplained == ()
    assert reports == []
    # Who keeps the limits is distilled as without them.
    wide, unlimited = make(latency=latency, limits={"speedup": 1e-6}), make(latency=latency)
    assert wide.fingerprint == strict.fingerprint == unlimited.fingerprint
    assert evaluate(wide).heldout_unexplained == evaluate(unlimited).heldout_unexplained


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        (StudentConfig(2, 3, 16, 32), "3 heads do not divide hidden_size 16"),
        (StudentConfig(4, 2, 16, 32), "a student of 4 layers cannot learn from a teacher of 3"),
        (replace(STUDENT, hidden_act="sigmoidal"), "unknown activation 'sigmoidal'"),
    ],
)
def test_what_cannot_be_built_is_invalid(make: Make, student: StudentConfig, reason: str) -> None:
    evaluation = evaluate(make(), student)
    assert evaluation.status is Status.INVALID
    assert reason in evaluation.error
    assert evaluation.heldout_unexplained == ()


def test_divergence_is_recorded(make: Make) -> None:
    wild = make(recipe={"base": "seed", "learning_rate": 1e30, "max_grad_norm": None})
    evaluation = evaluate(wild, epochs=3)
    assert evaluation.status is Status.DIVERGED
    assert "not finite" in evaluation.error
    assert len(evaluation.heldout_loss) >= 1


def test_lack_of_memory_is_recorded(make: Make) -> None:
    evaluator = make()
    evaluation = evaluate(evaluator, StudentConfig(1, 1, 2**20, 2**20))
    assert evaluation.status is Status.OUT_OF_MEMORY, evaluation.error
    assert evaluate(evaluator).ok


def test_a_lost_cache_is_raised(make: Make) -> None:
    evaluator = make()
    (evaluator.workload.cache.directory / "states.bin").unlink()
    with pytest.raises(CacheError, match="can no longer be read"):
        evaluate(evaluator)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"teacher": "/no/such/folder"}, TeacherError, "unknown teacher"),
        ({"corpus": "/no/such/file.txt"}, CorpusError, "/no/such/file.txt"),
        ({"corpus": {"split": "train"}}, CorpusError, "names no source"),
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
