"""The folder of a model that a student became: written, described and checked, complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdnas_env.distillation.student.folder import Lineage, write_lineage
from kdnas_env.exporting.folder import checked_target, written_whole
from kdnas_env.support.atomic import write_text


def save_product(
    folder: str | os.PathLike[str],
    marker: str,
    lineage: Lineage | None,
    stage: Mapping[str, Any],
    *,
    write: Callable[[Path], None],
    card: Callable[[Lineage | None], str],
    check: Callable[[Path], None],
) -> None:
    """Write a model with its record, its lineage and its card to a folder, and check what was written.

    Args:
        folder: The folder; an older product of the same kind in it is replaced.
        marker: File that marks a product of its kind, which ``write`` writes.
        lineage: Origin of the student's encoder; None if it is not known.
        stage: What became of it since, for the lineage.
        write: Writes weights, configuration, tokenizer and record into a folder.
        card: Returns the model card, from the lineage with the stage.
        check: Raises if what is loaded from the folder is not what was made.

    Raises:
        ExportError: If the folder holds something else, or cannot be written; also whatever ``check`` raises. Nothing
            is left behind.
    """
    target = checked_target(folder, marker=marker)
    if lineage is not None:
        lineage = replace(lineage, stages=(*lineage.stages, dict(stage)))
    with written_whole(target) as partial:
        write(partial)
        if lineage is not None:
            write_lineage(lineage, partial)
        write_text(partial / "README.md", card(lineage))
        check(partial)
