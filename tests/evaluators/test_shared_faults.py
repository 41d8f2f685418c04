"""A fault that affects all evaluations ends any kind of search; faults of some students do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.vector import KDNASVectorEnv
from kdnas_env.errors import RunError
from kdnas_env.evaluators.faults import ENOUGH, FaultWatch
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.simulated import SimulatedBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import search_asynchronously

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
PLANTED = PlantedEvaluator(SPACE)
STUDENTS = list(SPACE)[:30]
FAILED = (Status.FAILED, "RuntimeError: the GPU has fallen off the bus")
STARVED = (Status.OUT_OF_MEMORY, "OutOfMemoryError: 20 MiB were asked for")


@dataclass
class Broken:
    """A planted evaluator whose first evaluations end as in ``ends``; its last entry repeats, unless ``then_well``."""

    ends: list[tuple[Status, str]]
    then_well: bool = False
    asked: list[StudentConfig] = field(default_factory=list)

    deterministic = True
    fingerprint = "broken"

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        return [self._end(config, fidelity) for config in configs]

    def _end(self, config: StudentConfig, fidelity: Fidelity) -> Evaluation:
        self.asked.append(config)
        place = len(self.asked) - 1
        if place >= len(self.ends) and self.then_well:
            return PLANTED.evaluate([config], fidelity)[0]
        status, error = self.ends[min(place, len(self.ends) - 1)]
        return Evaluation(config, fidelity, status, error=error)


def noted(ends: list[tuple[Status, str]], students: Sequence[StudentConfig] = STUDENTS) -> int | None:
    """Return the number of evaluations after which there is an error, or None."""
    watch = FaultWatch()
    for count, ((status, error), student) in enumerate(zip(ends, students, strict=False), start=1):
        try:
            watch.note(Evaluation(student, Fidelity(), status, error=error))
        except RunError:
            return count
    return None


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([FAILED] * 30, 3),
        ([STARVED] * 30, 8),
        ([(Status.FAILED, f"cannot join {n} and 0x{n:04x}f") for n in range(30)], 3),
        ([(Status.INVALID, "5 heads do not divide 768"), *[FAILED] * 29], 4),
        ([FAILED, FAILED, (Status.FAILED, "something else"), *[FAILED] * 27], None),
        ([FAILED, FAILED, STARVED, *[FAILED] * 27], None),
        ([(Status.OK, ""), *[FAILED] * 29], None),
        ([FAILED, (Status.DIVERGED, "the loss is not finite"), *[FAILED] * 28], None),
        ([(Status.DIVERGED, "the loss is not finite")] * 30, None),
        ([(Status.INVALID, "5 heads do not divide 768")] * 30, None),
    ],
)
def test_it_takes_the_first_students_and_one_reason(ends: list[tuple[Status, str]], expected: int | None) -> None:
    assert noted(ends) == expected


def test_a_student_that_fails_again_and_again_is_one() -> None:
    assert noted([FAILED] * 30, STUDENTS[:1] * 30) is None


def test_a_store_keeps_what_failed_and_goes_on_when_it_is_opened_again(tmp_path: Path) -> None:
    inner = Broken([FAILED])
    with StoredEvaluator(inner, tmp_path / "store.sqlite") as store:
        with pytest.raises(
            RunError, match=r"all of the first 3 students ended with status failed: .*off the bus. The others would"
        ):
            store.evaluate(STUDENTS[:8], Fidelity())
        assert [record.status for record in store.records()] == [Status.FAILED] * 3
    assert inner.asked == STUDENTS[:3]
    mended = Broken([], then_well=True)
    with StoredEvaluator(mended, tmp_path / "store.sqlite") as store:
        answers = store.evaluate(STUDENTS[:8], Fidelity())
    assert [answer.ok for answer in answers] == [False] * 3 + [True] * 5
    assert mended.asked == STUDENTS[3:8]
    # Earlier successes in the store count, so a later process with only failures does not end.
    with StoredEvaluator(Broken([FAILED]), tmp_path / "store.sqlite") as store:
        assert not any(answer.ok for answer in store.evaluate(STUDENTS[7:], Fidelity())[1:])


def test_an_environment_without_a_store_stops_too() -> None:
    evaluator = Broken([FAILED])
    env = KDNASEnv(SPACE, evaluator)
    env.reset()
    valid = env.valid_action_indices
    assert valid is not None
    for index in valid[:2]:
        env.step(SPACE.from_index(int(index)))
    with pytest.raises(RunError, match="ended with status"):
        env.step(SPACE.from_index(int(valid[2])))
    vector = KDNASVectorEnv(KDNASEnv(SPACE, Broken([FAILED])), 8)
    vector.reset()
    with pytest.raises(RunError, match="ended with status"):
        vector.step(np.array([SPACE.from_index(int(index)) for index in valid[:8]]))


def test_what_a_store_remembers_of_an_earlier_process_does_not_stop_an_environment(tmp_path: Path) -> None:
    actions = [SPACE.encode(student) for student in STUDENTS[:8]]
    with StoredEvaluator(Broken([FAILED]), tmp_path / "store.sqlite") as store, pytest.raises(RunError):
        store.evaluate(STUDENTS[:8], Fidelity())
    with StoredEvaluator(Broken([], then_well=True), tmp_path / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store)
        env.reset()
        statuses = [env.step(action)[4]["status"] for action in actions]
    assert statuses == ["failed"] * 3 + ["ok"] * 5


def test_tables_answer_as_they_were_built() -> None:
    evaluator = Broken([FAILED])
    evaluator.tabular = True  # type: ignore[attr-defined]
    env = KDNASEnv(SPACE, evaluator)
    env.reset()
    for student in STUDENTS[:10]:
        assert env.step(SPACE.encode(student))[4]["status"] == "failed"


@pytest.mark.parametrize("end", [FAILED, STARVED])
def test_a_search_without_rounds_stops_too(end: tuple[Status, str], tmp_path: Path) -> None:
    from kdnas_env.agents.classic.evolution import EvolutionAgent

    evaluator = Broken([end])
    with StoredEvaluator(evaluator, tmp_path / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, budget=30)
        with WorkerPool(SimulatedBackend(evaluator), 4) as pool, pytest.raises(RunError, match="ended with status"):
            search_asynchronously(EvolutionAgent(), env, store, pool)
        assert store.count() == ENOUGH[end[0]]
