"""Machine faults during a search: no evaluation is lost or counted twice."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from processes import Started
from troubled import CONFIGS, SPACE, Troubled, begun

from kdnas_env.agents.classic.evolution import EvolutionAgent
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import RunError
from kdnas_env.evaluators.parallel import ParallelEvaluator
from kdnas_env.evaluators.planted import PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.worker_pool import WorkerPool
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.searching.journal import TOLD, Journal, read_entries

FIDELITY = Fidelity(epochs=2)
BUDGET = 30

_BAR = """
import os
from processes import workers_of
from tqdm import tqdm
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.evaluators.parallel import ParallelEvaluator
from troubled import CONFIGS, SPACE
from kdnas_env.evaluators.planted import PlantedEvaluator

def with_bar():
    list(tqdm([1], disable=True))
    return PlantedEvaluator(SPACE)

if __name__ == "__main__":
    with ParallelEvaluator.local(with_bar, 1) as evaluator:
        evaluator.evaluate(CONFIGS[:1], Fidelity(epochs=1))
        for worker in workers_of(os.getpid()):
            worker.kill()
            worker.wait()
        evaluator.evaluate(CONFIGS[:2], Fidelity(epochs=1))
    print("done")
"""


def search(folder: Path, name: str, largest_file: int) -> int:
    """Search with worker processes; return 3 if the search raises a RunError."""
    if largest_file:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Python's default: the write fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    with StoredEvaluator(PlantedEvaluator(SPACE), folder / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, fidelity=FIDELITY, budget=BUDGET)
        pool = WorkerPool(LocalBackend(Troubled(0.01, str(folder / "begun"))), 2)
        with pool, Journal(folder / f"{name}.jsonl") as journal:
            try:
                search_asynchronously(EvolutionAgent(), env, store, pool, seed=7, journal=journal)
            except RunError as error:
                print("refused:", error)
                return 3
    return 0


def start(folder: Path, name: str, largest_file: int = 0) -> Started:
    """Start a named search in a folder; all searches in a folder share one store."""
    (folder / "begun").mkdir(exist_ok=True)
    return Started(search, folder, name, largest_file, output=folder / f"{name}.txt")


def stored(folder: Path) -> list[Evaluation]:
    with StoredEvaluator(PlantedEvaluator(SPACE), folder / "store.sqlite") as store:
        return store.records()


def told(path: Path) -> list[tuple[int, ...]]:
    return [entry.action for entry in read_entries(path) if entry.kind == TOLD]


def test_a_killed_worker_leaves_no_semaphore_behind(tmp_path: Path) -> None:
    (tmp_path / "bar.py").write_text(_BAR)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "bar.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr
    assert "leaked" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_ends_the_search_and_it_goes_on_when_there_is_space(tmp_path: Path) -> None:
    """The disk is full for this process only: the system limits the size of its files."""
    assert start(tmp_path, "first", largest_file=50_000).wait(timeout=120) == 3
    said = (tmp_path / "first.txt").read_text()
    assert said.startswith("refused: ")
    assert "store.sqlite" in said
    before, already = stored(tmp_path), told(tmp_path / "first.jsonl")
    assert 0 < len(before) < BUDGET
    assert start(tmp_path, "first").wait(timeout=120) == 0
    assert stored(tmp_path)[: len(before)] == before
    assert told(tmp_path / "first.jsonl")[: len(already)] == already
    assert len(set(told(tmp_path / "first.jsonl"))) == len(stored(tmp_path)) == BUDGET
    # One finished evaluation could not be stored, and up to two were in progress.
    assert len(list((tmp_path / "begun").iterdir())) <= BUDGET + 3


@pytest.mark.slow
def test_two_searches_share_a_store(tmp_path: Path) -> None:
    searches = [start(tmp_path, name) for name in ("first", "second")]
    assert [search.wait(timeout=120) for search in searches] == [0, 0]
    assert len(set(told(tmp_path / "first.jsonl"))) == len(set(told(tmp_path / "second.jsonl"))) == BUDGET
    records = stored(tmp_path)
    assert Counter(record.config for record in records).most_common(1)[0][1] == 1
    both = {*told(tmp_path / "first.jsonl"), *told(tmp_path / "second.jsonl")}
    assert {record.config for record in records} == {SPACE.decode(np.array(action)) for action in both}


def test_out_of_memory_is_a_record_and_not_tried_again(tmp_path: Path) -> None:
    with ParallelEvaluator.local(Troubled(folder=str(tmp_path), hungry=CONFIGS[2]), 2) as evaluator:
        found = evaluator.evaluate(CONFIGS, FIDELITY)
        assert evaluator.pool.replaced == 0
    assert (found[2].config, found[2].status) == (CONFIGS[2], Status.OUT_OF_MEMORY)
    assert "MemoryError" in found[2].error
    assert begun(tmp_path, CONFIGS[2]) == 1
    others = CONFIGS[:2] + CONFIGS[3:]
    assert found[:2] + found[3:] == PlantedEvaluator(SPACE).evaluate(others, FIDELITY)


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = time.time, 0

    def backwards() -> float:
        nonlocal calls
        calls += 1
        return real() - 3600.0 * calls

    monkeypatch.setattr(time, "time", backwards)
    with StoredEvaluator(PlantedEvaluator(SPACE), tmp_path / "store.sqlite") as store:
        env = KDNASEnv(SPACE, store, fidelity=FIDELITY, budget=BUDGET)
        pool = WorkerPool(LocalBackend(Troubled(0.01)), 2, timeout=30.0)
        with pool, Journal(tmp_path / "journal.jsonl") as journal:
            search_asynchronously(EvolutionAgent(), env, store, pool, seed=7, journal=journal)
        assert pool.replaced == 0
        assert [record.config for record in store.records()] == [record.evaluation.config for record in env.history]
    assert len(told(tmp_path / "journal.jsonl")) == BUDGET
