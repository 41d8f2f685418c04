"""``kdnas study``: whether what a search goes by means anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdnas_env.cli.console import SafeConsole
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training.recipe import full_recipe
from kdnas_env.envs.render import save_figure
from kdnas_env.pipeline.search import SearchOptions
from kdnas_env.pipeline.searched import check_as_searched, fingerprints, searched_text
from kdnas_env.pipeline.study import StudyOptions
from kdnas_env.pipeline.work import noted, working
from kdnas_env.searching.run_folder import CONFIG, RESULTS, RunFolder, recorded_options
from kdnas_env.studies.findings import CHOSEN, PROXIES, TARGETS, Findings, draw_findings, find
from kdnas_env.studies.proxy import ProxyStudy, judge_all, judgements, read_judgements, unjudged
from kdnas_env.studies.sample import stratified_sample
from kdnas_env.support.atomic import expanded, write_json
from kdnas_env.support.places import local_path
from kdnas_env.support.progress import TaskProgress
from kdnas_env.support.shell import command
from kdnas_env.support.statistics import Correlation
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.scores import glue_metric

PICTURE = "proxy.png"

_README = """# A run of `kdnas study proxy`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the run, versions, machine |
| `judgements/` | every student, distilled shortly (`mini-kd`) or for long and scored (`full-kd`), by seed |
| `results.json` | agreements, noise ceilings and regrets |
| `proxy.png` | the same in a picture |

Go on with an interrupted study by the same command again.
"""


def run_study(options: StudyOptions) -> int:
    """Study, and say what was found; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    search = recorded_options(options.run, SearchOptions)
    glue_metric(options.task)
    space, rng = search.settings.search_space, np.random.default_rng(options.seed)
    sample = stratified_sample(space, options.n, rng, least_speedup=options.least_speedup)
    wanted = judgements(sample, mini_seeds=options.mini_seeds, repeated=options.repeated, seed=options.seed)
    study = _study(options, search)
    now = None
    if unjudged(study, wanted):
        now = _fingerprints(options, search, study)
        check_as_searched(expanded(options.run), now)
    resumed = (options.folder / CONFIG).exists()
    folder = RunFolder.reopen(options.folder) if resumed else RunFolder.create(options.folder, options, _README)
    again = command("study", options.what, options.run, *options.place_flags("run"))

    def conclude() -> None:
        _conclude(console, options, find(read_judgements(study, wanted), search.settings.reward, options.seed))

    with working(folder, again) as work:
        if now is not None:
            work.begin(now)
        try:
            with TaskProgress(console) as progress:
                progress.begin(f"judging {options.n} students: {len(wanted)} distillations")
                judge_all(study, wanted, workers=options.workers, on_progress=progress.advance)
        except BaseException as error:
            # Of an unfinished study too: the order of the judgements is such that it tells something.
            with noted(error):
                conclude()
            raise
        conclude()
    return 0


def _fingerprints(options: StudyOptions, search: SearchOptions, study: ProxyStudy) -> dict[str, str]:
    """Return what decides the judgements."""
    teacher = load_teacher(search.teacher)
    text = {**study.text, "max_length": min(study.text["max_length"], teacher.tokenizer.model_max_length)}
    source = text.pop("source")
    found = fingerprints(search, teacher, text=True)
    if local_path(source) is not None:
        found["text"] = load_corpus(source, teacher.tokenizer, min_samples=1, **text).fingerprint
    return {**found, "task": load_task(options.task, options.data).fingerprint}


def _conclude(console: Console, options: StudyOptions, findings: Findings) -> None:
    if not len(findings.students):
        return
    write_json(options.folder / RESULTS, {"task": options.task, **findings.to_dict()})
    save_figure(draw_findings(findings, task=options.task), options.folder / PICTURE)
    print_findings(console, findings, options.task)
    console.print(f"picture: {escape(str(options.folder / PICTURE))}", highlight=False, soft_wrap=True)


def print_findings(console: Console, findings: Findings, task: str) -> None:
    """Print how well the proxies rank the students."""
    table = Table(
        title=f"What ranks {len(findings.students)} students as a long distillation and {task} do",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("proxy", "target"):
        table.add_column(heading)
    for heading in ("tau", "rho", "tau at equal latency", *(f"regret, best of {k}" for k in CHOSEN)):
        table.add_column(heading, justify="right")
    for agreement in findings.agreements:
        equal = agreement.tau_at_equal_latency
        table.add_row(
            PROXIES[agreement.proxy],
            TARGETS[agreement.target],
            _interval(agreement.tau),
            _interval(agreement.rho),
            "" if equal is None else f"{equal:.2f}",
            *(f"{agreement.regrets[k]:.4f}" for k in CHOSEN),
            end_section=agreement.target == list(TARGETS)[-1],
        )
    console.print(table)
    names = {**PROXIES, **TARGETS}
    for name, ceiling in findings.ceilings.items():
        deviation = findings.noise.get(name)
        told = "" if deviation is None else f", standard deviation {deviation:.4f}"
        console.print(f"between seeds, {names[name]}: tau {_interval(ceiling)}{told}", highlight=False)
    if findings.failed:
        console.print(f"{findings.failed} judgements failed; the files in judgements say why", style="red")


def _interval(found: Correlation | None) -> str:
    return "unknown" if found is None else f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _study(options: StudyOptions, search: SearchOptions) -> ProxyStudy:
    mini = replace(
        search.settings.mini_kd,
        cache_dir=options.cache_dir,
        device=options.device,
        threads=options.threads or torch.get_num_threads(),
    )
    text = options.text
    source = searched_text(search) if text.source is None else {"source": text.source}
    return ProxyStudy(
        mini=mini,
        fidelity=Fidelity(search.epochs, search.data_fraction, options.seed),
        text={
            **source,
            "text_columns": source.get("text_columns") or None,
            "max_samples": text.max_samples,
            "max_length": text.max_length,
            "pair_fraction": text.pair_fraction,
            "seed": options.seed,
        },
        recipe=full_recipe(search.recipe, options.batch_size),
        epochs=options.epochs,
        task=options.task,
        data=options.data,
        finetune=options.finetune,
        folder=str(Path(options.folder)),
    )
