"""Corpora: text tokenised once, stored without padding, split with a seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.text.corpus_report import CorpusReport, whole_length
from kdnas_env.distillation.text.layout import TextLayout, Unit
from kdnas_env.distillation.text.records import read_keys
from kdnas_env.distillation.text.samples import Samples
from kdnas_env.distillation.text.sources import TextRows, Texts, open_source, reading
from kdnas_env.errors import CorpusError
from kdnas_env.support.checks import check_number, check_whole

_CHUNK = 1024
"""Rows read and tokenised at a time."""
_MASKED, _RANDOM = 0.8, 0.1
"""Fractions of the selected tokens that are masked and replaced at random; the other selected tokens stay."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenised text. A sample id is an index into ``offsets``; all arrays are read-only.

    Attributes:
        input_ids: Concatenated token ids of all samples, int32 ``(tokens,)``.
        token_type_ids: Segment of each token, int8 ``(tokens,)``, or None if the tokenizer makes none.
        offsets: Sample ``i`` owns tokens ``offsets[i]:offsets[i + 1]``, int64 ``(samples + 1,)``.
        train: Sample ids of the proxy subset, sorted, int64.
        heldout: Held-out sample ids, sorted, disjoint from ``train_full``, int64.
        train_full: All sample ids not held out, sorted, int64; contains ``train``.
        report: Report of the corpus preparation.
        fingerprint: SHA-256 (hex) of token ids, segments and offsets.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8] | None
    offsets: NDArray[np.int64]
    train: NDArray[np.int64]
    heldout: NDArray[np.int64]
    train_full: NDArray[np.int64]
    report: CorpusReport
    fingerprint: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample, int64 ``(samples,)``."""
        lengths: NDArray[np.int64] = np.diff(self.offsets)
        return lengths

    def padded(
        self, sample_ids: NDArray[np.int64], pad_token_id: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
        """Stack samples into one batch, right-padded to the longest sample.

        Returns:
            Token ids, attention mask (1 on real tokens) and segments (None if the corpus has none), each int64
            ``(len(sample_ids), longest)``. The real tokens in row order match ``token_rows(offsets, sample_ids)``.
        """
        lengths = self.lengths[sample_ids]
        real = np.arange(lengths.max()) < lengths[:, None]
        rows = token_rows(self.offsets, sample_ids)
        ids = np.full(real.shape, pad_token_id, dtype=np.int64)
        ids[real] = self.input_ids[rows]
        types = None
        if self.token_type_ids is not None:
            types = np.zeros(real.shape, dtype=np.int64)
            types[real] = self.token_type_ids[rows]
        return ids, real.astype(np.int64), types


def token_rows(offsets: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of all tokens of ``samples``, sample by sample in the given order, int64 ``(tokens,)``."""
    starts, lengths = offsets[samples], offsets[samples + 1] - offsets[samples]
    firsts = np.cumsum(lengths) - lengths
    rows: NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - firsts, lengths)
    return rows


@dataclass(frozen=True)
class Sampling:
    """Options for making samples from rows, and for splitting them.

    Attributes:
        max_length, proxy_fraction, heldout_fraction, max_samples, min_samples, pair_fraction, seed: See
            :func:`load_corpus`.

    Raises:
        CorpusError: If an option is out of range.
    """

    max_length: int = 50
    proxy_fraction: float = 0.3
    heldout_fraction: float = 0.1
    max_samples: int | None = None
    min_samples: int = 32
    pair_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise CorpusError(f"seed={self.seed} must not be negative")
        check_number("proxy_fraction", self.proxy_fraction, above=0, at_most=1, error=CorpusError)
        check_number("heldout_fraction", self.heldout_fraction, above=0, below=1, error=CorpusError)
        check_number("pair_fraction", self.pair_fraction, at_least=0, at_most=1, error=CorpusError)
        check_whole("min_samples", self.min_samples, at_least=1, error=CorpusError)
        if self.max_samples is not None and self.max_samples < 2:
            raise CorpusError(f"max_samples={self.max_samples} must be at least 2: one to train on, one to hold out")


