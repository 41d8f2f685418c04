"""Make samples from rows of text: clean, tokenise and deduplicate."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.text.sources import Texts


def text_key(text: str) -> str:
    """Return the key by which texts are compared, without case and surrounding white space."""
    return text.strip().lower()


def is_among(texts: Sequence[str], keys: Collection[str], *, pairs_rows: bool) -> bool:
    """Return whether to leave out a row; the arguments are those of :class:`Samples`."""
    listed = [text_key(text) in keys for text in texts]
    return any(listed) if pairs_rows else all(listed)


class Samples:
    """Collects tokenised samples up to a limit, and counts the dropped rows.

    Args:
        tokenizer: A fast tokenizer of transformers.
        max_length: Longest sample, in tokens.
        limit: Number of samples to keep.
        pairs_rows: Whether the two texts of a pair come from two rows.
        without: Keys of texts to leave out (:func:`text_key`): a row is left out if all of its texts are among them, a
            pair of two rows if one is.

    Attributes:
        lengths: Number of tokens of each kept sample.
        whole_lengths: Number of tokens of each sample before truncation; only for samples of one text.
        ids: Tokens of the samples; each array concatenates many samples.
        types: Segments, in the same form; empty if the tokenizer makes none.
        empty, duplicate, non_string, left_out: Numbers of dropped rows.
        truncated: Number of truncated samples.
        paired: Number of samples made of two rows.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        limit: int,
        *,
        pairs_rows: bool,
        without: Collection[str] = frozenset(),
    ) -> None:
        self.lengths: list[int] = []
        self.whole_lengths: list[int] = []
        self.ids: list[NDArray[np.int32]] = []
        self.types: list[NDArray[np.int8]] = []
        self.empty = self.duplicate = self.non_string = self.left_out = self.truncated = self.paired = 0
        self._without = without
        self._tokenizer, self._max_length, self._limit = tokenizer, max_length, limit
        self._special = tokenizer.num_special_tokens_to_add(pair=False)
        self._pairs_rows = pairs_rows
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._seen: set[bytes] = set()

    @property
    def dropped(self) -> int:
        """All dropped rows."""
        return self.empty + self.duplicate + self.non_string + self.left_out

    def add(self, rows: list[Texts]) -> bool:
        """Add rows of one or two texts; return whether more rows are needed."""
        kept, usable = [], self._usable(rows)
        for texts, encoding in zip(usable, self._encode(usable), strict=True):
            if len(self.lengths) == self._limit:
                break
            if self._is_new(texts, encoding):
                kept.append(encoding)
                self.lengths.append(len(encoding.ids))
                if len(texts) == 1:
                    cut = sum(len(part.ids) - self._special for part in encoding.overflowing)
                    self.whole_lengths.append(len(encoding.ids) + cut)
                self.truncated += bool(encoding.overflowing)
                self.paired += self._pairs_rows and len(texts) == 2
        self.ids.append(np.fromiter(chain.from_iterable(encoding.ids for encoding in kept), np.int32))
        if self._with_types:
            self.types.append(np.fromiter(chain.from_iterable(encoding.type_ids for encoding in kept), np.int8))
        return len(self.lengths) < self._limit

    def _usable(self, rows: list[Texts]) -> list[tuple[str, ...]]:
        usable = []
        for row in rows:
            texts = tuple(text for text in row if text is not None)
            if not all(text.strip() for text in texts):
                self.empty += 1
            elif len(texts) < len(row):
                self.non_string += 1
            elif self._without and is_among(texts, self._without, pairs_rows=self._pairs_rows):
                self.left_out += 1
            else:
                usable.append(texts)
        return usable

    def _encode(self, rows: list[tuple[str, ...]]) -> Sequence[Any]:
        encodings: list[Any] = [None] * len(rows)
        for size in (1, 2):
            places = [place for place, row in enumerate(rows) if len(row) == size]
            if not places:
                continue
            batch = self._tokenizer(
                *(list(column) for column in zip(*(rows[place] for place in places), strict=True)),
                truncation=True,
                max_length=self._max_length,
                padding=False,
                return_attention_mask=False,
            )
            for place, encoding in zip(places, batch.encodings, strict=True):
                encodings[place] = encoding
        return encodings

    def _is_new(self, texts: tuple[str, ...], encoding: Any) -> bool:
        if all(encoding.special_tokens_mask):
            self.empty += 1
            return False
        types = encoding.type_ids if self._with_types else []
        digest = hashlib.blake2b(np.array([*encoding.ids, *types], dtype=np.int32).tobytes(), digest_size=16)
        digest.update("\0".join(self._unknown(texts, encoding)).encode())
        if digest.digest() in self._seen:
            self.duplicate += 1
            return False
        self._seen.add(digest.digest())
        return True

    def _unknown(self, texts: tuple[str, ...], encoding: Any) -> list[str]:
        """Return the text of the unknown tokens, so that texts with different unknown words are not duplicates."""
        unknown = self._tokenizer.unk_token_id
        if unknown not in encoding.ids:
            return []
        places = zip(encoding.ids, encoding.sequence_ids, encoding.offsets, strict=True)
        return [texts[text][start:end] for id_, text, (start, end) in places if id_ == unknown and text is not None]
