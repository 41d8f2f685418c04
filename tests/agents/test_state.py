from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdnas_env.agents.state import read_state, write_state
from kdnas_env.errors import RunError

STATE: dict[str, Any] = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "nothing": np.empty((0, 4), dtype=np.int64),
    "flags": np.array([True, False]),
    "rng": np.random.default_rng(0).bit_generator.state,
    "absent": None,
    "missing": float("nan"),
    "name": "größer",
}


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, STATE)
    again = read_state(path)
    assert again.keys() == STATE.keys()
    for name in ("weights", "nothing", "flags"):
        np.testing.assert_array_equal(again[name], STATE[name], strict=True)
    assert {name: again[name] for name in ("rng", "absent", "name")} == {
        name: STATE[name] for name in ("rng", "absent", "name")
    }
    assert np.isnan(again["missing"])
    assert os.listdir(tmp_path) == ["state"]


def test_what_needs_a_pickle_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_state(tmp_path / "state", {"thing": object()})
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    write_state(path, {"round": 1})

    def full_disk(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(RunError, match=r"state' cannot be written: .*No space left on device"):
        write_state(path, {"round": 2})
    assert read_state(path) == {"round": 1}
    assert os.listdir(tmp_path) == ["state"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/state' cannot be written"):
        write_state(tmp_path / "nowhere" / "state", {})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half a zip", b"text", b"\x80\x04]."])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(RunError, match="cannot be read as the saved state of an agent"):
        read_state(path)


def test_arrays_of_other_programs_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    np.save(tmp_path / "other.npy", np.zeros(2))
    np.savez(tmp_path / "pickled.npz", json=np.array([{}], dtype=object))
    for name in ("other.npz", "other.npy", "pickled.npz", "absent.npz"):
        with pytest.raises(RunError, match=f"{name}' cannot be read as the saved state of an agent"):
            read_state(tmp_path / name)


def test_a_state_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(path, STATE)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="cannot be read"):
            read_state(path)


def _zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _zipped(json=b"{}"),
        _zipped(**{"json.npy": b"no array"}),
        _zipped(**{"json.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((("}),
        _zipped(**{"bomb.npy": bytes(1 << 20), "json.npy": b""}).replace((1 << 20).to_bytes(4, "little"), b"\xff" * 4),
    ],
)
def test_archives_of_something_else_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(RunError, match="cannot be read as the saved state of an agent"):
        read_state(tmp_path / "state")


@pytest.mark.parametrize("text", [b"[]", b"3", b"[" * 100_000, b"{", b"\xff"])
def test_plain_parts_of_something_else_are_refused(text: bytes, tmp_path: Path) -> None:
    np.savez(tmp_path / "state.npz", json=np.frombuffer(text, dtype=np.uint8))
    with pytest.raises(RunError, match="cannot be read as the saved state of an agent"):
        read_state(tmp_path / "state.npz")


def test_a_member_that_names_another_folder_writes_nothing(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write_state(inner / "state", {"a": np.zeros(2)})
    with zipfile.ZipFile(inner / "state", "a") as archive:
        archive.writestr("../evil.npy", archive.read("a.npy"))
    assert set(read_state(inner / "state")) == {"a", "../evil"}
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
