"""The folder of a run: what is recorded in it, and when."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from kdnas_env.errors import RunError
from kdnas_env.pipeline.work import Interrupted, terminable, working
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.searching.run_folder import RUN, RunFolder, recorded_options


@dataclass(frozen=True)
class Options(RecordedOptions):
    COMMAND: ClassVar[str] = "test"
    seed: int = 0


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a finished run."""
    with working(RunFolder.create(tmp_path / "run", Options(), ""), "") as work:
        work.begin({"teacher": "a" * 64, "text": "b" * 64})
    return tmp_path / "run"


def state(folder: Path) -> str:
    found: str = json.loads((folder / RUN).read_text())["state"]
    return found


@contextmanager
def full_disk() -> Iterator[None]:
    """Simulate a full disk: no file of this process can grow in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_a_killed_process_left_is_removed_when_the_run_goes_on(finished: Path) -> None:
    def killed(target: Path) -> None:
        code = (
            "import os, signal, sys\n"
            "from kdnas_env.support.atomic import replacing\n"
            "with replacing(sys.argv[1]):\n"
            "    os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(target)]).returncode == -signal.SIGKILL

    nested = finished / "distill"
    (finished / "cells").mkdir()
    nested.mkdir()
    (nested / "config.json").write_text("{}")
    (finished / ".notes.template").write_text("mine")
    before = set(finished.rglob("*"))
    for target in (finished / "search.png", finished / "cells" / "a.json"):
        killed(target)
    assert len(set(finished.rglob("*")) - before) == 2
    killed(nested / "run.json")
    (others,) = nested.glob(".run.json*")
    RunFolder.reopen(finished).release()
    assert set(finished.rglob("*")) - before == {others}, "another run may be at work in its folder"


def test_a_refusal_changes_nothing(finished: Path) -> None:
    before = (finished / RUN).read_bytes()
    with (
        pytest.raises(
            RunError, match=r"cannot be resumed: the teacher is not what it was .*teacher: 'cccccccccccc', was 'aaaaaa"
        ),
        working(RunFolder.reopen(finished), "") as work,
    ):
        work.begin({"teacher": "c" * 64, "text": "b" * 64})
    assert (finished / RUN).read_bytes() == before
    with (
        pytest.raises(RunError, match="the teacher and the text are not what they were"),
        working(RunFolder.reopen(finished), "") as work,
    ):
        work.begin({"teacher": "c" * 64, "text": "c" * 64})
    assert (finished / RUN).read_bytes() == before


@pytest.mark.parametrize(("error", "raised"), [(RunError("no teacher"), RunError), (KeyboardInterrupt(), Interrupted)])
def test_what_ends_before_the_work_begins_changes_nothing(
    finished: Path, error: BaseException, raised: type[BaseException]
) -> None:
    before = (finished / RUN).read_bytes()
    with pytest.raises(raised), working(RunFolder.reopen(finished), ""):
        raise error
    assert (finished / RUN).read_bytes() == before


def work_until(error: BaseException, folder: RunFolder, *, full: bool = False) -> None:
    with ExitStack() as stack, working(folder, "") as work:
        work.begin({"teacher": "a" * 64, "more": "d" * 64})
        assert state(folder.path) == "running"
        if full:
            stack.enter_context(full_disk())
        raise error


@pytest.mark.parametrize(("error", "told"), [(RunError("no space"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_what_ends_the_work_is_recorded(finished: Path, error: BaseException, told: str) -> None:
    with pytest.raises((RunError, Interrupted)):
        work_until(error, RunFolder.reopen(finished))
    assert state(finished) == told
    names = json.loads((finished / RUN).read_text())["fingerprints"]
    assert list(names) == ["teacher", "text", "more"], "what was recorded stays"


def test_a_new_run_that_is_refused_leaves_no_folder_in_the_way(tmp_path: Path) -> None:
    for _ in range(2):
        folder = RunFolder.create(tmp_path / "run", Options(), "")
        with pytest.raises(RunError, match="no teacher"), working(folder, ""):
            raise RunError("no teacher")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("error", "told"), [(ValueError("a fault"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_new_run_that_ends_otherwise_before_it_begins_is_recorded(
    error: BaseException, told: str, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run", Options(), "")
    with pytest.raises((ValueError, Interrupted)), working(folder, ""):
        raise error
    assert state(tmp_path / "run") == told


def test_an_interrupt_within_a_destructor_is_not_lost() -> None:
    class Ends:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        with terminable():
            Ends()
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_model_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RunError, match="is a model, not a run; name"):
        recorded_options(tmp_path, Options)


def test_the_first_error_is_shown_where_the_state_cannot_be_recorded(finished: Path) -> None:
    with pytest.raises(RunError, match="the store cannot grow") as caught:
        work_until(RunError("the store cannot grow"), RunFolder.reopen(finished), full=True)
    (note,) = caught.value.__notes__
    assert note.startswith("also, ")
    assert "run.json' cannot be written" in note
    assert state(finished) == "running"
