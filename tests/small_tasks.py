"""All nine tasks with a few rows, written in both of GLUE's layouts, and a tiny distilled student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tiny_teachers

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.tasks.specs import GLUE_TASKS, TASKS, Split, TaskData, TaskSpec

TRAIN_ROWS, EVALUATION_ROWS = 24, 12
TINY_STUDENT = StudentConfig(2, 2, 16, 32, "gelu", "bert")

PAIR = ("sentence1", "sentence2")
HEADERS = {
    "CoLA": [],
    "SST-2": ["sentence", "label"],
    "MRPC": ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "STS-B": [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ],
    "QQP": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "MNLI": ["index", "promptID", "pairID", "genre", "sentence1", "sentence2", "label1", "gold_label"],
    "QNLI": ["index", "question", "sentence", "label"],
    "RTE": ["index", "sentence1", "sentence2", "label"],
    "WNLI": ["index", "sentence1", "sentence2", "label"],
}


def rows(spec: TaskSpec, split: str) -> list[dict[str, Any]]:
    """Return rows of the tiny teachers' sentences; the verb decides the label. One text contains an open quote."""
    texts = tiny_teachers.sentences()
    count = TRAIN_ROWS if split == "train" else EVALUATION_ROWS
    start = {"train": 0, "validation": 40, "validation_matched": 40, "validation_mismatched": 80}[split]
    made = []
    for index in range(start, start + count):
        first, second = texts[index], texts[(7 * index + 3) % len(texts)]
        values = [first, second][: len(spec.columns)]
        if index == start:
            values[0] = f'" {values[0]}'
        group = index // 5
        label = float(group % 6) if spec.regression else group % len(spec.labels)
        made.append({**dict(zip(spec.columns, values, strict=True)), "label": label, "idx": index})
    return made


def write_rows(path: Path, written: list[dict[str, Any]]) -> Path:
    """Write rows as parquet, jsonl or csv, by the suffix of the path."""
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(written), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in written), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(written[0]))
            writer.writeheader()
            writer.writerows(written)
    return path


def named_spec(labels: tuple[str, ...]) -> TaskSpec:
    """Return a custom task with these class names, a validation split and a test split."""
    return TaskSpec("own", ("text",), labels=labels, splits=("validation", "test"), scored=("test",))


def easy_task(
    name: str = "rotten_tomatoes", samples: int = 120, seed: int = 0, spec: TaskSpec | None = None
) -> TaskData:
    """Return a task that words solve: texts contain "critics" (label 1) or "us all"; pairs contain a text twice."""
    rng = np.random.default_rng(seed)
    spec = spec or TASKS[name]

    def split(count: int) -> Split:
        labels = rng.integers(2, size=count)
        subjects = rng.choice(["the actor", "this film", "her script", "the music"], size=count)
        texts = [
            f"{who} surprises {('us all', 'critics')[label]} ." for who, label in zip(subjects, labels, strict=True)
        ]
        columns = tuple(texts for _ in spec.columns)
        values = 4.0 * labels + 0.5 if spec.regression else labels
        return Split(columns, values.astype(np.float64 if spec.regression else np.int64))

    return TaskData(spec, split(samples), {name: split(40) for name in spec.splits}, "made up")


MULTI = TaskSpec("own", ("text",), ("f1_macro",), ("a", "b"), ("validation", "test"), ("test",), multi_label=True)


def multi_label_task(samples: int = 120) -> TaskData:
    """Return a task with two classes: texts with "critics", and texts with "film" or "music"."""

    def labelled(split: Split) -> Split:
        marks = [["critics" in text, "film" in text or "music" in text] for text in split.texts[0]]
        return Split(split.texts, np.array(marks, dtype=np.int64))

    easy = easy_task(samples=samples)
    return TaskData(MULTI, labelled(easy.train), {name: labelled(split) for name, split in easy.evaluation.items()}, "")


def write_hub_layout(root: Path, endings: tuple[str, ...] = ("parquet", "jsonl", "csv")) -> Path:
    """Write all tasks in the layout of the hub, alternating between file types."""
    for number, name in enumerate(GLUE_TASKS):
        spec = TASKS[name]
        for split in ("train", *spec.splits):
            ending = endings[number % len(endings)]
            write_rows(root / name / f"{split}-00000-of-00001.{ending}", rows(spec, split))
    return root


def write_original_layout(root: Path) -> Path:
    """Write all tasks in the layout of the GLUE archive."""
    for name in GLUE_TASKS:
        spec = TASKS[name]
        (root / spec.folder).mkdir(parents=True)
        for split, file in zip(("train", *spec.splits), ("train", *spec.files), strict=True):
            lines = list(_original_lines(spec, rows(spec, split)))
            path = root / spec.folder / f"{file}.tsv"
            # The archive's MRPC begins with a byte-order mark.
            path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig" if name == "mrpc" else "utf-8")
    return root


def _original_lines(spec: TaskSpec, written: list[dict[str, Any]]) -> Iterator[str]:
    header = HEADERS[spec.folder]
    if header:
        yield "\t".join(header)
    for row in written:
        texts = [row[column] for column in spec.columns]
        label = str(row["label"])
        if spec.name in ("mnli", "qnli", "rte"):
            label = spec.labels[row["label"]]
        if not header:
            yield "\t".join(["gj04", label, "", texts[0]])
            continue
        values: dict[str, Any] = dict.fromkeys(header, "x")
        values |= dict(zip(map(str, spec.tsv_columns), [*texts, label], strict=True))
        yield "\t".join(values[column] for column in header)


def save_tiny_student(folder: Path, teacher: Path, corpus: Path, cache: Path, family: str = "bert") -> Path:
    """Distil a student of a tiny teacher and save it with its lineage."""
    from kdnas_env.core.evaluation import Fidelity
    from kdnas_env.distillation.student.folder import save_student
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
    from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings

    evaluator = MiniKDEvaluator(
        MiniKDSettings(
            teacher=str(teacher),
            corpus={"source": str(corpus), "proxy_fraction": 1.0},
            latency="analytic",
            cache_dir=cache,
            device="cpu",
        )
    )
    found = evaluator.distil(StudentConfig(2, 2, 16, 32, "gelu", family), Fidelity(epochs=1))
    lineage = evaluator.lineage(found.evaluation)
    save_student(folder, found.model, evaluator.workload.teacher.tokenizer, "card", lineage, found.projection)
    return folder
