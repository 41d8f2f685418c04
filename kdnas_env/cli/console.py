"""The console of the commands. Control characters in texts are shown, never interpreted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kdnas_env.support.progress import STYLES, Tone


def visible(text: str) -> str:
    """Return a text with control characters and invisible characters escaped; line feeds stay."""
    return "".join(part if part.isprintable() or part == "\n" else ascii(part)[1:-1] for part in text)


class SafeConsole(Console):
    """A console for texts that may come from files.

    Terminals interpret control characters, and some invisible characters reorder text; all of them are escaped.
    :meth:`print` interprets markup of Rich; :meth:`say` and the cells, titles and captions of tables do not.

    Args:
        settings: As for :class:`rich.console.Console`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print like the base class, and interpret markup."""
        super().print(*(_marked_up(part) if isinstance(part, str) else part for part in objects), **settings)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Print a text without markup. The terminal breaks its lines, so that paths can be copied."""
        super().print(Text(visible(text)), style=STYLES[tone], soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Print nothing more after the reader, such as ``head``, has closed the pipe; the work continues."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes it at exit
        os.close(nowhere)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text like the base class, with its control characters escaped."""
        return super().render_str(visible(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render like the base class, and escape texts of other renderables too, such as those of a bar."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def grid(
    first: str, *numbers: str, left: Sequence[str] = (), title: str | None = None, caption: str | None = None
) -> Table:
    """Make an empty table.

    Args:
        first: Heading of the first column: names, which may be folded.
        *numbers: Headings of columns of numbers, which are never folded.
        left: Headings of further columns of texts.
        title: Title above the table.
        caption: Caption below the table.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.caption, table.caption_justify = caption, "left"
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in left:
        table.add_column(heading, overflow="fold")
    return table


def _marked_up(text: str) -> Text:
    return Text.from_markup(visible(text), emoji=False)
