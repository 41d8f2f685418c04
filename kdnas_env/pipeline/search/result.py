"""A finished search: its record with picture, page and best student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.envs.book import best_of
from kdnas_env.envs.render import draw_search
from kdnas_env.errors import NoStudentError
from kdnas_env.pipeline.search.page import search_page
from kdnas_env.pipeline.search.record import SearchRecord, plain_record
from kdnas_env.searching.run_folder import PICTURE, REPORT, RESULTS, STUDENT
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

    from kdnas_env.support.page import Page


@dataclass(frozen=True, eq=False, repr=False)
class SearchRun(SearchRecord):
    """A finished search.

    Attributes:
        path: Its run folder.
        options: Its settings.
        records: Every answer of the environment, in order.
        rounds: The agent's rounds: ``round``, ``exploration``, which answers were drawn at ``random``, and the
            ``predicted`` rewards, None without a prediction. Earlier versions recorded no predictions.
        teacher_parameters: Number of parameters of the teacher's encoder.
        notes: Notes on the preparation of the text, in sentences.
    """

    def plot(self) -> Figure:
        """Draw the search: loss against latency with the front, and the best reward so far."""
        random_best = best_of(self.drawn)
        return draw_search(
            self.records,
            budget=self.options.budget,
            round_size=self.records.round_size,
            reference=None if random_best is None else random_best.reward.reward,
            reference_label=f"best of {len(self.drawn)} random students",
            loss=self.reward.goes_by,
            title=f"Students of {teacher_title(self.options.teacher)}",
        )

    def report(self) -> Page:
        """Return the page of the search; ``report.html`` is the result of its ``to_html()``."""
        return search_page(self)

    def student(self) -> PreTrainedModel:
        """Load the best student, as an encoder of transformers.

        Raises:
            NoStudentError: If there is none.
        """
        from kdnas_env.distillation.student.folder import load_student

        if self.best is None:
            raise NoStudentError(f"the search in {str(self.path)!r} has no student; its results.json says why")
        model: PreTrainedModel = load_student(self.path / STUDENT)
        return model

    def write(self) -> None:
        """Write ``results.json``, the picture and the page.

        Raises:
            RunError: If they cannot be written.
        """
        random_best = best_of(self.drawn)
        results = {
            "budget": self.options.budget,
            "evaluations": self.records.evaluations,
            "quality": self.reward.quality,
            "best": None if self.best is None else plain_record(self.best),
            "random_best": None if random_best is None else {**plain_record(random_best), "of": len(self.drawn)},
            "teacher": {
                "name": teacher_title(self.options.teacher),
                "parameters": self.teacher_parameters,
                "latency_ms": self.teacher_latency_ms,
            },
            "rounds": list(self.rounds),
            "students": [plain_record(record) for record in self.records],
        }
        write_json(self.path / RESULTS, results)
        save_figure(self.plot(), self.path / PICTURE)
        write_text(self.path / REPORT, self.report().to_html())
