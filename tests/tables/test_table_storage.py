"""Tables on disk: a written table is read unchanged, and everything else is refused."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_tables import planted_table

from kdnas_env.errors import TableError
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.tables.storage import checksum, load_table, read_table, table_names, table_path, write_table
from kdnas_env.tables.table import CURVES, LATENCIES, MISSING, STATUSES, LatencyDevice, Table

TABLE = planted_table(noise=0.02)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables with any contents: values of all magnitudes, masks, statuses, devices and texts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    seeds, epochs, devices = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    n = draw(st.integers(0, len(TABLE)))
    reached = rng.integers(0, epochs + 2, (n, seeds))
    valid = np.arange(epochs + 1) < reached[..., None]
    status = rng.integers(0, MISSING + 1, (n, seeds)).astype(np.uint8)
    status[(status == STATUSES.index("ok")) & (reached <= epochs)] = STATUSES.index("diverged")
    status[reached == 0] = MISSING
    status[(status == MISSING) & (reached > 0)] = STATUSES.index("failed")
    curves = (10.0 ** rng.uniform(-37, 37, (n, seeds, epochs + 1, len(CURVES)))).astype(np.float32)
    curves[~valid] = np.nan
    latencies = rng.random((n, devices, len(LATENCIES))).astype(np.float32)
    latencies[rng.random((n, devices)) < 0.3] = np.nan
    meta = replace(
        TABLE.metadata,
        title=draw(st.text(max_size=20)),
        seeds=tuple(rng.choice(2**40, seeds, replace=False).tolist()),
        epochs=epochs,
        devices=tuple(
            LatencyDevice(f"d{k}", draw(st.text(max_size=5)), "torch", threads=k + 1) for k in range(devices)
        ),
        corpus=draw(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(), max_size=3)),
        noise={"tau": [rng.random()]},
    )
    index = np.sort(rng.choice(TABLE.space.size, n, replace=False)).astype(np.int64)
    parameters, size = (rng.integers(1, 2**62, n) for _ in range(2))
    return Table(meta, index, curves, valid, status, parameters, size, latencies)


@given(table=tables())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "any.npz"
    write_table(table, path)
    found = read_table(path)
    assert found.metadata == table.metadata
    for name in Table.ARRAYS:
        ours, theirs = getattr(table, name), getattr(found, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "made.npz"
    write_table(TABLE, made)
    return made


def test_a_table_is_found_by_its_path(path: Path) -> None:
    assert load_table(path).metadata == TABLE.metadata
    assert load_table(str(path)).metadata == TABLE.metadata
    assert table_path(path) == path
    assert checksum(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert TabularEvaluator.of(path).fingerprint == TabularEvaluator(TABLE).fingerprint


def test_equal_tables_are_equal_files(path: Path, tmp_path: Path) -> None:
    write_table(read_table(path), tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def signed(path: Path, data: bytes) -> None:
    """Replace the contents of a table's file, with a matching checksum."""
    path.write_bytes(data)
    change_record(path, sha256=hashlib.sha256(data).hexdigest())


def change_record(path: Path, **changes: Any) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, **changes}))


def arrays(path: Path, **changes: Any) -> bytes:
    with np.load(path) as stored:
        values = {**{name: stored[name] for name in stored.files}, **changes}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: value for name, value in values.items() if value is not None})
    return buffer.getvalue()


