"""``kdnas table``: its output on tables, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdnas_env.bench.hardness import hardness_rows
from kdnas_env.bench.structure import comparison_rows, reward_rows
from kdnas_env.cli.console import SafeConsole, grid
from kdnas_env.core.evaluation import Status
from kdnas_env.pipeline.table.agreement import TableAgreementOptions, table_agreement
from kdnas_env.pipeline.table.build import TableBuildOptions, build_table
from kdnas_env.pipeline.table.export import TableExportOptions, export_table
from kdnas_env.pipeline.table.fit import TableFitOptions, fit_surrogate
from kdnas_env.pipeline.table.import_nas_bench_bert import ImportNasBenchBertOptions, import_table
from kdnas_env.pipeline.table.inspect import (
    LEAST_AGREEMENT,
    ExternalInspection,
    Inspection,
    SurrogateInspection,
    TableInspectOptions,
    check_asked,
    inspect_table,
    shipped_tables,
)
from kdnas_env.pipeline.table.verify import TableVerifyOptions, verify_table
from kdnas_env.searching.run_folder import RESULTS
from kdnas_env.support.atomic import expanded, write_json
from kdnas_env.support.figures import save_figure
from kdnas_env.support.progress import ConsoleProgress
from kdnas_env.support.shell import command
from kdnas_env.tables.storage import surrogate_names
from kdnas_env.tables.surrogates.card import RANDOM, card_rows
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import TableMetadata
from kdnas_env.tabulation.merge import corpus_in_words

_NOISE = {
    "tau": "between seeds",
    "tau_within_width": "between seeds, within a width",
    "tau_with_last": "mean over seeds, with that after the last epoch",
}
_METRICS = {
    "r2": "R2",
    "tau": "tau",
    "tau_resolved": "resolved",
    "precision_at_10": "best 10",
    "coverage_90": "in 90 %",
}


def run_build(options: TableBuildOptions) -> int:
    """Distil and time all missing students; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        built = build_table(options, progress=progress)
    failed = {status: count for status, count in built.ended.items() if count and status is not Status.OK}
    if failed:
        counts = ", ".join(f"{count} {status}" for status, count in failed.items())
        console.say(f"unsuccessful distillations: {counts}; the table records them as such", "bad")
    export = command("table", "export", options.out, "--to", f"{options.name}.npz")
    console.say(f"make the table with\n\n    {export}\n")
    return 0


def run_export(options: TableExportOptions) -> int:
    """Write the table of some builds, and print its completeness; return the exit status."""
    console, target = SafeConsole(), expanded(options.to)
    inspection = export_table(options.folders, target)
    meta = inspection.source.metadata
    console.say(
        f"table {meta.name}: {len(inspection.source)} students, {len(meta.seeds)} seeds, {meta.epochs} epochs, "
        f"{target.stat().st_size / 1e6:.2f} MB: {target}"
    )
    _print_completeness(console, inspection)
    return 0


def run_inspect(options: TableInspectOptions) -> int:
    """List the tables, or describe one; return the exit status."""
    console = SafeConsole()
    if options.table is None:
        _list(console)
        return 0
    inspection = inspect_table(options.table)
    check_asked(options, inspection)
    match inspection:
        case ExternalInspection():
            _describe_external(console, inspection)
        case SurrogateInspection():
            _inspect_surrogate(console, options, inspection)
        case Inspection():
            _inspect_table(console, options, inspection)
    return 0


def _inspect_surrogate(console: SafeConsole, options: TableInspectOptions, inspection: SurrogateInspection) -> None:
    _describe_surrogate(console, inspection)
    hardness = inspection.hardness(against=options.against, points=options.points)
    rewards = grid(f"how hard it is to search, by {options.points:,} random points", "")
    for row in reward_rows(hardness):
        rewards.add_row(*row)
    console.print(rewards)
    _print_comparisons(console, hardness["against"])
    _write_figures(console, options, hardness)


