from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_tables import planted_table

from kdnas_env.bench.curves import Runs
from kdnas_env.bench.race import Race, race
from kdnas_env.bench.race_page import race_page, ranking_notes, timing_in_words
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.summary import summarise
from kdnas_env.bench.truth import Truth
from kdnas_env.envs.benchmark_task import Task
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
        profile = next(chart for chart in view.charts if chart.name == "profile")
        for line in profile.series:
            assert line.low == told["agents"][line.agent]["profile"]["low"]
        (better,) = view.matrices
        sums = better.cells["random"]["local-search"].value + better.cells["local-search"]["random"].value
        assert sums == pytest.approx(1)
    assert "Race of search strategies" in page.to_html()
    assert dict(page.facts)["time of the agents"].endswith("the rest is spent on look-ups in tables and on recording")


@pytest.mark.parametrize(
    ("difference", "friedman", "said"),
    [
        (None, None, ["With fewer than five tasks"]),
        (1.5, None, ["differ by less than 1.50"]),
        (1.5, {"chi_squared": 9.1, "f": 12.34, "p": 0.001}, ["F = 12.3, p = 0.001: some agents", "less than 1.50"]),
        (1.5, {"chi_squared": 10.0, "f": None, "p": 0.0}, ["F = infinite", "less than 1.50"]),
        (1.5, {"chi_squared": 1.0, "f": 0.9, "p": 0.4}, ["do not interpret their ranks"]),
    ],
)
def test_what_is_said_of_ranks(difference: float | None, friedman: dict[str, Any] | None, said: list[str]) -> None:
    view: dict[str, Any] = {"critical_difference": difference, "friedman": friedman, "agents": {"a": {}, "b": {}}}
    notes = ranking_notes(view)
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))
    assert ranking_notes({**view, "agents": {"a": {}}}) == []


def test_an_unknown_share_of_the_time_is_said_to_be_unknown() -> None:
    assert "unknown" in timing_in_words({"agent_seconds": 0.0, "wall_seconds": 0.0, "share": None})
    assert "4.0 s of processor time in 10.0 s of searches (40%)" in timing_in_words(
        {"agent_seconds": 4.0, "wall_seconds": 10.0, "share": 0.4}
    )
