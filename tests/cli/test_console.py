"""Safe output: control characters and markup in text from files are shown, not executed."""

from __future__ import annotations

import ast
import io
import json
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import small_tables
from rich.markup import escape
from rich.table import Table

import kdnas_env.cli
from kdnas_env.cli import main
from kdnas_env.cli.console import SafeConsole
from kdnas_env.support.progress import ConsoleProgress
from kdnas_env.tables.storage import write_table

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202ereversed\u2066\r[red]:bomb:[/]\x00\ud800"
"""Codes that set a title, clear the screen, set a colour (C1) and reverse text; markup, an emoji, a lone surrogate."""


def obeyed(printed: str) -> list[str]:
    """Return the control characters that a terminal would execute."""
    return [one for one in printed if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Cs")]


@pytest.fixture
def console() -> SafeConsole:
    return SafeConsole(file=io.StringIO(), width=300)


def printed(console: SafeConsole) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def print_text(console: SafeConsole) -> None:
    console.print(f"[bold]error:[/] {escape(HOSTILE)}")


def print_table(console: SafeConsole) -> None:
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)


def print_stage(console: SafeConsole) -> None:
    with ConsoleProgress(console) as progress:
        progress.begin(HOSTILE)


def print_result(console: SafeConsole) -> None:
    with ConsoleProgress(console) as progress:
        progress.begin("searching")
        progress.say(HOSTILE, "bad")


@pytest.mark.parametrize("show", [print_text, print_table, print_stage, print_result])
def test_texts_are_shown_and_not_obeyed(console: SafeConsole, show: Callable[[SafeConsole], None]) -> None:
    show(console)
    said = printed(console)
    assert not obeyed(said)
    assert r"\x1b]0;title\x07\x1b[2J\x9b31m\u202ereversed\u2066\r[red]:bomb:[/]\x00\ud800" in said


def test_a_bar_obeys_no_text() -> None:
    console = SafeConsole(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    with ConsoleProgress(console) as progress:
        progress.begin("\x1b]0;title\x07\u202e")
    assert "\x1b]0" not in printed(console)
    assert "\u202e" not in printed(console)


def test_what_commands_print_goes_through_it() -> None:
    for path in Path(kdnas_env.cli.__file__).parent.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"print", "Console"}, f"{path.name} prints around SafeConsole"


def test_inspecting_a_table_of_a_stranger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = small_tables.planted_table()
    hostile = HOSTILE.replace("\ud800", "")
    metadata = replace(
        table.metadata,
        title=hostile,
        trained_on=hostile,
        versions={hostile: hostile},
        devices=(replace(small_tables.DEVICE, machine=hostile),),
    )
    write_table(replace(table, metadata=metadata), tmp_path / "strange.npz")
    assert main(["table", "inspect", str(tmp_path / "strange.npz")]) == 0
    said = capsys.readouterr().out
    assert not obeyed(said)
    assert said.count(r"\x1b[2J\x9b31m\u202ereversed\u2066\r[red]:bomb:[/]\x00") >= 4


@pytest.mark.usefixtures("blank_pictures")
def test_going_on_with_a_run_of_a_stranger(
    flags: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(budget=1, round_size=1)) == 0
    capsys.readouterr()
    config = tmp_path / "run" / "config.json"
    recorded = json.loads(config.read_text())
    del recorded["places"]
    recorded["corpus"]["source"] = "\x1b[2J\x07\u202e[link=http://x]corpus"
    config.write_text(json.dumps(recorded))
    assert main(["search", "--resume", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert not obeyed(captured.out + captured.err)
    assert r"\x1b[2J\x07\u202e[link=http://x]corpus" in captured.out + captured.err


def test_what_is_said_is_no_markup_and_its_lines_are_not_broken(console: SafeConsole) -> None:
    console.width = 20
    console.say("[red]/a/long/path/[x]/that/is/copied", "bad")
    assert printed(console) == "[red]/a/long/path/[x]/that/is/copied\n"


def test_a_reader_that_has_read_enough_ends_nothing() -> None:
    """As in ``kdnas ... | head``: the command continues after the reader has closed the pipe, and ends normally."""
    code = (
        "from kdnas_env.cli.console import SafeConsole\n"
        "import os, sys\n"
        "console = SafeConsole()\n"
        "for line in range(10_000):\n"
        "    console.say(f'line {line}')\n"
        "print('more')\n"
        "os.write(2, b'done')\n"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "line 0\n", "done")


def test_a_help_text_that_nobody_reads_to_the_end_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m kdnas_env search --help | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_command_ends_without_collecting_its_garbage() -> None:
    code = (
        "import atexit, gc; from kdnas_env.cli import main; "
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000)); main(['--version'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    # Registered before the exit handler of the command, so it runs after that handler.
    assert done.stdout.split()[-1] == "True"
