"""The tables in the package are complete, consistent and reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdnas_env.cli import main
from kdnas_env.core.architecture import count_parameters
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import TableError
from kdnas_env.tables.noise_ceiling import noise_ceiling
from kdnas_env.tables.storage import DATA, load_table, table_names, table_path
from kdnas_env.tables.surrogates.card import judge, judge_parts
from kdnas_env.tables.surrogates.storage import read_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import LATENCIES
from kdnas_env.tabulation.build import Cell, planned_students
from kdnas_env.tabulation.verify import find_faults, open_live, replay

LARGEST_BYTES = 8_000_000

BETWEEN = ["rotten-tomatoes-between"]
"""Tables of students between those of another table, for its surrogate."""

SAMPLES = ["joint-sentences-sample"]
"""Tables of random students of a space that is too large to list; surrogates have their names without -sample."""

WHOLE = [name for name in table_names() if name not in (*BETWEEN, *SAMPLES)]


def test_there_are_several_tasks_in_little_room() -> None:
    assert len(WHOLE) >= 2
    assert sum(path.stat().st_size for path in DATA.rglob("*")) < LARGEST_BYTES
    workloads = {load_table(name).metadata.workload for name in WHOLE}
    assert len(workloads) == len(WHOLE)


@pytest.mark.parametrize("name", [*WHOLE, *BETWEEN])
def test_a_table_is_whole_and_its_numbers_make_sense(name: str) -> None:
    table = load_table(name)
    assert table.metadata.name == name
    assert len(table) >= (96 if name in BETWEEN else 600)
    assert table.complete == 1
    assert table.valid.all()
    assert [count_parameters(config, table.teacher) for config in table.configs()] == table.parameters.tolist()
    assert (table.curve("epoch_seconds") > 0).all()
    assert ((table.curve("heldout_unexplained") > 0) & (table.curve("heldout_unexplained") < 1)).all()
    assert {device.runtime for device in table.metadata.devices} == {"torch", "onnxruntime", "analytic"}
    for position, device in enumerate(table.metadata.devices):
        latencies = dict(zip(LATENCIES, table.latencies[:, position].T, strict=True))
        assert (latencies["median_ms"] > 0).all()
        assert (latencies["ratio"] > 0).all()
        assert ((latencies["count"] > 0) == (device.runtime != "analytic")).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_fair_and_its_surrogate_is_fitted_to_it(name: str) -> None:
    table, surrogate = load_table(name), read_surrogate(table_path(name.removesuffix("-sample")))
    assert table.metadata.name == name
    assert table.sampled
    assert find_faults(table) == []
    # The students are the first of a random order, except those still being distilled when the build stopped.
    drawn = planned_students(table.space, len(table) + 8)
    assert len(set(table.configs()) - set(drawn)) == 0
    assert table.complete == 1
    assert surrogate.staged
    assert dict(surrogate.tables)[name] == len(table)
    assert surrogate.metadata.to_dict() == table.metadata.to_dict()
    fresh = Surrogate.fit(table)
    if len(surrogate.tables) == 1:
        configs = table.configs()[::20]
        for kept, made in zip(surrogate.predict(configs), fresh.predict(configs), strict=True):
            assert np.allclose(kept.curves, made.curves, rtol=1e-3)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_surrogate_of_the_package_is_a_task_by_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task.parse(f"{name.removesuffix('-sample')}:speedup=8")
    env = task.make_env(Budget(3))
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = [env.step(env.action_space.sample())[1] for _ in range(3)]
    assert all(-2 < float(reward) < 2 for reward in rewards)
    assert main(["table", "inspect", task.table, "--points", "50"]) == 0
    assert "train_embeddings" in capsys.readouterr().out
    with pytest.raises(TableError, match="fit a surrogate"):
        Task.parse(name).make_env(Budget(3))
    with pytest.raises(TableError, match="is a surrogate"):
        load_table(name.removesuffix("-sample"))


@pytest.mark.parametrize("name", WHOLE)
def test_seeds_agree_about_the_ranking(name: str) -> None:
    table = load_table(name)
    found = noise_ceiling(table)
    assert found.keys() == table.metadata.noise.keys()
    for measure, value in found.items():
        assert value == pytest.approx(table.metadata.noise[measure]), measure
    assert found["students"] == len(table)
    assert min(found["tau"]) > 0.95


@pytest.mark.parametrize("name", BETWEEN)
def test_students_between_make_the_surrogate_good_there(name: str) -> None:
    table, between = load_table(name.removesuffix("-between")), load_table(name)
    alone, apart = judge(Surrogate.fit(table), between), judge_parts(table, between, folds=2)
    assert apart["students"] == len(between)
    assert alone["tau"] > 0.9
    assert apart["tau"] > max(0.95, alone["tau"])
    assert apart["r2"] > max(0.97, alone["r2"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of hidden states of teachers; tables of one text share them."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WHOLE, *SAMPLES])
def test_a_table_says_what_distillation_finds(name: str, cache: Path) -> None:
    """Tables in BETWEEN need no replay: the test of the surrogate shows that they agree with their table."""
    table = load_table(name)
    live, allowed = open_live(table, device="cpu", cache_dir=cache)
    seconds = table.curve("epoch_seconds").sum(axis=(1, 2))
    cell = Cell(table.configs()[int(np.argmin(seconds))], table.metadata.seeds[-1])
    (found,) = replay(table, live, [cell], lambda done, total: None)
    assert found.difference <= allowed
