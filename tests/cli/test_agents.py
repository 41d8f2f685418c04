"""The list of agents, in the command and in the documentation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import kdnas_env
from kdnas_env.cli import main
from kdnas_env.pipeline.agents import capability_markdown, capability_rows
from kdnas_env.searching.registry import agent_class

PAGE = Path(__file__).parents[2] / "docs/reference/agents.md"


def test_the_page_has_the_table_of_agents() -> None:
    expected = capability_markdown(kdnas_env.agent_names())
    assert expected in PAGE.read_text(encoding="utf-8"), f"put this table into {PAGE.name}:\n\n{expected}\n"


def test_capabilities_are_those_of_the_classes() -> None:
    rows = {row[0]: row for row in capability_rows(["random", "lstm"])[1:]}
    assert rows["random"][1] == agent_class("random").capabilities.action_space
    assert rows["lstm"][-1] == "yes"


def test_an_agent_that_cannot_be_used_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kdnas_env.agents.lstm.agent", None)
    rows = {row[0]: row[1] for row in capability_rows(["lstm", "random"])[1:]}
    assert rows == {"lstm": "cannot be used; kdnas doctor says why", "random": "MultiDiscrete"}


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents"]) == 0
    printed = capsys.readouterr().out
    for name in kdnas_env.agent_names():
        assert name in printed
    assert main(["agents", "--name", "lstm"]) == 0
    printed = capsys.readouterr().out
    assert "epsilon_decay" in printed
    assert "'linear'" in printed
    assert "Width of an LSTM" in " ".join(printed.split())
    assert main(["agents", "--name", "oracle"]) == 2
    assert "unknown agent 'oracle'" in capsys.readouterr().err
