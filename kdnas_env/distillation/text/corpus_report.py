"""Report of a corpus preparation: kept, dropped and truncated text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdnas_env.support.progress import Progress

_MUCH_UNKNOWN = 0.01
"""Fraction of unknown tokens from which a note warns."""

_FEW_HELD_OUT = 20
"""With fewer held-out samples a note warns that the loss is not reliable."""

_WHOLE = 0.99
"""Fraction of the samples that the advised length does not truncate; no advice if the current length reaches it."""

_STEP = 8
"""Advised lengths are multiples of this."""


@dataclass(frozen=True)
class CorpusReport:
    """Report of a corpus preparation, as plain data.

    ``rows`` equals ``kept + paired + unused`` and all that is dropped.

    Attributes:
        source: The source given to ``load_corpus``.
        config_name: Configuration of the dataset, if any.
        split: Split of the dataset.
        text_columns: The one or two text columns.
        rows: Rows of the source.
        kept: Samples of the corpus.
        dropped_empty: Rows whose text (either text of a pair) is missing, blank, or yields no token.
        dropped_duplicate: Rows whose tokens equal those of an earlier row, up to ``corpus.max_length``.
        dropped_non_string: Rows whose text is not a string.
        unused: Rows not read because ``max_samples`` was reached, and rows paired with a dropped row.
        truncated: Samples truncated to ``corpus.max_length``.
        tokens: Tokens of all samples.
        max_length: Longest sample allowed, in tokens, special tokens included.
        proxy_fraction: Fraction of the samples not held out that goes to the proxy subset.
        heldout_fraction: Fraction of all samples that is held out.
        train_samples: Samples of the proxy subset.
        heldout_samples: Held-out samples.
        seed: Seed of the splits, of the draw of ``max_samples`` and of the pairs.
        pair_fraction: Requested fraction of samples made of two consecutive rows.
        paired: Samples made of two rows.
        unknown_fraction: Fraction of unknown tokens.
        whole_length: Length in tokens at which 99 % of the samples would not be truncated, special tokens included;
            None for pairs, and for records of earlier versions.
        dropped_without: Rows whose text the option ``without`` excludes.
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
    whole_length: int | None = None
    dropped_without: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """One sentence that summarises the corpus."""
        columns = " and ".join(self.text_columns)
        return (
            f"text {self.source}, column {columns}: {self.kept:,} samples of {self.rows:,} rows, "
            f"{self.tokens / self.kept:.0f} tokens on average; {self.truncated / self.kept:.1%} cut to "
            f"{self.max_length} tokens, {self.unknown_fraction:.1%} of the tokens unknown, "
            f"{self.dropped_duplicate:,} duplicates left out; {self.heldout_samples:,} samples held out"
        )

    def notes(self, longest: int) -> tuple[str, ...]:
        """Return notes on dropped, truncated and unknown text; they use the option names of the commands.

        Args:
            longest: Longest sample that the tokenizer supports, in tokens.
        """
        dropped = {
            "empty": self.dropped_empty,
            "duplicate": self.dropped_duplicate,
            "not text": self.dropped_non_string,
            "kept for scoring": self.dropped_without,
        }
        notes = []
        if any(dropped.values()):
            reasons = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
            notes.append(f"{sum(dropped.values())} of {self.rows} rows were left out: {reasons}")
        if self.truncated:
            cut = f"{self.truncated} of {self.kept} texts were cut to {self.max_length} tokens"
            notes.append(f"{cut}; {self._remedy(longest)}")
        if self.unknown_fraction >= _MUCH_UNKNOWN:
            share = f"{self.unknown_fraction:.0%}"
            notes.append(f"{share} of the tokens are unknown: the teacher's tokenizer has no tokens for their text")
        if self.heldout_samples < _FEW_HELD_OUT:
            held_out = self.heldout_samples
            notes.append(f"only {held_out} texts are held out, too few to rely on the loss; give more text")
        return tuple(notes)

    def _remedy(self, longest: int) -> str:
        """Return advice on truncated samples."""
        if self.max_length >= longest:
            return "the teacher reads no more"
        if self.whole_length is None:
            return "raise `corpus.max_length`"
        if self.whole_length <= self.max_length:
            return f"{_WHOLE:.0%} of the texts are not cut"
        advised = -(-self.whole_length // _STEP) * _STEP
        if advised >= longest:
            return f"raise it to the teacher's maximum, `corpus.max_length={longest}`"
        return f"with `corpus.max_length={advised}`, {_WHOLE:.0%} of the texts are not cut"


def whole_length(lengths: Sequence[int]) -> int:
    """Return the length at which 99 % of samples are not truncated.

    Args:
        lengths: Lengths of the samples without truncation, in tokens.
    """
    return int(np.quantile(lengths, _WHOLE, method="higher"))


def report_corpus(report: CorpusReport, longest: int, progress: Progress) -> None:
    """Summarise the corpus preparation, with advice.

    Args:
        report: Report of the corpus preparation.
        longest: Longest sample that the tokenizer supports, in tokens.
        progress: Receives the messages.
    """
    progress.say(report.summary)
    for note in report.notes(longest):
        progress.say(f"text: {note}", "warning")
