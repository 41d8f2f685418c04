"""The notebooks of the documentation run from the first cell to the last, and repeat their committed outputs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from processes import Started

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


def printed(notebook: Any) -> str:
    """Return what the cells of a notebook print and show, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(
        output.get("text", "") if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
        for output in outputs
    )


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def committed(name: str) -> Any:
    return nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)


@pytest.fixture(autouse=True)
def forked_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are forked from what is imported already."""
    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", _launch_kernel)


def _launch_kernel(command: list[str], *, env: dict[str, str], cwd: str, **others: Any) -> Any:
    arguments = command[command.index("ipykernel_launcher") + 1 :]
    # The kernel would end, because its parent is the fork server.
    process: Any = Started(_run_kernel, arguments, cwd, environment={**env, "JPY_PARENT_PID": ""})
    process.stdin = process.stderr = None
    while os.getpgid(process.pid) != process.pid:  # the group that is killed when the notebook has run
        time.sleep(0.01)
    return process


def _run_kernel(arguments: list[str], folder: str) -> None:
    from ipykernel.kernelapp import launch_new_instance

    os.chdir(folder)
    launch_new_instance(arguments)


def executed(name: str, folder: Path, changes: Mapping[str, str] | None = None) -> Any:
    """Run a notebook after replacing some words of its code, each of which must occur."""
    notebook = committed(name)
    for cell in notebook.cells:
        cell.pop("outputs", None) if cell.cell_type == "markdown" else cell.update(outputs=[])
    for words, others in (changes or {}).items():
        cells = [cell for cell in notebook.cells if words in cell.source]
        assert cells
        for cell in cells:
            cell.source = cell.source.replace(words, others)
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.mark.slow
def test_search_and_distil(tmp_path: Path) -> None:
    # Fewer sentences than in the notebook; the resulting numbers are not compared.
    notebook = executed("search-and-distil", tmp_path, {'"max_samples": 300': '"max_samples": 120'})
    before, after = map(float, re.findall(r"(0\.\d+) (?:before|after)", printed(notebook)))
    assert after < before < 1
    assert re.search(r"\d+,\d+ parameters, states of shape \(1, \d+, \d+\)", printed(notebook))
    assert pictures(notebook) == pictures(committed("search-and-distil")) == 2
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()


@pytest.mark.slow
def test_write_and_race_an_agent(tmp_path: Path) -> None:
    notebook = executed("write-and-race-an-agent", tmp_path)
    ours, theirs = printed(notebook), printed(committed("write-and-race-an-agent"))
    assert re.findall("best reward .*", ours) == re.findall("best reward .*", theirs)
    table = r"^\d +(neighbours\S*|local-search|random) +([\d.]+)"
    standings = re.findall(table, ours, re.MULTILINE)
    assert [name for name, _ in standings][-1] == "random"
    assert standings == re.findall(table, theirs, re.MULTILINE)
    assert pictures(notebook) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_machine_is_committed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"0x[0-9a-f]{8}|/tmp/|/home/|\"execution\":|stderr", text)
    notebook = committed(path.stem)
    assert all(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code"), "it ran"
