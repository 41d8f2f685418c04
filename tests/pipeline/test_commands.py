"""The name of a command is the name of the module with its function and options."""

from __future__ import annotations

import pytest

from kdnas_env.cli.commands import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_file_or_folder_of_its_name(name: str) -> None:
    options, _ = COMMANDS[name]
    words = name.replace("-", "_").split()
    assert options.__module__.removesuffix(".options") == ".".join(["kdnas_env.pipeline", *words])