def load_corpus(
    source: str | os.PathLike[str],
    tokenizer: Any,
    *,
    config_name: str | None = None,
    split: str = "train",
    text_columns: str | Sequence[str] | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    quoted: bool | None = None,
    header: bool | None = None,
    unit: Unit | None = None,
    max_length: int = 50,
    proxy_fraction: float = 0.3,
    heldout_fraction: float = 0.1,
    max_samples: int | None = None,
    min_samples: int = 32,
    pair_fraction: float = 0.0,
    without: str | os.PathLike[str] | Collection[str] | None = None,
    seed: int = 0,
) -> Corpus:
    """Read, clean, tokenise and split a corpus.

    Rows without usable text and rows that repeat an earlier text are counted and dropped. Texts are equal if their
    tokens are equal up to ``max_length``; letter case may be ignored, but the text of unknown tokens is compared. No
    input is therefore both in the training and in the held-out split. The held-out split is drawn from all samples, the
    proxy subset from the others. The same seed with a larger ``proxy_fraction`` gives a superset, with the same
    held-out samples.

    Args:
        source: ``"demo"`` (6,398 Rotten Tomatoes sentences), ``"demo:imdb"`` (25,000 IMDB reviews), ``"demo:all"``
            (both, mostly as sentences: :func:`kdnas_env.distillation.text.demo.demo_texts`), a local file (parquet,
            jsonl, json, csv, tsv, txt with one text per line; also compressed: gz, bz2, xz, zst), a local folder of
            such files or in the layout of a hub dataset, a folder written by ``save_to_disk`` of ``datasets``, or the
            name of a hub dataset. A path is taken literally, never as a pattern.
        tokenizer: The teacher's tokenizer, a fast tokenizer of transformers.
        config_name: Configuration of the dataset, if it has several.
        split: Split of the dataset, in the notation of ``datasets``.
        text_columns: The column that holds the text, or two columns for sentence pairs; None to find it. A nested field
            is written ``outer.inner``.
        encoding: Encoding of local text files; None for UTF-8, or the encoding of the byte-order mark.
        separator: Cell separator of local csv and tsv files; None to derive it from the file name.
        quoted: Whether cells of local csv and tsv files may be in double quotes; None for yes, unless tabs separate
            the cells.
        header: Whether the first row of local csv and tsv files names the columns; if not, they are called ``1``,
            ``2``, ... None means yes, with an error if the first row reads like text.
        unit: Content of one row of a local txt file, ``line`` or the whole ``file``; None for a line.
        max_length: Longest sample in tokens, special tokens included; longer samples are truncated.
        proxy_fraction: Fraction of the samples not held out that goes to ``train``, in (0, 1].
        heldout_fraction: Fraction of all samples that goes to ``heldout``, in (0, 1).
        max_samples: Keep at most this many samples, drawn with ``seed``; None for all.
        min_samples: Minimum number of samples in ``train`` (one training batch).
        pair_fraction: Fraction of the samples made of two consecutive rows, as sentence pairs, in [0, 1]; for sources
            with one text per row.
        without: Texts to leave out, such as test texts; case is ignored. Either a source of these texts, or the result
            of :func:`kdnas_env.distillation.text.records.read_keys` for one.
        seed: Seed of the splits, of the draw of ``max_samples`` and of the pairs.

    Raises:
        CorpusError: If the source cannot be read, a split or a column is missing, an option is out of range or does not
            apply to this kind of source, or the usable text is too short.
        DependencyError: If the source is ``"demo"`` and the extra is not installed.
    """
    sampling = Sampling(max_length, proxy_fraction, heldout_fraction, max_samples, min_samples, pair_fraction, seed)
    keys = read_keys(without) if isinstance(without, str | os.PathLike) else without or frozenset()
    layout = TextLayout(encoding=encoding, separator=separator, quoted=quoted, header=header, unit=unit)
    with open_source(source, config_name=config_name, split=split, text_columns=text_columns, layout=layout) as rows:
        named: dict[str, Any] = {"source": os.fspath(source), "config_name": config_name, "split": split}
        return corpus_of_rows(rows, tokenizer, sampling, **named, without=keys)


