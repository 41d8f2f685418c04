"""What MkDocs builds of the code itself: the flags of every command, the settings of every agent, pages of notebooks.

A page asks for it by a comment of its own line, such as ``<!-- generated: commands -->``. ``CONTRIBUTING.md`` and
``CHANGELOG.md`` stand in the top folder, where they are looked for; pages of the site take their text from there. Each
notebook becomes a page of its name, with the outputs that it holds.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

_TO_NOTEBOOK = r"(\]\([^)]+)\.ipynb\)"
"""The end of a link to a notebook, which is a page here."""


def on_files(files: Files, *, config: Any, **_: Any) -> Files:
    """Add a page, and its pictures, for every notebook."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        stem = notebook.src_uri.removesuffix(".ipynb")
        text, pictures = page_of_notebook(Path(config["docs_dir"]) / notebook.src_uri)
        files.append(File.generated(config, f"{stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"{stem.rpartition('/')[0]}/{name}", content=picture))
    return files


def page_of_notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the names that the Markdown has for them."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(
        str(path), resources={"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    )
    return text.replace('<table border="1" class="dataframe">', "<table>"), resources["outputs"]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put generated text in the place of the comments that ask for it, and link to the pages of notebooks."""
    markdown = re.sub(_TO_NOTEBOOK, r"\1.md)", markdown)
    return re.sub(r"^<!-- generated: ([\w./-]+) -->$", lambda match: generated(match[1]), markdown, flags=re.MULTILINE)


def generated(what: str) -> str:
    """Return a generated part of a page: Markdown.

    Args:
        what: ``commands``, ``agents``, or the name of a Markdown file in the top folder.
    """
    if what.endswith(".md"):
        return (ROOT / what).read_text(encoding="utf-8").replace("](docs/", "](").removeprefix("\n")
    parts: dict[str, Callable[[], str]] = {"commands": _commands, "agents": _agents}
    return parts[what]()


def _commands() -> str:
    """Return a section a command: what ``kdnas COMMAND --help-all`` prints."""
    from kdnas_env.cli.commands import COMMANDS

    return "\n\n".join(f"## kdnas {name}\n\n```text\n{_help(name)}\n```" for name in COMMANDS)


def _help(name: str) -> str:
    from kdnas_env.cli import main

    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        with redirect_stdout(io.StringIO()) as printed, suppress(SystemExit):
            main([*name.split(), "--help-all"])
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def _agents() -> str:
    """Return a section an agent: what it is, and its settings with their defaults."""
    from kdnas_env import agent_names

    return "\n\n".join(map(_agent, agent_names()))


def _agent(name: str) -> str:
    import docstring_parser

    from kdnas_env.searching.registry import agent_class

    cls: Any = agent_class(name)
    meanings: dict[str, str] = {}
    for kind in reversed(cls.Config.__mro__):
        parsed = docstring_parser.parse(kind.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        meanings |= {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}
    rows = [
        f"| `{setting.name}` | `{_default(setting)!r}` | {_cell(meanings.get(setting.name, ''))} |"
        for setting in fields(cls.Config)
    ]
    table = "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows]) if rows else "It has no settings."
    return f"### {name}\n\n{_about(cls)}\n\n{table}"


def _about(cls: type[Any]) -> str:
    parsed = (cls.__doc__ or "").split("\n\n")[0]
    return " ".join(parsed.split()).replace("``", "`")


def _default(setting: Any) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def _cell(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`").replace("|", "\\|")
