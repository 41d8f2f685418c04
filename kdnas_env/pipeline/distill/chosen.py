"""The students of a finished search that are distilled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdnas_env.core.architecture import FAMILIES, StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.folder import load_student, read_projection
from kdnas_env.errors import NoStudentError, RunError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.search.finished import breaks_limits, check_as_searched, is_kept, read_results
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.searching.run_folder import STUDENT


@dataclass(frozen=True)
class Chosen:
    """A student of a search that was chosen for a long distillation.

    Attributes:
        name: ``best``, its family, or a folder name made from its architecture.
        config: Its architecture.
    """

    name: str
    config: StudentConfig


def choose(run: Path, families: tuple[str, ...], students: tuple[str, ...] = ()) -> list[Chosen]:
    """Return the requested students of a finished search, each once.

    Args:
        run: Folder of the search.
        families: ``best`` for the best student, ``all`` for the best of every family, or names of families; ``best`` if
            both arguments are empty.
        students: Further students, in their printed form.

    Raises:
        NoStudentError: If no student of the search was distilled and keeps its limits.
        RunError: If the search has no such student of a family.
        SpaceError: If a student is malformed.
    """
    named = [Chosen(folder_name(config), config) for config in map(StudentConfig.parse, students)]
    if named and not families:
        return list(dict.fromkeys(named))
    families = families or ("best",)
    rows = read_results(run)["students"]
    usable = [row for row in rows if row["status"] == "ok" and not breaks_limits(row)]
    ranked = [StudentConfig.from_dict(row["student"]) for row in sorted(usable, key=lambda row: -row["reward"])]
    if not ranked:
        raise NoStudentError(f"the search in {str(run)!r} has no student: {_why_none(rows)}")
    bests = {family: next((config for config in ranked if config.family == family), None) for family in FAMILIES}
    chosen: list[Chosen] = []
    for family in families:
        wanted = [name for name in FAMILIES if bests[name]] if family == "all" else [family]
        for name in wanted:
            config = ranked[0] if name == "best" else bests[name]
            if config is None:
                searched = [known for known in FAMILIES if bests[known]]
                raise RunError(f"the search in {str(run)!r} has no {name} student; it has {searched}")
            if all(other.name != name for other in chosen):
                chosen.append(Chosen(name, config))
    return list(dict.fromkeys([*chosen, *named]))


def _why_none(rows: Sequence[Mapping[str, Any]]) -> str:
    broken = [row for row in rows if breaks_limits(row)]
    if not broken:
        return "none could be distilled; its results.json says why"
    nearest = min(broken, key=lambda row: float(row["cost"]))
    return (
        f"{len(broken)} of {len(rows)} break its limits, of which {StudentConfig.from_dict(nearest['student'])} comes "
        "nearest; search with wider limits, or a space of other students (`space.file`)"
    )


def folder_name(config: StudentConfig) -> str:
    """Return a folder name made from an architecture."""
    return str(config).replace(" ", "-").replace("/", "-")


def mini_kd_student(
    run: Path, config: StudentConfig, search: SearchOptions, options: DistillOptions
) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """Return a student of a search and its projection: loaded if the run holds them, else distilled again.

    Raises:
        RunError: If the distillation fails, or teacher or text have changed since the search.
    """
    if is_kept(run, config):
        return load_student(run / STUDENT), read_projection(run / STUDENT)
    # The task changes no student. A student that was named is distilled even if it breaks a limit of the search.
    settings = replace(search.settings.mini_kd, task=None, limits=None)
    evaluator = MiniKDEvaluator(
        replace(settings, cache_dir=options.cache_dir, device=options.device, threads=options.threads)
    )
    workload = evaluator.workload
    check_as_searched(run, {"teacher": workload.teacher.fingerprint, "corpus": workload.corpus.fingerprint})
    distilled = evaluator.distil(config, Fidelity(search.epochs, search.data_fraction, search.seed))
    if distilled.model is None:
        raise RunError(f"{config} could not be distilled as in the search: {distilled.evaluation.error}")
    return distilled.model, distilled.projection