def corpus_of_rows(
    rows: TextRows,
    tokenizer: Any,
    sampling: Sampling,
    *,
    source: str,
    config_name: str | None,
    split: str,
    without: Collection[str] = frozenset(),
) -> Corpus:
    """Clean, tokenise and split the rows of a source.

    Args:
        rows: The rows.
        tokenizer: The teacher's tokenizer, a fast tokenizer of transformers.
        sampling: Options for making samples from rows.
        source: Name of the source, for messages.
        config_name: Configuration of the dataset.
        split: Split of the dataset.
        without: Keys of texts to leave out.

    Raises:
        CorpusError: If the rows cannot be read, or the usable text is too short.
    """
    order_stream, split_stream, pair_stream = np.random.default_rng(sampling.seed).spawn(3)
    if sampling.pair_fraction and len(rows.columns) == 2:
        raise CorpusError(
            f"corpus {source!r} already has pairs of texts; set pair_fraction={sampling.pair_fraction} to 0"
        )
    _check_tokenizer(tokenizer, sampling.max_length, 2 if sampling.pair_fraction else len(rows.columns))
    units = _units(len(rows), sampling.pair_fraction, pair_stream)
    if sampling.max_samples is not None:
        units = units[order_stream.permutation(len(units))]
    samples = Samples(
        tokenizer,
        sampling.max_length,
        len(rows) if sampling.max_samples is None else sampling.max_samples,
        pairs_rows=sampling.pair_fraction > 0,
        without=without,
    )
    with reading(source):
        for texts in _read_texts(rows, units):
            if not samples.add(texts):
                break
    kept = len(samples.lengths)
    train, heldout, train_full = split_samples(
        kept,
        proxy_fraction=sampling.proxy_fraction,
        heldout_fraction=sampling.heldout_fraction,
        generator=split_stream,
    )
    if len(train) < sampling.min_samples or len(heldout) == 0:
        read = " and ".join(map(repr, rows.columns))
        if samples.non_string > kept:
            raise CorpusError(
                f"corpus {source!r} has hardly any text in column {read}: {samples.non_string} of {len(rows)} rows "
                "have another type; name the text column with text_columns, a nested field as 'outer.inner'"
            )
        dropped = f"{samples.empty} empty, {samples.duplicate} duplicate, {samples.non_string} not text"
        dropped += f", {samples.left_out} to leave out" if samples.left_out else ""
        share = f", or raise proxy_fraction={sampling.proxy_fraction}" if sampling.proxy_fraction < 1 else ""
        raise CorpusError(
            f"corpus {source!r} is shorter than one batch: {kept} usable samples of {len(rows)} rows "
            f"({dropped}) of column {read} leave {len(train)} for training, {sampling.min_samples} are needed; give "
            f"more text{share}"
        )
    input_ids = np.concatenate(samples.ids)
    types = np.concatenate(samples.types) if samples.types else None
    offsets = np.concatenate([[0], np.cumsum(samples.lengths)]).astype(np.int64)
    for array in (input_ids, types, offsets, train, heldout, train_full):
        if array is not None:
            array.setflags(write=False)
    report = CorpusReport(
        source=source,
        config_name=config_name,
        split=split,
        text_columns=rows.columns,
        rows=len(rows),
        kept=kept,
        dropped_empty=samples.empty,
        dropped_duplicate=samples.duplicate,
        dropped_non_string=samples.non_string,
        unused=len(rows) - kept - samples.paired - samples.dropped,
        truncated=samples.truncated,
        tokens=len(input_ids),
        max_length=sampling.max_length,
        proxy_fraction=sampling.proxy_fraction,
        heldout_fraction=sampling.heldout_fraction,
        train_samples=len(train),
        heldout_samples=len(heldout),
        seed=sampling.seed,
        pair_fraction=sampling.pair_fraction,
        paired=samples.paired,
        dropped_without=samples.left_out,
        unknown_fraction=float(np.mean(input_ids == tokenizer.unk_token_id)),
        whole_length=whole_length(samples.whole_lengths) if len(samples.whole_lengths) == kept else None,
    )
    return Corpus(
        input_ids, types, offsets, train, heldout, train_full, report, token_fingerprint(input_ids, types, offsets)
    )


