"""Every installed agent keeps the contract."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import kdnas_env
from kdnas_env.agents.ask_tell import AskTellAgent
from kdnas_env.searching.registry import agent_class
from kdnas_env.testing.agents import AskTellConformance, MakeAgent

QUICK: dict[str, dict[str, Any]] = {
    "lstm": {"epochs": 2, "pool_size": 200},
    "lstm-greedy": {"epochs": 2, "pool_size": 200},
    "lstm-shuffled": {"epochs": 2, "pool_size": 200},
    "reinforce": {"hidden_size": 8, "tries": 3},
}
"""Settings that make an agent fast where it need not be good."""

SEEDLESS = ("exhaustive",)
"""Agents whose proposals do not depend on the seed: exhaustive search goes through the points in order."""


class TestInstalled(AskTellConformance):
    """Every agent but those of ``SEEDLESS``."""

    @pytest.fixture(params=[name for name in kdnas_env.agent_names() if name not in SEEDLESS])
    def make_agent(self, request: pytest.FixtureRequest) -> MakeAgent:
        return partial(kdnas_env.make_agent, request.param, **QUICK.get(request.param, {}))


class TestDetermined(AskTellConformance):
    """Agents that propose the same whatever the seed."""

    DETERMINED = True

    @pytest.fixture(params=SEEDLESS)
    def make_agent(self, request: pytest.FixtureRequest) -> MakeAgent:
        return partial(kdnas_env.make_agent, request.param)


def test_every_agent_of_ours_can_be_asked_and_told() -> None:
    assert all(issubclass(agent_class(name), AskTellAgent) for name in kdnas_env.agent_names())
