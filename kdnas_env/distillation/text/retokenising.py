"""Tokenise a corpus again for a smaller vocabulary, aligned with its original tokens.

The teacher reads the original tokens, and a student with a smaller vocabulary reads its own. Only words that contain a
removed token are tokenised again. Each original token is aligned with the first own token of its word that ends at the
same character or later: a kept token with itself, a split token with its last piece. Losses are therefore sums over the
original tokens, for every vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kdnas_env.distillation.text.corpus import Corpus, token_fingerprint, token_rows
from kdnas_env.distillation.text.vocabulary import cut_tokenizer
from kdnas_env.errors import CorpusError
from kdnas_env.support.arrays import Ints

_SPACES = ("\u2581", "\u0120")
"""Symbols that begin a word, of SentencePiece and of byte-level tokenizers."""


@dataclass(frozen=True, eq=False)
class Retokenised:
    """A corpus in the tokens of a smaller vocabulary.

    Attributes:
        corpus: The corpus in the kept tokens, by their ids in the whole vocabulary.
        original: The corpus as the teacher reads it, with the same samples.
        places: For each original token, the position in its sample of the own token that it is aligned with, int64
            ``(original tokens,)``.
        kept: Ids of the kept tokens, ascending, int64.
    """

    corpus: Corpus
    original: Corpus
    places: Ints
    kept: Ints

    def rows(self, sample_ids: Ints) -> Ints:
        """Return the aligned own token of each original token of some samples, by its index in their own tokens."""
        lengths = self.corpus.lengths[sample_ids]
        starts = np.repeat(np.cumsum(lengths) - lengths, self.original.lengths[sample_ids])
        return starts + self.places[token_rows(self.original.offsets, sample_ids)]

    def shares(self, sample_ids: Ints, unknown: int | None) -> dict[str, float]:
        """Return the effects of the vocabulary on some samples.

        Args:
            sample_ids: The samples, such as those that are held out.
            unknown: Id of the unknown token, or None.

        Returns:
            ``covered``: fraction of the original tokens that are kept; ``longer``: number of own tokens over number of
            original tokens; ``unknown``: fraction of the own tokens that are unknown.
        """
        original = self.original.input_ids[token_rows(self.original.offsets, sample_ids)]
        own = self.corpus.input_ids[token_rows(self.corpus.offsets, sample_ids)]
        return {
            "covered": float(np.isin(original, self.kept).mean()),
            "longer": len(own) / len(original),
            "unknown": float((own == unknown).mean()),
        }


def retokenise(corpus: Corpus, tokenizer: Any, kept: Ints, *, longest: int) -> Retokenised:
    """Tokenise a corpus again with fewer tokens.

    Args:
        corpus: The corpus, in the tokens of ``tokenizer``.
        tokenizer: A fast tokenizer of transformers.
        kept: Ids of the kept tokens, see :func:`kdnas_env.distillation.text.vocabulary.choose_tokens`.
        longest: Maximum number of tokens of a sample; longer ones are truncated, but keep their last token.

    Raises:
        CorpusError: If this type of tokenizer cannot be reduced, or a word cannot be tokenised.
    """
    ids, offsets = corpus.input_ids, corpus.offsets
    word_tokeniser = _WordTokeniser(tokenizer, kept)
    begins = word_tokeniser.begins[ids]
    begins[offsets[:-1]] = True
    begins[1:] |= word_tokeniser.is_special[ids[:-1]]
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(ids))
    lengths = ends - starts
    changed = np.unique(np.searchsorted(starts, np.flatnonzero(~word_tokeniser.is_kept[ids]), side="right") - 1)
    words = [word_tokeniser.tokenise(tuple(ids[starts[word] : ends[word]].tolist())) for word in changed.tolist()]
    lengths[changed] = [len(own) for own, _ in words]
    own_starts = np.cumsum(lengths) - lengths
    first_words = np.searchsorted(starts, offsets[:-1])
    own_offsets = np.append(own_starts[first_words], lengths.sum())
    # The tokens of unchanged words stay in the same order.
    reached = np.repeat(own_starts, ends - starts) + np.arange(len(ids)) - np.repeat(starts, ends - starts)
    same = np.ones(len(starts), dtype=np.bool_)
    same[changed] = False
    whole = np.repeat(same, ends - starts)
    own_ids = np.zeros(own_offsets[-1], dtype=ids.dtype)
    own_ids[reached[whole]] = ids[whole]
    for word, (own, places) in zip(changed.tolist(), words, strict=True):
        own_ids[own_starts[word] : own_starts[word] + len(own)] = own
        reached[starts[word] : ends[word]] = own_starts[word] + places
    sources = np.repeat(starts, lengths)
    places = reached - np.repeat(own_offsets[:-1], corpus.lengths)
    if (np.diff(own_offsets) > longest).any():
        sizes = np.diff(own_offsets)
        within = np.arange(len(own_ids)) - np.repeat(own_offsets[:-1], sizes)
        left = (within < longest - 1) | (within == np.repeat(sizes - 1, sizes))
        own_ids, sources = own_ids[left], sources[left]
        own_offsets = np.append(0, np.cumsum(np.minimum(sizes, longest)))
        places = np.minimum(places, longest - 1)
    types = None if corpus.token_type_ids is None else corpus.token_type_ids[sources]
    fingerprint = token_fingerprint(own_ids, types, own_offsets)
    own_corpus = replace(corpus, input_ids=own_ids, token_type_ids=types, offsets=own_offsets, fingerprint=fingerprint)
    return Retokenised(own_corpus, corpus, places, kept)


class _WordTokeniser:
    """Tokenises words with the kept tokens only.

    Attributes:
        is_special: By token id, whether the token is special; each special token is a word of its own.
        begins: By token id, whether the token always begins a word.
        is_kept: By token id, whether the token is kept.
    """

    def __init__(self, tokenizer: Any, kept: Ints) -> None:
        from tokenizers import Tokenizer

        state = cut_tokenizer(tokenizer, kept)
        self._model = Tokenizer.from_str(json.dumps(state)).model
        self._kept = kept
        self._unknown = tokenizer.unk_token_id
        self._prefix: str = state["model"].get("continuing_subword_prefix") or ""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        self._tokens = [""] * size
        for token, number in vocabulary.items():
            self._tokens[number] = token
        self.is_special = np.zeros(size, dtype=np.bool_)
        self.is_special[[*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]] = True
        begins = np.array([self._begins(token, state["model"]["type"]) for token in self._tokens])
        self.begins = self.is_special | begins
        self.is_kept = np.zeros(size, dtype=np.bool_)
        self.is_kept[kept] = True
        self._memo: dict[tuple[int, ...], tuple[list[int], Ints]] = {}

    def _begins(self, token: str, kind: str) -> bool:
        if self._prefix:
            return not token.startswith(self._prefix)
        return kind == "WordLevel" or token.startswith(_SPACES)

    def tokenise(self, word: tuple[int, ...]) -> tuple[list[int], Ints]:
        """Return the ids of a word's own tokens, and the position of the aligned own token for each original token."""
        if word not in self._memo:
            self._memo[word] = self._tokenised(word)
        return self._memo[word]

    def _tokenised(self, word: tuple[int, ...]) -> tuple[list[int], Ints]:
        parts = [self._bare(self._tokens[number], place) for place, number in enumerate(word)]
        text = "".join(parts)
        pieces = self._model.tokenize(text)
        own = [int(self._kept[token.id]) for token in pieces]
        if not own:
            if self._unknown is None:
                raise CorpusError(
                    f"the word {text!r} has no tokens in the smaller vocabulary; choose a larger vocabulary"
                )
            own = [self._unknown]
        ends = np.cumsum([len(self._bare(token.value, place)) for place, token in enumerate(pieces)])
        if not len(ends) or ends[-1] != len(text):  # unknown, or tokenised as bytes
            return own, np.full(len(word), len(own) - 1, dtype=np.int64)
        return own, np.searchsorted(ends, np.cumsum([len(part) for part in parts])).astype(np.int64)

    def _bare(self, token: str, place: int) -> str:
        return token.removeprefix(self._prefix) if place and self._prefix else token
