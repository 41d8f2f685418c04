"""What a search found: a table, a picture and a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kdnas_env.core.evaluation import Status
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.book import Book, Record, best_of
from kdnas_env.envs.render import draw_search, pareto_records, save_figure
from kdnas_env.searching.run_folder import PICTURE, RESULTS
from kdnas_env.support.atomic import write_json

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished search.

    Attributes:
        history: Every answer of the environment.
        rounds: The agent's rounds (:class:`kdnas_env.agents.ranking.RoundRecord`).
        reward: The reward.
        teacher_name: Name of the teacher.
        teacher_parameters: Parameters of its encoder.
        budget: Students that were to be evaluated.
    """

    history: Book
    rounds: Sequence[Any]
    reward: KDReward
    teacher_name: str
    teacher_parameters: int
    budget: int

    @property
    def drawn(self) -> list[Record]:
        """The students that were drawn at random."""
        flags = [bool(flag) for record in self.rounds for flag in record.random]
        return [record for record, random in zip(self.history, flags, strict=False) if random]

    @property
    def random_best(self) -> Record | None:
        """The best of those drawn at random."""
        return best_of(self.drawn)

    @property
    def ranked(self) -> list[Record]:
        """The students, best reward first."""
        usable = [record for record in self.history if record.usable and not record.duplicate]
        return sorted(usable, key=lambda record: -record.reward.reward)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the best students beside the teacher and the best random one."""
    table = Table(
        title="Best students", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    table.add_column("student", overflow="fold")
    for name in ("loss", "ms", "speed", "params", "reward"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = outcome.ranked[:_SHOWN]
    for place, record in enumerate(shown, start=1):
        table.add_row(str(place), *_cells(record), style="bold" if place == 1 else None)
    table.add_section()
    faster = [record for record in pareto_records(outcome.history) if record not in shown]
    for record in faster[:_SHOWN]:
        table.add_row("front", *_cells(record))
    table.add_section()
    notes = ["front: no student is both faster and closer to the teacher"] if faster else []
    best = outcome.random_best
    if best is not None:
        table.add_row("random", *_cells(best))
        notes.append(f"random: the best of the {len(outcome.drawn)} students that were drawn at random")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    latency = _teacher_latency(outcome)
    table.add_row(
        "teacher",
        outcome.teacher_name,
        f"{0:.4f}",
        "" if latency is None else f"{latency:.2f}",
        "1.00x",
        f"{outcome.teacher_parameters / 1e6:.2f}M",
        f"{outcome.reward.score(0.0, 1.0):.4f}",
    )
    console.print(table)
    statuses = [record.evaluation.status for record in outcome.history if not record.usable]
    stopped, tried = statuses.count(Status.STOPPED), len(outcome.history)
    curves = [record.evaluation.heldout_unexplained for record in outcome.history if record.usable]
    harmed = sum(curve[-1] > curve[0] for curve in curves if curve)
    if harmed:
        console.print(
            f"{harmed} of {len(curves)} students imitate worse after their training than before it; give more text, or "
            "--epochs 0",
            style="yellow",
            soft_wrap=True,
        )
    if stopped:
        console.print(f"{stopped} of {tried} students were stopped early")
    if len(statuses) > stopped:
        console.print(f"{len(statuses) - stopped} of {tried} students failed; results.json says why")


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write ``results.json`` and the picture.

    Raises:
        RunError: If they cannot be written.
    """
    best, random_best = outcome.history.best, outcome.random_best
    write_json(
        folder / RESULTS,
        {
            "budget": outcome.budget,
            "evaluations": outcome.history.evaluations,
            "best": None if best is None else _plain(best),
            "random_best": None if random_best is None else {**_plain(random_best), "of": len(outcome.drawn)},
            "teacher": {
                "name": outcome.teacher_name,
                "parameters": outcome.teacher_parameters,
                "latency_ms": _teacher_latency(outcome),
            },
            "rounds": [
                {"round": record.index, "exploration": record.exploration, "random": [bool(x) for x in record.random]}
                for record in outcome.rounds
            ],
            "students": [_plain(record) for record in outcome.history],
        },
    )
    figure = draw_search(
        outcome.history,
        budget=outcome.budget,
        round_size=outcome.history.round_size,
        reference=None if random_best is None else random_best.reward.reward,
        reference_label=f"best of {len(outcome.drawn)} random students",
        loss=outcome.reward.loss,
        title=f"Students of {outcome.teacher_name}",
    )
    save_figure(figure, folder / PICTURE)


def _cells(record: Record) -> tuple[str, ...]:
    latency = record.evaluation.latency
    assert latency is not None
    return (
        str(record.evaluation.config),
        f"{record.reward.loss:.4f}",
        f"{latency.median_ms:.2f}",
        f"{record.reward.speedup:.2f}x",
        f"{record.evaluation.parameters / 1e6:.2f}M",
        f"{record.reward.reward:.4f}",
    )


def _plain(record: Record) -> dict[str, Any]:
    evaluation = record.evaluation
    return {
        "student": evaluation.config.to_dict(),
        "status": str(evaluation.status),
        "error": evaluation.error,
        "round": record.round,
        **record.reward.to_dict(),
        "heldout_unexplained": list(evaluation.heldout_unexplained),
        "train_loss": list(evaluation.train_loss),
        "latency_ms": None if evaluation.latency is None else evaluation.latency.median_ms,
        "teacher_latency_ms": None if evaluation.latency is None else evaluation.latency.teacher_median_ms,
        "parameters": evaluation.parameters,
        "seconds": evaluation.wall_seconds,
    }


def _teacher_latency(outcome: Outcome) -> float | None:
    """Median over the probes of all students."""
    from statistics import median

    found = [record.evaluation.latency for record in outcome.history if record.evaluation.latency is not None]
    return median(latency.teacher_median_ms for latency in found) if found else None
