"""``kdnas search``: from a teacher's name to the folder of its best student."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.markup import escape

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.corpus_notes import say_corpus
from kdnas_env.cli.progress import SearchProgress
from kdnas_env.cli.report import Outcome, print_outcome, write_outcome
from kdnas_env.cli.workers import check_workers, open_pool, with_threads
from kdnas_env.core.evaluation import Evaluator, Fidelity
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.student.folder import save_student
from kdnas_env.distillation.teacher.loading import load_teacher_architecture
from kdnas_env.distillation.text.demo import check_demo, teacher_title
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.tasks import default_loss, resolve_space
from kdnas_env.errors import RunError
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, MiniKDSettings
from kdnas_env.evaluators.parallel import ParallelEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.exporting.cards.student import model_card
from kdnas_env.latency.onnx_runtime import require_onnx
from kdnas_env.pipeline.search import SearchOptions
from kdnas_env.pipeline.work import Work, working
from kdnas_env.searching.asynchronous import search_asynchronously
from kdnas_env.searching.journal import Journal
from kdnas_env.searching.registry import make_agent
from kdnas_env.searching.run_folder import JOURNAL, PICTURE, STORE, STUDENT, RunFolder, new_run_path
from kdnas_env.searching.stopping import StoppingRule
from kdnas_env.support.libraries import require
from kdnas_env.support.progress import TaskProgress
from kdnas_env.support.settings import parse_settings
from kdnas_env.support.shell import command, python_command

_README = """# A run of `kdnas search`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run, versions, machine, fingerprints of teacher and corpus |
| `evaluations.sqlite` | every evaluation, written as it ended |
| `journal.jsonl` | of an asynchronous search: what was proposed and told, in order |
| `results.json` | every student with loss, latency and reward, round by round; the best; the baseline |
| `search.png` | the search in a picture |
| `student/` | the best student: weights, configuration, tokenizer and a model card |

Files that are missing are written at the end of the search. Go on with an interrupted run, or see a finished one
again, with

    kdnas search --resume {folder}
"""


def run_search(options: SearchOptions, go_on: str | None = None) -> int:
    """Search, keep the best student, and say where it is; the exit status of the command: 1 if there is none.

    An interrupted search (Ctrl-C, SIGTERM, SIGKILL) goes on with ``--resume``: the same seed makes the same proposals,
    and the store answers what was evaluated before.

    Args:
        options: What is asked for.
        go_on: The command that goes on with it, to be named when it is interrupted; by default its own.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    options = with_threads(options)
    # What is cheap to check is checked before a folder is made.
    check_workers(options)
    check_installed(options)
    rule = None if options.stop == "none" else StoppingRule(options.stop, options.epochs)
    space, reward = searched_space(options), search_reward(options)
    fidelity = Fidelity(options.epochs, options.data_fraction, options.seed)
    agent = make_agent(options.agent, **parse_settings(options.agent_settings))
    settings = mini_kd_settings(options)
    folder = _open_folder(options)
    again = command("search", "--resume", folder.path, *options.place_flags("out", "resume"))
    with working(folder, go_on or again) as work:
        outcome = _search(console, folder, work, options, settings, space, reward, fidelity, agent, rule)
    _say_where(console, folder, outcome)
    return int(outcome.history.best is None)


def _open_folder(options: SearchOptions) -> RunFolder:
    if options.resume is not None:
        return RunFolder.reopen(options.resume)
    name = Path(options.teacher).name or "teacher"
    return RunFolder.create(options.out or new_run_path(name, options.agent, options.seed), options, _README)


def _search(
    console: Console,
    folder: RunFolder,
    work: Work,
    options: SearchOptions,
    settings: MiniKDSettings,
    space: SearchSpace,
    reward: KDReward,
    fidelity: Fidelity,
    agent: Any,
    rule: StoppingRule | None,
) -> Outcome:
    console.print(
        f"teacher [bold]{escape(options.teacher)}[/], corpus [bold]{escape(options.corpus.source)}[/], agent "
        f"[bold]{escape(options.agent)}[/]: {space.size:,} possible students, {options.budget} to try; "
        f"run folder {escape(str(folder.path))}",
        highlight=False,
        soft_wrap=True,
    )
    with SearchProgress(console, options.budget) as progress, ExitStack() as stack:
        evaluator = MiniKDEvaluator(settings, progress=progress)
        _begin(work, evaluator)
        pool = None if options.in_this_process else stack.enter_context(open_pool(options, settings, evaluator))
        inner: Evaluator = evaluator if pool is None else ParallelEvaluator(pool)
        store = stack.enter_context(StoredEvaluator(inner, folder.path / STORE))
        env = KDNASEnv(
            space,
            store,
            reward=reward,
            fidelity=fidelity,
            budget=options.budget,
            round_size=options.round_size,
            stop=rule,
        )
        if pool is None:
            progress.begin("preparing embeddings")
            evaluator.warm_up()
        progress.begin_search()
        if options.asynchronous:
            assert pool is not None
            search_asynchronously(
                agent,
                env,
                store,
                pool,
                seed=options.seed,
                journal=stack.enter_context(Journal(folder.path / JOURNAL)),
                on_epoch=progress.epoch,
                on_answer=lambda env: progress.record(env.history),
            )
            rounds = agent.result().rounds
        else:
            env.on_epoch = progress.epoch
            rounds = agent.search(_Announcer(env, progress), seed=options.seed).rounds
    outcome = Outcome(
        history=env.history,
        rounds=rounds,
        reward=reward,
        teacher_name=teacher_title(options.teacher),
        teacher_parameters=sum(parameter.numel() for parameter in evaluator.workload.teacher.model.parameters()),
        budget=options.budget,
    )
    write_outcome(folder.path, outcome)
    say_corpus(console, evaluator.workload.corpus, evaluator.workload.teacher.tokenizer, options)
    _keep_best(console, folder, options, outcome, evaluator, fidelity)
    return outcome


