"""The JSON file of a benchmark that keeps its scores and goes on with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command import check_writable
from machine import machine_facts

from kdnas_env.errors import RunError
from kdnas_env.support.atomic import read_json, write_json


def kept_scores(file: Path, settings: Mapping[str, Any], empty: Any) -> Any:
    """Return the scores that a file holds.

    Args:
        file: The file, of a mapping with ``settings`` and ``scores``; it need not exist.
        settings: What decides the scores.
        empty: What a new file holds.

    Raises:
        RunError: If its folder does not exist, or it holds scores of other settings.
    """
    check_writable(file)
    if not file.exists():
        return empty
    kept = read_json(file)
    if kept.get("settings") != settings or "scores" not in kept:
        raise RunError(f"{str(file)!r} has scores with {kept.get('settings')}, not {settings}; name another file")
    return kept["scores"]


def keep_scores(file: Path, settings: Mapping[str, Any], scores: Any) -> None:
    """Write scores as :func:`kept_scores` reads them, with what is known of the machine.

    Raises:
        RunError: If the file cannot be written.
    """
    write_json(file, {"machine": machine_facts(), "settings": settings, "scores": scores})
