"""``kdnas table build`` and ``kdnas table export``: from a teacher and a text to a table of all students."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.table_options import TableBuildOptions, TableExportOptions
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.teacher.loading import load_teacher_architecture
from kdnas_env.distillation.text.demo import check_demo, teacher_title
from kdnas_env.envs.tasks import resolve_space
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, MiniKDSettings
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.pipeline.work import Work, working
from kdnas_env.searching.run_folder import CONFIG, RunFolder
from kdnas_env.support.atomic import expanded
from kdnas_env.support.machine import processor_name
from kdnas_env.support.progress import TaskProgress, in_words
from kdnas_env.support.shell import command
from kdnas_env.tables.storage import write_table
from kdnas_env.tables.table import MISSING, LatencyDevice, Table
from kdnas_env.tabulation.build import (
    TableBuild,
    adopt_evaluations,
    adopt_latencies,
    describe_workload,
    distil_all,
    parse_shard,
    planned_cells,
    planned_students,
    record_workload,
)
from kdnas_env.tabulation.latencies import LatencyFile, OnProgress, measure_latencies, model_latencies
from kdnas_env.tabulation.merge import merge_builds

TELLING = 10
"""Students after which is said what the rest will take."""

LEAST_AGREEMENT = 0.95
"""Kendall's tau between seeds below which a table hardly tells its best students apart."""

_README = """# A build of a table by `kdnas table build`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the build, versions, machine |
| `workload.json` | teacher, space, corpus, recipe: what the table will be of |
| `evaluations.sqlite` | every distillation, written as it ended |
| `latencies/` | the latency of every student, one file a device |

Go on with an interrupted build by the same command again, and make the table with

    kdnas table export {folder} --to NAME.npz
"""