def _inspect_table(console: SafeConsole, options: TableInspectOptions, inspection: Inspection) -> None:
    searches = {}
    if options.searches:
        with ConsoleProgress(console) as progress:
            searches = inspection.searches(options.searches, budget=options.budget, progress=progress)
    _describe(console, inspection, searches)
    against = [inspection.against(other) for other in options.against]
    _print_comparisons(console, against)
    if options.surrogate:
        with ConsoleProgress(console) as progress:
            progress.begin("fitting surrogates to parts of the table")
            card = inspection.surrogate
        _print_card(console, card)
    if options.json is not None:
        figures = inspection.to_dict(surrogate=options.surrogate, searches=searches, against=against)
        _write_figures(console, options, figures)
    if options.to is not None:
        console.say(f"picture: {save_figure(inspection.plot(), options.to)}")


def _write_figures(console: SafeConsole, options: TableInspectOptions, figures: Mapping[str, Any]) -> None:
    if options.json is not None:
        write_json(options.json, figures)
        console.say(f"figures: {options.json}")


def run_fit(options: TableFitOptions) -> int:
    """Fit a surrogate and write it; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        fit = fit_surrogate(options.tables, options.to, progress=progress)
    first = fit.surrogate.metadata.name
    for name, alone, both in fit.gains:
        console.say(
            f"the held-out loss of the {alone['students']} students of {name} is predicted by {first} alone with "
            f"{_quality(alone)}; by both, in cross-validation, with {_quality(both)}"
        )
    console.say(
        f"surrogate fitted to {_fitted_to(fit.surrogate)}, {fit.path.stat().st_size / 1e6:.2f} MB: {fit.path}\n"
        f'search its space of {fit.points:,} points: gym.make("kdnas/Surrogate-v0", table={options.to!r})\n'
        f"how good it is: {command('table', 'inspect', options.tables[0], '--surrogate')}"
    )
    return 0


def run_import_nas_bench_bert(options: ImportNasBenchBertOptions) -> int:
    """Write NAS-Bench-BERT as an external table; return the exit status."""
    inspection = import_table(options)
    console = SafeConsole()
    _describe_external(console, inspection)
    console.say(f"race on it with\n\n    {command('bench', '--tasks', options.to)}\n")
    return 0


def run_agreement(options: TableAgreementOptions) -> int:
    """Race on a table and on its surrogates, and compare the rankings; return the exit status."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        agreement = table_agreement(options, progress=progress)
    regrets, tau = grid("agent", "regret on the table", "on the surrogate"), agreement.ranking
    for row in agreement.table():
        regrets.add_row(row["agent"], f"{row['table']:.3f}", f"{row['surrogate']:.3f}")
    console.print(regrets)
    console.say(
        f"ranking agreement: tau {tau['tau']:.2f} [{tau['low']:.2f}, {tau['high']:.2f}]; two samples of the "
        f"table's own searches agree with {tau['ceiling']:.2f}, which is the highest agreement to expect"
    )
    console.say(f"results: {agreement.path / RESULTS}")
    return 0


def run_verify(options: TableVerifyOptions) -> int:
    """Verify a table; return the exit status: 1 if it has a fault."""
    console = SafeConsole()
    with ConsoleProgress(console) as progress:
        check = verify_table(options, progress=progress)
    table = check.source
    console.say(
        f"table {table.metadata.name}: checksum and schema are valid; {len(table)} students, "
        f"{100 * table.complete:.1f} % of the cells are evaluated"
    )
    if check.allowed is not None:
        largest = max((cell.difference for cell in check.replayed), default=0.0)
        console.say(
            f"{len(check.replayed)} cells distilled again: losses differ by at most {largest:.1e} (relative; limit "
            f"{check.allowed:g})"
        )
    for fault in check.faults:
        console.say(f"fault: {fault}", "bad")
    if not check.faults:
        console.say("no faults found", "good")
    return 1 if check.faults else 0


