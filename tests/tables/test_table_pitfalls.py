"""Pitfalls of tables: swapped columns, missing costs, hidden state and hidden randomness."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tables import DEVICE, planted_evaluations, planted_metadata, planted_table

from kdnas_env.bench.hardness import hardness
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.tables.storage import read_table, write_table
from kdnas_env.tables.surrogates.card import surrogate_card
from kdnas_env.tables.surrogates.storage import write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import CURVES
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies, assemble_table
from kdnas_env.testing.clauses import global_states, shaken_generators

SPACE = {
    "num_hidden_layers": [3, 6, 12],
    "hidden_size": [384, 576, 768],
    "intermediate_size": [768, 3072],
    "hidden_act": ["gelu", "relu"],
}
"""36 students."""

TABLE = planted_table(SPACE, noise=0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_table(TABLE, tmp_path / "table.npz")
    return tmp_path / "table.npz"


def test_every_column_is_the_quantity_of_its_name() -> None:
    def curves() -> dict[str, Any]:
        return {name: tuple(rng.uniform(0.1, 1, 4).tolist()) for name in CURVES}

    rng = np.random.default_rng(0)
    told = [replace(one, **curves()) for one in planted_evaluations(TABLE.space)]
    latencies = {one.config: one.latency for one in told if one.latency}
    table = assemble_table(planted_metadata(TABLE.space), told, [MeasuredLatencies(DEVICE, latencies)])
    for one in told[::7]:
        found = TabularEvaluator(table, seed=one.fidelity.seed).query(one.config)
        for name in CURVES:
            assert getattr(found, name) == pytest.approx(getattr(one, name), rel=1e-6), name
        row, seed = table.configs().index(one.config), table.metadata.seeds.index(one.fidelity.seed)
        assert table.curve("heldout_unexplained")[row, seed] == pytest.approx(one.heldout_unexplained, rel=1e-6)


def test_epochs_cost_what_they_took_the_first_included() -> None:
    evaluator, rows = TabularEvaluator(TABLE, seed=1), range(0, len(TABLE), 5)
    for row in rows:
        config, seconds = TABLE.configs()[row], TABLE.curve("epoch_seconds")[row, 1].astype(np.float64)
        costs = [evaluator.query(config, epoch).wall_seconds for epoch in range(4)]
        assert costs == pytest.approx(np.cumsum(seconds))
        assert costs[1] > 0


def test_how_far_one_looks_changes_nothing_of_what_came_before() -> None:
    evaluator = TabularEvaluator(TABLE, seed="sample")
    drawn = SurrogateEvaluator(Surrogate.fit(TABLE), seed="sample")
    for config in TABLE.configs()[::5]:
        short, whole = (evaluator.query(config, epoch, seed=4) for epoch in (1, 3))
        assert short.heldout_unexplained == whole.heldout_unexplained[:2]
        (short,), (whole,) = (drawn.evaluate([config], Fidelity(epochs=epoch, seed=4)) for epoch in (1, 3))
        assert short.heldout_unexplained == whole.heldout_unexplained[:2]


def test_what_does_not_differ_between_seeds_is_stored_once() -> None:
    single = planted_table(SPACE, seeds=(0,), epochs=1)
    for name in ("parameters", "flops", "latencies"):
        assert getattr(TABLE, name).nbytes == getattr(single, name).nbytes


def test_an_answer_cannot_change_the_table() -> None:
    for name in TABLE.ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(TABLE, name)[:] = 0


def test_global_generators_are_left_alone(path: Path, tmp_path: Path) -> None:
    before = global_states()
    table = read_table(path)
    surrogate = Surrogate.fit(table)
    write_surrogate(surrogate, tmp_path / "surrogate.npz")
    for evaluator in (TabularEvaluator(table, seed="sample"), SurrogateEvaluator(surrogate, seed="sample")):
        evaluator.evaluate(table.configs(), Fidelity(epochs=3, seed=2))
    hardness(table, np.random.default_rng(0), starts=5)
    surrogate_card(table, folds=2)
    assert global_states() == before


def test_answers_do_not_depend_on_global_generators(path: Path) -> None:
    def answers() -> list[tuple[float, ...]]:
        table = read_table(path)
        found = TabularEvaluator(table, seed="sample").evaluate(table.configs(), Fidelity(epochs=3, seed=2))
        drawn = SurrogateEvaluator(Surrogate.fit(table), seed=5).evaluate(table.configs()[:3], Fidelity(epochs=3))
        return [one.heldout_unexplained for one in (*found, *drawn)]

    first = answers()
    with shaken_generators():
        assert answers() == first


def test_the_order_of_dimensions_in_a_file_is_of_no_meaning(path: Path) -> None:
    described = path.with_suffix(".json")
    record = json.loads(described.read_text())
    record["space"] = dict(reversed(record["space"].items()))
    assert list(record["space"]) != list(TABLE.metadata.space)
    described.write_text(json.dumps(record))
    assert read_table(path).configs() == TABLE.configs()


def test_files_are_read_once(path: Path, tmp_path: Path) -> None:
    write_surrogate(Surrogate.fit(TABLE), tmp_path / "surrogate.npz")
    evaluators: list[Any] = [TabularEvaluator.of(path), SurrogateEvaluator.of(tmp_path / "surrogate.npz")]
    for file in tmp_path.iterdir():
        file.unlink()
    for evaluator in evaluators:
        assert all(one.ok for one in evaluator.evaluate(TABLE.configs(), Fidelity(epochs=3)))


def test_a_look_up_takes_no_longer_in_a_larger_table() -> None:
    large = planted_table({**SPACE, "intermediate_size": list(range(64, 3073, 64))}, seeds=(0,), epochs=0)
    assert len(large) > 20 * len(TABLE)
    seconds = []
    for table in (TABLE, large):
        evaluator, configs = TabularEvaluator(table), table.configs()[-36:]
        evaluator.query(configs[0], 0)
        turns = []
        for _ in range(9):
            began = time.perf_counter()
            for config in configs:
                evaluator.query(config, 0)
            turns.append(time.perf_counter() - began)
        seconds.append(min(turns))
    assert seconds[1] < 5 * seconds[0]


def test_neither_network_nor_torch_nor_pandas_is_needed(path: Path) -> None:
    code = f"""
import socket, sys
def refuse(*_, **__): raise AssertionError("a table asked for the network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.core.evaluation import Fidelity
for kind in (TabularEvaluator, SurrogateEvaluator):
    one = kind.of({str(path)!r})
    one.evaluate([one.space.decode(one.space.from_index(0))], Fidelity(epochs=3))
print([name for name in ("torch", "pandas", "pyarrow", "sklearn", "xgboost") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
