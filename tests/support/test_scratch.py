from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kdnas_env.support.scratch import scratch_folder

CODE = """
import os, signal, sys
from kdnas_env.support.scratch import scratch_folder
with scratch_folder("corpus") as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def start(how: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that makes a scratch folder, and set the time of the folder an hour back."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    if how == "die":
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    os.utime(folder, (time.time() - 3600,) * 2)
    return process, folder


def test_a_folder_goes_with_its_block(temporary: Path) -> None:
    with scratch_folder("test") as folder:
        assert folder.parent == temporary
        (folder / "file").write_text("x")
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_leaves_the_block_does_not_remove_the_folder(temporary: Path) -> None:
    maker = os.getpid()
    with suppress(SystemExit), scratch_folder("test") as folder:
        child = os.fork()
        if not child:
            sys.exit()
        os.waitpid(child, 0)
        assert folder.is_dir()
    if os.getpid() != maker:
        os._exit(0)


def test_what_a_killed_process_left_is_removed_and_nothing_else(temporary: Path) -> None:
    _, left = start("die")
    living, used = start("live")
    foreign = temporary / "kdnas-of-somebody"
    foreign.mkdir()
    (foreign / "file").write_text("x")
    os.utime(foreign, (0, 0))
    (temporary / "kdnas-link").symlink_to(foreign)
    with scratch_folder("test"):
        assert not left.exists()
        assert (used / "file").exists()
        assert (foreign / "file").exists()
    living.communicate()
    assert not used.exists()
    _, left = start("die")
    os.utime(left)
    with scratch_folder("test"):
        assert left.exists(), "one that is new may be about to be locked"
