from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import combinations
from pathlib import Path

import pytest

from kdnas_env.errors import RunError
from kdnas_env.support.cpu_lock import default_lock_path, probe_lock, training_lock

PROMPT_SECONDS = 60.0
"""Time limit for something that must happen at once."""

QUIET_SECONDS = 0.7
"""How long to watch for something that must not happen."""

HOLDER = """
import sys
from kdnas_env.support.cpu_lock import probe_lock, training_lock
lock = {"training": training_lock, "probe": probe_lock}[sys.argv[1]]
print("started", flush=True)
with lock(sys.argv[2]):
    print("holding", flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""

MIXED = """
import json, sys, time
import numpy as np
from kdnas_env.support.cpu_lock import probe_lock, training_lock
rng = np.random.default_rng(int(sys.argv[2]))
spans = []
for use in rng.permutation(["training"] * 8 + ["probe"] * 3):
    with {"training": training_lock, "probe": probe_lock}[use](sys.argv[1]):
        start = time.monotonic_ns()
        time.sleep(rng.uniform(0, 0.02))
        spans.append([str(use), start, time.monotonic_ns()])
print(json.dumps(spans))
"""


class Holder:
    """A process that takes the lock and holds it until ``let_go``."""

    def __init__(self, use: str, path: Path) -> None:
        command = [sys.executable, "-c", HOLDER, use, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.says("started")

    def says(self, word: str, within: float = PROMPT_SECONDS) -> bool:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], within)
        return bool(readable) and self.process.stdout.readline() == f"{word}\n".encode()

    def holds(self) -> bool:
        return self.says("holding")

    def waits(self) -> bool:
        return not self.says("holding", QUIET_SECONDS)

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        assert self.says("done")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[[str], Holder]
Lock = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "on" / "demand" / "cores.lock"


@pytest.fixture
def start(lock_path: Path) -> Iterator[Start]:
    holders: list[Holder] = []

    def started(use: str) -> Holder:
        holders.append(Holder(use, lock_path))
        return holders[-1]

    yield started
    for holder in holders:
        holder.kill()
        for stream in (holder.process.stdin, holder.process.stdout):
            assert stream is not None
            stream.close()


def test_trainings_share_the_cores_and_a_probe_has_them_alone(start: Start) -> None:
    trainings = [start("training"), start("training")]
    assert all(training.holds() for training in trainings)
    probe = start("probe")
    assert probe.waits()
    trainings[0].let_go()
    assert probe.waits()
    trainings[1].let_go()
    assert probe.holds()
    others = [start("training"), start("probe")]
    assert all(other.waits() for other in others)


def test_a_waiting_probe_goes_before_new_trainings(start: Start) -> None:
    running = start("training")
    assert running.holds()
    probe = start("probe")
    assert probe.waits()
    late = start("training")
    assert late.waits()
    running.let_go()
    assert probe.holds()
    assert late.waits()
    probe.let_go()
    assert late.holds()


@pytest.mark.parametrize("killed", ["training", "probe"])
def test_the_lock_of_a_killed_holder_is_free(start: Start, killed: str) -> None:
    holder = start(killed)
    assert holder.holds()
    probe = start("probe")
    assert probe.waits()
    holder.kill()
    assert probe.holds()


def test_a_probe_killed_while_it_waits_blocks_nobody(start: Start) -> None:
    running = start("training")
    assert running.holds()
    probe = start("probe")
    assert probe.waits()
    late = start("training")
    assert late.waits()
    probe.kill()
    assert late.holds()


def test_waiting_can_be_interrupted(start: Start) -> None:
    running = start("training")
    assert running.holds()
    probe = start("probe")
    assert probe.waits()
    probe.process.send_signal(signal.SIGINT)
    assert probe.process.wait(PROMPT_SECONDS) != 0
    running.let_go()


def test_no_probe_overlaps_with_anything(lock_path: Path) -> None:
    commands = [[sys.executable, "-c", MIXED, str(lock_path), str(seed)] for seed in range(4)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    spans = [span for process in processes for span in json.loads(process.communicate()[0])]
    assert len(spans) == 4 * 11
    overlaps = [{one[0], other[0]} for one, other in combinations(spans, 2) if one[1] < other[2] and other[1] < one[2]]
    assert all(pair == {"training"} for pair in overlaps)


def test_threads_of_a_process_take_turns_too(lock_path: Path) -> None:
    inside = threading.Event()

    def probe() -> None:
        with probe_lock(lock_path):
            inside.set()

    with training_lock(lock_path):
        thread = threading.Thread(target=probe)
        thread.start()
        assert not inside.wait(QUIET_SECONDS)
    thread.join(PROMPT_SECONDS)
    assert inside.is_set()


@pytest.mark.parametrize("outer", [training_lock, probe_lock])
@pytest.mark.parametrize("inner", [training_lock, probe_lock])
def test_a_thread_that_would_wait_for_itself_is_told(lock_path: Path, outer: Lock, inner: Lock) -> None:
    with outer(lock_path), pytest.raises(RuntimeError, match=r"already holds the CPU lock for a (training|probe)"):
        inner(lock_path).__enter__()
    with inner(lock_path):
        pass


def test_the_lock_is_free_after_an_exception(lock_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), probe_lock(lock_path):
        raise ZeroDivisionError
    with probe_lock(lock_path):
        pass


@pytest.mark.parametrize("lock", [training_lock, probe_lock])
def test_an_unusable_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: Lock) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "cores.lock"
    monkeypatch.setenv("KDNAS_LOCK", str(path))
    with pytest.raises(RunError, match=f"{path}.*KDNAS_LOCK"):
        lock().__enter__()


def test_the_lock_lies_among_temporary_files_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("KDNAS_LOCK", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    assert default_lock_path().is_relative_to(tmp_path)
    with training_lock():
        assert default_lock_path().is_file()
        assert default_lock_path().parent.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("KDNAS_LOCK", "~/shared.lock")
    assert default_lock_path() == Path("/nonexistent/shared.lock")
