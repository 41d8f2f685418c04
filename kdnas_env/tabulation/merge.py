"""Merge the build folders of one or more machines into a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Status
from kdnas_env.errors import TableError
from kdnas_env.latency.settings import RUNTIMES
from kdnas_env.support.atomic import expanded
from kdnas_env.tables.surrogates.students import TOLERANCE
from kdnas_env.tables.table import CURVES, Table, TableMetadata
from kdnas_env.tabulation.build import FACTS, Cell, read_evaluations, read_workload
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies, assemble_table
from kdnas_env.tabulation.latencies import read_all_latencies

_SHARED = ("workload", "space", "epochs", "recipe", "architecture")


def merge_builds(folders: Sequence[str | os.PathLike[str]]) -> Table:
    """Merge the cells and latencies of some builds into a table; for duplicates, the first folder's value is used.

    Completely measured devices come first: torch, then others, then the modelled device.

    Args:
        folders: Build folders of one workload.

    Raises:
        TableError: If there is no folder, two folders have different workloads, two evaluations of one cell disagree,
            or there is no evaluation or no latency.
        RunError: If a folder is not that of a build, or a file in it is damaged.
    """
    if not folders:
        raise TableError("there is nothing to merge; name the folder of at least one build")
    places = [expanded(folder) for folder in folders]
    described = [read_workload(place) for place in places]
    for place, other in zip(places[1:], described[1:], strict=True):
        _check_same(described[0], other, places[0], place)
    first = described[0]
    seeds = tuple(sorted({seed for build in described for seed in build.seeds}))
    metadata = replace(first, seeds=seeds, trained_on="; ".join(dict.fromkeys(build.trained_on for build in described)))
    space = first.search_space
    cells = [*_merged_cells(places, metadata)]
    # If the space is too large to list, the table has only the evaluated students.
    indices = space.valid_indices.tolist() if space.listable else []
    students = {space.decode(space.from_index(index)) for index in indices} or {cell.config for cell in cells}
    measured = [part for place in places for part in read_all_latencies(place)]
    networks = {config.network for config in students}
    cells = [cell for cell in cells if cell.config in students]
    return assemble_table(metadata, cells, order_devices(unite_devices(measured), networks))


def unite_devices(measured: Iterable[MeasuredLatencies]) -> list[MeasuredLatencies]:
    """Join latencies of equal devices, keeping each student's first; rename different devices of equal name."""
    united: dict[Any, dict[StudentConfig, Any]] = {}
    for part in measured:
        known = united.setdefault(part.device, {})
        united[part.device] = {**part.latencies, **known}
    named, names = [], set()
    for device, latencies in united.items():
        candidates = (device.name if number == 1 else f"{device.name}-{number}" for number in range(1, len(united) + 1))
        name = next(candidate for candidate in candidates if candidate not in names)
        names.add(name)
        named.append(MeasuredLatencies(replace(device, name=name), latencies))
    return named


def order_devices(measured: Sequence[MeasuredLatencies], students: set[StudentConfig]) -> list[MeasuredLatencies]:
    """Sort devices: completely measured ones first (the first is the default), torch before others, the modelled last.

    Latencies of students that are not in the table are dropped.
    """
    kept = [
        MeasuredLatencies(
            part.device, {config: part.latencies[config] for config in part.latencies if config in students}
        )
        for part in measured
    ]
    return sorted(kept, key=lambda part: (len(part.latencies) < len(students), RUNTIMES.index(part.device.runtime)))


def _check_same(first: TableMetadata, other: TableMetadata, place: Path, another: Path) -> None:
    difference = first.difference(other, _SHARED)
    if difference:
        raise TableError(f"{str(place)!r} and {str(another)!r} cannot be merged: {difference}")


def _merged_cells(places: Sequence[Path], metadata: TableMetadata) -> Iterable[Evaluation]:
    cells: dict[Cell, tuple[Evaluation, Path]] = {}
    for place in places:
        for evaluation in read_evaluations(place, metadata.workload):
            fidelity = evaluation.fidelity
            wanted = fidelity.epochs == metadata.epochs and fidelity.data_fraction == 1
            if not wanted or evaluation.status is Status.STOPPED:
                continue
            cell = Cell(evaluation.config, fidelity.seed)
            if cell in cells:
                _check_agreement(*cells[cell], evaluation, place)
            else:
                cells[cell] = evaluation, place
    return [evaluation for evaluation, _ in cells.values()]


def _check_agreement(first: Evaluation, place: Path, other: Evaluation, another: Path) -> None:
    difference = largest_difference(first, other)
    if difference > TOLERANCE:
        raise TableError(
            f"{str(place)!r} and {str(another)!r} disagree about {first.config} with seed {first.fidelity.seed}: "
            f"{first.status} {list(first.heldout_unexplained)} and {other.status} {list(other.heldout_unexplained)}. "
            "Distil it again on one of the machines"
        )


def largest_difference(first: Evaluation, other: Evaluation) -> float:
    """Return the largest relative difference of two evaluations' losses; infinite if their statuses differ."""
    if first.status is not other.status:
        return float("inf")
    differences = [0.0]
    for name in CURVES[:-1]:  # all but the seconds
        ours, theirs = np.array(getattr(first, name)), np.array(getattr(other, name))
        if ours.shape != theirs.shape:
            return float("inf")
        scale = np.maximum(np.maximum(np.abs(ours), np.abs(theirs)), np.finfo(np.float64).tiny)
        differences.extend((np.abs(ours - theirs) / scale).tolist())
    return max(differences)


def corpus_in_words(metadata: TableMetadata) -> str:
    """Return a short description of a table's corpus."""
    facts = metadata.corpus.get(FACTS, {})
    source = metadata.corpus.get("source", "unknown")
    if not facts:
        return str(source)
    return (
        f"{source}: {facts['train_sentences']:,} sentences ({facts['train_tokens']:,} tokens) trained on, "
        f"{facts['heldout_sentences']:,} ({facts['heldout_tokens']:,} tokens) held out"
    )
