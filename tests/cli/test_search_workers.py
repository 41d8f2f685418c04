"""Searches whose students are evaluated by other processes, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from complaints import complaint

from kdnas_env.cli import main
from kdnas_env.searching.journal import TOLD, read_entries

Flags = Callable[..., list[str]]


def trail(folder: Path) -> list[tuple[Any, ...]]:
    """What a search proposed and earned, without wall times."""
    students = json.loads((folder / "results.json").read_text())["students"]
    return [(tuple(one["student"].values()), one["status"], one["loss"], one["reward"]) for one in students]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    code = "import sys; from kdnas_env.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(driver.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_any_number_of_workers_finds_the_same(flags: Flags, tmp_path: Path) -> None:
    for workers in (1, 2, 3):
        assert main([*flags(out=tmp_path / str(workers), threads=1), "--workers", str(workers)]) == 0
    assert trail(tmp_path / "1") == trail(tmp_path / "2") == trail(tmp_path / "3")
    config = json.loads((tmp_path / "2" / "config.json").read_text())
    assert "workers" not in config  # so that another number may go on


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
@pytest.mark.parametrize("mode", ["rounds", "asynchronous"])
def test_driver_and_workers_killed_at_once_it_goes_on(mode: str, flags: Flags, tmp_path: Path) -> None:
    more = ["--workers", "2", *(["--asynchronous"] if mode == "asynchronous" else [])]
    rounds = 4 if mode == "rounds" else None
    arguments = [*flags(budget=8, round_size=rounds, epochs=20, threads=1), *more]
    folder = tmp_path / "run"
    driver = start(arguments)
    end = time.monotonic() + 120
    while _stored(folder) < 3:
        assert driver.poll() is None
        assert time.monotonic() < end, "the search does not get on"
        time.sleep(0.05)
    workers = workers_of(driver)
    workers[0].kill()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    stored = _records(folder)
    assert 3 <= len(stored) < 8
    assert main(["search", "--resume", str(folder), "--workers", "2"]) == 0
    assert _records(folder)[: len(stored)] == stored
    assert len(trail(folder)) == 8
    if mode == "rounds":
        assert main([*flags(budget=8, round_size=4, epochs=20, threads=1, out=tmp_path / "whole")]) == 0
        assert trail(folder) == trail(tmp_path / "whole")


@pytest.mark.slow
def test_a_worker_killed_in_a_search_is_replaced(flags: Flags, tmp_path: Path) -> None:
    driver = start([*flags(budget=8, round_size=4, epochs=20, threads=1), "--workers", "2"])
    folder = tmp_path / "run"
    end = time.monotonic() + 120
    while _stored(folder) < 2:
        assert driver.poll() is None
        assert time.monotonic() < end, "the search does not get on"
        time.sleep(0.05)
    workers_of(driver)[0].kill()
    assert driver.wait(timeout=120) == 0
    assert main([*flags(budget=8, round_size=4, epochs=20, threads=1, out=tmp_path / "whole")]) == 0
    assert trail(folder) == trail(tmp_path / "whole")


def _records(folder: Path) -> list[tuple[int, str]]:
    import sqlite3

    path = folder / "evaluations.sqlite"
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT id, config FROM evaluations ORDER BY id").fetchall()
    except sqlite3.OperationalError:  # it is just being made
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
def test_on_ray_it_finds_the_same(flags: Flags, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert main(flags(out=tmp_path / "here", threads=1)) == 0
    more = ["--ray", "local", "--workers", "2"]
    command = [sys.executable, "-m", "kdnas_env", *flags(out=tmp_path / "ray", threads=1), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trail(tmp_path / "here") == trail(tmp_path / "ray")


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named(flags: Flags) -> None:
    pytest.importorskip("ray")
    # Port 9 is "discard": nobody listens there. A cluster of another test is found by 'auto'.
    command = [sys.executable, "-m", "kdnas_env", *flags(), "--ray", "127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "there is no Ray cluster at '127.0.0.1:9'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
