"""Corrupt states of agents, and unexpected arguments of ask and tell."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fuzzing import BATCH, ODD, fuzz, spoilt_bytes, spoilt_json, spoilt_tree, survive

from kdnas_env.agents.ask_tell import AskTellAgent
from kdnas_env.agents.classic.evolution import EvolutionAgent
from kdnas_env.agents.classic.local_search import LocalSearchAgent
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.state import read_state

AGENTS: tuple[type[AskTellAgent[Any]], ...] = (RandomAgent, EvolutionAgent, LocalSearchAgent)
NVEC = [3, 2, 4]


def searched(kind: type[AskTellAgent[Any]]) -> AskTellAgent[Any]:
    agent = kind()
    agent.reset(NVEC, budget=12, round_size=3, seed=5, candidates=np.arange(20))
    for _ in range(2):
        actions = agent.ask(3)
        agent.tell(actions, actions.sum(axis=1) / 10, [{"status": "ok"}] * len(actions))
    agent.ask(2)
    return agent


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[type[AskTellAgent[Any]], Path]:
    """Valid states of agents, each in its own folder."""
    paths = {agent: tmp_path_factory.mktemp("states") / "whole.npz" for agent in AGENTS}
    for agent, path in paths.items():
        searched(agent).save(path)
    return paths


@fuzz("state file")
def test_files_of_states(rng: Random, states: dict[type[AskTellAgent[Any]], Path]) -> None:
    path = states[rng.choice(AGENTS)]
    spoilt, whole = path.with_name("spoilt.npz"), path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    for _ in range(BATCH):
        _spoil_file(rng, spoilt, whole, arrays)
        survive(read_state, spoilt, told=rng)


@fuzz("state")
def test_states(rng: Random, states: dict[type[AskTellAgent[Any]], Path]) -> None:
    agent = rng.choice(AGENTS)
    spoilt, whole = states[agent].with_name("spoilt.npz"), read_state(states[agent])
    for _ in range(BATCH):
        _write_spoilt(rng, spoilt, whole)
        survive(agent().load, spoilt, told=rng)


@fuzz("ask and tell")
def test_ask_and_tell(rng: Random) -> None:
    agent = searched(rng.choice(AGENTS))
    for _ in range(BATCH):
        kind = rng.randrange(3)
        if kind == 0:
            survive(agent.ask, rng.choice([*ODD[:16], "2", np.int8(2), np.array([1]), 2.0]), reader="ask")
        elif kind == 1:
            survive(agent.tell, *_told(rng, agent), reader="tell")
        else:
            arguments = {
                "nvec": NVEC,
                "budget": 12,
                "round_size": 3,
                rng.choice(("nvec", "budget", "round_size")): _odd(rng),
            }
            survive(lambda agent=agent, given=arguments: type(agent)().reset(**given), told=arguments, reader="reset")
    agent.result()


def _told(rng: Random, agent: AskTellAgent[Any]) -> list[Any]:
    actions = agent.pending
    given: list[Any] = [actions, np.zeros(len(actions)), [{} for _ in actions]]
    given[rng.randrange(3)] = _odd(rng)
    return given if rng.random() < 0.5 else given[:2]


def _odd(rng: Random) -> Any:
    return rng.choice(
        (
            [[0, 1, 2]],
            [0, 1],
            [[0, 1, 2], [0]],
            [[0.0, 1.0, 2.0]],
            [["a", "b", "c"]],
            np.array([[0, 1, 2]], dtype=np.uint64),
            np.array([[0, 1, 2]], dtype="m8[s]"),
            np.array([[0, 1, 2]], dtype=object),
            np.array([[None, {}, 1]], dtype=object),
            np.zeros((0, 3), dtype=np.int64),
            np.zeros((1, 3), dtype=np.bool_),
            np.full((1, 3), 2**63, dtype=np.uint64),
            np.array(3),
            [np.nan],
            [1j],
            [10**400],
            ["1"],
            [{}],
            [{"status": 3}],
            [{"status": None}],
            [None],
            [2**70, 2],
            [1, 1],
            3,
            "abc",
            object(),
            {1: 2},
            *ODD,
        )
    )


def _spoil_file(rng: Random, path: Path, whole: bytes, arrays: dict[str, Any]) -> None:
    if rng.random() < 0.5:
        path.write_bytes(spoilt_bytes(rng, whole))
        return
    spoilt = np.frombuffer(spoilt_json(rng, json.loads(arrays["json"].tobytes())), dtype=np.uint8)
    np.savez(path, **{**arrays, "json": spoilt})


def _write_spoilt(rng: Random, path: Path, whole: dict[str, Any]) -> None:
    """Write a state with a corrupt part. Version, agent and configuration stay valid, so that more of it is read."""
    plain = {name: value for name, value in whole.items() if not isinstance(value, np.ndarray)}
    arrays: dict[str, Any] = {name: value for name, value in whole.items() if isinstance(value, np.ndarray)}
    if rng.random() < 0.5:
        kept = {name: plain.pop(name) for name in ("version", "agent", "config")}
        spoilt = spoilt_tree(rng, plain)
        plain = {**spoilt, **kept} if isinstance(spoilt, dict) else kept
    else:
        name = rng.choice(list(arrays))
        with np.errstate(invalid="ignore"):
            odd = (
                arrays[name][:1],
                arrays[name][..., None],
                arrays[name].astype(np.float64) * np.nan,
                -1 - arrays[name].astype(np.int64),
                arrays[name].astype("U5"),
                np.array(3),
                np.zeros(0),
            )
        arrays[name] = rng.choice(odd)
    arrays["json"] = np.frombuffer(json.dumps(plain, default=str).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    np.savez(path, **arrays)
