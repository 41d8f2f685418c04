"""A test session leaves no files behind: neither in the user's folders nor for the next session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

PROBE = """
import subprocess, sys

WRITE = '''
import tempfile
import datasets
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.atomic import default_cache_directory

with training_lock():
    default_cache_directory().mkdir(parents=True, exist_ok=True)
    tempfile.mkdtemp()
    datasets.Dataset.from_generator(lambda: iter([{"text": "a"}]))
'''

def test_here():
    exec(WRITE)

def test_in_a_process_of_its_own():
    subprocess.run([sys.executable, "-c", WRITE], check=True)
"""


@pytest.mark.slow
def test_a_session_leaves_nothing_with_its_user(tmp_path: Path) -> None:
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    (tmp_path / "test_probe.py").write_text(PROBE)
    foreign = ("KDNAS_", "XDG_", "PYTEST_", "COV_", "HF_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-n", "1", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert list(home.iterdir()) == []
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("pytest-of-")] == []
