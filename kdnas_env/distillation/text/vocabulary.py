"""Smaller vocabularies: find the tokens that a text uses, and reduce a tokenizer to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.errors import CorpusError

_SPACE = "\u2581"
"""Symbol for a space in SentencePiece tokens."""

KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
"""Types of tokenizers that can be reduced."""


def count_tokens(tokenizer: Any, texts: Iterable[Sequence[str]]) -> NDArray[np.int64]:
    """Count how often each token occurs in some texts.

    Args:
        tokenizer: A fast tokenizer of transformers.
        texts: Batches of texts.

    Returns:
        Number of occurrences by token id, int64 ``(len(tokenizer),)``, without added special tokens.
    """
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=np.int64)
    for batch in texts:
        encoded = tokenizer(list(batch), add_special_tokens=False, truncation=False, padding=False, verbose=False)
        ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def choose_tokens(tokenizer: Any, counts: NDArray[np.int64], size: int | None = None) -> NDArray[np.int64]:
    """Choose the tokens of a smaller vocabulary, most frequent first.

    The result always includes the special tokens, and the tokens that can spell any other word: bytes, ASCII
    characters, and the characters that occur. For byte-pair encoding, it includes the tokens from which each chosen
    token is merged.

    Args:
        tokenizer: A fast tokenizer of transformers.
        counts: Number of occurrences by token id, see :func:`count_tokens`.
        size: Maximum number of tokens; None for all that occur.

    Returns:
        The ids of the tokens, ascending, int64.

    Raises:
        CorpusError: If this type of tokenizer cannot be reduced, or the size leaves no room for words.
    """
    state = _state(tokenizer)
    ids: dict[str, int] = tokenizer.get_vocab()
    always = _required_tokens(state, ids, counts)
    if size is not None and size <= len(always):
        raise CorpusError(
            f"a vocabulary of {size} tokens has no room for words: {len(always)} are special tokens and single "
            f"characters; choose more than {len(always)}"
        )
    parts = _merged_from(state)
    kept = set(always)
    for token in sorted(ids, key=lambda token: (-counts[ids[token]], ids[token])):
        if counts[ids[token]] == 0:
            break
        wanted = _with_parts(token, parts) - kept
        if size is None or len(kept) + len(wanted) <= size:
            kept |= wanted
    return np.array(sorted(ids[token] for token in kept), dtype=np.int64)


def cut_tokenizer(tokenizer: Any, kept: NDArray[np.int64]) -> dict[str, Any]:
    """Return a tokenizer reduced to some of its tokens, renumbered in the same order.

    It tokenises a text like the original if the original uses only kept tokens. WordPiece takes the longest match,
    byte-pair encoding the earliest merge, and Unigram the best sum of scores; each of them is still available.

    Args:
        tokenizer: A fast tokenizer of transformers.
        kept: Ids of the kept tokens, ascending, as returned by :func:`choose_tokens`.

    Returns:
        The content of a ``tokenizer.json``.

    Raises:
        CorpusError: If this type of tokenizer cannot be reduced.
    """
    state = _state(tokenizer)
    new_ids = {int(old): new for new, old in enumerate(kept)}
    new = {token: new_ids[old] for token, old in tokenizer.get_vocab().items() if old in new_ids}
    model = state["model"]
    if model["type"] == "Unigram":
        model["unk_id"] = new_ids.get(model["unk_id"])
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new_ids]
    else:
        model["vocab"] = {token: new[token] for token in model["vocab"] if token in new}
    if model["type"] == "BPE":
        pairs = (tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"])
        model["merges"] = [list(pair) for pair in pairs if pair[0] in new and pair[1] in new and "".join(pair) in new]
    state["added_tokens"] = [
        {**token, "id": new[token["content"]]} for token in state["added_tokens"] if token["content"] in new
    ]
    state["truncation"] = state["padding"] = None
    _renumber(state.get("post_processor"), new)
    return state


def _state(tokenizer: Any) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = state["model"]["type"]
    if kind not in KINDS:
        raise CorpusError(f"a tokenizer of kind {kind!r} cannot be reduced; expected one of {list(KINDS)}")
    return state


def _required_tokens(state: dict[str, Any], ids: dict[str, int], counts: NDArray[np.int64]) -> set[str]:
    """Return the tokens that are special, bytes, or single characters that are ASCII or occur."""
    prefix = state["model"].get("continuing_subword_prefix") or ""
    spelled = "BPE" in state["model"]["type"]  # a token of one character may be a byte
    special = {token["content"] for token in state["added_tokens"]}
    unknown = state["model"].get("unk_token")
    characters = {
        token
        for token in ids
        if _is_byte(token)
        or (len(bare := _bare(token, prefix)) <= 1 and (spelled or bare.isascii() or counts[ids[token]] > 0))
    }
    # A character that starts one word may occur inside another.
    occurring = {_bare(token, prefix) for token in characters}
    characters |= {token for token in ids if prefix and _bare(token, prefix) in occurring}
    if state["model"]["type"] == "Unigram" and state["model"]["unk_id"] is not None:
        unknown = state["model"]["vocab"][state["model"]["unk_id"]][0]
    return (special | characters | ({unknown} if unknown else set())) & set(ids)


def _bare(token: str, prefix: str) -> str:
    return token.removeprefix(prefix).removeprefix(_SPACE) if prefix else token.removeprefix(_SPACE)


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _merged_from(state: dict[str, Any]) -> dict[str, set[str]]:
    """Map each byte-pair encoding token to the tokens that it can be merged from."""
    parts: dict[str, set[str]] = {}
    for merge in state["model"].get("merges", ()):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        parts.setdefault("".join(pair), set()).update(pair)
    return parts


def _with_parts(token: str, parts: dict[str, set[str]]) -> set[str]:
    wanted, open_ = {token}, [token]
    while open_:
        more = parts.get(open_.pop(), set()) - wanted
        wanted |= more
        open_ += more
    return wanted


def _renumber(processor: dict[str, Any] | None, ids: dict[str, int]) -> None:
    """Set the new ids of the special tokens that a post-processor adds."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber(part, ids)
    for name in ("cls", "sep"):
        if isinstance(processor.get(name), list):
            processor[name][1] = ids[processor[name][0]]
    special = processor.get("special_tokens")
    for entry in special.values() if isinstance(special, dict) else ():
        entry["ids"] = [ids[token] for token in entry["tokens"]]
