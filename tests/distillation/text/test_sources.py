"""Opening sources, whole and streamed: exact paths, requested splits, and messages about ignored files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdnas_env.distillation.text.layout import TextLayout
from kdnas_env.distillation.text.sources import open_source, open_stream
from kdnas_env.errors import CorpusError


def whole(source: Path, **options: Any) -> list[Any]:
    with open_source(source, **options) as rows:
        return [texts[0] for texts in rows.take(np.arange(len(rows)))]


def streamed(source: Path, **options: Any) -> list[Any]:
    stream = open_stream(source, **options)
    return [texts[0] for texts in stream.texts(stream.rows)]


BOTH = pytest.mark.parametrize("read", [whole, streamed])


def write_lines(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


# --- paths ---


@BOTH
@pytest.mark.parametrize("name", ["reviews[1].txt", "reviews*.txt", "reviews?.txt", "a::b.txt", "train[:50%].txt"])
def test_a_path_is_that_file_and_no_pattern(read: Any, name: str, tmp_path: Path) -> None:
    for other in ("reviews1.txt", "reviews2.txt", "a.txt", "train.txt"):
        write_lines(tmp_path / other, "another")
    assert read(write_lines(tmp_path / name, "this", "one")) == ["this", "one"]


@BOTH
def test_a_folder_is_that_folder_and_no_pattern(read: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "data1" / "a.txt", "another")
    write_lines(tmp_path / "data[1]" / "a[1].txt", "this")
    write_lines(tmp_path / "data[1]" / "inner[x]" / "b.txt", "and this")
    assert sorted(read(tmp_path / "data[1]")) == ["and this", "this"]
    (tmp_path / "data[1]" / "a[1].txt").write_bytes(b"\xff\n")
    with pytest.raises(CorpusError, match=r"data\[1\]/a\[1\]\.txt, line 1 contains byte 0xff"):
        read(tmp_path / "data[1]")


@BOTH
def test_a_link_is_read_by_its_own_name(read: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "blob", "a", "b")
    (tmp_path / "c.txt").symlink_to(tmp_path / "blob")
    assert read(tmp_path / "c.txt") == ["a", "b"]


# --- splits ---


def saved(folder: Path, dictionary: bool) -> Path:
    import datasets

    rows = datasets.Dataset.from_dict({"text": [str(number) for number in range(50)]})
    stored = datasets.DatasetDict({"train": rows, "held-out": rows.select(range(5))}) if dictionary else rows
    stored.save_to_disk(str(folder))
    return folder


@BOTH
@pytest.mark.parametrize("dictionary", [False, True])
def test_parts_of_what_was_saved(read: Any, dictionary: bool, tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", dictionary)
    assert read(folder, split="train[:20%]") == [str(number) for number in range(10)]
    assert read(folder, split="train[-2:]+train[:1]") == ["48", "49", "0"]
    assert len(read(folder)) == 50
    for unknown in ("nonsense", "nonsense[:20%]", "train[", ""):
        with pytest.raises(CorpusError, match=r"has no split .*; it has \[.*'train'\]"):
            read(folder, split=unknown)
    if dictionary:
        assert read(folder, split="held-out") == ["0", "1", "2", "3", "4"]


def test_a_saved_split_goes_by_its_own_name_too(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", "b"]}, split=datasets.Split.TEST)
    rows.save_to_disk(str(tmp_path / "saved"))
    assert whole(tmp_path / "saved", split="test[:1]") == ["a"]
    assert whole(tmp_path / "saved") == ["a", "b"]


def test_splits_of_a_folder(tmp_path: Path) -> None:
    write_lines(tmp_path / "train-0.txt", "a", "b")
    write_lines(tmp_path / "train-1.txt", "c", "d")
    write_lines(tmp_path / "test.txt", "e")
    assert whole(tmp_path) == streamed(tmp_path) == ["a", "b", "c", "d"]
    assert whole(tmp_path, split="test") == streamed(tmp_path, split="test") == ["e"]
    assert whole(tmp_path, split="train[1:3]+test") == ["b", "c", "e"]
    assert sorted(whole(tmp_path, split="all")) == ["a", "b", "c", "d", "e"]
    with pytest.raises(CorpusError, match=r"a stream needs a whole split, not 'train\[1:3\]'"):
        streamed(tmp_path, split="train[1:3]")
    for read in (whole, streamed):
        with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['test', 'train'\]"):
            read(tmp_path, split="dev")
        with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['train'\]"):
            read(tmp_path / "test.txt", split="dev")


# --- ignored files and refused options ---


@BOTH
def test_files_of_no_split_are_told(read: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(tmp_path / "train.txt", "a")
    write_lines(tmp_path / "more.txt", "b")
    write_lines(tmp_path / ".hidden.txt", "c")
    (tmp_path / "README.md").write_text("A corpus.\n")
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path) == ["a"]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("kdnas_env")] == [
        f"corpus folder {str(tmp_path)!r}: these files are in no split, and are not read: more.txt"
    ]


@BOTH
def test_a_folder_in_hub_layout_says_how_its_files_are_laid_out(
    read: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text("text;label\na, b;1\n")
    card = "---\nconfigs:\n- config_name: main\n  {option}\n  data_files: a.csv\n---\n"
    (tmp_path / "README.md").write_text(card.format(option='sep: ";"'))
    assert read(tmp_path) == read(tmp_path, config_name="main") == ["a, b"]
    assert not caplog.records
    (tmp_path / "README.md").write_text(card.format(option="skiprows: 1"))
    with pytest.raises(CorpusError, match="asks for skiprows=1, which kdnas does not support"):
        read(tmp_path)


@BOTH
def test_options_that_say_nothing_of_a_source(read: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "c.txt", "a")
    with pytest.raises(CorpusError, match=r"is a file, to which config_name='x' does not apply"):
        read(tmp_path / "c.txt", config_name="x")
    with pytest.raises(CorpusError, match=r"'x' not found\. Available: .*default"):
        read(tmp_path, config_name="x")
    with pytest.raises(CorpusError, match=r"is a saved dataset, to which separator=';' does not apply"):
        read(saved(tmp_path / "saved", False), layout=TextLayout(separator=";"))


@BOTH
def test_a_table_without_a_header(read: Any, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.csv", "A film that nobody should miss,1", "Dull.,0")
    with pytest.raises(CorpusError, match=r"c\.csv' looks like text, .*header=False"):
        read(path)
    with pytest.raises(CorpusError, match=r"no column 'text'.*header=False"):
        read(path, text_columns="text")
    assert read(path, layout=TextLayout(header=False)) == ["A film that nobody should miss", "Dull."]


@BOTH
def test_a_column_that_only_some_files_have(read: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.csv", "text,n", "one,1")
    write_lines(tmp_path / "b.csv", "title,n", "two,2")
    with pytest.raises(CorpusError, match=r"b\.csv' has no column 'text'; its columns are \['title', 'n'\]"):
        read(tmp_path)


# --- rows ---


@BOTH
def test_text_is_told_from_nothing_and_from_all_else(read: Any, tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a", None, 3, ["b"])))
    assert read(path) == ["a", "", None, None]
    datasets.Dataset.from_dict({"text": ["a", None], "n": [3, None]}).save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "saved") == ["a", ""]
    assert read(tmp_path / "saved", text_columns="n") == [None, ""]


@BOTH
def test_fields_of_fields(read: Any, tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"inner": [{"text": "a"}, {"text": "b"}], "n": [1, 2]})
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_json(str(tmp_path / "c.jsonl"))
    for source in (tmp_path / "saved", tmp_path / "c.jsonl"):
        assert read(source, text_columns="inner.text") == ["a", "b"]


@BOTH
def test_a_folder_of_documents(read: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.txt", "one", "two")
    write_lines(tmp_path / "b.txt", "three")
    assert read(tmp_path) == ["one", "two", "three"]
    assert read(tmp_path, layout=TextLayout(unit="file")) == ["one\ntwo\n", "three\n"]


def test_the_head_of_a_stream_is_its_first_rows(tmp_path: Path) -> None:
    stream = open_stream(write_lines(tmp_path / "c.txt", "a", "b", "c"))
    head = stream.head(2)
    assert (len(head), head.columns, head.take(np.arange(2))) == (2, ("text",), [("a",), ("b",)])
