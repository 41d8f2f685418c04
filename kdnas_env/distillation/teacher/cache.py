"""A disk cache of the teacher's hidden states: computed once, memory-mapped, verified on opening.

A cache is a folder with three files:

- ``states.bin``: raw array ``(layers + 1, tokens, hidden_size)``, real tokens only, layer-major;
- ``index.npz``: ``sample_ids`` and ``offsets``;
- ``metadata.json``: the origin of the states, and a checksum of every layer.

A folder is built under a temporary name, and renamed when it is complete. A folder with the final name is therefore
complete, unless it was damaged later. An interrupted build is resumed. Opening verifies sizes, metadata and all
checksums, and rebuilds a damaged folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.teacher.states import write_states
from kdnas_env.distillation.text.corpus import Corpus, token_rows
from kdnas_env.errors import CacheError
from kdnas_env.support.atomic import default_cache_directory, expanded
from kdnas_env.support.checks import check_choice, check_whole
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import OnProgress

FORMAT_VERSION = 1
DTYPES = ("float16", "float32")

_STATES, _INDEX, _METADATA, _PROGRESS = "states.bin", "index.npz", "metadata.json", "progress.json"
_READ_BYTES = 1 << 22
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HiddenStateCache:
    """Memory-mapped hidden states of some samples of a corpus. Cheap to pickle: only the index is pickled.

    Attributes:
        directory: Folder of the cache.
        sample_ids: Samples of the corpus that are cached, sorted, int64 ``(samples,)``.
        offsets: The ``i``-th cached sample owns rows ``offsets[i]:offsets[i + 1]``, int64 ``(samples + 1,)``.
        num_layers: Layers of the teacher; the cache holds one more array, for the embeddings.
        hidden_size: Width of the teacher.
        dtype: ``"float16"`` or ``"float32"``.
    """

    directory: Path
    sample_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    num_layers: int
    hidden_size: int
    dtype: str

    @property
    def tokens(self) -> int:
        """Number of cached tokens."""
        return int(self.offsets[-1])

    def states(self, layer: int) -> np.memmap[Any, np.dtype[Any]]:
        """Map the states of one layer, read-only ``(tokens, hidden_size)``.

        Args:
            layer: 0 for the embeddings, then 1 to ``num_layers``.

        Raises:
            CacheError: If the layer does not exist, or the file is missing or too short.
        """
        if not 0 <= layer <= self.num_layers:
            raise CacheError(
                f"layer {layer} is not cached; the teacher's layers are 0 (embeddings) to {self.num_layers}"
            )
        shape = (self.tokens, self.hidden_size)
        size = self.tokens * self.hidden_size * np.dtype(self.dtype).itemsize
        path = self.directory / _STATES
        try:
            return np.memmap(path, dtype=self.dtype, mode="r", offset=layer * size, shape=shape)
        except (OSError, ValueError) as error:
            raise CacheError(
                f"the cached states in {path} can no longer be read: {error}; open the cache again"
            ) from error

    def rows(self, sample_id: int) -> slice:
        """Return the rows that hold a sample's tokens.

        Raises:
            CacheError: If the sample is not cached.
        """
        position = int(self.positions(np.array([sample_id]))[0])
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def token_rows(self, sample_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of all tokens of some samples, sample by sample in the order given, int64.

        Raises:
            CacheError: If a sample is not cached.
        """
        return token_rows(self.offsets, self.positions(sample_ids))

    def positions(self, sample_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the samples in ``sample_ids``, int64.

        Raises:
            CacheError: If a sample is not cached.
        """
        wanted = np.asarray(sample_ids, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.sample_ids, wanted), len(self.sample_ids) - 1)
        absent = wanted[self.sample_ids[places] != wanted]
        if len(absent):
            raise CacheError(f"sample {int(absent[0])} is not among the {len(self.sample_ids)} cached samples")
        return places


def read_rows(states: np.memmap[Any, np.dtype[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Copy rows of the states of one layer into memory.

    Args:
        states: Result of :meth:`HiddenStateCache.states`.
        rows: Rows to copy, int64.

    Returns:
        ``(len(rows), hidden_size)``.

    Raises:
        CacheError: If the file was truncated after mapping; reading the missing part would kill the process.
    """
    mapped = cast(mmap, states.base)
    if mapped.size() < states.offset + states.nbytes:
        raise CacheError(
            f"the cached states in {states.filename} were truncated while they were in use; no other program may "
            "write there. Open the cache again to recompute them"
        )
    copied: NDArray[Any] = np.asarray(states)[rows]
    return copied


def open_cache(
    teacher: Teacher,
    corpus: Corpus,
    directory: str | os.PathLike[str] | None = None,
    *,
    sample_ids: NDArray[np.int64] | None = None,
    dtype: str = "float16",
    batch_tokens: int = 4096,
    on_progress: OnProgress | None = None,
) -> HiddenStateCache:
    """Open the cached hidden states of a teacher on a corpus; compute them first if they are missing or damaged.

    Opening verifies every byte (CRC-32 of each layer) and reads the file once in small pieces. This detects truncation,
    foreign files and bit rot. Any number of processes may open the same cache: one computes, the others wait.

    Args:
        teacher: The teacher.
        corpus: The corpus, tokenised with the teacher's tokenizer.
        directory: Parent folder of all caches; None for ``default_cache_directory()``.
        sample_ids: Samples to cache, in any order; None for ``corpus.train`` and ``corpus.heldout``.
        dtype: ``"float16"`` or ``"float32"``.
        batch_tokens: Tokens per forward pass, padding included.
        on_progress: Called with ``(done_tokens, total_tokens)`` after every batch; not called if nothing is computed.

    Raises:
        CacheError: If the samples or the corpus do not fit the teacher, states overflow float16 or are not finite, or
            the folder cannot be written or lacks space.
    """
    check_whole("batch_tokens", batch_tokens, at_least=1, error=CacheError)
    plan = _plan(teacher, corpus, sample_ids, dtype)
    root = default_cache_directory() if directory is None else expanded(directory)
    folder = root / f"states-{plan.key[:32]}"
    if _damage(folder, plan) is None:
        return plan.opened(folder)
    with _clear_errors(root, plan):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # Another process may have built it while this one waited for the lock.
            damage = _damage(folder, plan)
            if damage is not None:
                _rebuild(folder, plan, damage, teacher, corpus, batch_tokens, on_progress)
    return plan.opened(folder)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The required content of a cache, known before any computation."""

    sample_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    shape: tuple[int, int, int]
    dtype: str
    identity: dict[str, Any]

    @property
    def key(self) -> str:
        return fingerprint_of(self.identity)

    @property
    def layer_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.layer_bytes

    def opened(self, folder: Path) -> HiddenStateCache:
        return HiddenStateCache(folder, self.sample_ids, self.offsets, self.shape[0] - 1, self.shape[2], self.dtype)


def _plan(teacher: Teacher, corpus: Corpus, sample_ids: NDArray[np.int64] | None, dtype: str) -> _Plan:
    check_choice("dtype", dtype, DTYPES, error=CacheError)
    architecture = teacher.architecture
    if int(corpus.input_ids.max()) >= architecture.vocab_size:
        raise CacheError(
            f"the corpus contains token id {int(corpus.input_ids.max())}, but teacher {teacher.name!r} has only "
            f"{architecture.vocab_size} tokens; tokenise the corpus with the teacher's own tokenizer"
        )
    if int(corpus.lengths.max()) > architecture.max_length:
        raise CacheError(
            f"the corpus contains a sample of {int(corpus.lengths.max())} tokens, but teacher {teacher.name!r} reads "
            f"at most {architecture.max_length}; load the corpus with a smaller max_length"
        )
    chosen = np.union1d(corpus.train, corpus.heldout) if sample_ids is None else np.unique(sample_ids)
    if len(chosen) == 0:
        raise CacheError("sample_ids is empty: there is nothing to cache")
    if chosen[0] < 0 or chosen[-1] >= len(corpus):
        raise CacheError(f"sample_ids run from {chosen[0]} to {chosen[-1]}, the corpus from 0 to {len(corpus) - 1}")
    chosen = chosen.astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(corpus.lengths[chosen])]).astype(np.int64)
    shape = (architecture.num_hidden_layers + 1, int(offsets[-1]), architecture.hidden_size)
    for array in (chosen, offsets):
        array.setflags(write=False)
    identity = {
        "format_version": FORMAT_VERSION,
        "teacher_fingerprint": teacher.fingerprint,
        "corpus_fingerprint": corpus.fingerprint,
        "sample_ids_sha256": hashlib.sha256(chosen.tobytes()).hexdigest(),
        "dtype": np.dtype(dtype).str,
        "shape": list(shape),
    }
    return _Plan(chosen, offsets, shape, dtype, identity)


def _damage(folder: Path, plan: _Plan) -> str | None:
    """Return why the folder is not the planned cache, or None if every byte matches."""
    try:
        metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        if metadata["identity"] != plan.identity:
            return "its metadata describe other states"
        # Opened here because numpy does not close a file that is not a zip archive.
        with (folder / _INDEX).open("rb") as stream, np.load(stream, allow_pickle=False) as index:
            same = np.array_equal(index["sample_ids"], plan.sample_ids)
            if not same or not np.array_equal(index["offsets"], plan.offsets):
                return "its index lists other samples"
        size = (folder / _STATES).stat().st_size
        if size != plan.bytes:
            return f"its states take {size} bytes instead of {plan.bytes}"
        if metadata["crc32"] != _checksums(folder / _STATES, plan):
            return "its states do not match their checksums"
    except FileNotFoundError:
        return "it is missing or incomplete"
    except Exception as error:
        # Foreign bytes can make the parsers raise any error; each one means a damaged cache.
        return f"it cannot be read ({type(error).__name__}: {error})"
    return None


def _checksums(path: Path, plan: _Plan) -> list[int]:
    """Return the CRC-32 of each layer. Reads the file in small pieces, not mapped, to keep memory use low."""
    sums = []
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        for _ in range(plan.shape[0]):
            crc, left = 0, plan.layer_bytes
            while left:
                count = file.readinto(buffer[: min(left, _READ_BYTES)])
                if not count:
                    raise EOFError(f"{path} ends early")
                crc = zlib.crc32(buffer[:count], crc)
                left -= count
            sums.append(crc)
    return sums


def _rebuild(
    folder: Path,
    plan: _Plan,
    damage: str,
    teacher: Teacher,
    corpus: Corpus,
    batch_tokens: int,
    on_progress: OnProgress | None,
) -> None:
    """Build the cache under a temporary name, then rename it; the caller must hold the folder's lock.

    The interrupted build of an earlier process is resumed.
    """
    if folder.exists():
        _logger.warning("rebuilding the cached states in %s: %s", folder, damage)
        _remove(folder)
    _remove_abandoned(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    try:
        free = shutil.disk_usage(partial).free
        # An interrupted build has already reserved its space.
        if free < plan.bytes and not (partial / _STATES).exists():
            raise CacheError(_no_space(folder.parent, plan, free))
        write_states(
            partial / _STATES,
            teacher,
            corpus,
            plan.sample_ids,
            dtype=plan.dtype,
            batch_tokens=batch_tokens,
            progress_file=partial / _PROGRESS,
            on_progress=on_progress,
        )
        (partial / _PROGRESS).unlink(missing_ok=True)
        np.savez(partial / _INDEX, sample_ids=plan.sample_ids, offsets=plan.offsets)
        metadata = {
            "identity": plan.identity,
            "teacher": teacher.name,
            "corpus": corpus.report.to_dict(),
            "crc32": _checksums(partial / _STATES, plan),
        }
        (partial / _METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
        os.rename(partial, folder)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_abandoned(folder: Path) -> None:
    """Remove the partial folders of other caches whose lock no process holds."""
    for partial in folder.parent.glob("states-*.partial"):
        owner = partial.with_suffix("")
        if owner == folder:
            continue
        try:
            with FileLock(f"{owner}.lock", timeout=0):
                _remove(partial)
        except Timeout:
            continue


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextmanager
def _clear_errors(root: Path, plan: _Plan) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CacheError(_no_space(root, plan, shutil.disk_usage(root).free)) from error
        raise CacheError(
            f"the cache folder {str(root)!r} cannot be written: {error}; give another directory, or set KDNAS_CACHE"
        ) from error
    except torch.OutOfMemoryError as error:
        raise CacheError("the teacher runs out of memory; open the cache with a smaller batch_tokens") from error


def _no_space(root: Path, plan: _Plan, free: int) -> str:
    return (
        f"no space for the cached states: {plan.bytes:,} bytes are needed in {str(root)!r}, {free:,} are free; "
        "free some, cache fewer samples, use float16, or give another directory (or set KDNAS_CACHE)"
    )
