"""The journal of an asynchronous search: incomplete last lines are ignored, damaged lines are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from troubled import CONFIGS, SPACE

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.errors import RunError
from kdnas_env.evaluators.planted import PlantedEvaluator
from kdnas_env.searching.journal import ASKED, TOLD, Entry, Journal, read_entries

EVALUATION = PlantedEvaluator(SPACE).evaluate(CONFIGS[:1], Fidelity())[0]

entries = st.builds(
    Entry,
    st.sampled_from([ASKED, TOLD]),
    st.lists(st.integers(0, 20), min_size=1, max_size=6).map(tuple),
    st.sampled_from([None, EVALUATION]),
)


@given(st.lists(entries, max_size=6), st.integers(0, 10_000))
def test_what_was_written_is_read_again_up_to_where_the_power_was_cut(
    tmp_path_factory: pytest.TempPathFactory, written: list[Entry], cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    ends = [0]
    with Journal(path) as journal:
        assert journal.entries == []
        for entry in written:
            journal.write(entry)
            ends.append(path.stat().st_size)
    path.write_bytes(path.read_bytes()[:cut])
    whole = [entry for entry, end in zip(written, ends[1:], strict=True) if end <= cut]
    with Journal(path) as journal:
        assert journal.entries == whole
        journal.write(Entry(ASKED, (1,)))
    with Journal(path) as journal:
        assert journal.entries == [*whole, Entry(ASKED, (1,))]


def test_whoever_only_reads_takes_nothing_from_the_one_who_writes(tmp_path: Path) -> None:
    """Regression test: a reader once removed a line that was only partly written."""
    path = tmp_path / "journal.jsonl"
    first, second = Entry(ASKED, (1, 2)), Entry(TOLD, (1, 2), EVALUATION)
    with Journal(path) as journal:
        journal.write(first)
        line = second.to_json().encode() + b"\n"
        journal._file.write(line[:9])
        assert read_entries(path) == [first]
        journal._file.write(line[9:])
        assert read_entries(path) == [first, second]


@pytest.mark.parametrize(
    "line",
    [
        *("", "{}", "[]", "3", "nonsense", "[" * 100_000),
        *('{"asked": 3}', '{"asked": ["a"]}', '{"asked": [1.5]}', '{"asked": [true]}'),
        *('{"asked": [1], "told": [1]}', '{"told": [1], "evaluation": {}}'),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(Entry(ASKED, (1, 2)).to_json() + "\n" + line + "\n")
    with pytest.raises(RunError, match=r"line 2 of the journal .* is damaged"):
        Journal(path)
    with pytest.raises(RunError, match=r"line 2 of the journal .* is damaged"):
        read_entries(path)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be opened"):
        Journal(tmp_path / "nowhere" / "journal.jsonl")
    with pytest.raises(RunError, match="cannot be read"):
        read_entries(tmp_path / "nowhere" / "journal.jsonl")


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal._file.close()
        journal._file = full.open("ab", buffering=0)
        with pytest.raises(RunError, match="free some space"):
            journal.write(Entry(ASKED, (1,)))
