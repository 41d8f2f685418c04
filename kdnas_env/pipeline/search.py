"""From a teacher's name to the folder of its best student."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from kdnas_env.core.constraints import BYTES_PER_PARAMETER, exported_megabytes
from kdnas_env.core.evaluation import Status
from kdnas_env.core.reward import IMITATION, KDReward
from kdnas_env.core.smallest import check_possible
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.envs.book import Book, Record, best_of
from kdnas_env.envs.render import draw_search, pareto_records
from kdnas_env.errors import NoStudentError
from kdnas_env.pipeline.evaluated_texts import leaving_out_evaluated
from kdnas_env.pipeline.limit_lines import asked_in_words
from kdnas_env.pipeline.options import (
    options_of,
)
from kdnas_env.pipeline.search_options import SearchOptions, check_installed, check_workers
from kdnas_env.pipeline.work import Finished, working
from kdnas_env.searching.registry import make_agent
from kdnas_env.searching.run_folder import PICTURE, REPORT, RESULTS, STUDENT, RunFolder, new_run_path
from kdnas_env.searching.stopping import StoppingRule
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.settings import parse_settings
from kdnas_env.support.shell import call

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

    from kdnas_env.bench.page import Page


README = """# A search by `kdnas search` or `kdnas_env.search`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run, versions, machine, fingerprints of teacher and corpus |
| `evaluations.sqlite` | every evaluation, written as it ended |
| `evaluated.jsonl` | with a task: what it is validated and tested on, which no student is distilled on |
| `journal.jsonl` | of an asynchronous search: what was proposed and told, in order |
| `results.json` | every student with loss, latency and reward, round by round; the best; the baseline |
| `search.png` | the search in a picture |
| `report.html` | the search on a page: open it in a browser |
| `student/` | the best student: weights, configuration, tokenizer and a model card |

Files that are missing are written at the end of the search. Go on with an interrupted run, or see a finished one
again, with

    kdnas search --resume {folder}
    kdnas_env.search(resume={path})  # in Python
"""


@dataclass(frozen=True)
class Outcomes:
    """How the students of a search ended.

    Attributes:
        students: All answers of the environment.
        usable: Students that were evaluated and keep all limits.
        harmed: Usable students that imitate worse after their training than before it; 0 if the reward goes by a task.
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
class SearchRun(Finished):
    """A finished search.

    Attributes:
        path: Its run folder.
        options: What was asked for.
        records: Every answer of the environment, in order.
        rounds: The agent's rounds: ``round``, ``exploration``, which answers were drawn at ``random``, and the rewards
            that were ``predicted``, None where there is no prediction; earlier versions did not record these.
        teacher_parameters: Parameters of the teacher's encoder.
        notes: What became of the text on its way into the corpus, where anyone would want to know, in sentences.
    """

    path: Path
    options: SearchOptions
    records: Book
    rounds: Sequence[Mapping[str, Any]]
    teacher_parameters: int
    notes: tuple[str, ...] = ()

    def about(self) -> dict[str, object]:
        """Return what is shown of it beside its folder."""
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
        """Of the students that break a limit, the one that comes closest to keeping all; None if there is none."""
        broken = [record for record in self.records if record.reward.cost > 0]
        return min(broken, key=lambda record: record.reward.cost, default=None)

    @property
    def front(self) -> list[Record]:
        """The students that no other beats in both loss and latency, fastest first."""
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
        """How the students ended."""
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
        """Return a flat row for each answer, such as ``pandas.DataFrame`` takes them."""
        rows = []
        for record in self.records:
            plain = {name: value for name, value in _plain(record).items() if not isinstance(value, list)}
            config = plain.pop("student")
            rows.append({"student": str(record.evaluation.config), **config, **plain, "duplicate": record.duplicate})
        return rows

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
        """Return the search as a page; its ``to_html()`` is what ``report.html`` holds."""
        from kdnas_env.pipeline.search_page import search_page

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
            "best": None if self.best is None else _plain(self.best),
            "random_best": None if random_best is None else {**_plain(random_best), "of": len(self.drawn)},
            "teacher": {
                "name": teacher_title(self.options.teacher),
                "parameters": self.teacher_parameters,
                "latency_ms": self.teacher_latency_ms,
            },
            "rounds": list(self.rounds),
            "students": [_plain(record) for record in self.records],
        }
        write_json(self.path / RESULTS, results)
        save_figure(self.plot(), self.path / PICTURE)
        write_text(self.path / REPORT, self.report().to_html())


def _plain(record: Record) -> dict[str, Any]:
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


def search(teacher: str | SearchOptions | None = None, *, progress: Progress = SILENT, **settings: Any) -> SearchRun:
    """Search for a small, fast student of a teacher, and keep the best in a run folder.

    Without ``limits`` students have to be at least 5 times as fast as the teacher; ``limits={"speedup": 0}`` sets none.

    A search that was interrupted (Ctrl-C, SIGTERM, SIGKILL) goes on with ``resume``: the same seed makes the same
    proposals, and the store answers what was evaluated before.

    Args:
        teacher: Name or folder of the teacher, ``demo`` by default; or all options.
        progress: Receives what is done.
        **settings: Options of :class:`SearchOptions` by name, such as ``budget=16``, ``corpus={"source": "texts.txt"}``
            or ``resume="runs/..."``; groups are mappings, and so may be ``agent_settings``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.search_loop import search_in

    agent_settings = settings.get("agent_settings")
    if isinstance(agent_settings, Mapping):
        settings["agent_settings"] = [f"{name}={json.dumps(value)}" for name, value in agent_settings.items()]
    progress = checked(progress)
    options = options_of(SearchOptions, settings, teacher=teacher)
    options = replace(options, threads=options.settings.threads_each)
    # What is cheap to check is checked before a folder is made.
    check_workers(options)
    check_installed(options)
    rule = None if options.stop == "none" else StoppingRule(options.stop, options.epochs)
    space, _ = options.settings.search_space, options.settings.mini_kd
    if options.resume is None:
        check_possible(options.limits, space)
    agent = make_agent(options.agent, **parse_settings(options.agent_settings))
    folder = _open_folder(options)
    with working(folder, call("search", resume=folder.path, **options.places("out", "resume"))) as work:
        options = leaving_out_evaluated(options, folder)
        progress.say(
            f"teacher {options.teacher}, corpus {options.corpus.source}, agent {options.agent}: {space.size:,} "
            f"possible students, {options.budget} to try; run folder {folder.path}"
        )
        progress.say(_wanted(options))
        return search_in(folder, work, options, agent, rule, progress)


def _wanted(options: SearchOptions) -> str:
    """Return what students are rewarded for, and what they have to keep, in words."""
    limits = ", ".join(asked_in_words(options.limits)) or "none"
    task = "" if options.task.name is None else f", task {options.task.name}"
    latency = f"{options.latency.runtime}, {options.latency.batch_size} x {options.latency.sequence_length} tokens"
    return (
        f"{options.epochs} epoch(s) a student; rewarded for {options.reward.quality}{task}, and speed in {latency}; "
        f"limits: {limits}"
    )


def _open_folder(options: SearchOptions) -> RunFolder:
    if options.resume is not None:
        return RunFolder.reopen(options.resume, README)
    name = Path(options.teacher).name or "teacher"
    return RunFolder.create(options.out or new_run_path(name, options.agent, options.seed), options, README)
