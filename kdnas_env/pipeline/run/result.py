"""Results of a finished run: its students as a table, a picture, and a page with limits, scores and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.exporting.folder import EXPORT
from kdnas_env.pipeline.distill.products import product_of
from kdnas_env.pipeline.limits import HEADINGS
from kdnas_env.pipeline.run.candidates import Candidate, best_candidate, draw_candidates, ranked
from kdnas_env.pipeline.run.options import PipelineOptions, stage_folder
from kdnas_env.pipeline.run.stages import Result
from kdnas_env.pipeline.search.finished import load_run
from kdnas_env.pipeline.search.page import LEGEND, search_facts, search_view
from kdnas_env.pipeline.work import Finished
from kdnas_env.searching.recorded import flag_words
from kdnas_env.searching.run_folder import RESULTS, read_run
from kdnas_env.support.atomic import read_json
from kdnas_env.support.page import Cloud, Listing, Page, Scatter, View
from kdnas_env.support.shell import command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = "candidates.png"

CANDIDATE, DISTILLED = "candidates, on the scored split", "distilled students"


@dataclass(frozen=True, eq=False, repr=False)
class PipelineRun(Finished):
    """A run whose requested stages are finished.

    Attributes:
        path: Its folder.
        options: Its settings.
        results: Results of the stages of this call, in order.
        summary: Results of all finished stages: the content of ``summary.json``.
        candidates: With a task: the students that were tried, in order.
        products: With a task: folders of the chosen product, by name. ``classifier`` is for transformers, ``embedder``
            for Sentence Transformers, ``export`` for ONNX Runtime. Empty if no student was distilled.
    """

    path: Path
    options: PipelineOptions
    results: tuple[Result, ...]
    summary: dict[str, Any]
    candidates: tuple[Candidate, ...] = ()
    products: Mapping[str, Path] = field(default_factory=dict)

    def about(self) -> dict[str, object]:
        """Return what its representation shows beside the folder."""
        return {"students": [str(StudentConfig.from_dict(row["student"])) for row in self.summary["students"]]}

    @property
    def best(self) -> Candidate | None:
        """The first candidate that keeps the limits, else the one with the least excess; None without candidates."""
        return best_candidate(self.candidates)

    @property
    def keeps_limits(self) -> bool:
        """Whether the best candidate keeps all limits, including those on scored splits."""
        return self.best is not None and self.best.keeps_limits

    def plot(self) -> Figure:
        """Draw the candidates: share of the teacher's score against speed-up."""
        return draw_candidates(self.candidates, self.options.limits)

    def report(self) -> Page:
        """Return the page of the run; ``report.html`` is the result of its ``to_html()``.

        Raises:
            RunError: If its search is not finished.
        """
        searched = load_run(self.path / "search")
        view = _students(self) if self.options.task.name is None else _candidates(self)
        recorded = read_run(self.path)
        stages = ", ".join(f"{stage} {state}" for stage, state in recorded.get("stages", {}).items())
        task = [] if self.options.task.name is None else [("task", self.options.task.name)]
        return Page(
            title=f"Students of {teacher_title(self.options.teacher)}",
            subtitle=_subtitle(self),
            agents=(CANDIDATE, DISTILLED, *LEGEND),
            views=[view, search_view(searched)],
            facts=[*task, ("stages", stages), *search_facts(searched)],
            commands=_commands(self),
        )

    def table(self) -> list[dict[str, Any]]:
        """Return one flat row per student: its architecture, its measurements, and the paths of its files."""
        return [
            {
                **{name: value for name, value in student.items() if not isinstance(value, dict | list)},
                "student": str(StudentConfig.from_dict(student["student"])),
                **{name: str(self.path / file) for name, file in student["files"].items()},
            }
            for student in self.summary["students"]
        ]


def _subtitle(run: PipelineRun) -> str:
    best = run.best
    if best is not None:
        return f"{run.options.task.name}: {best.config} {'keeps all limits' if run.keeps_limits else 'breaks a limit'}"
    return f"{len(run.summary['students'])} student(s), stages done: {', '.join(run.summary['stages'])}"


