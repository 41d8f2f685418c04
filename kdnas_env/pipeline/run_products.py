"""What a run with a task is made for, in a place of its own: copies of the chosen candidate and of its export.

Copies, since links are lost by archives and by systems that have none; and the folders of the candidates stay whole, so
that a run can go on with more of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from filecmp import cmpfiles
from pathlib import Path

from kdnas_env.errors import ExportError
from kdnas_env.exporting.folder import digests, files_in, written_whole
from kdnas_env.pipeline.candidates import Candidate
from kdnas_env.pipeline.product import Product


def place_products(run: Path, product: Product, best: Candidate | None) -> dict[str, Path]:
    """Copy the folders of the chosen candidate into that of the run, each whole or not at all.

    Args:
        run: Folder of the run, which nobody else works in.
        product: What the candidates are.
        best: The candidate; None if there is none.

    Returns:
        The folders by their names.

    Raises:
        ExportError: If they cannot be written, or a folder of the candidate is not what was measured. What was placed
            before stays.
    """
    for name in product.places:
        for unfinished in run.glob(f".{name}.*"):
            shutil.rmtree(unfinished)
    if best is None:
        return {}
    placed = {name: run / name for name in product.places}
    for name, target in placed.items():
        source = best.files[name]
        if not _is_copy(target, source):
            _check_whole(source, best.contents.get(name))
            with written_whole(target) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
    return placed


def _check_whole(folder: Path, recorded: Mapping[str, str] | None) -> None:
    """Refuse a folder that has lost a file, or has another, since it was measured; records of 0.1 do not tell."""
    if recorded is None:
        return
    found = digests(folder) if folder.is_dir() else {}
    changed = [name for name, digest in recorded.items() if found.get(name) != digest]
    if changed:
        raise ExportError(
            f"{str(folder)!r} is not what was measured: {changed[0]!r} is missing or has changed; restore it, or "
            "delete the folder of this candidate, and go on with the run"
        )


def _is_copy(target: Path, source: Path) -> bool:
    files = files_in(source)
    if not target.is_dir() or files_in(target) != files:
        return False
    same, _, _ = cmpfiles(source, target, files, shallow=False)
    return len(same) == len(files)
