"""Searches with worker processes, from the command line."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
from complaints import complaint
from processes import Started, start_command, workers_of

from kdnas_env.cli import main
from kdnas_env.searching.journal import TOLD, read_entries

pytestmark = pytest.mark.usefixtures("blank_pictures")

Flags = Callable[..., list[str]]

EPOCHS = 5
"""Enough that a process can be killed during an evaluation."""

AGAIN = "distilling the best student once more"
"""Printed if no process has saved the best student."""


def trail(folder: Path) -> list[tuple[Any, ...]]:
    """Return the students of a search and their results, without wall times."""
    students = json.loads((folder / "results.json").read_text())["students"]
    return [(tuple(one["student"].values()), one["status"], one["loss"], one["reward"]) for one in students]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, small_space: dict[str, list[Any]], finish_search: Callable[..., Path]
) -> Path:
    """The folder of a finished search without workers."""
    return finish_search(tmp_path_factory.mktemp("whole"), small_space, budget=8, round_size=4, epochs=EPOCHS)


@pytest.mark.slow
def test_any_number_of_workers_finds_the_same(
    flags: Flags, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here with three workers; the tests of killed processes use two."""
    assert main([*flags(budget=8, round_size=4, epochs=EPOCHS, threads=1), "--workers", "3"]) == 0
    assert trail(tmp_path / "run") == trail(whole)
    assert AGAIN not in capsys.readouterr().out
    assert (tmp_path / "run/student/model.safetensors").read_bytes() == (
        whole / "student/model.safetensors"
    ).read_bytes()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "workers" not in config  # so that the search can be resumed with another number


@pytest.mark.slow
def test_an_asynchronous_search_leaves_a_journal_and_stops_early(flags: Flags, tmp_path: Path) -> None:
    arguments = [*flags(budget=12, epochs=3, round_size=None), "--workers", "2", "--asynchronous", "--stop", "asha"]
    assert main(arguments) == 0
    folder = tmp_path / "run"
    statuses = [student[1] for student in trail(folder)]
    assert len(statuses) == 12
    assert {"ok", "stopped"} == set(statuses)
    assert sum(entry.kind == TOLD for entry in read_entries(folder / "journal.jsonl")) == 12
    before = trail(folder)
    assert main(["search", "--resume", str(folder)]) == 0
    assert trail(folder) == before


@pytest.mark.slow
def test_workers_and_driver_killed_it_goes_on_to_the_same_end(
    flags: Flags, whole: Path, tmp_path: Path, moments: Random, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = [*flags(budget=8, round_size=4, epochs=EPOCHS, threads=1), "--workers", "2"]
    driver = start_command(arguments, output=tmp_path / "output.txt")
    _await(driver, lambda: _stored(folder) >= 1)
    victim = moments.choice(workers_of(driver.pid))
    victim.kill()
    _await(driver, lambda: victim not in workers_of(driver.pid) and len(workers_of(driver.pid)) == 2)
    students = moments.randint(2, 5)
    _await(driver, lambda: _stored(folder) >= students)
    stored = _killed_at_once(driver, folder, moments)
    assert students <= len(stored) < 8
    assert main(["search", "--resume", str(folder), "--workers", "2"]) == 0
    assert _records(folder)[: len(stored)] == stored
    assert trail(folder) == trail(whole)
    assert AGAIN not in capsys.readouterr().out


@pytest.mark.slow
def test_an_asynchronous_search_whose_processes_are_killed_goes_on(
    flags: Flags, tmp_path: Path, moments: Random, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(budget=8, round_size=None, epochs=EPOCHS, threads=1)
    driver = start_command([*arguments, "--workers", "2", "--asynchronous"], output=tmp_path / "output.txt")
    folder = tmp_path / "run"
    students = moments.randint(1, 5)
    _await(driver, lambda: _stored(folder) >= students)
    stored = _killed_at_once(driver, folder, moments)
    assert students <= len(stored) < 8
    assert main(["search", "--resume", str(folder), "--workers", "2"]) == 0
    assert _records(folder)[: len(stored)] == stored
    assert len(trail(folder)) == 8
    assert AGAIN not in capsys.readouterr().out
    assert not list(folder.glob("*.best-*"))


def _await(driver: Started, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert driver.poll() is None
        assert time.monotonic() < end, "the search does not get on"
        time.sleep(0.02)


def _killed_at_once(driver: Started, folder: Path, moments: Random) -> list[tuple[int, str]]:
    """Kill the driver and a worker; return the stored evaluations after all processes have ended."""
    workers = workers_of(driver.pid)
    moments.choice(workers).kill()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    return _records(folder)


def _records(folder: Path) -> list[tuple[int, str]]:
    import sqlite3

    path = folder / "evaluations.sqlite"
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT id, config FROM evaluations ORDER BY id").fetchall()
    except sqlite3.OperationalError:  # the table is being created
        return []
    finally:
        connection.close()


def _stored(folder: Path) -> int:
    return len(_records(folder))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workers", "4"], "--workers is 4, but a round has 3 students"),
        (["--workers", "0"], "--workers is 0"),
        (["--gpus-per-worker", "0.5"], "no effect without --ray"),
        (["--stop", "asha"], "two or more"),
        (["--timeout", "-1"], "--timeout is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    more: list[str], message: str, flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint([*flags(), *more], capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named(flags: Flags) -> None:
    pytest.importorskip("ray")
    # Nothing listens on port 9 ("discard"). The address 'auto' might find the cluster of another test.
    driver = start_command([*flags(), "--ray", "127.0.0.1:9"], environment={"COLUMNS": "200"})
    output = driver.read(timeout=300)
    assert driver.returncode == 2, output
    assert "there is no Ray cluster at '127.0.0.1:9'" in " ".join(output.split())
    assert "Traceback" not in output
