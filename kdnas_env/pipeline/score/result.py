"""The result of ``kdnas score``: models scored side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.work import Finished
from kdnas_env.tasks.scores import TaskScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdnas_env.pipeline.score.files import FileScore, FormatMean
    from kdnas_env.tasks.comparison import Cell
    from kdnas_env.tasks.summary import Summary
    from kdnas_env.tasks.vector_scores import EmbeddingScore

PICTURE = "scores.png"


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Finished):
    """Models scored side by side.

    Attributes:
        path: Its run folder.
        options: Its settings.
        tasks: Names of the tasks.
        method: How models were scored.
        seeds: Number of seeds per score.
        rows: Models and baselines, with means over seeds.
        scores: All single scores.
        vectors: Agreement of the vectors of embedding students with the teacher's, by row; empty if tasks are named.
        files: Measurements of exported files; exports have no ``rows``.
        means: Averages over several exported classifiers, one per format.
    """

    path: Path
    options: ScoreOptions
    tasks: tuple[str, ...]
    method: str
    seeds: int
    rows: tuple[Summary, ...]
    scores: Mapping[Cell, TaskScore]
    vectors: Mapping[str, EmbeddingScore] = field(default_factory=dict)
    files: tuple[FileScore, ...] = ()
    means: tuple[FormatMean, ...] = ()

    def about(self) -> dict[str, object]:
        """Return what its representation shows beside the folder."""
        return {"tasks": list(self.tasks), "rows": [row.name for row in self.rows]}

    @property
    def failure(self) -> str | None:
        """The error, if all scores of the model failed; else None."""
        own = [score for cell, score in self.scores.items() if cell.row == "student"]
        return own[0].error if own and not any(score.ok for score in own) else None

    def table(self) -> list[dict[str, Any]]:
        """Return one row per model or baseline: size, speed, mean score on each task, and the average of the tasks.

        Rows of embedding students also have their scores without labels. Exports have one row per file.
        """
        from kdnas_env.pipeline.score.files import file_columns

        if self.files:
            return [file_columns(score) for score in self.files]
        return [
            {
                **{name: getattr(row, name) for name in ("name", "title", "parameters", "speedup", "latency_ms")},
                **{task: row.tasks[task].mean if task in row.tasks else None for task in self.tasks},
                "average": None if row.average is None else row.average.mean,
                "kept": None if row.average is None else row.average.kept,
                "failed": row.failed,
                **({} if row.name not in self.vectors else self.vectors[row.name].columns()),
            }
            for row in self.rows
        ]

    def plot(self) -> Figure:
        """Draw the rows: score against speed-up, or against parameters if no speed was measured."""
        from kdnas_env.tasks.summary import draw_comparison

        title = self.tasks[0] if len(self.tasks) == 1 else f"average of {len(self.tasks)} tasks"
        return draw_comparison(self.rows, title=title, method=self.method)
