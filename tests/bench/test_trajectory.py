"""Trajectories are read from a file exactly as they were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pyarrow import parquet

from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.trajectory import COLUMNS, Trajectory, read_trajectories, write_trajectories
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.specs import parse_spec
from kdnas_env.tables.table import STATUSES

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    n = draw(st.integers(0, 5))
    values: dict[str, Any] = {name: draw(arrays.arrays(dtype, n)) for name, dtype in COLUMNS.items()}
    return Trajectory(
        agent=draw(st.text(max_size=8)),
        task=draw(st.text(max_size=8)),
        seed=draw(st.integers(0, 2**40)),
        budget=draw(st.integers(1, 10**6) | st.floats(0.1, 1e6)),
        unit=draw(st.sampled_from(["evaluations", "epochs", "seconds"])),
        workers=draw(st.integers(1, 9)),
        error=draw(st.text(max_size=8)),
        agent_total=draw(st.floats(0, 1e6)),
        wall_seconds=draw(st.floats(0, 1e6)),
        **values,
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(trajectories(), max_size=4), st.dictionaries(st.text(), plain, max_size=2))
def test_what_is_read_is_what_was_written(tmp_path: Path, written: list[Trajectory], metadata: dict[str, Any]) -> None:
    write_trajectories(tmp_path / "all.parquet", written, metadata)
    read, told = read_trajectories(tmp_path / "all.parquet")
    assert read == written
    assert told == metadata
    for one, other in zip(read, written, strict=True):
        np.testing.assert_array_equal(one.agent_seconds, other.agent_seconds)
        assert (one.agent_total, one.wall_seconds) == (other.agent_total, other.wall_seconds)


def test_the_file_reads_as_a_plain_table(tmp_path: Path) -> None:
    write_trajectories(tmp_path / "all.parquet", [small(agent="b"), small(agent="a", seed=7)])
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table["agent"].to_pylist() == ["b", "b", "a", "a"]
    assert table["seed"].to_pylist() == [3, 3, 7, 7]
    assert table["observed"].to_pylist() == [0.25, -1.0] * 2


def test_only_what_was_measured_may_differ() -> None:
    one = small()
    assert one == replace(one, agent_seconds=one.agent_seconds + 1, agent_total=2.0, wall_seconds=3.0)
    assert one != replace(one, observed=one.observed + 1)
    assert one != replace(one, seed=4)
    assert one != 3


def test_statuses_are_told_apart() -> None:
    one = small()
    assert one.ok.tolist() == [True, False]
    assert one.invalid.tolist() == [False, True]


def test_columns_of_another_length_or_dtype_are_refused() -> None:
    with pytest.raises(RunError, match="observed"):
        replace(small(), observed=np.zeros(3))
    floats: Any = np.zeros(2)
    with pytest.raises(RunError, match="epochs"):
        replace(small(), epochs=floats)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    write_trajectories(path, [small()])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match="restore it"):
        read_trajectories(path)
    with pytest.raises(RunError, match=r"none\.parquet"):
        read_trajectories(tmp_path / "none.parquet")


@given(
    st.text(st.characters(exclude_characters=":"), min_size=1),
    st.dictionaries(st.from_regex(r"\A[a-z_]\w{0,5}\Z"), plain, max_size=3),
)
def test_an_agent_is_read_as_it_was_written(name: str, values: dict[str, Any]) -> None:
    if name != name.strip() or any(not key.isidentifier() for key in values):
        return
    spec = AgentSpec(name, values)
    assert AgentSpec.parse(str(spec)) == spec
    assert str(AgentSpec.parse(str(spec))) == str(spec)


def test_settings_as_they_are_typed() -> None:
    assert parse_spec('optuna:sampler=gp,lr=1e-3,deep=true,names=[loss,latency],text="a,b=c"') == (
        "optuna",
        {"sampler": "gp", "lr": 1e-3, "deep": True, "names": ["loss", "latency"], "text": "a,b=c"},
    )
    assert str(AgentSpec.parse("optuna: sampler = gp ,pruner=none")) == "optuna:pruner=none,sampler=gp"


@pytest.mark.parametrize("text", ["", ":a=1", "optuna:sampler", "optuna:a=1,a=2", "optuna:a=[1", "optuna:a b=1"])
def test_malformed_settings_are_refused(text: str) -> None:
    with pytest.raises(KDNASError):
        AgentSpec.parse(text)


def small(**changes: Any) -> Trajectory:
    rows = [
        dict.fromkeys(COLUMNS, 0) | {"observed": 0.25},
        dict.fromkeys(COLUMNS, 1) | {"observed": -1.0, "status": STATUSES.index("invalid")},
    ]
    run = {"agent": "a", "task": "t", "seed": 3, "budget": 2, "unit": "evaluations", "workers": 1}
    return Trajectory.of_rows(rows, **{**run, **changes})


@pytest.mark.parametrize(
    "record",
    [
        "[" * 100_000,
        "[]",
        "{}",
        '{"schema_version": 2, "runs": 3, "metadata": {}}',
        '{"schema_version": 2, "runs": [["a", "t", 3, 2, "evaluations", 1, "", 0.0, 0.0, 1e999]], "metadata": {}}',
        '{"schema_version": 2, "runs": [["a", "t", 3, 2, "evaluations", 1, "", 0.0, 0.0, 3], '
        '["a", "t", 3, 2, "evaluations", 1, "", 0.0, 0.0, -1]], "metadata": {}}',
        '{"schema_version": 2, "runs": [[5, "t", 3, 2, "evaluations", 1, "", 0.0, 0.0, 2]], "metadata": {}}',
        '{"schema_version": 2, "runs": [["a", "t", -3, 2, "evaluations", 1, "", 0.0, 0.0, 2]], "metadata": {}}',
        '{"schema_version": 2, "runs": [["a", "t", 3, "2", "evaluations", 1, "", 0.0, 0.0, 2]], "metadata": {}}',
        '{"schema_version": 2, "runs": [["a", "t", 3, 2, "evaluations", 0, "", 0.0, 0.0, 2]], "metadata": {}}',
        '{"schema_version": 2, "runs": [["a", "t", 3, 2, "evaluations", 1, "", 0.0, 0.0, 2]], "metadata": []}',
    ],
)
def test_records_of_other_types_are_refused(record: str, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    write_trajectories(path, [small()])
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({b"kdnas": record.encode()}), path)
    with pytest.raises(RunError, match="cannot be read as trajectories"):
        read_trajectories(path)
