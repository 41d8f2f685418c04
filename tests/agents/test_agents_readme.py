"""The README of the folder of agents lists every agent and every file of shared code."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "agents"


def test_the_catalogue_is_complete() -> None:
    rows = re.findall(r"^\| (.*?) \| `(.*?\.py)` \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name: file for names, file in rows for name in re.findall(r"`([\w-]+)`", names)}
    ours = [point for point in entry_points(group="kdnas.agents") if point.module.startswith("kdnas_env.agents.")]
    assert listed == {
        point.name: point.module.removeprefix("kdnas_env.agents.").replace(".", "/") + ".py" for point in ours
    }
    shared = set(re.findall(r"^\| `(\w+\.py)` \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert shared == {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
