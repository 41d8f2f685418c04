"""Corrupt models, tokenizers, texts, tasks and hidden states."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tiny_teachers
from fuzzing import answered, fuzz, spoilt_bytes, spoilt_json, survive
from small_tasks import rows, write_rows

from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.student.folder import PROJECTION, load_student, read_projection
from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.teacher.loading import load_teacher, load_teacher_architecture
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training.stream import StreamedSamples, head_corpus
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.specs import TASKS

SENTENCES = tiny_teachers.sentences()[:60]
FAMILIES = ("bert", "roberta", "albert", "distilbert", "electra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@fuzz("teacher config", batch=10)
def test_configurations(rng: Random, folder: Path, tiny_teacher_dirs: dict[str, Path]) -> None:
    whole = json.loads((tiny_teacher_dirs[rng.choice(FAMILIES)] / "config.json").read_text())
    for _ in range(10):
        data = spoilt_json(rng, whole)
        (folder / "config.json").write_bytes(data)
        survive(lambda: SearchSpace.from_teacher(load_teacher_architecture(folder)), told=data)


@fuzz("teacher files", batch=5)
def test_teachers(rng: Random, folder: Path, tiny_teacher_dirs: dict[str, Path]) -> None:
    source = tiny_teacher_dirs[rng.choice(FAMILIES)]
    for _ in range(5):
        target = _copied(source, folder / "teacher")
        path = rng.choice(sorted(path for path in target.iterdir() if path.is_file()))
        data = path.read_bytes()
        path.write_bytes(spoilt_json(rng, json.loads(data)) if path.suffix == ".json" else spoilt_bytes(rng, data))
        told = (path.name, path.read_bytes()[:500])
        survive(load_teacher, target, told=told, reader="teacher")
        survive(load_student, target, told=told, reader="student")


@fuzz("weights", batch=10)
def test_projections(rng: Random, folder: Path) -> None:
    import torch
    from safetensors.torch import save

    whole = save({"weight": torch.zeros(4, 3), "bias": torch.zeros(4)})
    for _ in range(10):
        data = spoilt_bytes(rng, whole)
        (folder / PROJECTION).write_bytes(data)
        survive(read_projection, folder, told=data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of datasets
@fuzz("corpus", batch=4)
def test_corpora(rng: Random, folder: Path, tiny_teacher_dirs: dict[str, Path]) -> None:
    tokenizer = load_teacher(tiny_teacher_dirs["bert"]).tokenizer
    for _ in range(4):
        name = rng.choice(("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.jsonl.gz"))
        path = folder / name
        path.write_bytes(spoilt_bytes(rng, _written(path)))
        told = (name, path.read_bytes()[:500])
        survive(lambda path=path: load_corpus(path, tokenizer, min_samples=2), told=told, reader="corpus")
        survive(lambda path=path: _streamed(str(path), tokenizer), told=told, reader="stream")


@pytest.mark.slow
@fuzz("glue", batch=10)
def test_tasks(rng: Random, folder: Path) -> None:
    spec = TASKS[rng.choice(("rte", "stsb", "sst2", "cola"))]
    ending = rng.choice(("parquet", "jsonl", "csv", "tsv"))
    root = folder / f"{spec.name}-{ending}"
    if not root.exists():
        _write_task(root, spec.name, ending)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    whole = {path: path.read_bytes() for path in paths}
    for _ in range(10):
        path = rng.choice(paths)
        if ending == "jsonl" and rng.random() < 0.7:
            lines = whole[path].splitlines()
            lines[0] = spoilt_json(rng, json.loads(lines[0]))
            path.write_bytes(b"\n".join(lines))
        else:
            path.write_bytes(spoilt_bytes(rng, whole[path]))
        survive(load_task, spec.name, root, told=(path.name, path.read_bytes()[:500]))
        path.write_bytes(whole[path])


@fuzz("cache", batch=5)
def test_caches(rng: Random, folder: Path, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path) -> None:
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    corpus = load_corpus(tiny_corpus_file, teacher.tokenizer, min_samples=2, max_samples=20)
    whole = open_cache(teacher, corpus, folder / "cache")
    expected = np.array(whole.states(1))
    built: list[int] = []
    for _ in range(5):
        path = rng.choice(sorted(path for path in whole.directory.iterdir() if path.is_file()))
        data = path.read_bytes()
        path.write_bytes(spoilt_json(rng, json.loads(data)) if path.suffix == ".json" else spoilt_bytes(rng, data))
        built.clear()
        again = open_cache(teacher, corpus, folder / "cache", on_progress=lambda done, total: built.append(done))
        answered(accepted=not built)
        np.testing.assert_array_equal(np.array(again.states(1)), expected)


def _streamed(source: str, tokenizer: Any) -> None:
    head_corpus(source, tokenizer, rows=20, min_samples=2)
    for _ in islice(StreamedSamples(source, tokenizer, batch_size=4), 80):
        pass


def _copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def _written(path: Path) -> bytes:
    """Return sentences in the format that the file name implies."""
    import gzip
    import io

    import pyarrow as pa
    from pyarrow import parquet

    table: list[dict[str, Any]] = [{"text": text, "label": place % 2} for place, text in enumerate(SENTENCES)]
    lines = "".join(json.dumps(row) + "\n" for row in table).encode()
    if path.suffix == ".parquet":
        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(table), buffer)
        return buffer.getvalue()
    if path.suffix in (".csv", ".tsv"):
        between = "," if path.suffix == ".csv" else "\t"
        return "\n".join(between.join(map(str, line)) for line in [table[0], *map(dict.values, table)]).encode()
    if path.suffix == ".txt":
        return "\n".join(SENTENCES).encode()
    return gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines


def _write_task(root: Path, name: str, ending: str) -> None:
    spec = TASKS[name]
    if ending != "tsv":
        for split in ("train", *spec.splits):
            write_rows(root / name / f"{split}.{ending}", rows(spec, split))
        return
    from small_tasks import write_original_layout

    whole = root.with_name(f"{root.name}-all")
    write_original_layout(whole)
    (root / spec.folder).parent.mkdir(parents=True)
    shutil.copytree(whole / spec.folder, root / spec.folder)
    shutil.rmtree(whole)
