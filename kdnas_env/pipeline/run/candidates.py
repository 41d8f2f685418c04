"""Candidates of a run with a task: the best students in turn become the product, until one keeps the limits.

The search estimates speed and size from a latency probe and the number of parameters. Here both are measured on the
exported file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.constraints import Constraints
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.exporting.cards.template import table
from kdnas_env.exporting.folder import EXPORT, digests
from kdnas_env.exporting.measuring import Measured, teacher_files
from kdnas_env.latency.quantise import DYNAMIC
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.pipeline.distill import distill
from kdnas_env.pipeline.distill.chosen import folder_name
from kdnas_env.pipeline.distill.products import product_of
from kdnas_env.pipeline.distill.products.product import Product
from kdnas_env.pipeline.distill.result import DISTILLED, DistillRun
from kdnas_env.pipeline.export import export
from kdnas_env.pipeline.limits import HEADINGS, Line, plain_lines, score_rows
from kdnas_env.pipeline.run.options import CANDIDATES, PipelineOptions, Stage
from kdnas_env.pipeline.search.finished import breaks_limits, read_results
from kdnas_env.pipeline.work import StageProgress
from kdnas_env.searching.run_folder import CONFIG, STUDENT
from kdnas_env.support.atomic import read_json, write_json, write_text
from kdnas_env.support.figures import BLUE, GREY
from kdnas_env.support.progress import Progress, enter_step
from kdnas_env.support.untrusted import restore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURED, CONTENTS = "measured.json", "contents.json"
_SECTION = "\n## Asked for and measured\n"


@dataclass(frozen=True)
class Candidate:
    """A student of the search with a head for the task, exported and measured.

    Attributes:
        place: Its rank, from 1, among the students that keep the limits in the search.
        path: Its folder.
        config: Its architecture.
        parameters: Number of its parameters, without the head.
        speedup: Its speed-up in the search.
        reward: Its reward in the search.
        unexplained: Unexplained variance of the teacher's states after the long distillation.
        measured: Measurements of its export.
        lines: The limits and the measured values.
        product: Name of the product's folder.
        contents: SHA-256 (hex) of the files of product and export when they were measured, by folder and path; empty if
            unknown.
    """

    place: int
    path: Path
    config: StudentConfig
    parameters: int
    speedup: float
    reward: float
    unexplained: float
    measured: Measured
    lines: tuple[Line, ...]
    product: str
    contents: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @property
    def chosen(self) -> bool:
        """Whether it keeps the limits that choose between candidates."""
        return all(line.kept is not False for line in self.lines if line.chooses)

    @property
    def keeps_limits(self) -> bool:
        """Whether it keeps all limits, including those on scored splits."""
        return all(line.kept is not False for line in self.lines)

    @property
    def excess(self) -> float:
        """Sum of its relative excesses over the limits that choose between candidates."""
        return sum(line.excess for line in self.lines if line.chooses)

    @property
    def files(self) -> dict[str, Path]:
        """Folders of student, product and export."""
        student = student_folder(self.path, self.config)
        return {"student": student / STUDENT, self.product: student / self.product, "export": self.path / "export"}

    @property
    def costly_int8(self) -> str | None:
        """Quantisation scheme of its int8 file, if files of this scheme are slower or larger than usual; else None."""
        if self.measured.format != "int8":
            return None
        scheme: str | None = read_json(self.files["export"] / EXPORT).get("scheme")
        return None if scheme == DYNAMIC else scheme

    def to_dict(self, root: Path) -> dict[str, Any]:
        """Return the candidate as plain data, with folders relative to that of the run."""
        return {
            "name": str(self.place),
            "student": self.config.to_dict(),
            "parameters": self.parameters,
            "speedup": self.measured.speedup,
            "searched_speedup": self.speedup,
            "reward": self.reward,
            "unexplained": self.unexplained,
            "score": self.measured.scored[0].score,
            "kept": self.measured.scored[0].value,
            "keeps_limits": self.keeps_limits,
            "measured": self.measured.to_dict(),
            "lines": [line.to_dict() for line in self.lines],
            "files": {name: str(path.relative_to(root)) for name, path in self.files.items()},
        }


def student_folder(candidate: Path, config: StudentConfig) -> Path:
    """Return the folder of the distilled student of a candidate."""
    return candidate / "distill" / folder_name(config)


def lines_of(limits: Constraints, measured: Measured, parameters: int) -> tuple[Line, ...]:
    """Return the limits and the measured values.

    Args:
        limits: The limits.
        measured: The measurements.
        parameters: Number of parameters of the student, which is known without a measurement.
    """
    plain = plain_lines(limits, measured.speedup, measured.latency_ms, measured.size_mb, parameters)
    shares = [(measured.chosen_by, True), *((share, False) for share in measured.scored)]
    called = None if measured.vectors is None else "Spearman's correlation"
    kept = [
        Line("keep", limits.keep, share.value, share.low, share.high, share.split, chooses, called)
        for share, chooses in shares
    ]
    return (*plain, *kept)


def ranked(search: Path) -> list[dict[str, Any]]:
    """Return the rows of a search's results for students that keep its limits, best reward first, each student once."""
    usable = [row for row in read_results(search)["students"] if row["status"] == "ok" and not breaks_limits(row)]
    best: dict[StudentConfig, dict[str, Any]] = {}
    for row in sorted(usable, key=lambda row: -row["reward"]):
        best.setdefault(StudentConfig.from_dict(row["student"]), row)
    return list(best.values())


