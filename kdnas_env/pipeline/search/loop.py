"""How a search runs in its folder: students are evaluated and reported, and the best is kept."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from kdnas_env.core.constraints import ConstrainedReward, Constraints
from kdnas_env.core.evaluation import EpochReport, Evaluation
from kdnas_env.distillation.student.folder import read_projection
from kdnas_env.distillation.text.corpus_report import report_corpus
from kdnas_env.distillation.training.recipe import GCV, TOKENS_PER_INPUT
from kdnas_env.envs.assemble import SearchSettings, assemble, make_env
from kdnas_env.envs.book import Book, Record
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import RunError
from kdnas_env.evaluators.best_student import BestStudent
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.exporting.cards.student import model_card
from kdnas_env.pipeline.search.options import SearchOptions
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.pipeline.work import Work
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.searching.journal import Journal
from kdnas_env.searching.run_folder import JOURNAL, STORE, STUDENT, RunFolder
from kdnas_env.searching.stopping import StoppingRule
from kdnas_env.support.atomic import write_text
from kdnas_env.support.progress import Progress, Tone, enter_step


def search_in(
    folder: RunFolder, work: Work, options: SearchOptions, agent: Any, rule: StoppingRule | None, progress: Progress
) -> SearchRun:
    """Search in a run folder; see :func:`kdnas_env.pipeline.search.search`.

    Args:
        folder: The run folder.
        work: The work in the folder; it begins here.
        options: Options of the search.
        agent: The search agent.
        rule: Early stopping.
        progress: Receives the progress.

    Raises:
        KDNASError: For bad input.
    """
    settings = replace(options.settings, store=folder.path / STORE)
    limits = Constraints.of(settings.limits)
    kept = BestStudent(folder.path, ConstrainedReward.of(settings.reward, limits, settings.constraints))
    mini_kd = MiniKDEvaluator(settings.mini_kd, progress=progress, best=kept)
    teacher, corpus = mini_kd.workload.teacher, mini_kd.workload.corpus
    work.begin({**mini_kd.fingerprints, "workload": mini_kd.fingerprint}, corpus=corpus.report.to_dict())
    report_corpus(corpus.report, teacher.tokenizer.model_max_length, progress)
    _warn_of_few_tokens(mini_kd, settings, progress)
    with ExitStack() as stack:
        evaluator, pool = assemble(settings, mini_kd, in_workers=not options.in_this_process)
        assert isinstance(evaluator, StoredEvaluator)
        stack.callback(evaluator.close)
        if pool is None:
            progress.begin("preparing embeddings")
            mini_kd.warm_up()
        env = make_env(settings, evaluator, stop=rule)
        enter_step(progress, "search")
        watch = _Watch(progress, options, answered_before=evaluator.count())
        if pool is not None and options.asynchronous:
            search_asynchronously(
                agent,
                env,
                evaluator,
                pool,
                seed=options.seed,
                journal=stack.enter_context(Journal(folder.path / JOURNAL)),
                on_epoch=watch.epoch,
                on_answer=lambda env: watch.answered(env.history),
            )
            rounds = agent.result().rounds
        else:
            env.on_epoch = watch.epoch
            rounds = agent.search(_Watched(env, watch), seed=options.seed).rounds
    run = SearchRun(
        path=folder.path,
        options=options,
        records=env.history,
        rounds=[
            {
                "round": record.index,
                "exploration": record.exploration,
                "random": [bool(flag) for flag in record.random],
                "predicted": [float(value) if math.isfinite(value) else None for value in record.predicted],
            }
            for record in rounds
        ],
        teacher_parameters=sum(parameter.numel() for parameter in teacher.model.parameters()),
        notes=(*teacher.notes, *corpus.report.notes(teacher.tokenizer.model_max_length)),
    )
    run.write()
    _keep_best(run, kept, mini_kd, progress)
    progress.end()
    return run


def _warn_of_few_tokens(mini_kd: MiniKDEvaluator, settings: SearchSettings, progress: Progress) -> None:
    """Warn if the text has too few tokens for the closed forms of the default recipe."""
    workload, recipe = mini_kd.workload, mini_kd.recipe
    space = settings.search_space
    widest = max(space.choices.get("hidden_size", (space.teacher.hidden_size,)))
    tokens = int(workload.corpus.lengths[workload.subset(settings.data_fraction, settings.seed)].sum())
    if recipe.projection == "ridge" and recipe.ridge != GCV and tokens < TOKENS_PER_INPUT * widest:
        progress.say(
            f"students see {tokens:,} tokens, which are few for states up to {widest} wide: their losses may be far "
            "above what more text gives. Give more text, raise `data_fraction`, or search with `recipe='few-texts'`",
            "warning",
        )


class _Watch:
    """Reports every epoch and every student of a search to its progress.

    Args:
        progress: Receives the progress.
        options: Options of the search.
        answered_before: Number of students with a stored result; they are left out of the time estimate.
    """

    def __init__(self, progress: Progress, options: SearchOptions, answered_before: int) -> None:
        self._progress, self._budget, self._limits = progress, options.budget, options.limits
        self._answered_before = answered_before
        self._broke = 0
        self._best: Record | None = None
        progress.begin("searching")
        if not answered_before:
            # Start the clock here, so that the time of the first student counts too.
            progress.advance(0, self._budget)
        progress.say(f"{'#':>4} {'loss':>7} {'speed':>9} {'params':>8} {'reward':>8}  student")

    def epoch(self, report: EpochReport) -> None:
        loss = f"loss {report.heldout_unexplained:.4f}"
        self._note(f"{report.config}  epoch {report.epoch}/{report.epochs}  {loss}")

    def answered(self, records: Book) -> None:
        record = records.last
        assert record is not None
        evaluation, reward = record.evaluation, record.reward
        numbers, mark = f"{evaluation.status!s:>26} {reward.reward:8.4f}", ""
        tone: Tone = "bad"
        if evaluation.ok and evaluation.latency is not None:
            size = f"{evaluation.parameters / 1e6:7.2f}M"
            numbers = f"{reward.loss:7.4f} {reward.speedup:8.2f}x {size} {reward.reward:8.4f}"
        if record.usable:
            tone, mark = ("good", " *") if records.best is not self._best else ("plain", "")
        self._best = records.best
        error = evaluation.error or record.broken_limits(self._limits)
        reason = f" ({error})" if error else ""
        number = records.evaluations if record.counted else ""  # an answer without cost is no evaluation
        self._progress.say(f"{number:>4} {numbers}  {evaluation.config}{reason}{mark}", tone)
        self._broke += record.reward.cost > 0 and not record.duplicate
        self._note("")
        if len(records) >= self._answered_before:
            self._progress.advance(records.evaluations, self._budget)

    def _note(self, text: str) -> None:
        broke = f"{self._broke} broke a limit" if self._broke else ""
        self._progress.note(", ".join(part for part in (broke, text) if part))


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Reports every student to a watch as soon as it is evaluated."""

    def __init__(self, env: KDNASEnv, watch: _Watch) -> None:
        super().__init__(env)
        self._watch = watch

    def step(self, action: Any) -> Any:
        """Step, and report the student."""
        answer = self.env.step(action)
        self._watch.answered(self.unwrapped.history)  # type: ignore[attr-defined]
        return answer


def _keep_best(run: SearchRun, kept: BestStudent, mini_kd: MiniKDEvaluator, progress: Progress) -> None:
    """Move the best student to its folder; distil it again if no process has saved it."""
    best, place = run.best, run.path / STUDENT
    if best is not None and not place.exists():
        folder = kept.folder(best.evaluation)
        if not folder.exists():
            _distil_again(best.evaluation, folder, mini_kd, progress)
        card = model_card(
            best,
            mini_kd,
            read_projection(folder) or {},
            agent=run.options.agent,
            recipe=run.options.recipe,
            reward=run.reward,
            evaluations=run.records.evaluations,
        )
        write_text(folder / "README.md", card)
        folder.rename(place)
    kept.clear()


def _distil_again(evaluation: Evaluation, folder: Path, mini_kd: MiniKDEvaluator, progress: Progress) -> None:
    progress.begin(f"distilling the best student once more: {evaluation.config}")
    student = mini_kd.distil(
        evaluation.config,
        evaluation.fidelity,
        on_epoch=lambda report: progress.advance(report.epoch, report.epochs),
    )
    if student.model is None:
        raise RunError(f"the best student could not be distilled again: {student.evaluation.error}")
    mini_kd.save(student, folder)
