"""The record of a finished search: its students, their Pareto front, and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kdnas_env.core.constraints import BYTES_PER_PARAMETER, exported_megabytes
from kdnas_env.core.evaluation import Status
from kdnas_env.core.reward import IMITATION, KDReward
from kdnas_env.envs.book import Book, Record
from kdnas_env.envs.render import pareto_records
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.work import Finished


@dataclass(frozen=True)
class Outcomes:
    """Numbers of students of a search by outcome.

    Attributes:
        students: All answers of the environment.
        usable: Students that were evaluated and keep all limits.
        harmed: Usable students that imitate worse after their training than before it; 0 if a task decides the reward.
        stopped: Students that were stopped early.
        infeasible: Students that break a limit and were not distilled.
        broke: Students that break a limit after their distillation.
        failed: Students that failed otherwise.
    """

    students: int
    usable: int
    harmed: int
    stopped: int
    infeasible: int
    broke: int
    failed: int


@dataclass(frozen=True, eq=False, repr=False)
class SearchRecord(Finished):
    """Record of a finished search; :class:`kdnas_env.pipeline.search.result.SearchRun` describes the attributes."""

    path: Path
    options: SearchOptions
    records: Book
    rounds: Sequence[Mapping[str, Any]]
    teacher_parameters: int
    notes: tuple[str, ...] = ()

    def about(self) -> dict[str, object]:
        """Return what its representation shows beside the folder."""
        best = None if self.best is None else str(self.best.evaluation.config)
        return {"students": len(self.records), "best": repr(best)}

    @property
    def reward(self) -> KDReward:
        """The reward of the search."""
        return self.options.settings.reward

    @property
    def best(self) -> Record | None:
        """The best student, or None if none could be distilled."""
        return self.records.best

    @property
    def nearest(self) -> Record | None:
        """The student with the least excess among those that break a limit; None if none breaks one."""
        broken = [record for record in self.records if record.reward.cost > 0]
        return min(broken, key=lambda record: record.reward.cost, default=None)

    @property
    def front(self) -> list[Record]:
        """The Pareto front of loss and latency, fastest student first."""
        return pareto_records(self.records)

    @property
    def ranked(self) -> list[Record]:
        """The students, best reward first."""
        usable = [record for record in self.records if record.usable and not record.duplicate]
        return sorted(usable, key=lambda record: -record.reward.reward)

    @property
    def drawn(self) -> list[Record]:
        """The answers that the agent drew at random."""
        flags = [flag for round_ in self.rounds for flag in round_["random"]]
        return [record for record, random in zip(self.records, flags, strict=False) if random]

    @property
    def outcomes(self) -> Outcomes:
        """Numbers of students by outcome."""
        curves = [record.evaluation.heldout_unexplained for record in self.records if record.usable]
        statuses = [record.evaluation.status for record in self.records if not record.usable]
        stopped, infeasible = statuses.count(Status.STOPPED), statuses.count(Status.INFEASIBLE)
        broke = sum(record.evaluation.ok and record.reward.cost > 0 for record in self.records)
        by_imitation = self.reward.quality == IMITATION
        return Outcomes(
            students=len(self.records),
            usable=len(curves),
            harmed=sum(curve[-1] > curve[0] for curve in curves if curve) if by_imitation else 0,
            stopped=stopped,
            infeasible=infeasible,
            broke=broke,
            failed=len(statuses) - stopped - infeasible - broke,
        )

    @property
    def teacher_latency_ms(self) -> float | None:
        """Median of the teacher's latency over the probes of all students."""
        timed = [record.evaluation.latency for record in self.records if record.evaluation.latency is not None]
        return median(latency.teacher_median_ms for latency in timed) if timed else None

    def table(self) -> list[dict[str, Any]]:
        """Return one flat row per answer, as ``pandas.DataFrame`` takes them."""
        rows = []
        for record in self.records:
            plain = {name: value for name, value in plain_record(record).items() if not isinstance(value, list)}
            config = plain.pop("student")
            rows.append({"student": str(record.evaluation.config), **config, **plain, "duplicate": record.duplicate})
        return rows


def plain_record(record: Record) -> dict[str, Any]:
    """Return an answer of the environment as plain data, in the format of ``results.json``."""
    evaluation, latency = record.evaluation, record.evaluation.latency
    return {
        "student": evaluation.config.to_dict(),
        "status": str(evaluation.status),
        "error": evaluation.error,
        "round": record.round,
        **record.reward.to_dict(),
        "heldout_unexplained": list(evaluation.heldout_unexplained),
        "train_loss": list(evaluation.train_loss),
        "task_divergence": evaluation.task_divergence,
        "task_unexplained": evaluation.task_unexplained,
        "latency_ms": None if latency is None else latency.median_ms,
        "teacher_latency_ms": None if latency is None else latency.teacher_median_ms,
        "parameters": evaluation.parameters,
        **{f"{name}_mb": exported_megabytes(evaluation.parameters, name) for name in BYTES_PER_PARAMETER},
        "seconds": evaluation.wall_seconds,
    }
