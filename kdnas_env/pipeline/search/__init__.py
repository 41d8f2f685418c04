"""The search for the best student of a teacher, in a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdnas_env.core.smallest import check_possible
from kdnas_env.pipeline.limits import asked_in_words
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.search.evaluated_texts import leaving_out_evaluated
from kdnas_env.pipeline.search.options import SearchOptions, check_installed, check_workers
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.pipeline.work import working
from kdnas_env.searching.registry import make_agent
from kdnas_env.searching.run_folder import RunFolder, new_run_path
from kdnas_env.searching.stopping import StoppingRule
from kdnas_env.support.progress import SILENT, Progress, checked
from kdnas_env.support.settings import parse_settings
from kdnas_env.support.shell import call

README = """# A search by `kdnas search` or `kdnas_env.search`

| File | Content |
|---|---|
| `config.json` | every setting, the seed included |
| `run.json` | state of the run, versions, machine, fingerprints of teacher and corpus |
| `evaluations.sqlite` | every evaluation, written when it ends |
| `evaluated.jsonl` | with a task: its validation and test texts, which are excluded from distillation |
| `journal.jsonl` | of an asynchronous search: proposals and their results, in order |
| `results.json` | every student with loss, latency and reward, round by round; the best; the baseline |
| `search.png` | plot of the search |
| `report.html` | the search on a page: open it in a browser |
| `student/` | the best student: weights, configuration, tokenizer and a model card |

Missing files are written at the end of the search. Resume an interrupted run, or see a finished one again, with

    kdnas search --resume {folder}
    kdnas_env.search(resume={path})  # in Python
"""


def search(teacher: str | SearchOptions | None = None, *, progress: Progress = SILENT, **settings: Any) -> SearchRun:
    """Search for a small, fast student of a teacher, and keep the best in a run folder.

    Without ``limits``, students must be at least 5 times as fast as the teacher; ``limits={"speedup": 0}`` removes this
    limit.

    ``resume`` resumes an interrupted search (Ctrl-C, SIGTERM, SIGKILL): the same seed gives the same proposals, and the
    store has the results of finished evaluations.

    Args:
        teacher: Name or folder of the teacher, ``demo`` by default; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`SearchOptions` by name, such as ``budget=16``, ``corpus={"source": "texts.txt"}``
            or ``resume="runs/..."``; groups are mappings, and so may be ``agent_settings``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.search.loop import search_in

    agent_settings = settings.get("agent_settings")
    if isinstance(agent_settings, Mapping):
        settings["agent_settings"] = [f"{name}={json.dumps(value)}" for name, value in agent_settings.items()]
    progress = checked(progress)
    options = options_of(SearchOptions, settings, teacher=teacher)
    options = replace(options, threads=options.settings.threads_each)
    # Run the cheap checks before a folder is created.
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
    """Return a description of the reward and the limits."""
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