def _list(console: SafeConsole) -> None:
    rows = shipped_tables()
    if not rows:
        console.say("no tables come with this installation; make one with kdnas table build")
        return
    tables = grid("table", "students", "seeds", "epochs", "complete", "tau", left=("of",))
    tables.columns[0].no_wrap = True
    for row in rows:
        tau = "-" if row["tau"] is None else f"{row['tau']:.3f}"
        counts = (str(row[name]) for name in ("students", "seeds", "epochs"))
        tables.add_row(row["table"], *counts, f"{row['complete']:.0%}", tau, row["of"])
    console.print(tables)
    console.print("[dim]tau: Kendall's, between seeds after the last epoch[/]")
    if surrogates := surrogate_names():
        console.say(
            f"surrogates, which predict every student of a space too large for a table: {', '.join(surrogates)}"
        )
    console.say("details of one: kdnas table inspect NAME")


def _describe(console: SafeConsole, inspection: Inspection, searches: Mapping[str, Any]) -> None:
    table, meta = inspection.source, inspection.source.metadata
    facts = {
        "table": meta.name,
        "title": meta.title,
        "teacher": meta.teacher,
        "corpus": corpus_in_words(meta),
        "space": "; ".join(f"{name}: {values}" for name, values in meta.space.items()),
        "shape": f"{len(table)} students, {len(meta.seeds)} seeds {list(meta.seeds)}, {meta.epochs} epochs",
        "recipe": ", ".join(f"{name} {value}" for name, value in meta.recipe.items()),
        "trained on": meta.trained_on,
        "versions": ", ".join(f"{name} {number}" for name, number in meta.versions.items()),
        "workload": meta.workload,
        "SHA-256": inspection.sha256,
    }
    for name, value in facts.items():
        console.say(f"{name}: {value}")
    _print_completeness(console, inspection)
    best = inspection.best
    if best is None:
        console.say("best student: none, no student has both loss and latency")
    else:
        earned = inspection.reward(best)
        console.say(
            f"best student: {best.config}, reward {earned.reward:.4f}: held-out unexplained {earned.loss:.4f}, "
            f"{earned.speedup:.1f} times as fast as its teacher, {best.parameters / 1e6:.2f} M parameters"
        )
    _print_noise(console, meta)
    if inspection.hardness is None:
        console.say("hardness: unknown; it requires at least two students")
        return
    task = inspection.task
    by = "by the default reward" if task is None or str(task) == task.table else f"as {task.title}"
    hard = grid(f"how hard it is to search, {by}", "")
    for row in hardness_rows({**inspection.hardness, "searches": searches}):
        hard.add_row(*row)
    console.print(hard)


def _print_comparisons(console: SafeConsole, comparisons: Sequence[Mapping[str, Any]]) -> None:
    for comparison in comparisons:
        alike = grid(f"{comparison['tasks'][0]} beside {comparison['tasks'][1]}", "")
        for row in comparison_rows(comparison):
            alike.add_row(*row)
        console.print(alike)


def _print_completeness(console: SafeConsole, inspection: Inspection) -> None:
    """Print the numbers of evaluated cells and latencies, and the agreement between seeds."""
    table = inspection.source
    masked = f", {inspection.missing} cells are masked" if inspection.missing else ""
    console.say(f"complete: {100 * table.complete:.1f} %{masked}")
    for position, device in enumerate(table.metadata.devices):
        console.say(
            f"device {device.name}: {inspection.measured(position)} of {len(table)} students, {device.machine}, "
            f"{device.runtime}, {device.threads} thread{'s' if device.threads > 1 else ''}, "
            f"batch {device.batch_size}, {device.sequence_length} tokens"
        )
    agreement = inspection.agreement
    if agreement is None:
        console.say("noise ceiling: unknown; it requires at least two seeds of two students")
        return
    console.say(f"noise ceiling: tau {agreement:.3f} between seeds after the last epoch")
    if agreement < LEAST_AGREEMENT:
        console.say(
            f"warning: below {LEAST_AGREEMENT}, rankings from different seeds agree too little to identify the best "
            "students; distil on more text or for more epochs",
            "warning",
        )


