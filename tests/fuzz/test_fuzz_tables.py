"""Corrupt tables, surrogates, latencies, trajectories and stores."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fuzzing import BATCH, fuzz, spoilt_bytes, spoilt_json, survive
from pyarrow import parquet
from small_tables import DEVICE, planted_table

from kdnas_env.bench.leaderboard import verify
from kdnas_env.bench.trajectory import COLUMNS, Trajectory, write_trajectories
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.tables.storage import checksum, read_table, write_table
from kdnas_env.tables.surrogates.storage import load_source, read_surrogate, write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import Table
from kdnas_env.tabulation.latencies import LatencyFile

Arrays = dict[str, Any]

DTYPES = ("float64", "float32", "float16", "int8", "uint64", ">i8", "bool", "complex128", "U3", "S2", "M8[s]", "object")


@cache
def _table() -> Table:
    return planted_table()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz("table")
def test_tables(rng: Random, folder: Path) -> None:
    whole = _saved("table", folder, lambda path: write_table(_table(), path))
    for _ in range(BATCH):
        _spoil_archive(rng, whole, folder / "spoilt.npz")
        survive(_looked_up, folder / "spoilt.npz", told=rng)


@fuzz("surrogate", batch=10)
def test_surrogates(rng: Random, folder: Path) -> None:
    whole = _saved("surrogate", folder, lambda path: write_surrogate(Surrogate.fit(_table()), path))
    for _ in range(10):
        _spoil_archive(rng, whole, folder / "spoilt.npz")
        survive(_predicted, folder / "spoilt.npz", told=rng)


@fuzz("latencies")
def test_latencies(rng: Random, folder: Path) -> None:
    (one,) = PlantedEvaluator(_table().space).evaluate([StudentConfig(3, 4, 384, 3072)], Fidelity(epochs=0))
    assert one.latency is not None
    lines: list[Any] = [asdict(DEVICE), *({"config": one.config.to_dict(), **asdict(one.latency)} for _ in range(2))]
    path = folder / "torch.jsonl"
    for _ in range(BATCH):
        spoilt = rng.randrange(3)
        written = [json.dumps(line).encode() for line in lines]
        written[spoilt] = spoilt_json(rng, lines[spoilt])
        path.write_bytes(b"\n".join(written) + b"\n" * rng.randint(0, 1))
        survive(LatencyFile.read, path, told=written)


@fuzz("trajectories")
def test_trajectories(rng: Random, folder: Path) -> None:
    path, spoilt = folder / "whole.parquet", folder / "spoilt.parquet"
    if not path.exists():
        _write_submission(path)
    whole, table = path.read_bytes(), parquet.read_table(path)
    for _ in range(BATCH):
        if rng.random() < 0.4:
            spoilt.write_bytes(spoilt_bytes(rng, whole))
        else:
            parquet.write_table(_spoilt_columns(rng, table), spoilt)
        survive(verify, spoilt, told=rng)


@fuzz("store file", batch=5)
def test_files_of_stores(rng: Random, folder: Path) -> None:
    path, spoilt = folder / "whole.sqlite", folder / "spoilt.sqlite"
    if not path.exists():
        _write_store(path)
    whole = path.read_bytes()
    for _ in range(5):
        _remove_store(spoilt)
        spoilt.write_bytes(spoilt_bytes(rng, whole))
        survive(_asked, spoilt, told=rng)


@fuzz("store rows", batch=5)
def test_rows_of_stores(rng: Random, folder: Path) -> None:
    path, spoilt = folder / "whole.sqlite", folder / "spoilt.sqlite"
    if not path.exists():
        _write_store(path)
    for _ in range(5):
        _remove_store(spoilt)
        spoilt.write_bytes(path.read_bytes())
        _spoil_rows(rng, spoilt)
        survive(_asked, spoilt, told=rng)


def _saved(name: str, folder: Path, write: Callable[[Path], None]) -> Path:
    path = folder / f"{name}.npz"
    if not path.exists():
        write(path)
    return path


def _spoil_archive(rng: Random, whole: Path, target: Path) -> None:
    """Corrupt an npz file or its JSON file. The checksum mostly matches, so that more of the npz file is read."""
    record, data = json.loads(whole.with_suffix(".json").read_text()), whole.read_bytes()
    kind = rng.randrange(4)
    if kind == 0:
        data = spoilt_bytes(rng, data)
    elif kind == 1:
        data = _spoilt_archive(rng, whole)
    if kind in (0, 1) and rng.random() < 0.9:
        record["sha256"] = hashlib.sha256(data).hexdigest()
    target.write_bytes(data)
    target.with_suffix(".json").write_bytes(spoilt_json(rng, record) if kind > 1 else json.dumps(record).encode())


@cache
def _arrays_of(whole: Path) -> Arrays:
    with np.load(whole) as file:
        return dict(file)


def _spoilt_archive(rng: Random, whole: Path) -> bytes:
    arrays = dict(_arrays_of(whole))
    name = rng.choice(list(arrays))
    with np.errstate(all="ignore"):
        arrays[name] = _spoilt_array(rng, arrays[name])
    if rng.random() < 0.1:
        arrays.pop(rng.choice(list(arrays)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, array in arrays.items():
            header = io.BytesIO()
            np.lib.format.write_array(header, np.asanyarray(array), allow_pickle=True)
            content = header.getvalue()
            if key == name and rng.random() < 0.4:
                content = spoilt_bytes(rng, content[:128]) + content[128:]
            archive.writestr(rng.choice((f"{key}.npy",) * 9 + (key, f"../{key}.npy")), content)
    return buffer.getvalue()


def _spoilt_array(rng: Random, array: Any) -> Any:
    kind = rng.randrange(6)
    if kind == 0:
        try:
            return array.astype(rng.choice(DTYPES))
        except (TypeError, ValueError):
            return np.array([{}, None], dtype=object)
    if kind == 1:
        return array[..., None] if rng.random() < 0.5 else array.ravel()
    if kind == 2:
        return array[: rng.randint(0, len(array))] if array.ndim else array
    if kind == 3 and array.size:
        changed = array.copy()
        changed.flat[rng.randrange(array.size)] = rng.choice((0, 1, 255 if array.dtype == np.uint8 else -1))
        return changed
    if kind == 4 and array.size and array.dtype.kind == "f":
        changed = array.copy()
        changed.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, 1e38, -1e-30))
        return changed
    return np.repeat(array, 2, axis=0) if array.ndim else array


def _looked_up(path: Path) -> None:
    checksum(path)
    table = read_table(path)
    reward = KDReward()
    evaluator = TabularEvaluator(table, "mean", missing="failed")
    for one in evaluator.evaluate(table.configs()[:2], Fidelity(epochs=table.metadata.epochs)):
        reward(one)
    assert 0 <= table.complete <= 1


def _predicted(path: Path) -> None:
    load_source(path)
    surrogate = read_surrogate(path)
    config = SearchSpace.from_dict({"num_hidden_layers": [3, 6]}, PLANTED_TEACHER).decode([0])
    surrogate.features([config], extrapolate=True)


def _write_submission(path: Path) -> None:
    columns: Arrays = {name: np.arange(3).astype(dtype) for name, dtype in COLUMNS.items()}
    runs = [
        Trajectory(agent="random", task="nowhere.npz", seed=seed, budget=3, unit="evaluations", workers=1, **columns)
        for seed in range(2)
    ]
    told = {"kind": "kdnas submission", "agent": "random", "tables": {"nowhere.npz": "0" * 64}, "versions": {}}
    write_trajectories(path, runs, told)


def _spoilt_columns(rng: Random, table: pa.Table) -> pa.Table:
    if rng.random() < 0.5:
        record = json.loads(table.schema.metadata[b"kdnas"])
        return table.replace_schema_metadata({b"kdnas": spoilt_json(rng, record)})
    name = rng.choice(list(COLUMNS))
    place = table.schema.get_field_index(name)
    odd: Any = rng.choice(([None] * 6, ["x"] * 6, [[1]] * 6, [b"\xff"] * 6, [1.5] * 6, [{"a": 1}] * 6, [2**62] * 6))
    return table.set_column(place, name, pa.array(odd)) if rng.random() < 0.9 else table.remove_column(place)


def _write_store(path: Path) -> None:
    space = _table().space
    with StoredEvaluator(PlantedEvaluator(space), path) as store:
        store.evaluate([space.decode(space.from_index(index)) for index in range(4)], Fidelity())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()


def _remove_store(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _spoil_rows(rng: Random, path: Path) -> None:
    connection = sqlite3.connect(path)
    (text,) = connection.execute("SELECT evaluation FROM evaluations WHERE id = 1").fetchone()
    kind = rng.randrange(4)
    if kind == 0:
        spoilt = spoilt_json(rng, json.loads(text))
        value: Any = spoilt if rng.random() < 0.3 else spoilt.decode("utf-8", "replace")
        connection.execute("UPDATE evaluations SET evaluation = ? WHERE id = 1", (value,))
    elif kind == 1:
        name, value = rng.choice(("evaluation", "status", "config")), rng.choice((5, 1.5, b"\xff\xfe", "x", ""))
        connection.execute(f"UPDATE evaluations SET {name} = ? WHERE id = 1", (value,))
    elif kind == 2:
        value = rng.choice((None, 5, "²", "x" * 10, "9" * 5000, b"1", "2", "-1"))
        connection.execute("CREATE TABLE other (key, value)")
        connection.execute("INSERT INTO other SELECT key, value FROM meta")
        connection.execute("DROP TABLE meta")
        connection.execute("ALTER TABLE other RENAME TO meta")
        key = rng.choice(("schema_version", "application"))
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    else:
        connection.execute(
            rng.choice(
                (
                    "DROP TABLE evaluations",
                    "ALTER TABLE evaluations DROP COLUMN created_at",
                    "CREATE TRIGGER gone AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
                    "UPDATE evaluations SET evaluation = CAST(x'ff00ff' AS TEXT)",
                    "UPDATE evaluations SET workload = 'x'",
                    "DELETE FROM meta",
                    "ALTER TABLE meta RENAME COLUMN value TO values_",
                )
            )
        )
    connection.commit()
    connection.close()


def _asked(path: Path) -> None:
    space = _table().space
    told: list[Any] = [space.decode(space.from_index(index)) for index in range(5)]
    with StoredEvaluator(PlantedEvaluator(space), path, timeout=0.1) as store:
        store.evaluate(told, Fidelity())
        store.records()
        store.count()
