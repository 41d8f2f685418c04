"""Record what ``kdnas search`` prints, and the picture that it leaves.

    python docs/scripts/record_search.py [--keep FOLDER]

It runs the default search, which takes a few minutes on two cores, and writes ``docs/pictures/search.svg`` (the
terminal) and ``docs/pictures/search.png`` (the search).
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from rich.console import Console
from rich.text import Text

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.flags import FlagProgress
from kdnas_env.cli.search import print_search
from kdnas_env.pipeline.search import search
from kdnas_env.pipeline.search.options import SearchOptions

PICTURES = Path(__file__).parents[1] / "pictures"
WIDTH = 92
SHOWN = "runs/first"
"""What the run folder is called in the picture."""
HEAD = 16
"""Lines that are shown of the search itself, before those of its result."""


def main(keep: str | None = None) -> None:
    """Run the search and write both pictures.

    Args:
        keep: Run folder to keep; by default it is removed.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(keep or f"{scratch}/run")
        options = SearchOptions(out=str(folder))
        during, after = _recorder(), _recorder()
        with FlagProgress(during, options) as progress:
            run = search(options, progress=progress)
        print_search(after, run)
        lines = during.export_text(styles=True).replace(str(folder), SHOWN).splitlines()
        shown = ["$ kdnas search", *lines[:HEAD], f"  ... {len(lines) - HEAD} more lines", ""]
        result = after.export_text(styles=True).replace(str(folder), SHOWN)
        terminal = Console(record=True, width=WIDTH, file=io.StringIO())
        terminal.print(Text.from_ansi("\n".join(shown) + "\n" + result))
        PICTURES.mkdir(exist_ok=True)
        terminal.save_svg(str(PICTURES / "search.svg"), title="kdnas search")
        shutil.copy(folder / "search.png", PICTURES)


def _recorder() -> SafeConsole:
    return SafeConsole(record=True, width=WIDTH, file=io.StringIO())


if __name__ == "__main__":
    tyro.cli(main)
