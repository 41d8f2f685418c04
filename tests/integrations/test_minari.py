"""Searches of a race, exported as Minari episodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
from asked_tasks import TASKS
from complaints import complaint
from small_tables import planted_table

from kdnas_env.bench.race import Race, race
from kdnas_env.bench.recorded_search import run_search
from kdnas_env.bench.simulator import simulate
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import Trajectory
from kdnas_env.cli import main
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError
from kdnas_env.integrations.minari import write_dataset
from kdnas_env.tables.storage import write_table


@pytest.fixture(autouse=True)
def _own_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))


def searched(task: str, agent: str = "random", seed: int = 7, budget: int = 12) -> Trajectory:
    return run_search(AgentSpec.parse(agent), Task.parse(task), seed, Budget(budget))


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_what_the_environment_answers(task: str) -> None:
    searches = [searched(task), searched(task, "local-search", 8)]
    write_dataset("kdnas/few-v0", searches)
    dataset = minari.load_dataset("kdnas/few-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (2, sum(map(len, searches)))
    env = dataset.recover_environment()
    for search, episode in zip(searches, dataset.iterate_episodes(), strict=True):
        assert episode.rewards.tolist() == search.observed.tolist()
        assert episode.infos["index"][1:].tolist() == search.index.tolist()
        observation, _ = env.reset(seed=search.seed)
        for place, action in enumerate(episode.actions):
            _same(observation, episode.observations, place)
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == episode.rewards[place]
            assert (terminated, truncated) == (episode.terminations[place], episode.truncations[place])
            assert info["latency_ms"] == episode.infos["latency_ms"][place + 1]
            assert (info["status"] == "ok") == episode.infos["ok"][place + 1]
            for name, cost in info.get("costs", {}).items():
                assert cost == episode.infos[f"cost_{name}"][place + 1]
        _same(observation, episode.observations, -1)
        assert terminated
    about = list(dataset.storage.get_episode_metadata(range(2)))
    assert [(one["agent"], one["seed"]) for one in about] == [("random", 7), ("local-search", 8)]


def _same(observation: Any, stored: Any, place: int) -> None:
    for name, value in observation.items():
        np.testing.assert_array_equal(stored[name][place], value)
        assert stored[name].dtype == value.dtype


def test_several_workers_and_an_agent_that_gives_up() -> None:
    task = Task.parse("imdb")
    several = simulate(AgentSpec.parse("evolution"), task, 3, Budget(12), workers=3)
    search = searched("imdb")
    columns = {name: getattr(search, name)[:5] for name in ("index", "observed", "true", "status", "duplicate")}
    rest = {name: getattr(search, name)[:5] for name in ("counted", "epochs", "cost", "start", "finish")}
    early = replace(search, **columns, **rest, agent_seconds=search.agent_seconds[:5])
    dataset = write_dataset("few-v0", [several, early])
    first, second = dataset.iterate_episodes()
    assert sorted(first.rewards.tolist()) == sorted(several.observed.tolist())
    assert second.truncations.tolist() == [False] * 4 + [True]
    assert not second.terminations.any()


def test_what_cannot_be_written_is_refused() -> None:
    search = searched("imdb")
    with pytest.raises(KDNASError, match="Malformed dataset ID"):
        write_dataset("no name", [search])
    write_dataset("few-v0", [search])
    with pytest.raises(KDNASError, match="already exists"):
        write_dataset("few-v0", [search])
    with pytest.raises(KDNASError, match="2 tasks and budgets"):
        write_dataset("other-v0", [search, searched("rotten-tomatoes")])
    with pytest.raises(KDNASError, match=r"evaluation 2 of random on imdb, seed 7, earned 0\.5 in the race, but"):
        write_dataset("other-v0", [replace(search, observed=np.where(np.arange(12) == 1, 0.5, search.observed))])
    assert [*minari.list_local_datasets()] == ["few-v0"]


def test_a_race_is_exported_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "small.npz"
    write_table(planted_table(), table)
    folder, tasks = str(tmp_path / "race"), [str(table), f"{table}:alpha=-0.2"]
    agents = tuple(AgentSpec.parse(name) for name in ("random", "evolution"))
    race(Race(agents, tuple(Task.parse(task) for task in tasks), 2, Budget(6)), folder)
    export = ["bench", "export", folder, "--minari", "kdnas/small-v0"]
    assert "choose one with --task" in complaint(export, capsys)
    assert "expected some of these" in complaint([*export, "--task", tasks[0], "--agents", "lstm"], capsys)
    capsys.readouterr()
    assert main([*export, "--task", tasks[1], "--agents", "evolution"]) == 0
    assert "2 searches, 12 evaluations" in " ".join(capsys.readouterr().out.split())
    dataset = minari.load_dataset("kdnas/small-v0")
    assert dataset.storage.metadata["algorithm_name"] == "evolution"
    assert dataset.recover_environment().unwrapped.reward_function.alpha == -0.2
