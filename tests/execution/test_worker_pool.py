"""The worker pool, with workers that die, hang or raise."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from processes import workers_of
from troubled import CONFIGS, SPACE, Troubled, begun

from kdnas_env.core.evaluation import EpochReport, Evaluation, Fidelity, Status
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.evaluators.planted import PlantedEvaluator
from kdnas_env.execution.backend import Ready
from kdnas_env.execution.processes import LocalBackend
from kdnas_env.execution.worker_pool import Finished, WorkerPool

FIDELITY = Fidelity(epochs=2)


def expected(configs: list[Any] = CONFIGS) -> list[Evaluation]:
    return PlantedEvaluator(SPACE).evaluate(configs, FIDELITY)


def open_pool(trouble: Troubled, workers: int = 2, **settings: Any) -> WorkerPool:
    return WorkerPool(LocalBackend(trouble), workers, **settings)


def evaluate(pool: WorkerPool, configs: list[Any] = CONFIGS) -> list[Evaluation]:
    """Evaluate all; every ticket must end exactly once."""
    tickets = [pool.submit(config, FIDELITY) for config in configs]
    found: dict[int, Evaluation] = {}
    while pool.open:
        for one in pool.wait():
            assert one.ticket not in found
            found[one.ticket] = one.evaluation
    assert sorted(found) == sorted(tickets)
    return [found[ticket] for ticket in tickets]


def workers_of_this_process() -> list[psutil.Process]:
    return workers_of(os.getpid())


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_finds_the_same(workers: int) -> None:
    with open_pool(Troubled(), workers) as pool:
        assert evaluate(pool) == expected()
        assert pool.replaced == 0
        assert pool.free == workers


def test_workers_are_processes_of_their_own_that_end_with_the_pool(tmp_path: Path) -> None:
    with open_pool(Troubled(0.02, str(tmp_path))) as pool:
        evaluate(pool)
        processes = workers_of_this_process()
    assert {int(path.name.split()[-2]) for path in tmp_path.iterdir()} == {process.pid for process in processes}
    assert len(processes) == 2
    assert not any(process.is_running() for process in processes)


def test_a_killed_worker_is_replaced_and_its_student_evaluated_once_more(tmp_path: Path) -> None:
    with open_pool(Troubled(folder=str(tmp_path), deadly=CONFIGS[3], deaths=1)) as pool:
        assert evaluate(pool) == expected()
        assert pool.replaced == 1
    assert [begun(tmp_path, config) for config in CONFIGS] == [1, 1, 1, 2, *[1] * (len(CONFIGS) - 4)]


def test_a_student_that_kills_every_worker_is_a_failure_and_no_more(tmp_path: Path) -> None:
    with open_pool(Troubled(folder=str(tmp_path), deadly=CONFIGS[3]), attempts=2) as pool:
        found = evaluate(pool)
    assert found[3].status is Status.FAILED
    assert found[3].error == "given up after 2 attempts: the worker was killed by SIGKILL, perhaps out of memory"
    assert (found[3].config, found[3].fidelity) == (CONFIGS[3], FIDELITY)
    assert begun(tmp_path, CONFIGS[3]) == 2
    assert found[:3] + found[4:] == expected(CONFIGS[:3] + CONFIGS[4:])


def test_a_worker_that_hangs_is_killed_and_its_student_tried_elsewhere(tmp_path: Path) -> None:
    with open_pool(Troubled(folder=str(tmp_path), hanging=CONFIGS[5]), timeout=1.0) as pool:
        assert evaluate(pool) == expected()
        assert pool.replaced == 1
    processes = {
        path.name.split()[-2] for path in tmp_path.iterdir() if path.name.startswith(str(CONFIGS[5]).replace("/", "_"))
    }
    assert len(processes) == 2


def test_a_stopped_process_counts_as_hung(tmp_path: Path) -> None:
    """A stopped process has not ended, but reports nothing."""
    with open_pool(Troubled(0.2, str(tmp_path)), 1, timeout=1.2) as pool:
        pool.submit(CONFIGS[0], FIDELITY)
        stopper = threading.Thread(
            target=lambda: os.kill(int(wait_for(lambda: list(tmp_path.iterdir()))[0].name.split()[-2]), signal.SIGSTOP)
        )
        stopper.start()
        assert [one.evaluation for one in pool.wait()] == expected(CONFIGS[:1])
        stopper.join()
    assert begun(tmp_path, CONFIGS[0]) == 2


def test_slow_is_not_hung(tmp_path: Path) -> None:
    """The time limit is for the time between reports: each of three epochs is within it, all three together are not."""
    with open_pool(Troubled(0.6, str(tmp_path)), 1, timeout=1.5) as pool:
        assert evaluate(pool, CONFIGS[:1]) == expected(CONFIGS[:1])
    assert begun(tmp_path, CONFIGS[0]) == 1


def test_an_idle_worker_that_dies_is_replaced() -> None:
    with open_pool(Troubled()) as pool:
        evaluate(pool)
        for process in workers_of_this_process():
            process.kill()
            process.wait()
        assert evaluate(pool) == expected()
        assert pool.replaced >= 2


def test_a_worker_that_cannot_be_started_ends_the_search_with_the_reason() -> None:
    with open_pool(Troubled(start_error="no such corpus")) as pool:
        pool.submit(CONFIGS[0], FIDELITY)
        with pytest.raises(RunError, match=r"3 workers in a row could not be started; .*CacheError: no such corpus"):
            pool.wait()


def test_workers_that_die_at_the_start_end_the_search() -> None:
    with (
        open_pool(Troubled(start_error="die")) as pool,
        pytest.raises(RunError, match=r"10 workers in a row .* SIGKILL"),
    ):
        pool.identity()


def test_what_an_evaluator_raises_ends_the_search_and_is_no_record(tmp_path: Path) -> None:
    with open_pool(Troubled(folder=str(tmp_path), raising=CONFIGS[2])) as pool:
        for config in CONFIGS[:4]:
            pool.submit(config, FIDELITY)
        finished: list[Finished] = []
        with pytest.raises(RunError, match="no student can be evaluated: CacheError: the cache is gone"):
            finished.extend(one for _ in CONFIGS for one in pool.wait())
    assert begun(tmp_path, CONFIGS[2]) == 3
    assert CONFIGS[2] not in [one.evaluation.config for one in finished]


def test_a_worker_with_another_workload_is_refused() -> None:
    identity = Ready(Troubled().fingerprint, deterministic=True)
    with open_pool(Troubled(identity="another"), identity=identity) as pool:
        pool.submit(CONFIGS[0], FIDELITY)
        with pytest.raises(RunError, match="make them the same on all machines"):
            pool.wait()


def test_epochs_are_told_and_a_true_answer_stops() -> None:
    heard: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> bool:
        heard.append(report)
        return report.epoch == 1

    with open_pool(Troubled(), 1) as pool:
        pool.submit(CONFIGS[0], FIDELITY, on_epoch=on_epoch)
        (stopped,) = pool.wait()
        assert stopped.evaluation.status is Status.STOPPED
        assert [report.epoch for report in heard] == [0, 1]
        pool.submit(CONFIGS[0], FIDELITY, on_epoch=on_epoch, stoppable=False)
        (whole,) = pool.wait()
        assert whole.evaluation == expected(CONFIGS[:1])[0]
        assert [report.epoch for report in heard] == [0, 1, 0, 1, 2]


def test_a_closed_pool_opens_again() -> None:
    with open_pool(Troubled(0.1)) as pool:
        pool.submit(CONFIGS[0], FIDELITY)
        pool.close()
        assert pool.open == 0
        assert evaluate(pool, CONFIGS[:2]) == expected(CONFIGS[:2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"workers": 0}, "workers is 0"), ({"attempts": 0}, "attempts is 0"), ({"timeout": 0}, "timeout is 0")],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        WorkerPool(LocalBackend(Troubled()), **{"workers": 1, **settings})


def test_waiting_for_nothing_is_refused() -> None:
    with open_pool(Troubled()) as pool, pytest.raises(KDNASError, match="submit one"):
        pool.wait()


@pytest.mark.slow
def test_random_kills_lose_nothing(tmp_path: Path, moments: Random) -> None:
    """Workers are killed at random moments throughout; in the end, every student has exactly one evaluation.

    The moments are counted in begun evaluations, so that workers make progress on a slow machine, too.
    """
    over = threading.Event()
    kills = 0

    def killer() -> None:
        nonlocal kills
        wanted = moments.randint(3, 12)
        while not over.wait(0.005):
            if len(list(tmp_path.iterdir())) >= wanted and (processes := workers_of_this_process()):
                over.wait(moments.uniform(0, 0.1))
                moments.choice(processes).kill()
                kills += 1
                wanted += moments.randint(3, 12)

    thread = threading.Thread(target=killer)
    with open_pool(Troubled(0.02, str(tmp_path)), 2, attempts=1000) as pool:
        thread.start()
        try:
            assert evaluate(pool, CONFIGS * 3) == expected(CONFIGS * 3)
        finally:
            over.set()
            thread.join()
        assert kills >= 5
        assert pool.replaced > 0