def _print_noise(console: SafeConsole, meta: TableMetadata) -> None:
    noise = meta.noise
    rows = {words: noise[name] for name, words in _NOISE.items() if noise.get(name)}
    if not rows:
        return
    taus = grid("Kendall's tau after epoch", *map(str, range(meta.epochs + 1)))
    for words, values in rows.items():
        taus.add_row(words, *(f"{value:.3f}" for value in values))
    console.print(taus)
    if noise.get("deviation") is not None:
        console.say(
            f"the last loss deviates by {noise['deviation']:.5f} between seeds, and by {noise['spread']:.5f} between "
            "students"
        )


def _print_card(console: SafeConsole, card: Mapping[str, Any]) -> None:
    """Print the quality of a surrogate, by quantity and by split."""
    by_quantity = grid(
        "quantity",
        *_METRICS.values(),
        title=f"surrogate: {card['students']} students, each predicted without it, in {card['folds']} folds",
    )
    _, *rows = card_rows(card, splits=(RANDOM,), metrics=tuple(_METRICS))
    for _, quantity, _, *values in rows:
        by_quantity.add_row(quantity, *values)
    by_split = grid(
        "split", "students", *_METRICS.values(), title="surrogate: the reward of students left out together"
    )
    _, *rows = card_rows(card, ("reward",), metrics=tuple(_METRICS))
    for split, _, count, *values in rows:
        by_split.add_row(split, count, *values)
    console.print(by_quantity)
    console.print(by_split)
    console.print(
        "[dim]tau: Kendall's; resolved: of the pairs that seeds can tell apart; best 10: share of the ten predicted "
        "best that are among the ten best; in 90 %: share of the students within the predicted interval[/]"
    )


def _describe_surrogate(console: SafeConsole, inspection: SurrogateInspection) -> None:
    """Print the tables that a surrogate was fitted to, and its range."""
    surrogate = inspection.source
    meta, trusted = surrogate.metadata, surrogate.range
    facts = {
        "surrogate of": f"{meta.name}: {meta.title}",
        "fitted to": _fitted_to(surrogate),
        **{name: f"{low} to {high}" for name, (low, high) in trusted.numbers.items()},
        **{name: ", ".join(map(str, values)) for name, values in trusted.names.items()},
        "largest student": "any" if trusted.max_parameters is None else f"{trusted.max_parameters:,} parameters",
        "epochs": str(meta.epochs),
        "devices": ", ".join(device.name for device in meta.devices),
        "workload": meta.workload,
        "SHA-256": inspection.sha256,
    }
    for name, value in facts.items():
        console.say(f"{name}: {value}")


def _describe_external(console: SafeConsole, inspection: ExternalInspection) -> None:
    """Print the contents of an external table."""
    table, repeated = inspection.source, inspection.repeated
    space, (winner, score) = table.space, inspection.best
    facts = {
        "external table": table.title,
        "candidates": f"{len(space.valid_indices)}, {repeated} of them trained more than once",
        "space": "; ".join(f"{name}: {list(values)}" for name, values in space.choices.items()),
        "scores": f"{', '.join(table.metrics)}; searches maximise {table.metric}",
        "best training": f"{winner}, {table.metric} {score:.4f}",
        "median": f"{table.metric} {inspection.median:.4f}",
        "noise": f"{table.noise:.4f} between trainings of one candidate" if repeated else "unknown; none was repeated",
        "seconds of training": f"{table.seconds.min():.0f} to {table.seconds.max():.0f}",
        "SHA-256": inspection.sha256,
    }
    for name, value in facts.items():
        console.say(f"{name}: {value}")


def _fitted_to(surrogate: Surrogate) -> str:
    return ", ".join(f"{count} students of {name}" for name, count in surrogate.tables)


def _quality(agreement: Mapping[str, Any]) -> str:
    known = [name for name in ("r2", "tau") if agreement[name] is not None]
    return ", ".join(f"{name} {agreement[name]:.3f}" for name in known) or "no agreement"
