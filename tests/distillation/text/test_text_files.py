"""Reading text files: rows, columns and errors."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdnas_env.distillation.text.layout import TextLayout
from kdnas_env.distillation.text.text_files import columns_of, read_rows
from kdnas_env.errors import CorpusError


def values(path: Path, *columns: str, **layout: Any) -> list[Any]:
    return [row for _, row in read_rows(path, columns, TextLayout(**layout))]


def texts(path: Path, column: str = "text", **layout: Any) -> list[Any]:
    return [row[0] for row in values(path, column, **layout)]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- tables ---


def test_tabs_are_not_quoted_unless_they_say_so(tmp_path: Path) -> None:
    rows = [f"text {number}" for number in range(300)]
    rows[20], rows[200] = '"an open quote', '"another, which "closes'
    path = written(tmp_path, "c.tsv", "text\tlabel\n" + "".join(f"{row}\t1\n" for row in rows))
    assert texts(path) == rows
    quoted = written(tmp_path, "q.tsv", 'text\tlabel\n"one\ttwo"\t1\n')
    assert texts(quoted, quoted=True) == ["one\ttwo"]
    assert values(written(tmp_path, "c.csv", 'text,label\n"a, b",1\n'), "text", "label") == [("a, b", "1")]
    assert texts(written(tmp_path, "u.csv", 'text,label\n"a,1\n'), quoted=False) == ['"a']


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.text(st.sampled_from('ab",;\r\n\t\u2028 \0é')), min_size=2, max_size=2), min_size=1, max_size=8
    ),
    st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_is_written_as_csv_is_read(tmp_path: Path, rows: list[list[str]], end: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["first", "second"])
    writer.writerows(rows)
    path = written(tmp_path, "c.csv", file.getvalue())
    assert values(path, "first", "second") == [tuple(row) for row in rows]


def test_cells_of_any_length_and_the_limit_of_csv_is_left_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word " * 100_000
    path = written(tmp_path, "c.csv", f'text,label\n"{long}",1\nshort,0\n')
    assert texts(path) == [long, "short"]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.txt", "c.jsonl"])
def test_only_line_feeds_end_a_row(name: str, tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0bfour\rfive"
    row = json.dumps({"text": text}, ensure_ascii=False) if name == "c.jsonl" else text
    header = "" if name in ("c.txt", "c.jsonl") else "text\n"
    assert texts(written(tmp_path, name, f"{header}{row}\r\n{row}\n")) == [text, text]


def test_quotes_within_a_cell_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", 'text,label\n5" of snow,1\n"he said ""no"""!,0\n""\n')
    assert values(path, "text", "label") == [('5" of snow', "1"), ('he said "no"!', "0"), ("", None)]


def test_a_quote_that_nothing_closes_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", 'text\nfine\n"open\nmore\n')
    with pytest.raises(CorpusError, match=r"c\.csv, line 3 has an unclosed quote"):
        texts(path)


