"""Workloads of tiny teachers, shared by the tests of distillation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import plain_kd
import pytest
import tiny_teachers

from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training.workload import Workload


@pytest.fixture(scope="session")
def make_workload(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Workload]:
    """``make_workload("roberta")``: 57 training and 21 held-out sentences, or sentence pairs with ``pairs=True``."""
    root = tmp_path_factory.mktemp("workloads")
    texts = tiny_teachers.sentences()
    pairs_file = root / "pairs.jsonl"
    pairs_file.write_text(
        "".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in zip(texts, reversed(texts), strict=True)),
        encoding="utf-8",
    )

    @cache
    def make(family: str, pairs: bool = False) -> Workload:
        teacher = load_teacher(tiny_teacher_dirs[family])
        source, columns = (pairs_file, ("a", "b")) if pairs else (tiny_corpus_file, "text")
        return plain_kd.workload_of(
            teacher, load_corpus(source, teacher.tokenizer, text_columns=columns), root / "states"
        )

    return make


@pytest.fixture(scope="session")
def workload(make_workload: Callable[..., Workload]) -> Workload:
    """The workload of the BERT teacher."""
    return make_workload("bert")