def read_candidate(root: Path, place: int, row: dict[str, Any], options: PipelineOptions) -> Candidate | None:
    """Read a candidate from its folder; None if it is not finished.

    Raises:
        RunError: If a record is malformed.
    """
    path, config = root / str(place), StudentConfig.from_dict(row["student"])
    file = path / MEASURED
    if not file.exists():
        return None
    try:
        measured = restore(Measured, read_json(file))
    except ValueError as error:
        raise RunError(f"{str(file)!r} is malformed: {error}; delete it, and resume the run") from error
    unexplained = read_json(student_folder(path, config) / DISTILLED)["unexplained"]
    lines, product = lines_of(options.limits, measured, row["parameters"]), product_of(options.task)
    assert product is not None
    about = row["parameters"], row["speedup"], row["reward"], unexplained
    contents = read_json(path / CONTENTS) if (path / CONTENTS).exists() else {}
    return Candidate(place, path, config, *about, measured, lines, product.folder, contents)


def read_candidates(run: Path, options: PipelineOptions) -> list[Candidate]:
    """Return all finished candidates of a run by rank, even if fewer are now requested."""
    rows = enumerate(ranked(run / "search"), start=1)
    read = (read_candidate(run / CANDIDATES, place, row, options) for place, row in rows)
    return [candidate for candidate in read if candidate is not None]