def _candidates(run: PipelineRun) -> View:
    """Return the measurements of the candidates of a run with a task."""
    candidates, product = run.candidates, product_of(run.options.task)
    assert product is not None
    shares = [candidate.measured.scored[0] for candidate in candidates]
    cloud = Cloud(
        CANDIDATE,
        [candidate.measured.speedup for candidate in candidates],
        [share.value for share in shares],
        [
            f"candidate {candidate.place}, {candidate.config} ({candidate.measured.size_mb:.2f} MB, "
            f"score {100 * share.score:.1f})"
            for candidate, share in zip(candidates, shares, strict=True)
        ],
    )
    split = shares[0].split if shares else "the test split"
    measured = candidates[0].measured.conditions + "." if candidates else ""
    warning = None if run.best is None else run.best.measured.warning
    lines = [
        [candidate.place, str(candidate.config), *line.cells] for candidate in candidates for line in candidate.lines
    ]
    scores = [
        [candidate.place, share.split, share.samples, 100 * share.score, 100 * share.teacher_score, 100 * share.value]
        for candidate in candidates
        for share in (candidate.measured.chosen_by, *candidate.measured.scored)
    ]
    return View(
        name="students",
        about=_verdict(run) if warning is None else f"{_verdict(run)} Note: {warning}.",
        scatters=[
            Scatter("candidates", f"Exported files, on {split}", "speed-up", "share of the teacher's score", [cloud])
        ],
        listings=[
            Listing(
                "limits", "Limits asked and kept", ("candidate", "student", "limit", *HEADINGS), lines, about=measured
            ),
            Listing(
                "scores",
                "Scores",
                ("candidate", "split", "samples", "score, %", "teacher, %", "kept, %"),
                scores,
                about=f"Task {run.options.task.name}. Score: {product.score}.",
            ),
            _files(run),
        ],
    )


def _verdict(run: PipelineRun) -> str:
    best = run.best
    if best is None:
        return "No student of the search keeps the limits, so none was distilled."
    if run.keeps_limits:
        return f"Candidate {best.place}, {best.config}, keeps all limits, measured on its exported file."
    if best.chosen:
        return f"Candidate {best.place}, {best.config}, keeps the limits by which it was chosen, but not on the score."
    return f"No candidate keeps all limits. The closest is candidate {best.place}, {best.config}."


def _students(run: PipelineRun) -> View:
    """Return the distilled students of a run without a task."""
    students = run.summary["students"]
    rows = [
        [
            student["name"],
            str(StudentConfig.from_dict(student["student"])),
            student["parameters"],
            student["speedup"],
            student["unexplained"],
            *(None if student[name] is None else 100 * student[name] for name in ("score", "kept")),
        ]
        for student in students
    ]
    scored = [student for student in students if student["score"] is not None]
    cloud = Cloud(
        DISTILLED,
        [student["speedup"] for student in scored],
        [100 * student["score"] for student in scored],
        [f"{student['name']}, {StudentConfig.from_dict(student['student'])}" for student in scored],
    )
    return View(
        name="students",
        about="Students of the search after the long distillation.",
        scatters=[Scatter("scored", "Score against speed-up", "speed-up", "score, %", [cloud])] if scored else [],
        listings=[
            Listing(
                "distilled",
                "Distilled students",
                ("name", "student", "parameters", "speed-up", "loss", "score, %", "kept, %"),
                rows,
                about="Loss: held-out unexplained variance. Kept: share of the teacher's score.",
            ),
            *_scores(run),
            _files(run),
        ],
    )


def _scores(run: PipelineRun) -> list[Listing]:
    """Return the scores on all tasks beside those of teacher and baselines; empty without scores."""
    tasks = run.summary["tasks"]
    if not tasks:
        return []
    results = read_json(stage_folder(run.path, "score") / RESULTS)
    rows = [
        [
            row["title"],
            row["parameters"],
            row["speedup"],
            *(100 * row["tasks"][task]["mean"] if task in row["tasks"] else None for task in tasks),
        ]
        for row in results["rows"]
    ]
    about = f"In %, by {results['method']}; seeds: {len(results['seeds'])}."
    return [Listing("scores", "Scores of tasks", ("model", "parameters", "speed-up", *tasks), rows, about=about)]


def _exports(run: PipelineRun) -> list[Path]:
    files = (student["files"].get("export") for student in run.summary["students"])
    return [run.path / file for file in files if file is not None]


def _files(run: PipelineRun) -> Listing:
    """Return the files of the exports, with their sizes."""
    rows = []
    for export in _exports(run):
        for name, size in read_json(export / EXPORT)["files"].items():
            rows.append([str(export.relative_to(run.path) / name), size / 1e6])
    return Listing("files", "Sizes of the exported files", ("file", "MB"), rows, about="Paths within the run folder.")


def _commands(run: PipelineRun) -> list[tuple[str, str]]:
    again = ("See the run again, or resume it", command("run", "--resume", run.path))
    product = product_of(run.options.task)
    if product is None:
        distilled = [student["files"].get("student") for student in run.summary["students"]]
        return [*(("Upload a student to the hub", _push(run.path / folder)) for folder in distilled if folder), again]
    use, more = product.commands(run.products[product.folder]) if run.products else [], more_candidates(run)
    return [*use, again] if run.keeps_limits or more is None else [*use, ("Try more candidates", more), again]


def more_candidates(run: PipelineRun) -> str | None:
    """Return the command that tries more students of a run; None if no other student keeps its limits."""
    tried = len(run.candidates)
    if len(ranked(run.path / "search")) <= tried:
        return None
    places = run.options.places("out", "resume").items()
    words = [word for name, value in places for word in flag_words(name, value)]
    return command("run", "--resume", run.path, *words, "--candidates", tried + 3)


def _push(model: Path) -> str:
    return command("export", model, "--push", "OWNER/NAME")
