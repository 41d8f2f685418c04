"""What MkDocs builds of the code itself: the flags of every command, a page of every agent, pages of notebooks.

A page asks for it by a comment of its own line, such as ``<!-- generated: commands -->``. ``CONTRIBUTING.md`` and
``CHANGELOG.md`` stand in the top folder, where they are looked for; pages of the site take their text from there. Each
notebook becomes a page of its name, with the outputs that it holds.
"""

from __future__ import annotations

import inspect
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]

_TO_NOTEBOOK = r"(\]\([^)]+)\.ipynb\)"
"""The end of a link to a notebook, which is a page here."""


AGENTS = "reference/agents.md"
"""The page of all agents; the page of each stands in the folder of its name."""


def on_config(config: Any) -> Any:
    """Put the pages of the agents behind the page of all of them."""
    from kdnas_env import agent_names

    pages = [AGENTS, *(f"{AGENTS.removesuffix('.md')}/{name}.md" for name in agent_names())]
    for shelf in config["nav"]:
        for title, entries in shelf.items():
            if AGENTS in entries:
                shelf[title] = [{"Agents": pages} if entry == AGENTS else entry for entry in entries]
    return config


def on_files(files: Files, *, config: Any, **_: Any) -> Files:
    """Add a page for every agent, and a page, and its pictures, for every notebook."""
    from kdnas_env import agent_names

    for name in agent_names():
        files.append(File.generated(config, f"{AGENTS.removesuffix('.md')}/{name}.md", content=page_of_agent(name)))
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
        what: ``commands``, or the name of a Markdown file in the top folder.
    """
    if what.endswith(".md"):
        return (ROOT / what).read_text(encoding="utf-8").replace("](docs/", "](").removeprefix("\n")
    parts: dict[str, Callable[[], str]] = {"commands": _commands}
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


def page_of_agent(name: str) -> str:
    """Return the page of an agent: what it is, where it can be used, an example, its settings, and its results."""
    from kdnas_env.pipeline.agents import capability_markdown
    from kdnas_env.searching.registry import agent_class

    cls: Any = agent_class(name)
    parts = [
        f"# {name}",
        _about(cls),
        f"`{cls.__module__}.{cls.__name__}`",
        f"## Where it can be used\n\n{capability_markdown([name])}\n\n[What the columns mean](../agents.md).",
        f"## Example\n\n```python\n{_EXAMPLE.format(name=name)}```\n\n"
        f"On the command line: `kdnas search --agent {name}`.",
        f"## Settings\n\n{_settings(name)}",
    ]
    results = [*_results(name)]
    if results:
        parts.append("## Results\n\n" + "\n\n".join(results))
    return "\n\n".join(parts) + "\n"


_EXAMPLE = """import gymnasium as gym
import kdnas_env

agent = kdnas_env.make_agent("{name}")
result = agent.search(gym.make("kdnas/Tabular-v0"), budget=50, seed=0)
print(result.best_reward, result.best_action)
"""


def _results(name: str) -> Iterator[str]:
    """Yield the rows of the agent, of each table on the page of the race, with the command that prints them."""
    text = (ROOT / "docs/results/race.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        command = re.search(r"```bash\n(.*?)```", section, flags=re.DOTALL)
        for table in re.findall(r"(?:^\|.*\n)+", section, flags=re.MULTILINE):
            head, rule, *rows = table.splitlines()
            own = [row for row in rows if re.match(rf"\| `{re.escape(name)}[`:]", row)]
            if own:
                title = section.splitlines()[0].removeprefix("# ")
                lines = "\n".join([head, rule, *own])
                how = f"\n\nReplicate with:\n\n```bash\n{command[1]}```" if command else ""
                yield f"From [{title}](../../results/race.md):\n\n{lines}{how}"


def _settings(name: str) -> str:
    """Return the settings of an agent with their defaults and meanings."""
    from kdnas_env.pipeline.agents import agent_settings

    _, settings = agent_settings(name)
    rows = [f"| `{setting.name}` | `{setting.default!r}` | {_cell(setting.meaning)} |" for setting in settings]
    return "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows]) if rows else "It has no settings."


def _about(cls: type[Any]) -> str:
    """Return what the docstring of a class says before its sections."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").split("\n\n")
    said = [text for text in paragraphs if not re.match(r"(Attributes|Args|Raises|Returns):", text)]
    return _plain("\n\n".join(said))


def _plain(text: str) -> str:
    """Return the text of a docstring as Markdown."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
