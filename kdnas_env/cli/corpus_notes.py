"""What became of a text on its way into a corpus, in sentences that name the flags."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from kdnas_env.cli.flags import typed
from kdnas_env.distillation.text.corpus import Corpus

_MUCH_UNKNOWN = 0.01
_FEW_HELD_OUT = 20


def say_corpus(console: Console, corpus: Corpus, tokenizer: Any, options: Any) -> None:
    """Say what was left out of a corpus, cut, and not known, where anything was.

    Args:
        console: Where.
        corpus: The corpus.
        tokenizer: The one that it was made with.
        options: Options of the command, which has the flags.
    """
    for note in corpus_notes(corpus, tokenizer):
        console.print(f"corpus: {escape(typed(note, type(options)))}", style="yellow", soft_wrap=True)


def corpus_notes(corpus: Corpus, tokenizer: Any) -> list[str]:
    """Return what was left out of a corpus, cut, and not known, in sentences that name arguments of ``load_corpus``."""
    report = corpus.report
    dropped = {
        "empty": report.dropped_empty,
        "duplicate": report.dropped_duplicate,
        "not text": report.dropped_non_string,
    }
    notes = []
    if any(dropped.values()):
        told = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
        notes.append(f"{sum(dropped.values())} of {report.rows} rows were left out: {told}")
    if report.truncated:
        longer = report.max_length < tokenizer.model_max_length
        remedy = "raise max_length" if longer else "the teacher takes no more"
        notes.append(f"{report.truncated} of {report.kept} texts were cut to {report.max_length} tokens; {remedy}")
    if report.unknown_fraction >= _MUCH_UNKNOWN:
        notes.append(
            f"{report.unknown_fraction:.0%} of the tokens stand for text that the teacher's tokenizer does not know"
        )
    if report.heldout_samples < _FEW_HELD_OUT:
        notes.append(f"only {report.heldout_samples} texts are held out, too few to rely on the loss; give more text")
    return notes