def run_build(options: TableBuildOptions) -> int:
    """Distil and time all students that were not yet; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    # What is cheap to check is checked before a folder is made.
    check_demo(options.teacher, options.corpus.source)
    wanted = options.space
    space = resolve_space(
        wanted.file, load_teacher_architecture(options.teacher), wanted.families or None, wanted.max_parameters
    )
    build = TableBuild(_settings(options), options.epochs, str(options.folder))
    LatencySettings(runtime="analytic", **asdict(options.latency))
    resumed = (options.folder / CONFIG).exists()
    folder = RunFolder.reopen(options.folder) if resumed else RunFolder.create(options.folder, options, _README)
    with working(folder, command("table", "build", options.name, *options.place_flags())) as work:
        _build(console, work, options, build, space)
    export = command("table", "export", options.out, "--to", f"{options.name}.npz")
    console.print(
        f"make the table with\n\n    {escape(export)}\n",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _settings(options: TableBuildOptions) -> MiniKDSettings:
    corpus = {name: value for name, value in asdict(options.corpus).items() if value not in (None, ())}
    return MiniKDSettings(
        teacher=options.teacher,
        corpus=corpus,
        recipe=options.recipe,
        latency="analytic",
        cache_dir=options.cache_dir,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )


def _build(console: Console, work: Work, options: TableBuildOptions, build: TableBuild, space: SearchSpace) -> None:
    part, parts = shard = parse_shard(options.shard)
    cells, students = planned_cells(space, options.seeds, shard), planned_students(space)
    console.print(
        f"table [bold]{options.name}[/]: {len(students)} students of {escape(options.teacher)}, {len(options.seeds)} "
        f"seeds, {options.epochs} epochs: {len(cells)} distillations"
        + ("" if parts == 1 else f" in part {part} of {parts}"),
        highlight=False,
        soft_wrap=True,
    )
    with TaskProgress(console) as progress:
        evaluator = MiniKDEvaluator(build.settings, progress=progress)
        title = options.title or f"{teacher_title(options.teacher)} on {options.corpus.source}"
        described = describe_workload(
            evaluator, space, name=options.name, title=title, seeds=options.seeds, epochs=options.epochs
        )
        workload = evaluator.workload
        fingerprints = {"teacher": workload.teacher.fingerprint, "corpus": workload.corpus.fingerprint}
        work.check(fingerprints)
        record_workload(options.folder, described)
        work.begin(fingerprints)
        if options.evaluations is not None:
            adopt_evaluations(options.evaluations, options.folder)
        if options.latencies is not None:
            adopt_latencies(options.latencies, options.folder)
        progress.begin("preparing embeddings")
        evaluator.warm_up()
        teacher = evaluator.workload.teacher
        model_latencies(LatencyFile.open(options.folder, _device(options, "analytic")), students, teacher.architecture)
        # Made now, so that a runtime that is missing does not show after hours.
        probes = {
            runtime: LatencyProbe(
                teacher.model, teacher.architecture, LatencySettings(runtime=runtime, **asdict(options.latency))
            )
            for runtime in (() if options.skip_latencies else options.runtimes)
        }
        if not options.skip_losses:
            progress.begin("distilling")
            ended = distil_all(
                build,
                evaluator,
                cells,
                workers=options.workers,
                on_progress=_telling(console, progress, "distillations"),
            )
            _say_failures(console, ended)
        for runtime, probe in probes.items():
            _measure(console, progress, options, probe, runtime, students[part - 1 :: parts], evaluator)


def _measure(
    console: Console,
    progress: TaskProgress,
    options: TableBuildOptions,
    probe: LatencyProbe,
    runtime: str,
    students: list[StudentConfig],
    evaluator: MiniKDEvaluator,
) -> None:
    progress.begin(f"timing with {runtime}")
    failures = measure_latencies(
        LatencyFile.open(options.folder, _device(options, runtime)),
        students,
        probe,
        evaluator.workload.teacher,
        _telling(console, progress, f"students timed with {runtime}"),
    )
    if failures:
        console.print(
            f"{len(failures)} students could not be timed with {runtime}, such as {escape(failures[0])}",
            style="red",
            highlight=False,
            soft_wrap=True,
        )


def _device(options: TableBuildOptions, runtime: str) -> LatencyDevice:
    machine = "a model of a reference machine" if runtime == "analytic" else processor_name()
    return LatencyDevice(runtime, machine, runtime, **asdict(options.latency))


def _telling(
    console: Console, progress: TaskProgress, what: str, clock: Callable[[], float] = time.perf_counter
) -> OnProgress:
    """Return what shows progress, and says after the first ten what the rest will take."""
    began: tuple[float, int] | None = None

    def advance(done: int, total: int) -> None:
        nonlocal began
        progress.advance(done, total)
        if began is None:
            began = clock(), done
            if done:
                console.print(f"[dim]{done} of {total} {what} are there already[/]", highlight=False)
        elif done - began[1] == TELLING:
            seconds = clock() - began[0]
            console.print(
                f"{TELLING} {what} took {in_words(seconds)}; {total - done} more will take about "
                f"{in_words(seconds / TELLING * (total - done))}",
                highlight=False,
            )

    return advance


def _say_failures(console: Console, ended: dict[Status, int]) -> None:
    failed = {status: count for status, count in ended.items() if count and status is not Status.OK}
    if failed:
        told = ", ".join(f"{count} {status}" for status, count in failed.items())
        console.print(f"distillations that did not end well: {told}; they are in the table as such", style="red")


def run_table_export(options: TableExportOptions) -> int:
    """Write the table of some builds, and say how much of it is there; the exit status of the command.

    Raises:
        KDNASError: For bad input.
    """
    console = SafeConsole()
    table = merge_builds(options.folders)
    target = expanded(options.to)
    write_table(table, target)
    console.print(
        f"table {escape(table.metadata.name)}: {len(table)} students, {len(table.metadata.seeds)} seeds, "
        f"{table.metadata.epochs} epochs, {target.stat().st_size / 1e6:.2f} MB: {escape(str(target))}",
        highlight=False,
        soft_wrap=True,
    )
    print_completeness(console, table)
    return 0


def print_completeness(console: Console, table: Table) -> None:
    """Print how many cells and latencies are there, and how well the seeds agree."""
    missing = int((table.status == MISSING).sum())
    console.print(
        f"complete: {100 * table.complete:.1f} %" + (f", {missing} cells are masked" if missing else ""),
        highlight=False,
    )
    for position, device in enumerate(table.metadata.devices):
        there = measured_rows(table, position)
        console.print(
            f"device {escape(device.name)}: {there} of {len(table)} students, {escape(device.machine)}, "
            f"{escape(device.runtime)}, {device.threads} thread{'s' if device.threads > 1 else ''}, "
            f"batch {device.batch_size}, {device.sequence_length} tokens",
            highlight=False,
            soft_wrap=True,
        )
    noise = table.metadata.noise
    if not noise.get("tau"):
        console.print("noise ceiling: unknown; it takes two seeds of two students at least", highlight=False)
        return
    tau = noise["tau"][-1]
    console.print(f"noise ceiling: tau {tau:.3f} between seeds after the last epoch", highlight=False)
    if tau < LEAST_AGREEMENT:
        console.print(
            f"warning: below {LEAST_AGREEMENT}, the seeds rank the students too differently to tell the best apart; "
            "distil on more text or for more epochs",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )


def measured_rows(table: Table, device: int) -> int:
    """Return how many students have a latency on a device."""
    import numpy as np

    return int(np.isfinite(table.latencies[:, device]).all(axis=-1).sum())
