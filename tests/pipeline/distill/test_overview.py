"""The overview of a task that is shown before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import small_tasks
import tiny_teachers

from kdnas_env.pipeline.distill.products.classifier import overview
from kdnas_env.tasks.own import OwnTask, load_own

TEXTS = tiny_teachers.sentences()


def test_columns_classes_splits_and_what_was_left_out(tmp_path: Path) -> None:
    made: list[dict[str, Any]] = [{"words": TEXTS[at], "mood": ("warm", "cold")[at % 2]} for at in range(60)]
    test = small_tasks.write_rows(tmp_path / "test.csv", made[:8])
    made += [{"words": "alone", "mood": "odd"}, {"words": TEXTS[70], "mood": None}, {"words": " ", "mood": "warm"}]
    path = small_tasks.write_rows(tmp_path / "own.csv", made)
    settings = OwnTask(text_columns=("words",), label_column=("mood",), test_file=str(test), split_seed=3)
    assert overview(load_own(path, settings)) == (
        f"task own: {path}, text 'words', label 'mood'",
        "  classification, 2 classes (samples to train on): 'cold' (23), 'warm' (24)",
        "  splits: train 47 (the rest), validation 5 (drawn, seed 3), test 8 (given), which is scored",
        "  left out: 1 rows of classes with one sample, 1 rows without label, 1 rows without text, "
        "7 train rows that stand in a later split, 1 validation rows that stand in a later split",
    )


def test_duplicates_are_reported(tmp_path: Path) -> None:
    made = [{"text": TEXTS[at], "label": at % 2} for at in range(40)]
    small_tasks.write_rows(tmp_path / "own" / "train.csv", [*made, *made[:2]])
    small_tasks.write_rows(tmp_path / "own" / "test.csv", [{"text": TEXTS[at], "label": at % 2} for at in (50, 51)])
    told = overview(load_own(tmp_path / "own", OwnTask(validation_fraction=0)))
    assert told[3:] == ("  left out: nothing", "  kept: 2 train rows that repeat an earlier one")


def test_numbers_pairs_and_given_splits() -> None:
    task = small_tasks.easy_task("stsb")
    first, kind, splits, left_out = overview(task)
    assert "text 'sentence1' and 'sentence2'" in first
    assert kind.endswith("regression: numbers from 0.5 to 4.5 to train on")
    assert splits == "  splits: train 120, validation 40, which is scored"
    assert left_out.endswith("left out: nothing")
    assert "'a' (" in overview(small_tasks.multi_label_task())[1]
