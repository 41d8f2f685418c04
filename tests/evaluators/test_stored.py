from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from processes import Started

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import RunError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator, random_failures
from kdnas_env.evaluators.stored import SCHEMA_VERSION, StoredEvaluator

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
CONFIGS = list(SPACE)[:40]
PLANTED = PlantedEvaluator(SPACE, 0.1, random_failures(SPACE, 0.3, np.random.default_rng(0)))


@dataclass
class Counting:
    """Records its calls, and answers each call differently: ``wall_seconds`` is the number of the call."""

    inner: PlantedEvaluator = PLANTED
    deterministic: bool = False
    calls: list[list[StudentConfig]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        self.calls.append(list(configs))
        time.sleep(self.seconds)
        answers = self.inner.evaluate(configs, fidelity, on_epoch=on_epoch)
        return [replace(answer, wall_seconds=float(len(self.calls))) for answer in answers]


def stop_at_once(report: EpochReport) -> bool:
    return True


def test_asks_the_inner_evaluator_only_for_what_is_missing(tmp_path: Path) -> None:
    inner = Counting()
    with StoredEvaluator(inner, tmp_path / "store.sqlite") as store:
        assert isinstance(store, Evaluator)
        first = store.evaluate(CONFIGS[:3], Fidelity())
        second = store.evaluate(CONFIGS[1:5], Fidelity())
        other_seed = store.evaluate(CONFIGS[:1], Fidelity(seed=1))
        assert store.count() == 6
    assert inner.calls == [[config] for config in (*CONFIGS[:3], *CONFIGS[3:5], CONFIGS[0])]
    assert second[:2] == first[1:]
    assert other_seed[0].fidelity.seed == 1
    with StoredEvaluator(Counting(), tmp_path / "store.sqlite") as again:
        assert again.evaluate(CONFIGS[:3], Fidelity()) == first
        assert again.inner.calls == []  # type: ignore[attr-defined]
        assert again.records() == [*first, *second[2:], *other_seed]


def test_a_repeated_or_aliased_configuration_is_evaluated_once(tmp_path: Path) -> None:
    inner = Counting()
    alias = replace(CONFIGS[0], hidden_act="gelu_python")
    with StoredEvaluator(inner, tmp_path / "store.sqlite") as store:
        answers = store.evaluate([CONFIGS[1], CONFIGS[0], alias, CONFIGS[1]], Fidelity())
    assert inner.calls == [[CONFIGS[1]], [CONFIGS[0]]]
    assert [answer.config for answer in answers] == [CONFIGS[1], CONFIGS[0], CONFIGS[0], CONFIGS[1]]


def test_chunks_go_to_the_inner_evaluator_together(tmp_path: Path) -> None:
    inner = Counting()
    with StoredEvaluator(inner, tmp_path / "store.sqlite", chunk=4) as store:
        store.evaluate(CONFIGS[2:3], Fidelity())
        answers = store.evaluate(CONFIGS[:7], Fidelity())
    assert [len(call) for call in inner.calls] == [1, 4, 2]
    assert [answer.config for answer in answers] == CONFIGS[:7]
    with pytest.raises(ValueError, match="chunk is 0; expected a whole number of configurations per call, at least 1"):
        StoredEvaluator(inner, tmp_path / "store.sqlite", chunk=0)


def test_failures_are_replayed(tmp_path: Path) -> None:
    failing = [config for config in SPACE if config in PLANTED.failures][:4]
    with StoredEvaluator(Counting(), tmp_path / "store.sqlite") as store:
        first = store.evaluate(failing, Fidelity())
        assert {answer.status for answer in first} == {Status.DIVERGED, Status.OUT_OF_MEMORY}
        assert store.evaluate(failing, Fidelity()) == first
        assert len(store.inner.calls) == 4  # type: ignore[attr-defined]


def test_a_stopped_record_is_kept_but_never_an_answer(tmp_path: Path) -> None:
    config = [config for config in SPACE if config not in PLANTED.failures][:1]
    with StoredEvaluator(Counting(), tmp_path / "store.sqlite") as store:
        (stopped,) = store.evaluate(config, Fidelity(), on_epoch=stop_at_once)
        assert stopped.status is Status.STOPPED
        assert store.records() == [stopped]
        (whole,) = store.evaluate(config, Fidelity())
        assert whole.status is Status.OK
        assert store.records() == [whole]
        assert store.evaluate(config, Fidelity(), on_epoch=stop_at_once) == [whole]


def test_who_broke_a_limit_is_answered_so_until_the_limit_is_wider(tmp_path: Path) -> None:
    config = next(config for config in SPACE if config not in PLANTED.failures)
    (whole,) = PLANTED.evaluate([config], Fidelity())
    assert whole.latency is not None
    strict, wide = (Constraints(speedup=factor * whole.latency.speedup) for factor in (2.0, 0.5))
    refused = strict.screened(whole)
    inner = Counting()
    with StoredEvaluator(inner, tmp_path / "store.sqlite", limits=strict) as store:
        assert store.add(refused) == refused
        assert store.evaluate([config], Fidelity()) == [refused]
        assert inner.calls == []
    for limits in (wide, Constraints()):
        with StoredEvaluator(inner, tmp_path / "store.sqlite", limits=limits) as store:
            assert store.evaluate([config], Fidelity())[0].status is Status.OK
            assert store.count() == 1
    # A complete record is never replaced.
    with StoredEvaluator(inner, tmp_path / "store.sqlite", limits=strict) as store:
        assert store.add(refused).status is Status.OK
        assert len(inner.calls) == 1


def test_reports_speak_of_the_whole_batch(tmp_path: Path) -> None:
    configs = [config for config in SPACE if config not in PLANTED.failures][:4]
    reports: list[EpochReport] = []
    with StoredEvaluator(Counting(), tmp_path / "store.sqlite", chunk=2) as store:
        store.evaluate([configs[1]], Fidelity(1))
        store.evaluate([*configs, configs[0]], Fidelity(1), on_epoch=lambda report: reports.append(report))
    assert [(report.candidate, report.epoch) for report in reports] == [
        (0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1),
    ]  # fmt: skip
    assert {report.candidates for report in reports} == {5}
    assert [report.config for report in reports] == [configs[report.candidate] for report in reports]


def test_workloads_share_a_file_but_not_their_records(tmp_path: Path) -> None:
    other = Counting(replace(PLANTED, noise=0.2))
    with StoredEvaluator(Counting(), tmp_path / "store.sqlite") as one, StoredEvaluator(other, one.path) as two:
        assert one.evaluate(CONFIGS[:3], Fidelity()) != two.evaluate(CONFIGS[:3], Fidelity())
        two.evaluate(CONFIGS[3:4], Fidelity())
        assert (one.count(), two.count()) == (3, 4)


def test_an_interrupted_batch_keeps_what_was_finished(tmp_path: Path) -> None:
    @dataclass
    class Interrupted(Counting):
        def evaluate(self, configs: Sequence[StudentConfig], *args: Any, **kwargs: Any) -> list[Evaluation]:
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().evaluate(configs, *args, **kwargs)

    with StoredEvaluator(Interrupted(), tmp_path / "store.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            store.evaluate(CONFIGS[:10], Fidelity())
        assert [record.config for record in store.records()] == CONFIGS[:3]


def test_pickled_while_open_it_goes_on(tmp_path: Path) -> None:
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        first = store.evaluate(CONFIGS[:2], Fidelity())
        with pickle.loads(pickle.dumps(store)) as again:
            assert again.records() == first
            again.evaluate(CONFIGS[2:3], Fidelity())
        assert store.count() == 3


def test_closed_it_opens_again_when_used(tmp_path: Path) -> None:
    store = StoredEvaluator(PLANTED, tmp_path / "store.sqlite")
    store.evaluate(CONFIGS[:2], Fidelity())
    store.close()
    store.close()
    assert store.count() == 2
    store.close()


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of evaluations, early stops and reopenings gives the answers of one uninterrupted process."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store.sqlite"
        self.store = StoredEvaluator(Counting(), self.path)
        self.answers: dict[tuple[StudentConfig, Fidelity], Evaluation] = {}

    @rule(
        indices=st.lists(st.integers(0, len(CONFIGS) - 1), max_size=6),
        epochs=st.integers(0, 2),
        seed=st.integers(0, 1),
        chunk=st.integers(1, 3),
        prune=st.booleans(),
    )
    def evaluate(self, indices: list[int], epochs: int, seed: int, chunk: int, prune: bool) -> None:
        self.store.chunk = chunk
        configs, fidelity = [CONFIGS[index] for index in indices], Fidelity(epochs, seed=seed)
        answers = self.store.evaluate(configs, fidelity, on_epoch=stop_at_once if prune else None)
        assert [answer.config for answer in answers] == configs
        for config, answer in zip(configs, answers, strict=True):
            if answer.status is not Status.STOPPED:
                assert self.answers.setdefault((config, fidelity), answer) == answer
            else:
                assert prune
                assert (config, fidelity) not in self.answers

    @precondition(lambda self: self.answers)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = StoredEvaluator(Counting(), self.path)

    @invariant()
    def holds_every_answer(self) -> None:
        stored = {(record.config, record.fidelity): record for record in self.store.records()}
        assert len(stored) == self.store.count()
        assert {key: stored[key] for key in self.answers} == self.answers
        assert all(stored[key].status is Status.STOPPED for key in stored.keys() - self.answers.keys())

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def write_all(path: Path) -> None:
    """Evaluate one student after the other; print a line after each is stored."""
    with StoredEvaluator(Counting(), path) as store:
        print("ready", flush=True)
        for number, config in enumerate(SPACE):
            store.evaluate([config], Fidelity())
            print(number, flush=True)


def race(path: Path, number: int, begin: Path) -> None:
    """Wait for a file, then evaluate students that other processes evaluate, too, and print the records."""
    inner = Counting(calls=[[]] * (1000 * number), seconds=0.002)
    print("ready", flush=True)
    while not begin.exists():
        time.sleep(0.001)
    with StoredEvaluator(inner, path) as store:
        for answer in store.evaluate(CONFIGS, Fidelity()):
            print(answer.to_json())


@pytest.mark.parametrize("after", [0, 7, 60])
def test_a_killed_writer_loses_at_most_the_evaluation_in_flight(tmp_path: Path, after: int) -> None:
    path, configs = tmp_path / "store.sqlite", list(SPACE)
    writer = Started(write_all, path)
    for _ in range(after + 1):
        assert writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    acknowledged = after + len(writer.stdout.readlines())
    assert writer.wait() == -signal.SIGKILL
    with StoredEvaluator(Counting(), path) as store:
        records = store.records()
        assert acknowledged <= len(records) <= acknowledged + 1
        assert [record.config for record in records] == configs[: len(records)]
        store.evaluate(configs[: len(records) + 1], Fidelity())
        assert store.inner.calls == [[configs[len(records)]]]  # type: ignore[attr-defined]


def test_processes_racing_on_one_new_file_agree_on_every_record(tmp_path: Path) -> None:
    path, begin = tmp_path / "store.sqlite", tmp_path / "begin"
    racers = [Started(race, path, number, begin) for number in range(4)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    begin.touch()
    outputs = [racer.read(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(set(outputs)) == 1
    with StoredEvaluator(Counting(), path) as store:
        assert outputs[0].splitlines() == [record.to_json() for record in store.evaluate(CONFIGS, Fidelity())]
        assert store.count() == len(CONFIGS)


def test_of_two_who_evaluate_at_once_the_first_to_commit_wins(tmp_path: Path) -> None:
    path, config = tmp_path / "store.sqlite", CONFIGS[:1]

    @dataclass
    class Overtaken(Counting):
        def evaluate(self, configs: Sequence[StudentConfig], *args: Any, **kwargs: Any) -> list[Evaluation]:
            with StoredEvaluator(Counting(calls=[[]] * 9), path) as faster:
                faster.evaluate(configs, *args)
            return super().evaluate(configs, *args, **kwargs)

    with StoredEvaluator(Overtaken(), path) as slower:
        (answer,) = slower.evaluate(config, Fidelity())
        assert answer.wall_seconds == 10
        assert slower.records() == [answer]
        fresh = [config for config in SPACE if config not in PLANTED.failures][-1:]
        (answer,) = slower.evaluate(fresh, Fidelity(), on_epoch=stop_at_once)
        assert answer.status is Status.OK


def _evaluate_in_child(store: StoredEvaluator) -> None:
    store.evaluate(CONFIGS[2:4], Fidelity())
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_uses_its_own_connection(tmp_path: Path) -> None:
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        store.evaluate(CONFIGS[:2], Fidelity())
        child = multiprocessing.get_context("fork").Process(target=_evaluate_in_child, args=(store,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        store.evaluate(CONFIGS[4:5], Fidelity())
        assert [record.config for record in store.records()] == CONFIGS[:5]


def _message(path: Path, **options: Any) -> str:
    with pytest.raises(RunError) as error:
        StoredEvaluator(PLANTED, path, **options).evaluate(CONFIGS[:1], Fidelity())
    assert repr(str(path)) in str(error.value)
    return str(error.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes, not a database. " * 50)
    assert "is damaged or not a SQLite file" in _message(path)
    assert path.read_text().startswith("These are my notes")


def test_a_truncated_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with StoredEvaluator(PLANTED, path) as store:
        store.evaluate(list(SPACE)[:100], Fidelity())
    os.truncate(path, path.stat().st_size // 2)
    assert "is damaged or not a SQLite file" in _message(path)


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with StoredEvaluator(PLANTED, path) as store:
        store.evaluate(CONFIGS[:1], Fidelity())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE evaluations SET evaluation = substr(evaluation, 1, 40)")
    connection.close()
    assert "holds a damaged record" in _message(path)


def test_the_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE music (title TEXT)")
    assert "is a database, but not a store of evaluations; name another file" in _message(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("music",)]
    connection.close()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", str(SCHEMA_VERSION + 1), f"written by a newer kdnas (schema {SCHEMA_VERSION + 1}"),
        ("schema_version", "soon", "is a database, but not a store of evaluations"),
        ("application", "music", "is a database, but not a store of evaluations"),
    ],
)
def test_a_store_of_another_version_is_refused(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = tmp_path / "store.sqlite"
    StoredEvaluator(PLANTED, path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    connection.close()
    assert message in _message(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"there is no folder {str(tmp_path / 'nowhere')!r}" in _message(tmp_path / "nowhere" / "store.sqlite")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that even root cannot write")
def test_an_unwritable_folder_is_named() -> None:
    assert "check that its folder is writable" in _message(Path("/proc/store.sqlite"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_store_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    StoredEvaluator(PLANTED, path).close()
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert "writable" in _message(path)
    finally:
        tmp_path.chmod(0o755)


def test_a_locked_store_is_waited_for_and_then_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = StoredEvaluator(PLANTED, path, timeout=0.3)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(RunError, match=r"is locked by another process .*; wait for it to end, or raise the timeout"):
        store.evaluate(CONFIGS[:1], Fidelity())
    assert time.monotonic() - began >= 0.3
    assert "is locked by another process" in _message(path, timeout=0.1)
    other.execute("COMMIT")
    other.close()
    assert store.evaluate(CONFIGS[:1], Fidelity())[0].config == CONFIGS[0]
    store.close()


def test_a_new_file_that_another_process_is_writing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    with StoredEvaluator(PLANTED, path, timeout=30) as store:
        assert store.count() == 0
    release.join()
    other.close()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def connect_to_a_small_disk(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 12")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_small_disk)
    with StoredEvaluator(PLANTED, tmp_path / "store.sqlite") as store:
        with pytest.raises(RunError, match=r"store\.sqlite' cannot grow, the disk is full; free some space"):
            store.evaluate(CONFIGS, Fidelity())
        stored = store.count()
        assert 0 < stored < len(CONFIGS)
        assert store.evaluate(CONFIGS[:stored], Fidelity()) == store.records()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE evaluations SET evaluation = '[' || evaluation", "holds a damaged record"),
        ("UPDATE evaluations SET evaluation = replace(evaluation, '\"ok\"', '\"fine\"')", "holds a damaged record"),
        ("UPDATE evaluations SET evaluation = 5", "holds a damaged record"),
        ("UPDATE evaluations SET evaluation = CAST(x'ff00ff' AS TEXT)", "UTF-8"),
        ("DROP TABLE evaluations", "not a store of evaluations"),
        ("UPDATE meta SET value = '²' WHERE key = 'schema_version'", "not a store of evaluations"),
        ("UPDATE meta SET value = '-1' WHERE key = 'schema_version'", "not a store of evaluations"),
        ("UPDATE meta SET value = x'31' WHERE key = 'schema_version'", "not a store of evaluations"),
        ("DELETE FROM meta", "not a store of evaluations"),
    ],
)
def test_a_store_that_somebody_changed_is_refused(statement: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with StoredEvaluator(PLANTED, path) as store:
        store.evaluate(CONFIGS[:3], Fidelity())
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    assert said in _message(path)


def test_a_record_of_another_student_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with StoredEvaluator(PLANTED, path) as store:
        store.evaluate(CONFIGS[:2], Fidelity())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE evaluations SET evaluation = (SELECT evaluation FROM evaluations WHERE id = 2)")
    connection.close()
    assert f"it is of {CONFIGS[1]}, but stored under {CONFIGS[0]}" in _message(path)
