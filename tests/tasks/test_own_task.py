"""A user's own task: every format and kind of label, dropped and counted rows, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import tiny_teachers

from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import CorpusError, KDNASError
from kdnas_env.tasks.data import check_task, load_task, read_unlabelled
from kdnas_env.tasks.finetuning import FinetuneSettings, finetune
from kdnas_env.tasks.own import OwnTask, load_own
from kdnas_env.tasks.probing import linear_probe
from kdnas_env.tasks.scores import majority_class
from kdnas_env.tasks.specs import TaskSpec

TEXTS = tiny_teachers.sentences()


def rows(label: Callable[[int], Any], count: int = 100, start: int = 0) -> list[dict[str, Any]]:
    """Return sentences, each labelled by a function of its index."""
    return [{"text": TEXTS[index], "label": label(index)} for index in range(start, start + count)]


def write(path: Path, label: Callable[[int], Any], count: int = 100, start: int = 0) -> Path:
    return small_tasks.write_rows(path, rows(label, count, start))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("label", "names"),
    [
        (lambda index: ("warm", "cold")[index % 2], ("cold", "warm")),
        (lambda index: index % 3 + 1, ("1", "2", "3")),
        (lambda index: 9 + index % 2, ("9", "10")),
        (lambda index: index % 2 == 0, ("false", "true")),
        (lambda index: float(index % 2), ("0", "1")),
    ],
    ids=["names", "numbers", "size", "booleans", "whole floats"],
)
def test_classes_in_every_format(ending: str, label: Callable[[int], Any], names: Any, tmp_path: Path) -> None:
    task = load_task(str(write(tmp_path / f"my.task.{ending}", label)))
    assert (task.name, task.spec.kind, task.spec.labels) == ("my", "classification", names)
    written = {TEXTS[index]: str(label(index)).lower().removesuffix(".0") for index in range(100)}
    for split in (task.train, *task.evaluation.values()):
        assert [written[text] for text in split.texts[0]] == [names[number] for number in split.labels]
    assert [len(split) for split in task.evaluation.values()] in ([10, 10], [9, 9])  # whole samples of each class
    assert task.spec.scored == ("test",)


def test_drawn_splits_are_recorded_stratified_and_follow_their_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "my.csv", lambda index: "rare" if index % 5 == 0 else "common")
    first, again, other = (load_own(path, OwnTask(split_seed=seed)) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.describe()["drawn"]["test"] == {"fraction": 0.1, "seed": 0, "samples": 10}
    assert [np.bincount(split.labels).tolist() for split in first.evaluation.values()] == [[8, 2], [8, 2]]
    texts = [text for split in (first.train, *first.evaluation.values()) for text in split.texts[0]]
    assert sorted(texts) == sorted(TEXTS[:100])
    none = load_own(path, OwnTask(test_fraction=0))
    assert none.spec.scored == ("validation",)


def test_a_folder_of_split_files_and_files_named_apart(tmp_path: Path) -> None:
    def parity(index: int) -> int:
        return index % 2

    folder = tmp_path / "folder"
    write(folder / "train.csv", parity)
    write(folder / "dev.csv", parity, 20, 100)
    test = write(folder / "test.csv", parity, 30, 120)
    task = load_task(str(folder))
    assert (task.name, len(task.train)) == ("folder", 100)
    assert task.evaluation["validation"].texts[0] == TEXTS[100:120]
    assert task.evaluation["test"].texts[0] == TEXTS[120:150]
    apart = load_own(folder / "train.csv", OwnTask(test_file=str(test), validation_file=str(folder / "dev.csv")))
    assert apart.evaluation["test"].texts == task.evaluation["test"].texts
    named = load_own(folder, OwnTask(validation_split="test", test_split="validation"))
    assert named.evaluation["test"].texts[0] == TEXTS[100:120]
    with pytest.raises(CorpusError, match=r"no split 'nothing'; the task has \['train', .*check test_split"):
        load_own(folder, OwnTask(test_split="nothing"))
    with pytest.raises(CorpusError, match=r"no split 'nothing'; it has .*train_split"):
        load_own(folder, OwnTask(train_split="nothing"))


def test_a_dataset_of_datasets_knows_the_names_of_its_classes(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant"])})
    labels = [index % 2 if index else -1 for index in range(60)]
    Dataset.from_dict({"text": TEXTS[:60], "label": labels}, features).save_to_disk(str(tmp_path / "saved"))
    task = load_task(str(tmp_path / "saved"))
    assert task.spec.labels == ("zebra", "ant")
    assert task.preparation["dropped"]["rows_without_label"] == 1


def test_several_classes(tmp_path: Path, tiny_teacher_dirs: dict[str, Path]) -> None:
    topics = ("critics", "film", "us")
    listed: list[dict[str, Any]] = [
        {"text": text, "topics": [topic for topic in topics if topic in text.split()]} for text in TEXTS[:120]
    ]
    columns = [{"text": row["text"], **{topic: int(topic in row["topics"]) for topic in topics}} for row in listed]
    task, same = (
        load_own(small_tasks.write_rows(tmp_path / name, made), OwnTask(label_column=names))
        for name, made, names in (("own.jsonl", listed, ("topics",)), ("own.csv", columns, topics))
    )
    for read in (task, same):
        assert (read.spec.kind, read.spec.labels) == ("multi-label", topics)
        for text, marks in zip(read.train.texts[0], read.train.labels, strict=True):
            assert [int(topic in text.split()) for topic in topics] == marks.tolist()
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    settings = FinetuneSettings(learning_rate=3e-3, epochs=8, batch_size=8, device="cpu")
    tuned = finetune(teacher.model, teacher.tokenizer, task, settings)
    probed = linear_probe(teacher.model, teacher.tokenizer, task, device="cpu")
    assert set(tuned.reported["test"]) == {"accuracy"}
    assert majority_class(task).score == 0
    for score in (tuned, probed):
        low, high = score.intervals["test"]["f1_macro"]
        assert low <= score.score <= high
        assert score.score > 0.3


def test_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "own.csv", lambda index: index / 8)
    task = load_own(path, OwnTask())
    assert (task.spec.kind, task.spec.metrics) == ("regression", ("pearson", "spearman"))
    assert task.train.labels.dtype == np.float64
    whole = write(tmp_path / "whole.csv", lambda index: index % 7)
    assert load_own(whole, OwnTask(kind="regression")).spec.regression
    assert len(load_own(whole, OwnTask()).spec.labels) == 7


def test_pairs(tmp_path: Path) -> None:
    made = [{"first": TEXTS[at], "second": TEXTS[-at - 1], "same": at % 2} for at in range(50)]
    path = small_tasks.write_rows(tmp_path / "own.jsonl", made)
    task = load_own(path, OwnTask(text_columns=("first", "second"), label_column=("same",)))
    assert len(task.train.texts) == 2
    assert task.spec.columns == ("first", "second")


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    """Dropped: empty cells, a class with one sample, and texts in two splits, even in different case."""
    made = rows(lambda index: ("no", "yes")[index % 2], 60)
    made[3]["label"], made[4]["text"], made[5]["label"] = "", " ", "alone"
    folder = tmp_path / "own"
    small_tasks.write_rows(folder / "train.csv", made)
    small_tasks.write_rows(folder / "validation.csv", [{"text": TEXTS[10].upper(), "label": "no"}, *made[70:], made[5]])
    small_tasks.write_rows(
        folder / "test.csv", [{"text": TEXTS[20], "label": "no"}, {"text": TEXTS[99], "label": "no"}]
    )
    task = load_task(str(folder))
    assert task.describe()["dropped"] == {
        "rows_of_classes_with_one_sample": 2,
        "rows_without_label": 1,
        "rows_without_text": 1,
        "train_rows_that_stand_in_a_later_split": 2,
        "validation_rows_that_stand_in_a_later_split": 0,
    }
    assert len(task.train) == 60 - 3 - 2
    assert task.spec.labels == ("no", "yes")


def test_texts_to_train_on_that_stand_twice_are_kept_and_counted(tmp_path: Path) -> None:
    folder, made = tmp_path / "own", rows(lambda index: index % 2, 40)
    again = [{**row, "text": row["text"].upper()} for row in made[:3]]
    small_tasks.write_rows(folder / "train.csv", [*made, *again, made[0], {"text": TEXTS[50], "label": ""}])
    write(folder / "validation.csv", lambda index: index % 2, 20, 60)
    task = load_own(folder, OwnTask(test_fraction=0))
    assert len(task.train) == 44
    described = task.describe()
    assert described["train_rows_that_repeat_an_earlier_one"] == 4
    assert described["dropped"]["rows_without_label"] == 1
    assert "skipped_rows" not in described  # "dropped" already counts the skipped rows


def test_a_split_without_labels_is_not_scored(tmp_path: Path) -> None:
    """Some datasets on the hub do not publish the labels of their test split."""
    folder = tmp_path / "own"
    small_tasks.write_rows(folder / "train.jsonl", rows(lambda index: index % 2))
    small_tasks.write_rows(folder / "test.jsonl", rows(lambda index: None, 20, 100))
    task = load_task(str(folder))
    assert len(task.evaluation["test"]) == 10
    with pytest.raises(CorpusError, match="split 'test' holds no row with a text and a label"):
        load_own(folder, OwnTask(test_split="test"))


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (rows(lambda index: "same"), {}, r"has one class in column 'label': \['same'\]; two are needed"),
        (rows(lambda index: f"class {index}"), {}, r"no class in column 'label' has two samples.*kind='regression'"),
        (rows(lambda index: index % 2), {"label_column": ("rating",)}, r"no column 'rating'; its columns are .*label_"),
        (rows(lambda index: index % 2), {"text_columns": ("body",)}, r"no column 'body'; its columns are"),
        ([{"text": text, "mood": 1} for text in TEXTS[:9]], {}, r"cannot tell which column .* label_column"),
        (rows(lambda index: "high"), {"kind": "regression"}, r"own\.jsonl, row 1: the label is 'high'; expected a num"),
        (rows(lambda index: index % 2), {"kind": "multi-label"}, r"label 'label' is not a list"),
        (rows(lambda index: [index % 2]), {"kind": "classification"}, r"label 'label' is a list"),
        (
            rows(lambda index: index),
            {"label_column": ("label", "text")},
            r"no text|label is .*; expected 0 or 1|column",
        ),
        ([{"text": index, "label": index % 2} for index in range(9)], {}, r"cannot tell which column|expected text"),
        (rows(lambda index: index % 2, 4), {}, r"4 samples are too few to draw the split 'test'"),
    ],
)
def test_what_is_wrong_is_told(made: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = small_tasks.write_rows(tmp_path / "own.jsonl", made)
    with pytest.raises(CorpusError, match=message):
        load_own(path, OwnTask(**options))


def test_an_unknown_label_in_a_later_split_is_told(tmp_path: Path) -> None:
    write(tmp_path / "own" / "train.csv", lambda index: ("no", "yes")[index % 2])
    write(tmp_path / "own" / "test.csv", lambda index: "perhaps", 20, 100)
    with pytest.raises(CorpusError, match=r"test\.csv, line 2: label 'perhaps' is not a label .*\['no', 'yes'\]"):
        load_task(str(tmp_path / "own"))


def test_names_and_settings() -> None:
    with pytest.raises(KDNASError, match=r"unknown task 'sst-2'; choose .*'embedding'.*or name a file.*mean 'sst2'"):
        check_task("sst-2")
    check_task("nowhere.csv")
    with pytest.raises(CorpusError, match=r"'nowhere\.csv' does not exist"):
        load_task("nowhere.csv")
    with pytest.raises(KDNASError, match=r"validation_fraction is 0\.5 and test_fraction is 0\.6"):
        OwnTask(validation_fraction=0.5, test_fraction=0.6)
    with pytest.raises(KDNASError, match="test_split and test_file"):
        OwnTask(test_split="a", test_file="b")
    with pytest.raises(KDNASError, match="kind is 'ranking'"):
        OwnTask(kind="ranking")  # type: ignore[arg-type]


def test_unlabelled_text_is_drawn_from_the_columns_of_the_task(tmp_path: Path) -> None:
    made = [{"text": text, "first": text, "second": text[::-1] if index else ""} for index, text in enumerate(TEXTS)]
    path = small_tasks.write_rows(tmp_path / "more.jsonl", made)
    single, pair = (TaskSpec("own", columns) for columns in (("body",), ("first", "second")))
    (texts,) = read_unlabelled(path, single, 1000)
    assert list(texts) == TEXTS
    (drawn,) = read_unlabelled(path, single, 9, seed=1)
    assert len(drawn) == 9
    assert set(drawn) < set(TEXTS)
    first, second = read_unlabelled(path, pair, 1000)
    assert list(first) == TEXTS[1:]
    assert second[0] == TEXTS[1][::-1]
    with pytest.raises(CorpusError, match=r"needs two texts a row, \['a', 'b'\]"):
        read_unlabelled(path, TaskSpec("own", ("a", "b")), 9)
    several = small_tasks.write_rows(tmp_path / "several.csv", [{"title": "one film", "body": "us all"}] * 3)
    with pytest.raises(CorpusError, match=r"without labels '.*' holds the text: .*; call it 'mood' there"):
        read_unlabelled(several, TaskSpec("own", ("mood",)), 9)
