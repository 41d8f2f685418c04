"""A search that is killed at any moment and restarted makes the same proposals as an uninterrupted search."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import killed_search
import pytest
from processes import Started

import kdnas_env
from kdnas_env.support.cpu_lock import pinned_threads

KEEPERS = ("random", "local-search", "lstm", "reinforce", "optuna", "ppo")
"""An agent for each way to resume: random numbers only, a position, a model trained before each round, a policy that is
retrained round by round, a study, and an algorithm that is retrained."""

QUICK: dict[str, dict[str, Any]] = {"lstm": {"epochs": 3}, "ppo": {"n_epochs": 2}}


def start(name: str, folder: Path, pause: float) -> Started:
    return Started(killed_search.search, name, QUICK.get(name, {}), folder, pause)


def proposals(folder: Path) -> list[tuple[int, ...]]:
    log = folder / "log"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("\n")]


def found(name: str, folder: Path) -> Any:
    agent = kdnas_env.make_agent(name, **QUICK.get(name, {}))
    agent.load(folder / "state.npz")
    return agent.result()


@pytest.mark.slow
@pytest.mark.parametrize("name", KEEPERS)
def test_killed_and_started_again_it_proposes_the_same(name: str, tmp_path: Path, moments: Random) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    with pinned_threads(1):
        killed_search.search(name, QUICK.get(name, {}), alone, 0.0)

    for moment in sorted(moments.sample(range(1, 40), 2)):
        process = start(name, killed, 0.01)
        deadline = time.monotonic() + 120
        while len(set(proposals(killed))) < moment and time.monotonic() < deadline:
            assert process.poll() is None, "the search ended before it was killed"
            time.sleep(0.001)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert start(name, killed, 0.0).wait(timeout=120) == 0

    assert set(proposals(killed)) == set(proposals(alone))
    one, other = found(name, killed), found(name, alone)
    assert one.actions.tolist() == other.actions.tolist()
    assert one.rewards.tolist() == other.rewards.tolist()
    assert one.best == other.best
    assert len(one.actions) == 40
    assert sorted(path.name for path in killed.iterdir() if not path.name.startswith(".")) == ["log", "state.npz"]
