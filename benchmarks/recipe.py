"""How much a mini-KD evaluation tells: the default recipe beside that of the KD-NAS paper, at equal seconds.

    python benchmarks/recipe.py --json FILE

For a dozen students of the embedded teacher: held-out unexplained variance (0: a perfect imitation, 1: nothing
learnt); Kendall's tau between the rankings of every two seeds, over all students and among those of one width; and the
tau of the ranking after each epoch with that after the last.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import machine_facts
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training.embeddings import embedding_basis
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import RECIPES, Recipe
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.support.statistics import kendall_tau

STUDENTS = (
    StudentConfig(2, 4, 192, 768, "gelu"),
    StudentConfig(2, 3, 192, 192, "relu"),
    StudentConfig(3, 12, 192, 384, "gelu"),
    StudentConfig(3, 2, 192, 1536, "silu"),
    StudentConfig(5, 4, 192, 384, "gelu"),
    StudentConfig(6, 6, 192, 768, "relu"),
    StudentConfig(2, 6, 384, 384, "gelu"),
    StudentConfig(2, 12, 384, 768, "silu"),
    StudentConfig(3, 3, 384, 192, "relu"),
    StudentConfig(3, 6, 384, 768, "gelu"),
    StudentConfig(5, 12, 384, 256, "gelu"),
    StudentConfig(6, 4, 384, 384, "silu"),
)


@dataclass(frozen=True)
class Options:
    """Measure what a mini-KD evaluation tells."""

    json: str | None = None
    """File for the figures; an existing one is completed, so that a stopped benchmark goes on."""
    seeds: int = 5
    """Seeds."""
    epochs: int = 2
    """Epochs of the default recipe."""
    data_fraction: float = 0.2
    """Share of the proxy subset."""
    students: int = len(STUDENTS)
    """How many of the dozen."""


@dataclass(frozen=True)
class Run:
    """One distillation.

    Attributes:
        curve: Held-out unexplained variance before any step and after each epoch.
        seconds: Wall seconds, initialisation included, the basis of the embeddings (shared by all students) not.
    """

    curve: tuple[float, ...]
    seconds: float


def distil(workload: Workload, student: StudentConfig, recipe: Recipe, fidelity: Fidelity, basis: Any) -> Run:
    """Distil a student."""
    began = time.perf_counter()
    kd = MiniKD(workload, student, recipe, fidelity, basis=basis)
    curve = tuple(result.heldout.unexplained for result in kd.epochs())
    return Run(curve, time.perf_counter() - began)


def pairwise_tau(rows: list[list[float]]) -> float | None:
    """Return the mean Kendall tau of every two rankings, one row a seed."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    return statistics.mean(kendall_tau(first, second) for first, second in itertools.combinations(rows, 2))


def ranking_figures(runs: dict[tuple[int, int], Run], students: int, seeds: int, epochs: int) -> dict[str, Any]:
    """Return what the runs of one recipe say of its rankings; keys are (student, seed)."""

    def losses(seed: int, epoch: int, chosen: list[int]) -> list[float]:
        return [runs[student, seed].curve[epoch] for student in chosen]

    everyone = list(range(students))
    groups = {"all": everyone}
    for width in sorted({STUDENTS[index].hidden_size for index in everyone}):
        groups[f"{width} wide"] = [index for index in everyone if STUDENTS[index].hidden_size == width]
    last = {index: [runs[index, seed].curve[-1] for seed in range(seeds)] for index in everyone}
    return {
        "tau_between_seeds": {
            name: pairwise_tau([losses(seed, -1, chosen) for seed in range(seeds)]) for name, chosen in groups.items()
        },
        "tau_of_epoch_with_last": [
            statistics.mean(
                kendall_tau(losses(seed, epoch, everyone), losses(seed, -1, everyone)) for seed in range(seeds)
            )
            for epoch in range(epochs + 1)
        ]
        if students > 1
        else [],
        "deviation_between_seeds": statistics.mean(statistics.stdev(values) for values in last.values())
        if seeds > 1
        else None,
        "deviation_between_students": statistics.stdev(statistics.mean(values) for values in last.values())
        if students > 1
        else None,
    }


