"""Stream a corpus larger than memory: read, tokenise and batch it during training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from kdnas_env.distillation.text.corpus import Corpus, Sampling, corpus_of_rows
from kdnas_env.distillation.text.layout import AS_NAMED, TextLayout
from kdnas_env.distillation.text.samples import is_among
from kdnas_env.distillation.text.sources import open_stream, reading
from kdnas_env.distillation.training.kd_data import Sample
from kdnas_env.errors import CorpusError

_READ = 512
_SHUFFLED = 10_000
"""Size of the shuffle buffer, in rows."""
_POOLED = 32
"""Number of batches whose samples are regrouped into batches of similar length."""


class StreamedSamples(IterableDataset[Sample]):
    """Endless samples of a source that is read repeatedly.

    The order groups samples of similar length into batches. The same arguments give the same samples in the same order.
    Rows without text are dropped. Duplicates stay, because rows are not compared.

    Args:
        source: See :func:`kdnas_env.distillation.text.corpus.load_corpus`.
        tokenizer: The teacher's fast tokenizer.
        batch_size: Samples per step, over all processes.
        config_name: Configuration of the dataset.
        split: Split of the dataset.
        text_columns: The column that holds the text, or two for sentence pairs; None to find it.
        max_length: Longest sample in tokens.
        pair_fraction: Fraction of the samples made of two consecutive rows of the stream.
        skip: Number of first rows to skip: the rows read by :func:`head_corpus`.
        seed: Seed of the order and of the pairs.
        layout: Layout of local files.
        without: Keys of texts to leave out; see :class:`kdnas_env.distillation.text.samples.Samples`.

    Raises:
        CorpusError: If the source cannot be read, or has no text.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Any,
        *,
        batch_size: int,
        config_name: str | None = None,
        split: str = "train",
        text_columns: Sequence[str] | None = None,
        max_length: int = 128,
        pair_fraction: float = 0.0,
        skip: int = 0,
        seed: int = 0,
        layout: TextLayout = AS_NAMED,
        without: Collection[str] = frozenset(),
    ) -> None:
        self._without = without
        self._source, self._tokenizer, self._batch_size = source, tokenizer, batch_size
        self._max_length, self._pair_fraction, self._seed = max_length, pair_fraction, seed
        self._stream = open_stream(
            source, config_name=config_name, split=split, text_columns=text_columns, layout=layout
        )
        self._rows = self._stream.rows.skip(skip)
        self._with_types = "token_type_ids" in tokenizer.model_input_names

    def __iter__(self) -> Iterator[Sample]:
        for epoch in count():
            rng = np.random.default_rng([self._seed, epoch])
            samples = self._samples(epoch, rng)
            empty = True
            while pool := list(islice(samples, _POOLED * self._batch_size)):
                empty = False
                pool.sort(key=lambda sample: len(sample.ids))
                batches = [pool[at : at + self._batch_size] for at in range(0, len(pool), self._batch_size)]
                # A short batch would shift the boundaries of all later batches.
                whole = [batch for batch in batches if len(batch) == self._batch_size] or batches
                for index in rng.permutation(len(whole)):
                    yield from whole[index]
            if empty:
                raise CorpusError(f"corpus {self._source!r} has no text besides the first rows; give more text")

    def _samples(self, epoch: int, rng: np.random.Generator) -> Iterator[Sample]:
        texts = self._texts(epoch, rng)
        while chunk := self._chunk(texts):
            for size in (1, 2):
                rows = [row for row in chunk if len(row) == size]
                if not rows:
                    continue
                encoded = self._tokenizer(
                    *(list(column) for column in zip(*rows, strict=True)),
                    truncation=True,
                    max_length=self._max_length,
                    return_attention_mask=False,
                )
                for encoding in encoded.encodings:
                    types = np.array(encoding.type_ids, dtype=np.int64) if self._with_types else None
                    yield Sample(np.array(encoding.ids, dtype=np.int64), types)

    def _chunk(self, texts: Iterator[tuple[str, ...]]) -> list[tuple[str, ...]]:
        with reading(self._source):
            return list(islice(texts, _READ))

    def _texts(self, epoch: int, rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
        rows = self._rows.shuffle(seed=[self._seed, epoch], buffer_size=_SHUFFLED)
        filled = (tuple(text for text in row if text and text.strip()) for row in self._stream.texts(rows))
        whole = (row for row in filled if len(row) == len(self._stream.columns))
        usable = (row for row in whole if not (self._without and is_among(row, self._without, pairs_rows=False)))
        for row in usable:
            second = next(usable, ()) if self._pair_fraction and rng.random() < self._pair_fraction else ()
            yield row + second


def head_corpus(
    source: str,
    tokenizer: Any,
    *,
    rows: int,
    config_name: str | None = None,
    split: str = "train",
    text_columns: str | Sequence[str] | None = None,
    layout: TextLayout = AS_NAMED,
    without: Collection[str] = frozenset(),
    **sampling: Any,
) -> Corpus:
    """Load the first rows of a stream as a corpus, to initialise a student and to hold out samples.

    Args:
        source: The source.
        tokenizer: The teacher's fast tokenizer.
        rows: Rows to read.
        config_name: Configuration of the dataset.
        split: Split of the dataset.
        text_columns: The column that holds the text, or two for sentence pairs; None to find it.
        layout: Layout of local files.
        without: Keys of texts to leave out.
        **sampling: Further arguments of :class:`kdnas_env.distillation.text.corpus.Sampling`.

    Raises:
        CorpusError: If the source cannot be read, or has too little text.
    """
    stream = open_stream(source, config_name=config_name, split=split, text_columns=text_columns, layout=layout)
    with reading(source):
        head = stream.head(rows)
    if len(head) == 0:
        raise CorpusError(f"corpus {source!r} is empty: split {split!r} holds no rows")
    named: dict[str, Any] = {"source": source, "config_name": config_name, "split": split}
    return corpus_of_rows(head, tokenizer, Sampling(**sampling), **named, without=without)