def best_candidate(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the first candidate that keeps the limits, else the one with the least excess; None without candidates."""
    return next((candidate for candidate in candidates if candidate.chosen), None) or min(
        candidates, key=lambda candidate: candidate.excess, default=None
    )


def try_candidates(
    run: Path,
    options: PipelineOptions,
    progress: Progress,
    report: Callable[[Any], object],
) -> None:
    """Make the candidates of a finished search, until one keeps the limits. Finished steps are not repeated.

    Args:
        run: Folder of the run.
        options: Settings of the run.
        progress: Receives the progress.
        report: Called with the result of each step.

    Raises:
        KDNASError: For bad input; its ``stage`` is that of the options that the error is about.
    """
    product = product_of(options.task)
    assert product is not None
    measure = product.measuring(
        options.task,
        options.teacher,
        options.limits.format,
        seed=options.seed,
        device=options.device,
        cache_dir=options.cache_dir,
        progress=progress,
    )
    with teacher_files() as beside:
        for place, row in enumerate(ranked(run / "search")[: options.candidates], start=1):
            candidate = read_candidate(run / CANDIDATES, place, row, options)
            if candidate is None:
                path, config = run / CANDIDATES / str(place), StudentConfig.from_dict(row["student"])
                progress.say(f"\ncandidate {place} of at most {options.candidates}: {config}")
                for step in _done_before(path, config, product):
                    progress.say(f"{step}: done before")
                with _in_stage("distill"):
                    report(_distilled(path, config, run, options, progress))
                with _in_stage("export"):
                    _export(path, config, options, product, progress, report)
                enter_step(progress, "measure")
                latency = LatencySettings(
                    **{name: value for name, value in asdict(options.search.latency).items() if name != "runtime"}
                )
                model = student_folder(path, config) / product.folder
                measured = measure(model, path / "export", latency, beside)
                progress.end()
                _extend_card(path / "export", lines_of(options.limits, measured, row["parameters"]), measured)
                made = {product.folder: model, "export": path / "export"}
                write_json(path / CONTENTS, {name: digests(folder) for name, folder in made.items()})
                write_json(path / MEASURED, measured.to_dict())  # last: it marks the candidate as finished
                candidate = read_candidate(run / CANDIDATES, place, row, options)
                assert candidate is not None
                report(candidate)
            else:
                progress.say(f"candidate {place}: done before")
            if candidate.chosen:
                return


def _done_before(path: Path, config: StudentConfig, product: Product) -> list[str]:
    """Return the steps of a candidate that an earlier call finished."""
    student = student_folder(path, config)
    made = student / product.folder / product.marker
    marks = {"distil": student / DISTILLED, product.folder: made, "export": path / "export" / EXPORT}
    return [step for step, mark in marks.items() if mark.exists()]


@contextmanager
def _in_stage(stage: Stage) -> Iterator[None]:
    try:
        yield
    except KDNASError as error:
        error.stage = error.stage or stage
        raise


def _distilled(
    path: Path, config: StudentConfig, run: Path, options: PipelineOptions, progress: Progress
) -> DistillRun:
    folder = path / "distill"
    if not (folder / CONFIG).exists():
        shutil.rmtree(folder, ignore_errors=True)  # killed before it wrote its settings
    wanted = replace(
        options.distill,
        run=str(run / "search"),
        students=(str(config),),
        family=(),
        task=options.task,
        out=str(folder),
        **options.shared,
    )
    return distill(wanted, progress=StageProgress(progress, "distill"))


def _export(
    path: Path,
    config: StudentConfig,
    options: PipelineOptions,
    product: Product,
    progress: Progress,
    report: Callable[[Any], object],
) -> None:
    out = path / "export"
    if not (out / EXPORT).exists():
        enter_step(progress, "export")
        model = student_folder(path, config) / product.folder
        int8 = options.export.int8 or options.limits.format == "int8"
        report(export(replace(options.export, model=str(model), int8=int8, out=str(out)), progress=progress))


def _extend_card(export: Path, lines: Sequence[Line], measured: Measured) -> None:
    """Add the limits and the measured values to the model card of an export."""
    card = export / "README.md"
    before, _, _ = card.read_text(encoding="utf-8").partition(_SECTION)
    rows = table(("", *HEADINGS), [*(line.cells for line in lines), *score_rows(measured)])
    warning = "" if measured.warning is None else f"\nNote: {measured.warning}.\n"
    write_text(card, f"{before}{_SECTION}\n{rows}\n{measured.conditions}.\n{warning}")


def draw_candidates(candidates: Sequence[Candidate], limits: Constraints) -> Figure:
    """Draw the candidates: share of the teacher's score against speed-up, and the limits of both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for candidate in candidates:
        measured = candidate.measured
        for share, colour, label in (
            (measured.chosen_by, GREY, f"{measured.chosen_by.split}, by which candidates are chosen"),
            (measured.scored[0], BLUE, f"{measured.scored[0].split}, which chooses nothing"),
        ):
            errors = [[max(0.0, share.value - share.low)], [max(0.0, share.high - share.value)]]
            axes.errorbar(
                [measured.speedup],
                [share.value],
                yerr=errors,
                fmt="o",
                capsize=3,
                color=colour,
                label=label if candidate is candidates[0] else None,
            )
        place = (measured.speedup, measured.scored[0].value)
        axes.annotate(str(candidate.place), place, (6, 4), textcoords="offset points")
    if limits.speedup:
        axes.axvline(limits.speedup, color="#c0392b", linewidth=1, label="limits")
    if limits.keep:
        axes.axhline(limits.keep, color="#c0392b", linewidth=1, label=None if limits.speedup else "limits")
    axes.set_xlabel(f"speed-up of the exported file ({limits.format}) in ONNX Runtime")
    of_vectors = any(candidate.measured.vectors is not None for candidate in candidates)
    axes.set_ylabel("Spearman's correlation with the teacher" if of_vectors else "share of the teacher's score")
    axes.legend(fontsize=8)
    return figure
