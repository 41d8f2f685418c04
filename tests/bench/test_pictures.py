"""Pictures and the LaTeX table of a race."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kdnas_env.bench.curves import Runs
from kdnas_env.bench.plots import FORMATS, draw_curves, draw_improvement, draw_profiles, draw_targets
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import standings_tex, summarise
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.support.figures import save_figure


@pytest.fixture(scope="module")
def small(task: Task, truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    wanted = Race((AgentSpec("random"), AgentSpec("local-search")), (task,), 3, Budget(8))
    return summarise(Runs.of(race(wanted, tmp_path_factory.mktemp("race")), [truth]), repetitions=20)


def _renamed(summary: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return a summary with one agent per name; all have the results of local search."""
    told = copy.deepcopy(summary)
    (view,) = told["views"]
    estimate = view["improvement"]["random"]["local-search"]
    told["agents"], told["reference"] = list(names), names[0]
    view["agents"] = dict.fromkeys(names, view["agents"]["local-search"])
    view["improvement"] = {name: {other: estimate for other in names if other != name} for name in names}
    return told


def test_twenty_agents_have_lines_of_their_own_and_a_legend_beside_them(small: dict[str, Any]) -> None:
    names = [f"agent-{place}" for place in range(20)]
    told = _renamed(small, *names)
    for figure in (
        draw_curves(told, told["views"][0]),
        draw_profiles(told, told["views"][0]),
        draw_targets(told, told["views"][0], "optimum"),
    ):
        (axes,) = figure.axes
        curves: Any = axes.lines
        lines = {line.get_label(): (line.get_color(), line.get_linestyle(), line._dash_pattern) for line in curves}
        assert len({str(lines[name]) for name in names}) == 20
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()][:20] == names
        figure.draw_without_rendering()
        assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
        assert legend.get_window_extent().y0 >= 0


def test_pictures_are_bitmaps_and_drawings_the_same_each_time(small: dict[str, Any], tmp_path: Path) -> None:
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for kind in FORMATS:
        first, second = (
            save_figure(draw_improvement(small, small["views"][0]), tmp_path / f"{place}.{kind}").read_bytes()
            for place in "ab"
        )
        assert first.startswith(begins[kind])
        assert first == second


def test_names_are_not_mathematics(small: dict[str, Any], tmp_path: Path) -> None:
    told = _renamed(small, r"a:x=$\frac$", "b")
    told["views"][0]["title"] = "$"
    for figure in (draw_curves(told, told["views"][0]), draw_improvement(told, told["views"][0])):
        save_figure(figure, tmp_path / "hostile.svg")


def test_the_latex_table_says_what_the_summary_says(small: dict[str, Any]) -> None:
    told = _renamed(small, "random", r"50%_$#&{x}~^\input{a}" + "\n\\end{document}")
    lines = standings_tex(told, told["views"][0]).splitlines()
    rows = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    final = told["views"][0]["agents"]["random"]["final"]
    cells = next(row for row in rows if row.startswith("random")).removesuffix(r" \\").split(" & ")
    assert cells[1:3] == [f"{final['value']:.3f}", f"{final['low']:.3f}--{final['high']:.3f}"]
    assert len(rows) == 2
    hostile = next(row for row in rows if not row.startswith("random"))
    assert hostile.startswith(r"50\%\_\$\#\&\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}input\{a\} ")
    assert {row.count(" & ") for row in rows} == {9}
