"""Progress of long work without a terminal: lines in a log, with the estimated time left."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdnas_env.cli import main
from kdnas_env.cli.console import SafeConsole
from kdnas_env.support import progress as task_progress
from kdnas_env.support.progress import SECONDS_BETWEEN_LINES, ConsoleProgress, Pace

Lines = Callable[[], list[str]]


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_now_and_then_says_what_is_left() -> None:
    file, clock = io.StringIO(), Clock()
    pace = Pace(SafeConsole(file=file, width=200), clock)
    pace.begin("distilling [best]")
    for step in range(1, 101):
        clock.now += 10
        pace.tell(step, 400, "loss 0.1234")
    lines = file.getvalue().splitlines()
    assert len(lines) == 33
    assert lines[0] == "distilling [best]: 4 of 400, loss 0.1234, about 66.0 min left"
    assert lines[-1] == "distilling [best]: 100 of 400, loss 0.1234, about 50.0 min left"


def test_other_work_has_an_estimate_of_its_own() -> None:
    file, clock = io.StringIO(), Clock()
    pace = Pace(SafeConsole(file=file, width=200), clock)
    for name, seconds in (("slow", 50), ("fast", 5)):
        pace.begin(name)
        for step in range(8):
            clock.now += seconds
            pace.tell(step, 10)
    lines = file.getvalue().splitlines()
    assert lines[0] == "slow: 1 of 10, about 7.5 min left"
    assert lines[-1] == "fast: 6 of 10, about 20.0 s left"


def test_a_count_that_begins_again_has_an_estimate_of_its_own() -> None:
    """The time of a stage says nothing about a second stage of the same name."""
    file, clock = io.StringIO(), Clock()
    pace = Pace(SafeConsole(file=file, width=200), clock)
    pace.begin("distilling")
    for step in (*range(1, 101), *range(1, 5)):
        clock.now += 20
        pace.tell(step, 100)
    assert file.getvalue().splitlines()[-1] == "distilling: 3 of 100, about 32.3 min left"


def test_a_terminal_has_a_bar_instead() -> None:
    file, clock = io.StringIO(), Clock()
    pace = Pace(SafeConsole(file=file, force_terminal=True), clock)
    pace.begin("distilling")
    for step in range(5):
        clock.now += SECONDS_BETWEEN_LINES
        pace.tell(step, 5)
    assert file.getvalue() == ""


def test_work_that_tells_nothing_is_said_to_go_on() -> None:
    file, clock = io.StringIO(), Clock()
    pace = Pace(SafeConsole(file=file, width=200), clock)
    pace.begin("exporting")
    for _ in range(7):
        clock.now += 15
        pace.remind()
    pace.tell(1, 4)
    clock.now += 40
    pace.remind()
    lines = [f"exporting: {seconds:.1f} s so far" for seconds in (30, 60, 90)]
    assert file.getvalue().splitlines() == [*lines, "exporting: 1 of 4"]


def test_a_thread_says_so_until_the_work_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_progress, "SECONDS_BETWEEN_LINES", 0.05)
    file = io.StringIO()
    with ConsoleProgress(SafeConsole(file=file, width=200)) as progress:
        progress.begin("exporting")
        deadline = time.monotonic() + 20
        while "so far" not in file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    for thread in threading.enumerate():
        if thread.name == "progress":
            thread.join(timeout=20)
            assert not thread.is_alive()
    line = file.getvalue().splitlines()[1]
    assert line.startswith("exporting: ")
    assert line.endswith("so far")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_progress, "SECONDS_BETWEEN_LINES", 0.01)


@pytest.mark.usefixtures("blank_pictures")
def test_search_and_distillation_tell_how_far_they_are(
    often: None, flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(budget=3, round_size=1, threads=1)) == 0
    said = capsys.readouterr().out
    assert "searching: 2 of 3, about" in said
    assert "distilling the best student once more" not in said
    distill = ["distill", str(tmp_path / "run"), "--epochs", "2", "--threads", "1", "--corpus.max-length", "24"]
    assert main([*distill, "--corpus.heldout-samples", "16", "--cache-dir", str(tmp_path / "cache")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("distilling best")]
    assert any(" of " in line and "loss 0." in line and line.endswith("left") for line in lines), lines