def split_samples(
    samples: int, *, proxy_fraction: float, heldout_fraction: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw the held-out split, then the proxy subset from the other samples.

    Returns:
        ``(train, heldout, train_full)``: sorted sample ids, int64. ``heldout`` and ``train_full`` partition
        ``range(samples)``; ``train`` is a subset of ``train_full``. Each has at least one sample if ``samples > 1``.
    """
    shuffled = generator.permutation(samples)
    held = min(max(1, round(heldout_fraction * samples)), max(samples - 1, 0))
    rest = shuffled[held:]
    proxy = min(max(1, round(proxy_fraction * len(rest))), len(rest))
    return np.sort(rest[:proxy]), np.sort(shuffled[:held]), np.sort(rest)


def _units(rows: int, pair_fraction: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Group rows into units of one row or two consecutive rows: first row and row count, int64 ``(units, 2)``."""
    if not pair_fraction:
        return np.stack([np.arange(rows), np.ones(rows, dtype=np.int64)], axis=1)
    sizes = 1 + (generator.random(rows) < pair_fraction)
    ends = np.cumsum(sizes)
    count = int(np.searchsorted(ends, rows)) + 1
    units = np.stack([ends - sizes, sizes], axis=1)[:count]
    units[-1, 1] = rows - units[-1, 0]
    return units


def _read_texts(rows: TextRows, units: NDArray[np.int64]) -> Iterator[list[Texts]]:
    for start in range(0, len(units), _CHUNK):
        chunk = units[start : start + _CHUNK]
        firsts, pairs = chunk[:, 0], chunk[:, 1] == 2
        texts = rows.take(np.concatenate([firsts, firsts[pairs] + 1]))
        seconds = iter(texts[len(chunk) :])
        yield [text + next(seconds) if pair else text for text, pair in zip(texts, pairs, strict=False)]


def _check_tokenizer(tokenizer: Any, max_length: int, texts: int) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise CorpusError(f"tokenizer {type(tokenizer).__name__} is not a fast tokenizer; load it with AutoTokenizer")
    special = tokenizer.num_special_tokens_to_add(pair=texts == 2)
    if max_length < special + texts:
        raise CorpusError(
            f"max_length={max_length} leaves no room for text: the tokenizer adds {special} special tokens, give at "
            f"least {special + texts}"
        )
    if max_length > tokenizer.model_max_length:
        raise CorpusError(
            f"max_length={max_length} is longer than the {tokenizer.model_max_length} tokens that the teacher "
            f"{tokenizer.name_or_path!r} can read"
        )


def token_fingerprint(ids: NDArray[np.int32], types: NDArray[np.int8] | None, offsets: NDArray[np.int64]) -> str:
    """Return the SHA-256 (hex) of the token ids, segments and offsets of a :class:`Corpus`."""
    digest = hashlib.sha256()
    for array in (ids, types, offsets):
        digest.update(b"none" if array is None else f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def corrupt_corpus(corpus: Corpus, tokenizer: Any, probability: float, seed: int) -> Corpus:
    """Corrupt the tokens of a corpus as BERT's pre-training does (Devlin et al. 2019, arXiv:1810.04805, section 3.1).

    Every token that is not special is selected with the given probability. Of the selected tokens, 80 % become the mask
    token, 10 % a random non-special token, and 10 % stay. Tokens are drawn once: teacher and student see the same
    corrupted text in every epoch, so the teacher's hidden states can be cached.

    Args:
        corpus: The corpus; not changed.
        tokenizer: The corpus' tokenizer.
        probability: Probability of selecting a token, in [0, 1]; 0 returns the corpus itself.
        seed: Seed of the random selection.

    Returns:
        A corpus with the same samples and splits, new token ids, and a new fingerprint.

    Raises:
        CorpusError: If the probability is out of range, or the tokenizer has no mask token.
    """
    if not 0 <= probability <= 1:
        raise CorpusError(f"the masking probability is {probability}; expected a number in [0, 1]")
    if probability == 0:
        return corpus
    mask = tokenizer.mask_token_id
    if mask is None:
        raise CorpusError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no mask token, so its text cannot be masked; "
            "set mask_probability to 0"
        )
    special = np.array(tokenizer.all_special_ids)
    ordinary = np.setdiff1d(list(tokenizer.get_vocab().values()), special)
    rng = np.random.default_rng(seed)
    ids = corpus.input_ids.copy()
    selected = np.flatnonzero((rng.random(len(ids)) < probability) & ~np.isin(ids, special))
    draws = rng.random(len(selected))
    ids[selected[draws < _MASKED]] = mask
    replaced = selected[(draws >= _MASKED) & (draws < _MASKED + _RANDOM)]
    ids[replaced] = rng.choice(ordinary, len(replaced))
    ids.setflags(write=False)
    fingerprint = token_fingerprint(ids, corpus.token_type_ids, corpus.offsets)
    return replace(corpus, input_ids=ids, fingerprint=fingerprint)
