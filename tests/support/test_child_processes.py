"""Starting worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

import pytest

from kdnas_env.support.child_processes import worker_context


def tell(pipe: Connection, *names: str) -> None:
    pipe.send([os.environ.get(name) for name in names])


def test_workers_have_the_environment_of_their_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    context = worker_context()
    for value in ("first", "second"):
        monkeypatch.setenv("KDNAS_TEST", value)
        monkeypatch.delenv("HOME", raising=False)
        ours, theirs = context.Pipe()
        worker = context.Process(target=tell, args=(theirs, "KDNAS_TEST", "HOME"))
        worker.start()
        assert ours.recv() == [value, None]
        worker.join()


_METHOD = """
import os, sys
from kdnas_env.support.child_processes import worker_context

def work():
    pass

if __name__ == "__main__":
    worker_context()
    if sys.argv[1:] and (forked := os.fork()):
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
    context = worker_context()
    worker = context.Process(target=work)
    worker.start()
    worker.join()
    print(context.get_start_method(), worker.exitcode)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="new interpreters elsewhere")
@pytest.mark.parametrize(
    ("where", "arguments", "method"), [("a", [], "forkserver"), ("a", ["forked"], "spawn"), ("a" * 99, [], "spawn")]
)
def test_they_are_new_interpreters_where_none_can_be_forked(
    where: str, arguments: list[str], method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("s")  # a short name, since sockets take only 107 bytes
    (temporary := folder / where).mkdir()
    (script := folder / "script.py").write_text(_METHOD)
    environment: dict[str, Any] = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{method} 0\n"), done.stderr


def test_it_only_imports() -> None:
    """The imports of the fork server must not use CUDA or start threads: workers are forked from it."""
    code = """
import os, torch
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
for name in ("is_available", "device_count", "_lazy_init"):
    setattr(torch.cuda, name, lambda *_, name=name: os._exit(1))
for name in MiniKDEvaluator.MODULES:
    __import__(name)
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
