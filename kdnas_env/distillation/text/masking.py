"""Corrupt text as in masked language modelling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kdnas_env.distillation.text.corpus import Corpus, token_fingerprint
from kdnas_env.errors import CorpusError

_MASKED, _RANDOM = 0.8, 0.1
"""Fractions of the selected tokens that are masked and replaced at random; the other selected tokens stay."""


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
        raise CorpusError(f"the masking probability is {probability}; expected a share in [0, 1]")
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
    fate = rng.random(len(selected))
    ids[selected[fate < _MASKED]] = mask
    replaced = selected[(fate >= _MASKED) & (fate < _MASKED + _RANDOM)]
    ids[replaced] = rng.choice(ordinary, len(replaced))
    ids.setflags(write=False)
    fingerprint = token_fingerprint(ids, corpus.token_type_ids, corpus.offsets)
    return replace(corpus, input_ids=ids, fingerprint=fingerprint)
