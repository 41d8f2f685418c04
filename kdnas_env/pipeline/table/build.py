"""Builds of tables: evaluates all students of a space for a teacher and a text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import tyro

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.text.demo import check_demo, teacher_title
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.latency import LatencyProbe, LatencySettings
from kdnas_env.latency.settings import MEASURED
from kdnas_env.pipeline.options import (
    CacheOption,
    CorpusOptions,
    DeviceOption,
    SpaceOptions,
    TimedPassOptions,
    options_of,
    within,
)
from kdnas_env.pipeline.work import Finished, Work, working
from kdnas_env.searching.recorded import RecordedOptions
from kdnas_env.searching.run_folder import RunFolder
from kdnas_env.support.atomic import expanded
from kdnas_env.support.checks import check_whole
from kdnas_env.support.machine import processor_name
from kdnas_env.support.progress import SILENT, OnProgress, Progress, in_words
from kdnas_env.support.shell import call
from kdnas_env.tables.table import LatencyDevice
from kdnas_env.tabulation.around import students_around
from kdnas_env.tabulation.build import (
    TableBuild,
    adopt_evaluations,
    adopt_latencies,
    adopt_table,
    check_name,
    describe_workload,
    distil_all,
    is_table,
    networks,
    parse_shard,
    planned_cells,
    planned_students,
    record_workload,
)
from kdnas_env.tabulation.latencies import LatencyFile, measure_latencies, model_latencies

if TYPE_CHECKING:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator

TELLING = 10
"""Number of students after which the remaining time is estimated."""

_README = """# A build of a table by `kdnas table build`

| File | Content |
|---|---|
| `config.json` | every setting |
| `run.json` | state of the build, versions, machine |
| `workload.json` | teacher, space, corpus and recipe of the table |
| `evaluations.sqlite` | every distillation, written when it ends |
| `latencies/` | the latency of every student, one file per device |

Resume an interrupted build by the same command or call. Make the table with

    kdnas table export {folder} --to NAME.npz
    kdnas_env.export_table([{path}], "NAME.npz")  # in Python
