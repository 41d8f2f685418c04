"""Error messages of the command line about bad input."""

from __future__ import annotations

import pytest

from kdnas_env.cli import main


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        status = main(arguments)
    except SystemExit as ended:  # malformed flags
        status = ended.code if isinstance(ended.code, int) else 1
    assert status == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return " ".join((captured.err + captured.out).replace("│", " ").split())


def instead(words: list[str], given: list[str]) -> list[str]:
    """Return a command with the given flag and values in place of those that it has; appended if it has none."""
    if given[0] not in words:
        return [*words, *given]
    start = words.index(given[0])
    end = next((place for place in range(start + 1, len(words)) if words[place].startswith("--")), len(words))
    return [*words[:start], *words[end:], *given]
