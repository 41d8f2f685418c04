"""How a corpus came to be: what was kept, dropped and cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_MUCH_UNKNOWN = 0.01
"""Share of unknown tokens from which a note warns of them."""

_FEW_HELD_OUT = 20
"""With fewer held-out samples a note warns that the loss is not reliable."""


@dataclass(frozen=True)
class CorpusReport:
    """How a corpus came to be, as plain data.

    ``rows`` equals ``kept + paired + dropped_empty + dropped_duplicate + dropped_non_string + unused``.

    Attributes:
        source: What ``load_corpus`` was given.
        config_name: Configuration of the dataset, if any.
        split: Split of the dataset.
        text_columns: The one or two columns that were read.
        rows: Rows of the source.
        kept: Samples of the corpus.
        dropped_empty: Rows whose text (either text of a pair) is missing, blank, or yields no token.
        dropped_duplicate: Rows whose text is that of an earlier one to the tokenizer, up to ``max_length``.
        dropped_non_string: Rows whose text is not a string.
        unused: Rows never looked at because ``max_samples`` was reached, and rows joined to one that was dropped.
        truncated: Samples cut to ``max_length``.
        tokens: Tokens of all samples.
        max_length: Longest sample allowed, in tokens, special tokens included.
        proxy_fraction: Share of the samples not held out that the proxy subset takes.
        heldout_fraction: Share of all samples that is held out.
        train_samples: Samples of the proxy subset.
        heldout_samples: Samples held out.
        seed: Seed of the splits, of the draw of ``max_samples`` and of the pairs.
        pair_fraction: Share of the samples that was to be two rows, one after the other.
        paired: Samples that are two rows.
        unknown_fraction: Share of the tokens that stand for text which the tokenizer does not know.
    """

    source: str
    config_name: str | None
    split: str
    text_columns: tuple[str, ...]
    rows: int
    kept: int
    dropped_empty: int
    dropped_duplicate: int
    dropped_non_string: int
    unused: int
    truncated: int
    tokens: int
    max_length: int
    proxy_fraction: float
    heldout_fraction: float
    train_samples: int
    heldout_samples: int
    seed: int
    pair_fraction: float = 0.0
    paired: int = 0
    unknown_fraction: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    def notes(self, longest: int) -> tuple[str, ...]:
        """Return notes on what was dropped, cut or unknown; they name arguments of ``load_corpus``.

        Args:
            longest: Longest sample that the tokenizer is for, in tokens.
        """
        dropped = {
            "empty": self.dropped_empty,
            "duplicate": self.dropped_duplicate,
            "not text": self.dropped_non_string,
        }
        notes = []
        if any(dropped.values()):
            reasons = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
            notes.append(f"{sum(dropped.values())} of {self.rows} rows were left out: {reasons}")
        if self.truncated:
            remedy = "raise max_length" if self.max_length < longest else "the teacher takes no more"
            notes.append(f"{self.truncated} of {self.kept} texts were cut to {self.max_length} tokens; {remedy}")
        if self.unknown_fraction >= _MUCH_UNKNOWN:
            share = f"{self.unknown_fraction:.0%}"
            notes.append(f"{share} of the tokens stand for text that the teacher's tokenizer does not know")
        if self.heldout_samples < _FEW_HELD_OUT:
            held_out = self.heldout_samples
            notes.append(f"only {held_out} texts are held out, too few to rely on the loss; give more text")
        return tuple(notes)
