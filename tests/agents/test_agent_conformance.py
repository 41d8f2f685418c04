"""Every installed agent keeps the contract."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import kdnas_env
from kdnas_env.agents.ask_tell import AskTellAgent
from kdnas_env.searching.registry import agent_class
from kdnas_env.testing.agents import AskTellConformance, MakeAgent

_LSTM: dict[str, Any] = {"epochs": 1, "pool_size": 100, "hidden_size": 16}
_PPO: dict[str, Any] = {"n_epochs": 1, "net_arch": [16]}
_DQN: dict[str, Any] = {"gradient_steps": 1, "net_arch": [16]}
QUICK: dict[str, dict[str, Any]] = {
    **{"lstm": _LSTM, "lstm-greedy": _LSTM, "lstm-shuffled": _LSTM},
    **{"ppo": _PPO, "maskable-ppo": _PPO, "dqn": _DQN, "qr-dqn": _DQN},
    "lstm-ensemble": {"steps": 1, "members": 2, "pool_size": 100},
    "a2c": {"net_arch": [16]},
    "trpo": {"net_arch": [16], "algorithm_kwargs": {"cg_max_steps": 2, "n_critic_updates": 1}},
    "random-forest": {"trees": 3},
    "reinforce": {"hidden_size": 8, "tries": 3},
    "recurrent-ppo": {"n_epochs": 1, "lstm_hidden_size": 8},
}
"""Settings that make agents fast; the tests do not need good agents."""

SEEDLESS = "exhaustive"
"""The agent whose proposals do not depend on the seed: exhaustive search goes through the points in order."""

WITH_A_START_OF_THEIR_OWN = ("lstm-meta", "optuna", "parameter-count", "transfer-evolution")
"""Agents that override how the base class starts or runs a search. The other agents of the folder ``transfer`` start
a search like ``transfer-evolution``."""


WORK_OF_THE_BASE_CLASS = (
    "test_malformed_arguments",
    "test_other_action_spaces",
    "test_states_of_others",
    "test_a_finished_search",
    "test_the_end_of_an_episode",
    "test_the_environment_gets_the_seed",
    "test_budget_and_rounds_of_the_environment",
    "test_a_vector_environment",
    "test_rounds_are_reported",
)
"""Clauses that an agent can break only if it starts a search in its own way."""


class TestAll(AskTellConformance):
    """The whole contract: the simplest agent, and the agents that start a search in their own way."""

    @pytest.fixture(params=["random", *WITH_A_START_OF_THEIR_OWN])
    def make_agent(self, request: pytest.FixtureRequest) -> MakeAgent:
        return partial(kdnas_env.make_agent, request.param)


class TestOthers(AskTellConformance):
    """All other agents, without the clauses that only the base class can break."""

    @pytest.fixture(params=sorted({*kdnas_env.agent_names()} - {SEEDLESS, "random", *WITH_A_START_OF_THEIR_OWN}))
    def make_agent(self, request: pytest.FixtureRequest) -> MakeAgent:
        return partial(kdnas_env.make_agent, request.param, **QUICK.get(request.param, {}))


class TestDetermined(AskTellConformance):
    """The agent whose proposals do not depend on the seed."""

    DETERMINED = True

    @pytest.fixture
    def make_agent(self) -> MakeAgent:
        return partial(kdnas_env.make_agent, SEEDLESS)


for _name in WORK_OF_THE_BASE_CLASS:
    for _suite in (TestOthers, TestDetermined):
        setattr(_suite, _name, None)


def test_every_agent_of_ours_can_be_asked_and_told() -> None:
    assert all(issubclass(agent_class(name), AskTellAgent) for name in kdnas_env.agent_names())


def test_only_these_begin_or_drive_a_search_in_a_way_of_their_own() -> None:
    def driving(name: str) -> tuple[Any, ...]:
        cls = agent_class(name)
        return cls.capabilities.vector, cls.start, cls.search, cls.resume, cls._evaluate_round, cls.tell, cls.result

    tried = {driving(name) for name in ("random", *WITH_A_START_OF_THEIR_OWN)}
    assert {driving(name) for name in kdnas_env.agent_names()} == tried