class _Announcer(gym.Wrapper[Any, Any, Any, Any]):
    """Shows every student as it is answered."""

    def __init__(self, env: KDNASEnv, progress: SearchProgress) -> None:
        super().__init__(env)
        self._history_of = env
        self._progress = progress

    def step(self, action: Any) -> Any:
        """Step, and show the student."""
        answer = self.env.step(action)
        self._progress.record(self._history_of.history)
        return answer


def _keep_best(
    console: Console,
    folder: RunFolder,
    options: SearchOptions,
    outcome: Outcome,
    evaluator: MiniKDEvaluator,
    fidelity: Fidelity,
) -> None:
    """Distil the best student once more, as it was evaluated, and save it."""
    best = outcome.history.best
    if best is None or (folder.path / STUDENT).exists():
        return
    with TaskProgress(console) as progress:
        progress.begin(f"distilling the best student once more: {best.evaluation.config}")
        student = evaluator.distil(
            best.evaluation.config,
            fidelity,
            on_epoch=lambda report: progress.advance(report.epoch, report.epochs),
        )
    if student.model is None:
        raise RunError(f"the best student could not be distilled again: {student.evaluation.error}")
    card = model_card(
        best,
        evaluator,
        student.projection,
        agent=options.agent,
        recipe=options.recipe,
        reward=outcome.reward,
        evaluations=outcome.history.evaluations,
    )
    lineage = evaluator.lineage(student.evaluation)
    save_student(
        folder.path / STUDENT, student.model, evaluator.workload.teacher.tokenizer, card, lineage, student.projection
    )


def _say_where(console: Console, folder: RunFolder, outcome: Outcome) -> None:
    print_outcome(console, outcome)
    console.print(f"run folder: {escape(str(folder.path))}", highlight=False, soft_wrap=True)
    console.print(f"picture:    {escape(str(folder.path / PICTURE))}", highlight=False, soft_wrap=True)
    if outcome.history.best is None:
        console.print("no student could be distilled; results.json in the run folder says why", style="red")
        return
    student = folder.path / STUDENT
    console.print(f"student:    {escape(str(student))}\n\nload it with\n", highlight=False, soft_wrap=True)
    load = f"AutoModel.from_pretrained({str(student)!r}, add_pooling_layer=False)"
    code = python_command(f"from transformers import AutoModel; print({load})")
    console.print(f"    {escape(code)}\n", highlight=False, soft_wrap=True)


def check_installed(options: SearchOptions) -> None:
    """Check that what a search needs beyond the base is installed; its agent and early stopping say so when made.

    Raises:
        DependencyError: If it is not.
    """
    check_demo(options.teacher, options.corpus.source)
    if options.ray is not None:
        require("--ray", "ray", "ray")
    if options.latency.runtime == "onnxruntime":
        require_onnx("--latency.runtime onnxruntime")


def searched_space(options: SearchOptions) -> SearchSpace:
    """Return the space of a search.

    Raises:
        KDNASError: If there is no such teacher or file, or the space is malformed.
    """
    wanted = options.space
    teacher = load_teacher_architecture(options.teacher)
    return resolve_space(wanted.file, teacher, wanted.families or None, wanted.max_parameters)


def search_reward(options: SearchOptions) -> KDReward:
    """Return the reward of a search."""
    wanted = options.reward
    return KDReward(wanted.alpha, wanted.beta, loss=wanted.loss or default_loss(options.recipe))


def mini_kd_settings(options: SearchOptions) -> MiniKDSettings:
    """Return what the students of a search are distilled from, and how."""
    corpus = {name: value for name, value in asdict(options.corpus).items() if value not in (None, ())}
    return MiniKDSettings(
        teacher=options.teacher,
        corpus={**corpus, "seed": options.seed},
        recipe=options.recipe,
        latency=asdict(options.latency),
        cache_dir=options.cache_dir,
        device=options.device,
        threads=options.threads,
    )


def _begin(work: Work, evaluator: MiniKDEvaluator) -> None:
    """Begin, unless it is another teacher or corpus under the same name.

    Raises:
        RunError: If one has changed.
    """
    fingerprints = {**evaluator.fingerprints, "workload": evaluator.fingerprint}
    work.begin(fingerprints, corpus=evaluator.workload.corpus.report.to_dict())
