"""``--help`` shows the common options of a command, and ``--help-all`` shows all."""

from __future__ import annotations

import re

import pytest

from kdnas_env.cli import main
from kdnas_env.cli.commands import COMMANDS
from kdnas_env.cli.short_help import COMMON
from kdnas_env.searching.recorded import flag

MANY = 14
"""Maximum number of options in a help that fits on one screen."""


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    return capsys.readouterr().out


def shown_flags(text: str) -> set[str]:
    return {*re.findall(r"(?:^|[│,]) *(--[a-z][\w.-]*)", text, re.MULTILINE)} - {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_people_use(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short, whole = (printed(capsys, *name.split(), word) for word in ("--help", "--help-all"))
    if name not in COMMON:
        assert short == whole
        assert len(shown_flags(whole)) <= MANY, "it has few"
        return
    assert shown_flags(short) < shown_flags(whole)
    options = {flag(option) for option in COMMON[name]}
    assert options & shown_flags(whole) == options & shown_flags(short)
    assert len(options & shown_flags(whole)) >= len(options) - 2, "but for what has its place and no flag"
    assert len(shown_flags(short)) <= MANY
    assert short.splitlines()[-1].endswith(f"options are shown; all: kdnas {name} --help-all")
    assert "Suppress" not in short


def test_defaults_in_the_short_help_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A stage may have other defaults than the command of its name: ``kdnas run`` distils on fewer samples."""
    said = " ".join(printed(capsys, "run", "--help").split())
    assert "(default: 5.0)" in said
    assert "Passes over the text. (default: 3)" in said


def test_help_is_given_wherever_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    first = printed(capsys, "search", "--help")
    assert printed(capsys, "search", "--recipe", "seed", "-h") == first
    assert printed(capsys, "--help-all") == printed(capsys, "--help")
    assert printed(capsys, "bench", "--help-all") == printed(capsys, "bench", "--help")
