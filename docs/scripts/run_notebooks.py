"""Run the notebooks, and write what they print and draw into them: ``python docs/scripts/run_notebooks.py``.

Their outputs are committed, so that pictures are seen where notebooks are only looked at, on the site and elsewhere.
They hold no times and no latencies of a machine: students are timed by a model, and seeds are fixed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "tutorials"
SECONDS = 600


def executed(path: Path, folder: Path) -> Any:
    """Return a notebook as it is after it ran.

    Args:
        path: The notebook.
        folder: Where it runs, and leaves its files.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":  # progress bars of other packages
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Run all notebooks."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    main()