class Payload:
    """Creates a file if it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("unpickled"),)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "does not match its checksum"),
        (lambda p: p.write_bytes(b""), "does not match its checksum"),
        (lambda p: p.write_bytes(flipped(p.read_bytes(), 300)), "damaged, truncated or of another table"),
        (lambda p: change_record(p, sha256="0" * 64), "says 000000000000"),
        (lambda p: change_record(p, schema_version=2), "has schema 2, this kdnas reads up to 1; upgrade kdnas"),
        (lambda p: change_record(p, schema_version="new"), "has schema_version 'new'; expected a whole number from 1"),
        (lambda p: change_record(p, schema_version=-1), "has schema_version -1; expected a whole number from 1"),
        (lambda p: change_record(p, schema_version=True), "has schema_version True"),
        (lambda p: change_record(p, schema_version=None), "has schema_version None"),
        (lambda p: change_record(p, seeds=None), "metadata are malformed"),
        (lambda p: change_record(p, devices=[{"nom": "torch"}]), "metadata are malformed"),
        (lambda p: change_record(p, epochs=7), r"curves is float32 .*, expected float32 \(24, 3, 8, 5\)"),
        (lambda p: p.with_suffix(".json").unlink(), "needs both its npz and JSON file"),
        (lambda p: p.with_suffix(".json").write_text("{"), "needs both its npz and JSON file"),
        (lambda p: p.with_suffix(".json").write_text("[]"), "holds list where a JSON object was expected"),
        (lambda p: signed(p, b"no archive"), "cannot be read: .*restore it from a copy"),
        (lambda p: signed(p, p.read_bytes()[:-100]), "cannot be read"),
        (lambda p: signed(p, arrays(p, flops=None)), "not the arrays"),
        (lambda p: signed(p, arrays(p, extra=np.zeros(2))), "'extra.npy'.*not the arrays"),
        (lambda p: signed(p, arrays(p, index=np.array([Payload()] * 24, dtype=object))), "pickle"),
        (lambda p: signed(p, arrays(p, index=np.arange(24)[::-1])), "index is not rising"),
        (lambda p: signed(p, arrays(p, status=np.full((24, 3), 99, np.uint8))), "a code beyond"),
        (lambda p: signed(p, arrays(p, valid=np.zeros((24, 3, 4), bool))), "disagree about which values exist"),
        (lambda p: signed(p, arrays(p, flops=np.zeros(24, np.int32))), "flops is int32"),
    ],
)
def test_what_is_no_table_is_refused(
    damage: Callable[[Path], Any], message: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    damage(path)
    with pytest.raises(TableError, match=message):
        load_table(path)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("member", [pickle.dumps(Payload()), b"\x93NUMPY\x01\x00", b"MZ"])
def test_foreign_members_are_not_run(
    member: bytes, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, member if entry.filename == "index.npy" else old.read(entry))
    signed(path, buffer.getvalue())
    with pytest.raises(TableError, match="cannot be read"):
        load_table(path)
    assert not (tmp_path / "unpickled").exists()


@given(at=st.integers(0), value=st.integers(0, 255))
@example(at=405, value=1)  # an array header on which Python's tokenizer fails
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_an_error_or_harmless_even_if_it_is_signed(at: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / "changed.npz"
    write_table(TABLE, path)
    data = path.read_bytes()
    place = at % len(data)
    signed(path, data[:place] + bytes([value]) + data[place + 1 :])
    try:
        found = load_table(path)
    except TableError:
        return
    # The byte has no effect, such as one of a date: the archive has a checksum of each array.
    for name in Table.ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(TABLE, name), equal_nan=name in ("curves", "latencies"))


@pytest.mark.parametrize("name", ["nobody", "../made", "", "data/nobody.npz", "."])
def test_an_unknown_name(name: str) -> None:
    with pytest.raises(TableError, match="there is no table"):
        load_table(name)


def test_names_are_those_of_the_package() -> None:
    for name in table_names():
        assert load_table(name).metadata.name == name
        assert table_path(name).stem == name


def test_a_table_is_an_npz_file(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"ends in \.npz"):
        write_table(TABLE, tmp_path / "table.zip")
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(TableError, match=r"ends in \.npz"):
        load_table(tmp_path / "table.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": "012"}, "seeds is '012'; expected a list"),
        ({"seeds": [0, 1, float("1e300")]}, "expected a whole number"),
        ({"epochs": "3"}, "epochs is '3'"),
        ({"epochs": -1}, "epochs is -1"),
        ({"seeds": [0, -1, 2]}, r"seeds is \(0, -1, 2\)"),
        ({"seeds": [0, 1, 1]}, r"seeds is \(0, 1, 1\)"),
        ({"devices": [{"name": "a", "machine": "m", "runtime": "torch"}] * 2}, r"devices is \['a', 'a'\]"),
        ({"devices": [{"name": "a"}]}, "missing"),
        ({"devices": [{"name": "../evil", "machine": "m", "runtime": "torch"}]}, "the name of a device is '../evil'"),
        ({"devices": [{"name": "a", "machine": "m", "runtime": "torch", "threads": 0}]}, "threads of device 'a' is 0"),
        ({"architecture": {"family": "bert"}}, "missing"),
        ({"architecture": {**TABLE.metadata.architecture, "hidden_size": "x"}}, "hidden_size is 'x'"),
        ({"space": {"hidden_size": [384, "x"]}}, "a choice of hidden_size is 'x'"),
        ({"space": {f"recipe.{letter}": list(range(10)) for letter in ascii_lowercase}}, "its space has 1000"),
        ({"title": ["x"]}, r"title is \['x'\]"),
    ],
)
def test_metadata_of_other_types_are_refused(changes: dict[str, Any], message: str, path: Path) -> None:
    change_record(path, **changes)
    with pytest.raises(TableError, match=message):
        load_table(path)


def test_a_file_without_a_checksum_is_refused(path: Path) -> None:
    change_record(path, sha256=None)
    with pytest.raises(TableError, match="holds no checksum"):
        checksum(path)


@pytest.mark.parametrize("name", ["a" * 5000, "\x00", "~nobody-at-all/x.npz", "\udcff"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(TableError, match="there is no table"):
        load_table(name)


@pytest.mark.parametrize(
    ("array", "place", "value", "message"),
    [
        ("parameters", 3, -5, "parameters are not positive"),
        ("flops", 3, 0, "flops are not positive"),
        ("index", 0, -1, "index is not rising"),
        ("curves", (2, 1, 3, CURVES.index("heldout_loss")), -0.5, "a loss or seconds below 0"),
        ("curves", (2, 1, 0, CURVES.index("epoch_seconds")), -1, "a loss or seconds below 0"),
        ("curves", (2, 1, 3, CURVES.index("train_loss")), np.inf, "curves and valid disagree"),
        ("curves", (2, 1, 3, CURVES.index("train_loss")), np.nan, "curves and valid disagree"),
        ("status", (2, 1), MISSING, "status is missing where there is a curve"),
        ("latencies", (4, 0, LATENCIES.index("ratio")), 0, "'ratio'.* that is 0"),
        ("latencies", (4, 0, LATENCIES.index("median_ms")), -3, "latencies hold a number below 0"),
        ("latencies", (4, 0, LATENCIES.index("iqr_ms")), np.nan, "neither measured nor NaN"),
        ("latencies", (4, 0, LATENCIES.index("iqr_ms")), np.inf, "neither measured nor NaN"),
    ],
)
def test_numbers_beyond_what_can_be_are_refused(array: str, place: Any, value: float, message: str, path: Path) -> None:
    changed = getattr(TABLE, array).copy()
    changed[place] = value
    with pytest.raises(TableError, match=f"{message}.*restore the file from a copy"):
        replace(TABLE, **{array: changed})
    signed(path, arrays(path, **{array: changed}))
    with pytest.raises(TableError, match=message):
        load_table(path)


def test_a_curve_has_no_holes() -> None:
    curves, valid, status = TABLE.curves.copy(), TABLE.valid.copy(), TABLE.status.copy()
    curves[0, 0, 1], valid[0, 0, 1], status[0, 0] = np.nan, False, STATUSES.index("failed")
    with pytest.raises(TableError, match="has values after a missing epoch"):
        replace(TABLE, curves=curves, valid=valid, status=status)


def test_what_a_table_was_made_from_is_found_again_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is never mistaken for a name on the hub; no absolute path is written."""
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    table = planted_table()
    write_table(replace(table, metadata=replace(table.metadata, teacher="models/teacher")), "table.npz")
    assert read_table("table.npz").metadata.teacher == "models/teacher"
    assert str(tmp_path) not in (tmp_path / "table.json").read_text()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_table("../table.npz").metadata.teacher == str(tmp_path / "models" / "teacher")
    (tmp_path / "models").rename(tmp_path / "gone")
    assert read_table("../table.npz").metadata.teacher == str(tmp_path / "models" / "teacher")
