"""Cards of models with a reduced vocabulary."""

from __future__ import annotations

from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.exporting.cards.template import fill

_NEXT = "## Limits\n"
"""The section that follows the vocabulary section."""


def cut_teacher_card(teacher: str, tokens: int, tokens_before: int, unscored: str | None) -> str:
    """Return the card of a teacher with a reduced vocabulary.

    Args:
        teacher: Name or folder of the original teacher.
        tokens: Number of tokens in its vocabulary.
        tokens_before: Number of tokens in the original vocabulary.
        unscored: Why its score could not be measured; None for a model without a score.
    """
    card = fill("vocabulary", teacher=teacher_title(teacher), tokens=f"{tokens:,}", tokens_before=f"{tokens_before:,}")
    return card if unscored is None else card + fill("vocabulary_unscored", why=unscored)


def with_vocabulary(card: str, tokens: int, tokens_before: int, score: float, score_before: float) -> str:
    """Add a section on the vocabulary to the card of a classifier or an embedding student.

    Args:
        card: The card.
        tokens: Number of tokens in its vocabulary.
        tokens_before: Number of tokens before the reduction.
        score: Its score.
        score_before: Its score with the original vocabulary.
    """
    section = fill(
        "vocabulary_section",
        tokens=f"{tokens:,}",
        tokens_before=f"{tokens_before:,}",
        score=f"{score:.4f}",
        score_before=f"{score_before:.4f}",
    )
    return card.replace(_NEXT, section + _NEXT, 1)
