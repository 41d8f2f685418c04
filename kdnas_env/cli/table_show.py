"""``kdnas table inspect`` and ``kdnas table verify``: what a table holds, and whether it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from kdnas_env.cli.console import SafeConsole
from kdnas_env.cli.table_build import print_completeness
from kdnas_env.cli.table_options import TableInspectOptions, TableVerifyOptions
from kdnas_env.cli.table_report import describe_surrogate, grid, print_card, print_hardness
from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.pareto import pareto_front
from kdnas_env.core.reward import KDReward
from kdnas_env.envs.render import save_figure
from kdnas_env.errors import TableError
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.support.atomic import write_json
from kdnas_env.support.progress import TaskProgress
from kdnas_env.tables.storage import checksum, load_table, table_names, table_path
from kdnas_env.tables.surrogates.surrogate import Surrogate, load_source
from kdnas_env.tables.table import Table
from kdnas_env.tabulation.merge import corpus_in_words
from kdnas_env.tabulation.verify import draw_cells, find_faults, open_live, replay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOISE = {
    "tau": "between seeds",
    "tau_within_width": "between seeds, within a width",
    "tau_with_last": "mean over seeds, with that after the last epoch",
}


def run_inspect(options: TableInspectOptions) -> int:
    """List the tables, or tell what one holds; the exit status of the command.

    Raises:
        KDNASError: If there is no such table, or it is damaged.
    """
    console = SafeConsole()
    if options.table is None:
        _list(console)
        return 0
    source, digest = load_source(options.table), checksum(table_path(options.table))
    if isinstance(source, Surrogate):
        if options.to or options.surrogate or options.json:
            raise TableError(f"{options.table!r} is a surrogate: draw and judge the table that it was fitted to")
        describe_surrogate(console, source, digest)
        return 0
    (table,) = source
    _describe(console, table, digest)
    report: dict[str, Any] = {
        "table": table.metadata.name,
        "sha256": digest,
        "noise": dict(table.metadata.noise),
        "hardness": print_hardness(console, table),
    }
    if options.surrogate:
        report["surrogate"] = print_card(console, table)
    if options.json is not None:
        write_json(options.json, report)
        console.print(f"figures: {escape(options.json)}", highlight=False, soft_wrap=True)
    if options.to is not None:
        picture = save_figure(draw_table(table), options.to)
        console.print(f"picture: {escape(str(picture))}", highlight=False, soft_wrap=True)
    return 0


def _list(console: Console) -> None:
    names = table_names()
    if not names:
        console.print("no tables come with this installation; make one with kdnas table build", highlight=False)
        return
    table_grid = grid("table", "students", "seeds", "epochs", "complete", "tau", left=("of",))
    table_grid.columns[0].no_wrap = True
    for name in names:
        table = load_table(name)
        meta = table.metadata
        tau = meta.noise.get("tau")
        table_grid.add_row(
            name,
            str(len(table)),
            str(len(meta.seeds)),
            str(meta.epochs),
            f"{table.complete:.0%}",
            f"{tau[-1]:.3f}" if tau else "-",
            meta.title,
        )
    console.print(table_grid)
    console.print("tau: Kendall's, between seeds after the last epoch", style="dim", highlight=False)
    console.print("more about one: kdnas table inspect NAME", highlight=False)


def _describe(console: Console, table: Table, digest: str) -> None:
    meta = table.metadata
    recipe = ", ".join(f"{name} {value}" for name, value in meta.recipe.items())
    told = {
        "table": meta.name,
        "title": meta.title,
        "teacher": meta.teacher,
        "corpus": corpus_in_words(meta),
        "space": "; ".join(f"{name}: {values}" for name, values in meta.space.items()),
        "shape": f"{len(table)} students, {len(meta.seeds)} seeds {list(meta.seeds)}, {meta.epochs} epochs",
        "recipe": recipe,
        "trained on": meta.trained_on,
        "versions": ", ".join(f"{name} {number}" for name, number in meta.versions.items()),
        "workload": meta.workload,
        "SHA-256": digest,
    }
    for name, value in told.items():
        console.print(f"{name}: {escape(value)}", highlight=False, soft_wrap=True)
    print_completeness(console, table)
    _print_best(console, table)
    _print_noise(console, table)


def _print_best(console: Console, table: Table) -> None:
    reward = KDReward()
    usable = _usable(table)
    if not usable:
        console.print("best student: none, no student has both loss and latency", highlight=False)
        return
    best = max(usable, key=lambda one: reward(one).reward)
    found = reward(best)
    console.print(
        f"best student: {best.config}, reward {found.reward:.4f}: held-out unexplained {found.loss:.4f}, "
        f"{found.speedup:.1f} times as fast as its teacher, {best.parameters / 1e6:.2f} M parameters",
        highlight=False,
        soft_wrap=True,
    )


def _usable(table: Table) -> list[Evaluation]:
    """Return the mean over seeds of every student that has a loss and, on the first device, a latency."""
    evaluations = TabularEvaluator(table, missing="failed").evaluate(
        table.configs(), Fidelity(epochs=table.metadata.epochs)
    )
    return [one for one in evaluations if one.ok]


def _print_noise(console: Console, table: Table) -> None:
    noise = table.metadata.noise
    rows = {words: noise[name] for name, words in _NOISE.items() if noise.get(name)}
    if not rows:
        return
    taus = grid("Kendall's tau after epoch", *map(str, range(table.metadata.epochs + 1)))
    for words, values in rows.items():
        taus.add_row(words, *(f"{value:.3f}" for value in values))
    console.print(taus)
    if noise.get("deviation") is not None:
        console.print(
            f"the last loss deviates by {noise['deviation']:.5f} between seeds, and by {noise['spread']:.5f} between "
            "students",
            highlight=False,
            soft_wrap=True,
        )


def draw_table(table: Table) -> Figure:
    """Draw all students of a table: held-out loss against latency, by depth and width, with the Pareto front.

    Returns:
        A matplotlib figure that no global state of matplotlib knows of, 8 by 5 inches.
    """
    from matplotlib.figure import Figure

    usable = _usable(table)
    ratio = np.array([one.latency.ratio for one in usable if one.latency])
    loss = np.array([one.heldout_unexplained[-1] for one in usable])
    layers = np.array([one.config.num_hidden_layers for one in usable])
    widths = np.array([one.config.hidden_size for one in usable])
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"{table.metadata.name}: {len(usable)} students")
    axes.set_xlabel(f"latency ({table.metadata.devices[0].name}), share of the teacher's")
    axes.set_ylabel("held-out unexplained variance")
    for marker, width in zip("osD^vP*X", np.unique(widths), strict=False):
        chosen = widths == width
        points = axes.scatter(
            ratio[chosen],
            loss[chosen],
            c=layers[chosen],
            vmin=layers.min(),
            vmax=layers.max(),
            marker=marker,
            cmap="viridis",
            s=18,
            alpha=0.8,
            linewidths=0,
            label=f"{width} wide",
        )
    front = pareto_front(ratio, loss)
    axes.step(ratio[front], loss[front], where="post", color="#e07b00", linewidth=1.4, label="Pareto front")
    if len(usable):
        figure.colorbar(points, ax=axes, pad=0.02, ticks=np.unique(layers)).set_label("layers")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure


def run_verify(options: TableVerifyOptions) -> int:
    """Check a table; the exit status of the command: 1 if something is wrong with it.

    Raises:
        KDNASError: If there is no such table, or what it was distilled from cannot be had.
    """
    console = SafeConsole()
    table = load_table(options.table)
    faults = find_faults(table)
    console.print(
        f"table {escape(table.metadata.name)}: checksum and schema are right; {len(table)} students, "
        f"{100 * table.complete:.1f} % of the cells are there",
        highlight=False,
    )
    if options.replay:
        faults += _replay(console, options, table)
    for fault in faults:
        console.print(f"wrong: {escape(fault)}", style="red", highlight=False, soft_wrap=True)
    if not faults:
        console.print("nothing is wrong with it", style="green")
    return 1 if faults else 0


def _replay(console: Console, options: TableVerifyOptions, table: Table) -> list[str]:
    cells = draw_cells(table, options.replay, np.random.default_rng(options.seed))
    with TaskProgress(console) as progress:
        progress.begin(f"distilling {len(cells)} cells anew")
        try:
            live, allowed = open_live(
                table, device=options.device, precision=options.precision, cache_dir=options.cache_dir
            )
        except TableError as error:
            return [str(error)]
        replayed = replay(table, live, cells, progress.advance)
    largest = max((one.difference for one in replayed), default=0.0)
    console.print(
        f"{len(replayed)} cells distilled anew: losses differ by {largest:.1e} at most (relative; allowed are "
        f"{allowed:g})",
        highlight=False,
        soft_wrap=True,
    )
    return [
        f"{one.cell.student} with seed {one.cell.seed} differs by {one.difference:.1e} when distilled anew"
        for one in replayed
        if one.difference > allowed
    ]
