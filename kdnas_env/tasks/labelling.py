"""Labelling texts with a task's teacher, in chunks that are stored, so that an interrupted labelling can resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.support.atomic import replacing
from kdnas_env.support.cpu_lock import training_lock
from kdnas_env.support.progress import OnProgress
from kdnas_env.tasks.encoding import Example, batch_outputs, batches_of

CHUNK_SAMPLES = 512
"""Number of samples after which results are stored."""


def mean_outputs(
    members: Sequence[nn.Module],
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    unfinished: Path | None,
    on_progress: OnProgress,
) -> NDArray[np.float32]:
    """Return the mean of the outputs of several models, float32 ``(samples, ...)``.

    The batches are those of :func:`kdnas_env.tasks.encoding.outputs`, so the results are identical, even if the
    labelling was interrupted. The function holds :func:`kdnas_env.support.cpu_lock.training_lock` during each chunk.

    Args:
        members: The models.
        examples: Their inputs.
        pad_token_id: Id of the token to pad with.
        unfinished: Folder for finished chunks, used by this labelling only; None to store none.
        on_progress: Called after each chunk with the number of finished samples.

    Raises:
        FloatingPointError: If an output is not finite.
        RunError: If a chunk cannot be written.
    """
    chunks = _chunks(examples)
    by_member = []
    for number, member in enumerate(members):
        outputs: NDArray[np.float32] | None = None
        done = number * len(examples)
        for place, chunk in enumerate(chunks):
            samples = np.concatenate(chunk)
            file = None if unfinished is None else unfinished / f"{number}-{place}.npy"
            values = cached_chunk(file, len(samples), partial(_compute_outputs, member, examples, chunk, pad_token_id))
            if outputs is None:
                outputs = np.empty((len(examples), *values.shape[1:]), dtype=np.float32)
            outputs[samples] = values
            done += len(samples)
            on_progress(done // len(members), len(examples))
        assert outputs is not None
        by_member.append(outputs)
    mean: NDArray[np.float32] = np.mean(by_member, axis=0, dtype=np.float32)
    return mean


def cached_chunk(file: Path | None, samples: int, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the values of a chunk, float32 ``(samples, ...)``; compute and store them if missing or damaged.

    Args:
        file: The file; None to store nothing.
        samples: Number of samples in the chunk.
        compute: Computes the values.

    Raises:
        RunError: If the file cannot be written.
    """
    values = None if file is None else _read(file, samples)
    if values is None:
        values = compute()
        if file is not None:
            with replacing(file) as written:
                np.save(written, values, allow_pickle=False)
    return values


def corpus_examples(corpus: Corpus, samples: NDArray[np.int64]) -> list[Example]:
    """Return samples of a corpus as inputs of a model."""
    examples = []
    for sample in samples:
        rows = slice(int(corpus.offsets[sample]), int(corpus.offsets[sample + 1]))
        example = {"input_ids": corpus.input_ids[rows].tolist()}
        if corpus.token_type_ids is not None:
            example["token_type_ids"] = corpus.token_type_ids[rows].tolist()
        examples.append({**example, "attention_mask": [1] * len(example["input_ids"])})
    return examples


def _compute_outputs(
    member: nn.Module, examples: Sequence[Example], chunk: Sequence[NDArray[np.int64]], pad_token_id: int
) -> NDArray[np.float32]:
    with training_lock():
        device = next(member.parameters()).device
        values: NDArray[np.float32] = batch_outputs(member, examples, chunk, pad_token_id, device).numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError("the outputs of the task's teacher are not finite")
    return values


def _chunks(examples: Sequence[Example]) -> list[list[NDArray[np.int64]]]:
    """Group the batches into chunks of at least ``CHUNK_SAMPLES`` samples."""
    chunks: list[list[NDArray[np.int64]]] = []
    size = CHUNK_SAMPLES
    for batch in batches_of(examples):
        if size >= CHUNK_SAMPLES:
            chunks.append([])
            size = 0
        chunks[-1].append(batch)
        size += len(batch)
    return chunks


def _read(file: Path, samples: int) -> NDArray[np.float32] | None:
    """Return the values in a chunk's file; None if it is missing or damaged."""
    with suppress(OSError, ValueError, EOFError):
        values: NDArray[np.float32] = np.load(file, allow_pickle=False)
        if values.dtype == np.float32 and len(values) == samples and np.isfinite(values).all():
            return values
    return None
