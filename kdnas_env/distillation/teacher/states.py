"""Compute a teacher's hidden states over a corpus and stream them to a file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.errors import CacheError, RunError
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.progress import OnProgress

FLOAT16_MAX = float(np.finfo(np.float16).max)

SAVING_SECONDS = 10.0
"""Seconds of computation between flushes to disk: the most that an interrupted process loses."""


def write_states(
    path: Path,
    teacher: Teacher,
    corpus: Corpus,
    sample_ids: NDArray[np.int64],
    *,
    dtype: str,
    batch_tokens: int,
    progress_file: Path,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the raw array ``(layers + 1, tokens, hidden_size)``: real tokens only, in the order of the samples.

    Space is reserved before the first forward pass. The file is written with plain writes: with a memory map, a full
    disk would kill the process instead of raising an error. The batches of an interrupted call with equal arguments are
    kept.

    Args:
        path: File to create or to continue.
        teacher: The teacher.
        corpus: The corpus.
        sample_ids: Samples to run, int64.
        dtype: ``"float16"`` or ``"float32"``.
        batch_tokens: Tokens per forward pass, padding included; a longer sample forms its own batch.
        progress_file: File that records the number of written batches.
        on_progress: Called with ``(done_tokens, total_tokens)`` after every batch.

    Raises:
        CacheError: If a state is not finite, or overflows float16.
        OSError: If the file cannot be written.
    """
    lengths = corpus.lengths[sample_ids]
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    row_bytes = teacher.architecture.hidden_size * np.dtype(dtype).itemsize
    size = (teacher.architecture.num_hidden_layers + 1) * total * row_bytes
    written = _written(path, progress_file, size, batch_tokens)
    done, saved = 0, time.monotonic()
    with path.open("r+b" if written else "wb") as file:
        if not written:
            _reserve(file, size)
        for number, batch in enumerate(length_sorted_batches(lengths, batch_tokens), start=1):
            ends = np.cumsum(lengths[batch])
            if number <= written:
                done += int(ends[-1])
                continue
            for layer, states in enumerate(_real_states(teacher, corpus, sample_ids[batch])):
                block = _to_numpy(states, dtype, layer)
                for start, end, size in zip(starts[batch], ends, lengths[batch], strict=True):
                    file.seek((layer * total + int(start)) * row_bytes)
                    file.write(block[end - size : end].data)
            done += int(ends[-1])
            if time.monotonic() - saved >= SAVING_SECONDS:
                file.flush()
                os.fsync(file.fileno())
                write_json(progress_file, {"batches": number, "batch_tokens": batch_tokens})
                saved = time.monotonic()
            if on_progress is not None:
                on_progress(done, total)


def _written(path: Path, progress_file: Path, size: int, batch_tokens: int) -> int:
    """Return the number of batches that an interrupted call has written; 0 if there is nothing to resume."""
    try:
        progress = read_json(progress_file)
        if path.stat().st_size == size and progress["batch_tokens"] == batch_tokens:
            return int(progress["batches"])
    except (OSError, RunError, KeyError, TypeError, ValueError):
        pass
    return 0


def length_sorted_batches(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Group samples of similar length, longest first, into batches of at most ``batch_tokens`` padded tokens.

    Yields:
        Indices into ``lengths``, int64; every index once. A batch holds at least one sample.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def _real_states(teacher: Teacher, corpus: Corpus, sample_ids: NDArray[np.int64]) -> Iterator[torch.Tensor]:
    """Yield the states of each layer, real tokens only, ``(tokens, hidden_size)``."""
    ids, mask, types = corpus.padded(sample_ids, teacher.architecture.pad_token_id)
    real = torch.from_numpy(mask).to(teacher.device)
    padded = not mask.all()
    layers = teacher.hidden_states(
        torch.from_numpy(ids), real if padded else None, None if types is None else torch.from_numpy(types)
    )
    for states in layers:
        yield states[real.bool()] if padded else states.flatten(0, 1)


def _to_numpy(states: torch.Tensor, dtype: str, layer: int) -> NDArray[np.floating]:
    peak = float(states.abs().max())
    if not np.isfinite(peak):
        raise CacheError(f"the teacher's layer {layer} produced states that are not finite (NaN or infinite)")
    if dtype == "float16" and peak > FLOAT16_MAX:
        raise CacheError(
            f"the teacher's layer {layer} produced a state of magnitude {peak:.6g}, more than the {FLOAT16_MAX:.0f} "
            "that float16 can hold; open the cache with dtype='float32'"
        )
    array: NDArray[np.floating] = states.to(getattr(torch, dtype)).cpu().numpy()
    return np.ascontiguousarray(array)


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve disk space now, so that a lack of space shows before hours of computation."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    file.truncate(size)