def run_all(workload: Workload, options: Options, keep: Callable[[dict[str, Any]], None], runs: dict[str, Any]) -> None:
    """Distil every student with every seed by both recipes, those that ``runs`` holds excepted."""
    ours, theirs = RECIPES["default"], RECIPES["seed"]
    basis = embedding_basis(workload, ours.embeddings)
    jobs = list(itertools.product(range(options.students), range(options.seeds)))
    for index, seed in track(jobs, description="distilling"):
        key = f"{index} {seed}"
        if key in runs:
            continue
        student = STUDENTS[index]
        default = distil(workload, student, ours, Fidelity(options.epochs, options.data_fraction, seed), basis)
        trial = distil(workload, student, theirs, Fidelity(1, options.data_fraction, seed), None)
        # As many epochs as fit into the seconds of the default recipe, half of one more included.
        epochs = max(1, round(default.seconds / trial.seconds))
        paper = distil(workload, student, theirs, Fidelity(epochs, options.data_fraction, seed), None)
        runs[key] = {
            "default": [default.curve, default.seconds],
            "seed": [paper.curve, paper.seconds],
        }
        keep(runs)


def main(options: Options) -> None:
    """Measure, print and write the figures."""
    console = Console()
    file = Path(options.json) if options.json else None
    settings = {"seeds": options.seeds, "epochs": options.epochs, "data_fraction": options.data_fraction}
    earlier = json.loads(file.read_text()) if file and file.exists() else {}
    raw: dict[str, Any] = earlier["runs"] if earlier.get("settings") == settings else {}

    teacher = load_teacher("demo")
    corpus = load_corpus("demo", teacher.tokenizer)
    workload = Workload(teacher, corpus, open_cache(teacher, corpus), corpus.train, corpus.heldout, torch.device("cpu"))
    report: dict[str, Any] = {"settings": settings, "machine": machine_facts()}

    def keep(runs: dict[str, Any]) -> None:
        if file:
            file.write_text(json.dumps({**report, "runs": runs}, indent=1) + "\n")

    run_all(workload, options, keep, raw)
    runs = {
        recipe: {
            (int(key.split()[0]), int(key.split()[1])): Run(tuple(row[recipe][0]), row[recipe][1])
            for key, row in raw.items()
        }
        for recipe in ("default", "seed")
    }
    sentences = len(workload.subset(options.data_fraction, 0))
    table = Table(title=f"Held-out unexplained variance at equal seconds, {sentences} training sentences")
    for heading in ("student", "default", "seconds", "seed", "seconds", "seed epochs", "ratio"):
        table.add_column(heading, justify="right")
    rows = []
    for index in range(options.students):
        mine = [runs["default"][index, seed] for seed in range(options.seeds)]
        other = [runs["seed"][index, seed] for seed in range(options.seeds)]
        student = str(STUDENTS[index])
        row = {
            "default": statistics.mean(run.curve[-1] for run in mine),
            "default_seconds": statistics.median(run.seconds for run in mine),
            "seed": statistics.mean(run.curve[-1] for run in other),
            "seed_seconds": statistics.median(run.seconds for run in other),
            "seed_epochs": statistics.median(len(run.curve) - 1 for run in other),
        }
        rows.append({"student": student, **row, "ratio": row["default"] / row["seed"]})
        table.add_row(
            student,
            f"{row['default']:.4f}",
            f"{row['default_seconds']:.1f}",
            f"{row['seed']:.4f}",
            f"{row['seed_seconds']:.1f}",
            f"{row['seed_epochs']:.0f}",
            f"{rows[-1]['ratio']:.2f}",
        )
    console.print(table)
    report["students"] = rows
    report["rankings"] = {
        "default": ranking_figures(runs["default"], options.students, options.seeds, options.epochs),
        "seed": ranking_figures(
            # Runs of different length have the first and the last epoch in common.
            {key: Run((run.curve[0], run.curve[-1]), run.seconds) for key, run in runs["seed"].items()},
            options.students,
            options.seeds,
            1,
        ),
    }
    console.print_json(data=report["rankings"])
    keep(raw)


if __name__ == "__main__":
    main(tyro.cli(Options))
