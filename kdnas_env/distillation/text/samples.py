"""Samples of a corpus: rows of text, cleaned, tokenised and told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.text.sources import Texts


class Samples:
    """Collects tokenised samples until enough of them are kept, counting what is dropped.

    Args:
        tokenizer: A fast tokenizer of transformers.
        max_length: Longest sample, in tokens.
        limit: Samples to keep.
        pairs_rows: Whether samples of two texts are two rows.

    Attributes:
        lengths: Tokens of each sample that is kept.
        whole_lengths: Tokens that each would have if it were not cut; for samples of one text.
        ids: Their tokens, in arrays of many samples one after the other.
        types: Their segments, alike; empty where the tokenizer makes none.
        empty, duplicate, non_string: Rows that are dropped.
        truncated: Samples that are cut.
        paired: Samples that are two rows.
    """

    def __init__(self, tokenizer: Any, max_length: int, limit: int, *, pairs_rows: bool) -> None:
        self.lengths: list[int] = []
        self.whole_lengths: list[int] = []
        self.ids: list[NDArray[np.int32]] = []
        self.types: list[NDArray[np.int8]] = []
        self.empty = self.duplicate = self.non_string = self.truncated = self.paired = 0
        self._tokenizer, self._max_length, self._limit = tokenizer, max_length, limit
        self._special = tokenizer.num_special_tokens_to_add(pair=False)
        self._pairs_rows = pairs_rows
        self._with_types = "token_type_ids" in tokenizer.model_input_names
        self._seen: set[bytes] = set()

    def add(self, rows: list[Texts]) -> bool:
        """Take in rows of one or two texts; return whether more are wanted."""
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
            elif len(texts) == len(row):
                usable.append(texts)
            else:
                self.non_string += 1
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
        """Return what the unknown tokens stand for: texts are not equal because none of their words is known."""
        unknown = self._tokenizer.unk_token_id
        if unknown not in encoding.ids:
            return []
        places = zip(encoding.ids, encoding.sequence_ids, encoding.offsets, strict=True)
        return [texts[text][start:end] for id_, text, (start, end) in places if id_ == unknown and text is not None]
