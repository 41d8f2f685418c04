"""Where commands print. Whatever a text came from, it is shown and never acted upon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text


def visible(text: str) -> str:
    """Return a text with all characters written out that a terminal would act on or not show; line feeds stay."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


class SafeConsole(Console):
    """A console for texts that may come from files.

    Terminals obey control characters, and reorder text by some that are invisible: each is written out. What is printed
    may hold markup; cells, titles and captions of tables never do.

    Args:
        settings: As for :class:`rich.console.Console`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print, as the base class does; markup in texts is obeyed."""
        super().print(*(_marked_up(one) if isinstance(one, str) else one for one in objects), **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text as the base class does, with its control characters written out."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as the base class does; texts that are not made by it, such as a bar's, are shown alike."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def _marked_up(text: str) -> Text:
    return Text.from_markup(visible(text), emoji=False)
