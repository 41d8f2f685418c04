"""Searches that version 0.1 saved can be resumed; ``states_of_0_1/README.md`` says how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import kdnas_env

STATES = Path(__file__).parent / "states_of_0_1"
PROPOSALS: dict[str, list[list[int]]] = json.loads((STATES / "proposals.json").read_text())
SAVED = 16
"""Number of evaluations in each saved state."""

ROUNDED = ("lstm", "lstm-ensemble", "reinforce")
"""Agents that train networks; the last digits of their weights depend on the processor."""


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_search_goes_on(name: str) -> None:
    further: list[list[int]] = []

    class Logged(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            further.append(action.tolist())
            return super().step(action)

    agent = kdnas_env.make_agent(name)
    agent.load(STATES / f"{name}.npz")
    result = agent.resume(Logged(gymnasium.make("kdnas/Planted-v0", failures=0.1, budget=20)))
    assert result.actions[:SAVED].tolist() == PROPOSALS[name][:SAVED]
    assert result.actions[SAVED:].tolist() == further
    assert len(further) == 20 - SAVED
    if name not in ROUNDED:
        assert further == PROPOSALS[name][SAVED:]
