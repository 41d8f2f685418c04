"""The folder of a model made from a student: written with description and checks, completely or not at all."""

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
    """Write a model with its record, lineage and card to a folder, and check the written files.

    Args:
        folder: The folder; a previous product of the same kind is replaced.
        marker: File that marks products of this kind; ``write`` must write it.
        lineage: Origin of the student's encoder; None if unknown.
        stage: Description of the latest training stage, added to the lineage.
        write: Writes weights, configuration, tokenizer and record to a folder.
        card: Returns the model card; receives the lineage including the stage.
        check: Raises if the reloaded model differs from the original.

    Raises:
        ExportError: If the folder holds something else, or cannot be written. Exceptions of ``check`` are passed on.
            Nothing is left behind.
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