def test_other_separators(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", "text;label\na, b;1\n")
    assert texts(path, separator=";") == ["a, b"]
    assert texts(written(tmp_path, "t.csv", 'text\tlabel\n"a\t1\n'), separator="\\t") == ['"a']
    found = columns_of(path, TextLayout())
    assert found is not None
    assert "set separator=';'" in str(found.doubt)


def test_rows_with_more_cells_than_columns_are_told_and_none_is_cut(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", "text,label\na,1\nHello, world,1\n")
    with pytest.raises(CorpusError, match=r"c\.csv, line 3 has 3 cells; expected 2"):
        texts(path)
    assert texts(written(tmp_path, "e.csv", "text,label\na,1,,\n")) == ["a"]


def test_only_the_columns_that_are_used_are_looked_at(tmp_path: Path) -> None:
    rows = [f"text {number},{'' if number == 11_000 else 3}\n" for number in range(12_000)]
    path = written(tmp_path, "c.csv", b"text,rating\n" + "".join(rows).encode() + b"last,\xff\n")
    assert len(texts(path)) == 12_001
    with pytest.raises(CorpusError, match=r"c\.csv, line 12002 contains byte 0xff"):
        texts(path, "rating")
    mixed = written(tmp_path, "c.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": "x"}\n{"text": "c", "n": NaN}\n')
    assert texts(mixed) == ["a", "b", "c"]
    assert math.isnan(texts(mixed, "n")[2])


# --- headers ---


@pytest.mark.parametrize(
    "header",
    ["A film that nobody should miss this year,5", "Great film!,1", "pleasant,1", "one of the best and of the worst"],
)
def test_a_row_that_reads_like_text_is_no_header(header: str, tmp_path: Path) -> None:
    commas = header.count(",")
    path = written(tmp_path, "c.csv", header + "\n" + f"another text{',2' * commas}\n" * 3)
    found = columns_of(path, TextLayout())
    assert found is not None
    assert "looks like text" in str(found.doubt)
    named = columns_of(path, TextLayout(header=True))
    assert named is not None
    assert named.doubt is None
    bare = columns_of(path, TextLayout(header=False))
    assert bare is not None
    assert (bare.names, bare.textual) == (("1", "2")[: commas + 1], ("1",))
    assert texts(path, "1", header=False)[0] == header.partition(",")[0]


@pytest.mark.parametrize("header", ["text,label", "review text,star rating", "0,1", ",text", "id,Text of the review"])
def test_names_are_a_header(header: str, tmp_path: Path) -> None:
    rows = "3,a text\n" if header.startswith((",", "id")) else "a text,3\n"
    found = columns_of(written(tmp_path, "c.csv", f"{header}\n{rows}"), TextLayout())
    assert found is not None
    assert found.doubt is None
    assert len(found.textual) == 1


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="more than one column 'text'"):
        texts(written(tmp_path, "c.csv", "text,text\na,b\n"))


# --- encodings and compressions ---


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.json", "c.txt"])
def test_a_byte_order_mark_tells_the_encoding(name: str, encoding: str, tmp_path: Path) -> None:
    content = {"c.csv": "text,n\nnaïve,1\n", "c.tsv": "text\tn\nnaïve\t1\n", "c.txt": "naïve\n"}
    text = content.get(name, json.dumps({"text": "naïve"}, ensure_ascii=False) + "\n")
    assert texts(written(tmp_path, name, text.encode(encoding))) == ["naïve"]


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", "text\nplain\nna\u00efve\n".encode("latin-1"))
    assert texts(path, encoding="latin-1") == ["plain", "naïve"]
    with pytest.raises(CorpusError, match=r"c\.csv, line 3 contains byte 0xef, which is not valid UTF-8; .*encoding"):
        texts(path)
    with pytest.raises(CorpusError, match="it looks like UTF-16; set its encoding"):
        texts(written(tmp_path, "w.txt", "plain\n".encode("utf-16-le")))
    assert texts(written(tmp_path, "w.txt", "plain\n".encode("utf-16-le")), encoding="utf-16-le") == ["plain"]
    with pytest.raises(CorpusError, match="encoding='latin-99' is unknown"):
        TextLayout(encoding="latin-99")


def zstandard(data: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.compress(data, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", zstandard)],
)
def test_compressed_files(ending: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert texts(written(tmp_path, f"c.csv.{ending}", pack(b"text\na\nb\n"))) == ["a", "b"]
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "c.parquet")
    packed = pack((tmp_path / "c.parquet").read_bytes())
    assert texts(written(tmp_path, f"c.parquet.{ending}", packed)) == ["a", "b"]


def test_a_compressed_file_that_is_cut_short(tmp_path: Path) -> None:
    packed = gzip.compress(("text\n" + "a longer text\n" * 100).encode())
    with pytest.raises(CorpusError, match=r"c\.csv\.gz' cannot be read: EOFError"):
        texts(written(tmp_path, "c.csv.gz", packed[:-12]))


@pytest.mark.parametrize("name", ["c.jsonl", "c.json"])
def test_half_a_character_is_told_with_its_row(name: str, tmp_path: Path) -> None:
    rows = '{"text": "fine \\ud83d\\ude00", "n": "\\udc00"}\n{"text": "half \\ud800"}\n'
    with pytest.raises(
        CorpusError, match=rf"{name}, row 2 contains .ud800, half of a surrogate pair, which cannot be encoded"
    ):
        texts(written(tmp_path, name, rows))


# --- records and documents ---


def test_every_form_of_json(tmp_path: Path) -> None:
    for content in (
        '{"text": "a"}\n\n{"text": "b"}',
        '[{"text": "a"}, {"text": "b"}]',
        '[\n {"text": "a"},\n {"text": "b"}\n]',
        '["a", "b"]',
    ):
        for name in ("c.json", "c.jsonl", "c.ndjson"):
            assert texts(written(tmp_path, name, content)) == ["a", "b"]
    assert texts(written(tmp_path, "one.json", '{\n "text": "a"\n}\n')) == ["a"]


def test_fields_of_fields(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": 1, "inner": {"body": {"text": "a"}, "n": 3}}, {"id": 2, "inner": None}]
    lines = written(tmp_path, "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    for path in (lines, tmp_path / "c.parquet"):
        assert texts(path, "inner.body.text") == ["a", None]
        with pytest.raises(CorpusError, match=r"no column 'inner\.title'; .*'inner\.body\.text'"):
            texts(path, "inner.title")
    dotted = written(tmp_path, "d.jsonl", '{"a.b": "x", "a": {"b": "y"}}\n')
    assert texts(dotted, "a.b") == ["x"]


def test_a_file_as_one_text(tmp_path: Path) -> None:
    path = written(tmp_path, "c.txt", "one\n\ntwo\r\n")
    assert texts(path) == ["one", "", "two"]
    assert texts(path, unit="file") == ["one\n\ntwo\r\n"]


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("c.jsonl", {"separator": ";"}, r"separator=';' is for files that end in \['.csv', '.tsv'\]"),
        ("c.csv", {"unit": "file"}, r"unit='file' is for files that end in \['.txt'\]"),
        ("c.parquet", {"encoding": "latin-1"}, "encoding='latin-1' is for files that end in"),
        ("c.txt", {"header": False}, "header=False is for files"),
    ],
)
def test_options_that_say_nothing_of_a_file(name: str, layout: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=message):
        texts(written(tmp_path, name, '{"text": "a"}\n'), **layout)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"separator": ", "}, "separator=', ' is not one character"),
        ({"separator": '"'}, "is not one character"),
        ({"unit": "page"}, r"unit='page' is not one of \['line', 'file'\]"),
    ],
)
def test_layouts_that_are_none(layout: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        TextLayout(**layout)