"""


@dataclass(frozen=True, kw_only=True)
class TableBuildOptions(DeviceOption, CacheOption, RecordedOptions):
    """Distil every student of a space with several seeds, and time each. Run it again to resume it."""

    COMMAND: ClassVar[str] = "table build"
    PLACES: ClassVar[tuple[str, ...]] = (
        "out",
        "cache_dir",
        "workers",
        "skip_losses",
        "skip_latencies",
        "evaluations",
        "latencies",
    )
    PATHS: ClassVar[tuple[str, ...]] = ("teacher", "corpus.source", "corpus.without", "space.file", "around")

    name: tyro.conf.Positional[str]
    """Short name of the table, by which environments find it."""
    out: str
    """Folder of the build, created if it does not exist."""
    title: str = ""
    """Title of the table; by default teacher and corpus."""
    teacher: str = "demo"
    """Name on the hub or folder of an encoder: BERT, RoBERTa, ModernBERT, MPNet, or any other that AutoModel loads."""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    space: SpaceOptions = field(default_factory=SpaceOptions)
    sample: int | None = None
    """Number of students drawn from the space, if it is too large for a table of all. A larger sample begins with the
    smaller one, so a build can be resumed with more students, but not with fewer."""
    around: str | None = None
    """Table or surrogate, by name or npz file: draw the sample from students that its model ranks in the top 1 %."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initialisation and data order that every student is distilled with."""
    epochs: int = 3
    """Epochs per distillation."""
    recipe: str = "default"
    """default; few-texts, better where the text has few tokens; kd-nas, the recipe of the KD-NAS paper."""
    runtimes: tuple[str, ...] = ("torch", "onnxruntime")
    """Runtimes that students are timed with (torch, onnxruntime, onnxruntime-int8), beside the analytic one."""
    latency: TimedPassOptions = field(default_factory=TimedPassOptions)
    shard: str = "1/1"
    """I/N: do the I-th of N equal parts of the work, such as one per machine; kdnas table export joins them."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the training; in float32, results on GPU and CPU differ only in the last digits."""
    threads: int = 1
    """Training threads per process. Recorded, because the last digits of the results depend on it."""
    workers: int = 1
    """Number of processes, each of which distils one student at a time."""
    skip_losses: bool = False
    """Only measure latencies."""
    skip_latencies: bool = False
    """Only distil."""
    evaluations: str | None = None
    """Store of another build or a search, or a table, to start from: its distillations are not repeated."""
    latencies: str | None = None
    """Folder of another build with the same teacher, whose latencies are reused; its text may differ."""

    def __post_init__(self) -> None:
        check_name(self.name)
        parse_shard(self.shard)
        if self.sample is not None:
            check_whole("sample", self.sample, of="students", at_least=1)
        elif self.around is not None:
            raise KDNASError("around has no effect without sample, the number of students; name it too")
        for name in ("epochs", "threads", "workers"):
            check_whole(name, getattr(self, name), at_least=1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise KDNASError(f"seeds are {list(self.seeds)}; expected one or more different numbers from 0")
        unknown = sorted(set(self.runtimes) - set(MEASURED))
        if unknown:
            raise KDNASError(f"runtimes name {unknown}; expected some of {list(MEASURED)}")

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        why = {**within("corpus", self.corpus.ineffective()), **within("space", self.space.ineffective())}
        if self.skip_latencies:
            why["runtimes"] = "with `skip_latencies`: nothing is timed"
        if self.skip_losses:
            why["workers"] = "with `skip_losses`: nothing is distilled, and students are timed one after another"
        return why

    def check_unchanged(self, recorded: Self) -> None:
        """Refuse options that differ from those a build was made with, except for a larger sample.

        Raises:
            RunError: Naming every difference.
        """
        grown = recorded.sample is not None and (self.sample is None or self.sample > recorded.sample)
        if not grown and self.sample != recorded.sample:
            before = "all students of its space" if recorded.sample is None else recorded.sample
            raise RunError(
                f"`sample` is {self.sample}, the build in {self.out!r} has {before}; a sample may grow, but not "
                "shrink: leave it out, or start a new build with another `out`"
            )
        super(TableBuildOptions, replace(self, sample=recorded.sample)).check_unchanged(recorded)

    @property
    def folder(self) -> Path:
        """Folder of the build."""
        return expanded(self.out)

    def device_of(self, runtime: str) -> LatencyDevice:
        """Return the device under which latencies of a runtime are recorded."""
        machine = "a model of a reference machine" if runtime == "analytic" else processor_name()
        return LatencyDevice(runtime, machine, runtime, **asdict(self.latency))


@dataclass(frozen=True, eq=False, repr=False)
class BuiltTable(Finished):
    """A finished build, or a finished part of one.

    Attributes:
        path: Its folder.
        options: Its settings.
        students: Students of the space.
        ended: Number of distillations of this part by final status.
    """

    path: Path
    options: TableBuildOptions
    students: tuple[StudentConfig, ...]
    ended: Mapping[Status, int]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per status: the number of distillations of this part that ended with it."""
        return [{"status": str(status), "distillations": count} for status, count in self.ended.items()]


def build_table(name: str | TableBuildOptions, *, progress: Progress = SILENT, **settings: Any) -> BuiltTable:
    """Distil every student of a space with several seeds, and time each. The same call again resumes a build.

    Args:
        name: Short name of the table; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`TableBuildOptions` by name, of which ``out`` is required.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.distillation.teacher.loading import load_teacher_architecture
    from kdnas_env.distillation.training.recipe import check_recipe_choices
    from kdnas_env.envs.making import resolve_space
    from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings

    options = options_of(TableBuildOptions, settings, name=name)
    # Run the cheap checks before a folder is created.
    check_demo(options.teacher, options.corpus.source)
    wanted = options.space
    space = resolve_space(
        wanted.file, load_teacher_architecture(options.teacher), wanted.families or None, wanted.max_parameters
    )
    check_recipe_choices(space.recipe_choices)
    if options.around is None or options.sample is None:
        students = planned_students(space, options.sample)
    else:
        students = students_around(space, options.around, options.sample)
    mini_kd = MiniKDSettings(
        teacher=options.teacher,
        corpus={name: value for name, value in asdict(options.corpus).items() if value not in (None, ())},
        recipe=options.recipe,
        latency="analytic",
        cache_dir=options.cache_dir,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )
    LatencySettings(runtime="analytic", **asdict(options.latency))
    folder = RunFolder.enter(options.folder, options, _README)
    with working(folder, call("build_table", options.name, **options.places())) as work:
        build = TableBuild(mini_kd, options.epochs, str(options.folder))
        return _build(folder, work, options, build, space, students, progress)


def _build(
    folder: RunFolder,
    work: Work,
    options: TableBuildOptions,
    build: TableBuild,
    space: SearchSpace,
    students: Sequence[StudentConfig],
    progress: Progress,
) -> BuiltTable:
    from kdnas_env.evaluators.mini_kd import MiniKDEvaluator

    part, parts = shard = parse_shard(options.shard)
    cells = planned_cells(students, options.seeds, shard)
    progress.say(
        f"table {options.name}: {len(students)} students of {options.teacher}, {len(options.seeds)} seeds, "
        f"{options.epochs} epochs: {len(cells)} distillations" + ("" if parts == 1 else f" in part {part} of {parts}")
    )
    evaluator = MiniKDEvaluator(build.settings, progress=progress)
    _begin(work, options, evaluator, space)
    folder.write_options(options)  # the sample may have grown
    progress.begin("preparing embeddings")
    evaluator.warm_up()
    teacher = evaluator.workload.teacher
    timed = networks(students)
    model_latencies(LatencyFile.open(options.folder, options.device_of("analytic")), timed, teacher.architecture)
    # Make the probes now, so that a missing runtime is reported at once and not after hours.
    probes = {
        runtime: LatencyProbe(
            teacher.model, teacher.architecture, LatencySettings(runtime=runtime, **asdict(options.latency))
        )
        for runtime in (() if options.skip_latencies else options.runtimes)
    }
    ended: dict[Status, int] = {}
    if not options.skip_losses:
        progress.begin("distilling")
        on_progress = _estimating(progress, "distillations")
        ended = distil_all(build, evaluator, cells, workers=options.workers, on_progress=on_progress)
    for runtime, probe in probes.items():
        _measure(options, probe, runtime, timed[part - 1 :: parts], evaluator, progress)
    return BuiltTable(options.folder, options, tuple(students), ended)


def _begin(work: Work, options: TableBuildOptions, evaluator: MiniKDEvaluator, space: SearchSpace) -> None:
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
        adopt = adopt_table if is_table(options.evaluations) else adopt_evaluations
        adopt(options.evaluations, options.folder)
    if options.latencies is not None:
        adopt_latencies(options.latencies, options.folder)


def _measure(
    options: TableBuildOptions,
    probe: LatencyProbe,
    runtime: str,
    students: Sequence[StudentConfig],
    evaluator: MiniKDEvaluator,
    progress: Progress,
) -> None:
    progress.begin(f"timing with {runtime}")
    failures = measure_latencies(
        LatencyFile.open(options.folder, options.device_of(runtime)),
        students,
        probe,
        evaluator.workload.teacher,
        _estimating(progress, f"students timed with {runtime}"),
    )
    if failures:
        progress.say(f"{len(failures)} students could not be timed with {runtime}, such as {failures[0]}", "bad")


def _estimating(progress: Progress, what: str, clock: Callable[[], float] = time.perf_counter) -> OnProgress:
    """Return a callback that reports progress and, after the first ten students, estimates the remaining time."""
    began: tuple[float, int] | None = None

    def advance(done: int, total: int) -> None:
        nonlocal began
        progress.advance(done, total)
        if began is None:
            began = clock(), done
            if done:
                progress.say(f"{done} of {total} {what} are already done")
        elif done - began[1] == TELLING:
            seconds = clock() - began[0]
            progress.say(
                f"{TELLING} {what} took {in_words(seconds)}; {total - done} more will take about "
                f"{in_words(seconds / TELLING * (total - done))}"
            )

    return advance
