from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_tables import planted_table

from kdnas_env.bench.race import Race, race
from kdnas_env.bench.race_page import race_page
from kdnas_env.bench.runs import Runs
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.truth import Task, Truth
from kdnas_env.envs.budget import Budget
from kdnas_env.tables.storage import write_table


def test_a_page_says_what_the_results_say(tmp_path: Path) -> None:
    write_table(planted_table(noise=0.02), tmp_path / "planted.npz")
    tasks = (Task(str(tmp_path / "planted.npz")), Task(str(tmp_path / "planted.npz"), alpha=-0.2))
    wanted = Race((AgentSpec("random"), AgentSpec("local-search")), tasks, 4, Budget(6))
    runs = Runs.of(race(wanted, tmp_path / "race"), [Truth.of(task) for task in tasks])
    results = json.loads(json.dumps(summarise(runs, repetitions=50)))
    page = race_page(results)
    assert len(page.views) == 3
    for view, told in zip(page.views, results["views"], strict=True):
        assert view.table is not None
        rows = {row[0]: dict(zip(view.table.columns, row, strict=True)) for row in view.table.rows}
        for agent, one in told["agents"].items():
            assert rows[agent]["regret at the end"] == one["final"]["value"]
            assert rows[agent]["top 1 % reached"] == one["targets"]["top_1_percent"]["reached"]
        assert rows["random"]["p (Holm)"] is None
        regret = next(chart for chart in view.charts if chart.name == "regret")
        assert [line.agent for line in regret.series] == ["random", "local-search"]
        assert all(len(line.value) == len(regret.x) for line in regret.series)
        (better,) = view.matrices
        sums = better.cells["random"]["local-search"].value + better.cells["local-search"]["random"].value
        assert sums == pytest.approx(1)
    assert "Race of search strategies" in page.to_html()
