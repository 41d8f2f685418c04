from __future__ import annotations

import gc
import json
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny_teachers

from kdnas_env.distillation.training.stream import StreamedSamples, head_corpus
from kdnas_env.errors import CorpusError


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_teachers.build_tokenizer("bert")


def stream(source: Path, tokenizer: Any, **options: Any) -> StreamedSamples:
    return StreamedSamples(str(source), tokenizer, **{"batch_size": 8, "max_length": 40, **options})


def texts(samples: Any, tokenizer: Any) -> list[str]:
    return [" ".join(tokenizer.convert_ids_to_tokens(sample.ids)[1:-1]) for sample in samples]


def test_a_stream_gives_every_row_but_the_skipped_and_then_begins_again(tiny_corpus_file: Path, tokenizer: Any) -> None:
    rows = tiny_teachers.sentences()
    seen = texts(islice(stream(tiny_corpus_file, tokenizer, skip=18), 2 * 192), tokenizer)
    assert sorted(seen[:192]) == sorted(seen[192:]) == sorted(rows[18:])
    assert seen[:192] != seen[192:]


def test_equal_streams_are_equal_and_other_seeds_give_other_orders(tiny_corpus_file: Path, tokenizer: Any) -> None:
    one, same, other = (
        texts(islice(stream(tiny_corpus_file, tokenizer, seed=seed), 100), tokenizer) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_samples_of_a_batch_are_of_similar_length(tiny_corpus_file: Path, tokenizer: Any) -> None:
    lengths = [len(sample.ids) for sample in islice(stream(tiny_corpus_file, tokenizer), 208)]
    spreads = [max(part) - min(part) for part in (lengths[at : at + 8] for at in range(0, 208, 8))]
    assert sum(spreads) / len(spreads) < 0.3 * (max(lengths) - min(lengths))


def test_pairs_have_two_segments(tiny_corpus_file: Path, tokenizer: Any) -> None:
    samples = list(islice(stream(tiny_corpus_file, tokenizer, pair_fraction=0.5), 64))
    pairs = [sample for sample in samples if sample.segments is not None and sample.segments.any()]
    assert 15 < len(pairs) < 50
    assert not any(sample.segments.any() for sample in stream_head(tiny_corpus_file, tokenizer))


def stream_head(source: Path, tokenizer: Any) -> Any:
    return islice(stream(source, tokenizer), 32)


def test_rows_without_text_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": text} for text in ("the actor", None, "  ", "critics", "")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(texts(islice(stream(path, tokenizer), 20), tokenizer)) == {"the actor", "critics"}


def test_texts_to_leave_out_are_not_streamed(tiny_corpus_file: Path, tokenizer: Any) -> None:
    rows = tiny_teachers.sentences()
    seen = texts(islice(stream(tiny_corpus_file, tokenizer, without=[row.lower() for row in rows[9:]]), 60), tokenizer)
    assert set(seen) == set(rows[:9])


def test_a_stream_with_nothing_beyond_its_head_is_an_error(tiny_corpus_file: Path, tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match="has no text besides the first rows"):
        next(iter(stream(tiny_corpus_file, tokenizer, skip=210)))


@pytest.mark.parametrize("kind", ["csv", "txt", "parquet", "saved", "folder"])
def test_every_kind_of_source_can_be_streamed(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    from datasets import Dataset

    rows = tiny_teachers.sentences()[:40]
    data = Dataset.from_dict({"text": rows})
    source = tmp_path / f"rows.{kind}"
    if kind == "txt":
        source.write_text("\n".join(rows))
    elif kind == "saved":
        data.save_to_disk(str(source))
    elif kind == "folder":
        source.mkdir()
        data.to_parquet(str(source / "train.parquet"))
    else:
        getattr(data, f"to_{kind}")(str(source))
    with warnings.catch_warnings():
        # datasets streams CSV files with pandas, which leaves a file open until garbage collection.
        warnings.simplefilter("ignore", ResourceWarning)
        read = texts(islice(stream(source, tokenizer), 40), tokenizer)
        gc.collect()
    assert sorted(read) == sorted(rows)


def test_the_head_is_a_corpus_of_the_first_rows(tiny_corpus_file: Path, tokenizer: Any) -> None:
    corpus = head_corpus(str(tiny_corpus_file), tokenizer, rows=60, proxy_fraction=1.0, max_length=40)
    assert len(corpus) == 60
    assert corpus.report.source == str(tiny_corpus_file)
    first = texts([type("S", (), {"ids": corpus.input_ids[: corpus.offsets[1]]})], tokenizer)
    assert first == tiny_teachers.sentences()[:1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jsonl", "nowhere.jsonl' does not exist"),
        ("rows.doc", "has an unknown file type"),
        ("kdnas-no-such-owner/no-such-dataset", "no such file or folder"),
    ],
)
def test_sources_that_cannot_be_read(source: str, message: str, tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "rows.doc").write_text("text")
    place = source if "/" in source else tmp_path / source
    with pytest.raises(CorpusError, match=message):
        StreamedSamples(str(place), tokenizer, batch_size=8)


def test_a_head_that_is_too_short_names_the_source(tiny_corpus_file: Path, tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=f"corpus '{tiny_corpus_file}' is shorter than one batch"):
        head_corpus(str(tiny_corpus_file), tokenizer, rows=20)
