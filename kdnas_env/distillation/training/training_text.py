"""The text of a full distillation: in memory or streamed, with or without cached teacher states."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus, load_corpus
from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS, TextLayout
from kdnas_env.distillation.text.records import read_keys
from kdnas_env.distillation.training.kd_data import CorpusSamples
from kdnas_env.distillation.training.stream import StreamedSamples, head_corpus
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import KDNASError
from kdnas_env.support.checks import check_choice
from kdnas_env.support.progress import SILENT, Progress

TEACHER_MODES = ("auto", "cache", "loop")

_START_SAMPLES = 8192
"""Number of samples used to initialise a student if the teacher's states are not cached on all samples."""
_FIT_SAMPLES = 2048
_HELDOUT_FRACTION = 0.05
_HEAD_SHARE = 0.5
_LEAST_SAMPLES = 32


@dataclass(frozen=True, eq=False)
class TrainingText:
    """The data of a full distillation.

    Attributes:
        workload: Teacher, corpus, and the teacher's states on the samples that initialise the student
            (``workload.train``) and on the held-out samples; not trimmed.
        samples: Training samples, for :func:`kdnas_env.distillation.training.full_kd.distil`.
        teacher_in_loop: Whether to run the teacher on every batch.
        streaming: Whether to read the text during training.
    """

    workload: Workload
    samples: Any
    teacher_in_loop: bool
    streaming: bool

    def start(self, seed: int) -> Fidelity:
        """Return the fidelity for solving the projections, with no training epochs."""
        return Fidelity(0, min(1.0, _FIT_SAMPLES / len(self.workload.train)), seed)


def cache_bytes(teacher: Teacher, corpus: Corpus, sample_ids: NDArray[np.int64], dtype: str = "float16") -> int:
    """Return the size of a cache of the teacher's states on some samples."""
    architecture = teacher.architecture
    tokens = int(corpus.lengths[sample_ids].sum())
    return tokens * (architecture.num_hidden_layers + 1) * architecture.hidden_size * np.dtype(dtype).itemsize


def prepare_text(
    teacher: Teacher,
    corpus: Mapping[str, Any],
    *,
    batch_size: int,
    heldout_samples: int = 512,
    streaming: bool = False,
    mode: str = "auto",
    largest_cache: float = 16 * 2**30,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_dtype: str = "float16",
    progress: Progress = SILENT,
) -> TrainingText:
    """Read the text, and cache the teacher's states according to ``mode``.

    Args:
        teacher: The teacher.
        corpus: Arguments of :func:`kdnas_env.distillation.text.corpus.load_corpus`, including ``source``.
        batch_size: Samples per step, over all processes.
        heldout_samples: Samples to hold out, at most a twentieth of all.
        streaming: Whether to read the text during training.
        mode: When to compute the teacher's states: once (``cache``), for every batch (``loop``), or depending on the
            size of the cache (``auto``).
        largest_cache: Largest cache that ``auto`` creates, in bytes.
        cache_dir: Folder of the caches; None for the user's cache folder.
        cache_dtype: ``float16`` or ``float32``.
        progress: Receives the progress of the preparations.

    Raises:
        CorpusError: If the corpus cannot be read.
        CacheError: If the hidden states cannot be cached.
        KDNASError: If the mode is unknown, or not possible with a stream.
    """
    check_choice("teacher mode", mode, TEACHER_MODES)
    if streaming and mode == "cache":
        raise KDNASError("the teacher's states cannot be cached on a stream; leave the mode at 'auto'")
    progress.begin("preparing corpus")
    options = {**corpus, "max_length": min(int(corpus.get("max_length", 128)), teacher.tokenizer.model_max_length)}
    seed = int(options.get("seed", 0))
    whole: dict[str, Any] = {
        "proxy_fraction": 1.0,
        "heldout_fraction": _HELDOUT_FRACTION,
        "min_samples": max(batch_size, _LEAST_SAMPLES),
    }
    without = options.pop("without", None)
    keys = read_keys(without) if isinstance(without, str | os.PathLike) else without or frozenset()
    samples: Any = None
    if streaming:
        stream = {**options}
        source, limit = stream.pop("source"), stream.pop("max_samples", None)
        if limit is not None:
            raise KDNASError(f"max_samples is {limit}, but a stream is endless; leave it out, or do not stream")
        stream["layout"] = TextLayout(**{name: stream.pop(name) for name in LAYOUT_OPTIONS if name in stream})
        rows = _START_SAMPLES + round(heldout_samples / _HEAD_SHARE)
        text = head_corpus(source, teacher.tokenizer, rows=rows, without=keys, **whole, **stream)
        samples = StreamedSamples(source, teacher.tokenizer, batch_size=batch_size, skip=rows, without=keys, **stream)
    else:
        text = load_corpus(options.pop("source"), teacher.tokenizer, without=keys, **{**options, **whole})
    rng = np.random.default_rng([seed, 2])
    heldout = np.sort(rng.permutation(text.heldout)[:heldout_samples])
    everything = np.concatenate([text.train_full, heldout])
    size = cache_bytes(teacher, text, everything, cache_dtype)
    in_loop = streaming or mode == "loop" or (mode == "auto" and size > largest_cache)
    start = np.sort(rng.permutation(text.train_full)[:_START_SAMPLES]) if in_loop else text.train_full
    progress.begin("preparing hidden states")
    cache = open_cache(
        teacher,
        text,
        cache_dir,
        sample_ids=np.concatenate([start, heldout]),
        dtype=cache_dtype,
        on_progress=progress.advance,
    )
    workload = Workload(teacher, text, cache, start, heldout, teacher.device, trimmed=False)
    if samples is None:
        samples = CorpusSamples(workload, text.train_full, cached=not in_loop)
    return TrainingText(workload, samples, in_loop, streaming)
