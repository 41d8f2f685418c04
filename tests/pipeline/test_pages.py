"""The HTML reports of searches show their results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kdnas_env
from kdnas_env.support.page import Cloud, Listing, Page, Scatter

pytestmark = pytest.mark.usefixtures("only_blank_pictures")


@pytest.fixture(scope="module")
def run(small_in: Callable[[Path], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> kdnas_env.SearchRun:
    """A finished search. Do not write into its folder."""
    small = small_in(tmp_path_factory.mktemp("searched"))
    return kdnas_env.search(**{**small, "budget": 6, "agent": "lstm"})


def scatter(page: Page, name: str) -> dict[str, Cloud]:
    (found,) = [scatter for view in page.views for scatter in view.scatters if scatter.name == name]
    assert isinstance(found, Scatter)
    return {cloud.agent: cloud for cloud in found.clouds}


def listing(page: Page, name: str) -> list[dict[str, Any]]:
    (found,) = [listing for view in page.views for listing in view.listings if listing.name == name]
    assert isinstance(found, Listing)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def test_a_search_leaves_its_page(run: kdnas_env.SearchRun) -> None:
    page = run.report()
    assert (run.path / "report.html").read_text() == page.to_html()
    assert run.best is not None
    front = scatter(page, "front")
    assert [*zip(front["Pareto front"].x, front["Pareto front"].y, strict=True)] == [
        (record.reward.latency_ratio, record.reward.loss) for record in run.front
    ]
    shown = [label for cloud in front.values() for label in cloud.labels]
    assert len(shown) == sum(record.usable for record in run.records)
    assert any(label.startswith(f"{run.best.evaluation.config} (") for label in shown)
    best = scatter(page, "rewards")["best so far"].y
    assert best[-1] == run.best.reward.reward
    assert [*best] == sorted(best)
    students = listing(page, "students")
    assert [row["reward"] for row in students] == [record.reward.reward for record in run.records]
    assert dict(page.facts)["lineage: teacher"]
    assert "210 samples" in dict(page.facts)["text"]
    assert any(command == f"kdnas distill {run.path}" for _, command in page.commands)


def test_the_page_of_a_search_is_drawn_and_pointed_at(run: kdnas_env.SearchRun, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    def found(selector: str) -> list[Any]:
        return list(browser.find_elements(By.CSS_SELECTOR, selector))

    assert run.best is not None
    browser.get((run.path / "report.html").as_uri())
    best = str(run.best.evaluation.config)
    marks = found("[data-chart=front] circle")
    assert len(marks) == sum(record.usable for record in run.records)
    mark = next(mark for mark in marks if mark.get_attribute("textContent").startswith(f"{best} ("))
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    assert found("[data-chart=front] .readout")[0].text.startswith(f"{best} (")
    assert found("[data-table=students] tbody tr:first-child td:nth-child(2)")[0].text == best
    assert f"kdnas distill {run.path}" in [command.text for command in found("#next pre")]
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_predictions_are_shown_against_what_came(run: kdnas_env.SearchRun) -> None:
    rounds = json.loads((run.path / "results.json").read_text())["rounds"]
    recorded = [value for round_ in rounds for value in round_["predicted"]]
    assert len(recorded) == 6
    clouds = scatter(run.report(), "predictions")
    points = {
        (x, y)
        for name, cloud in clouds.items()
        if name != "as predicted"
        for x, y in zip(cloud.x, cloud.y, strict=True)
    }
    assert points == {
        (value, record.reward.reward)
        for value, record in zip(recorded, run.records, strict=True)
        if value is not None and record.usable
    }
    assert points, "the last rounds of a learner are predicted"


def test_an_agent_that_predicts_nothing_has_no_such_chart(small: dict[str, Any]) -> None:
    run = kdnas_env.search(**{**small, "agent": "random"})
    page = run.report()
    assert [chart.name for chart in page.views[0].scatters] == ["front", "rewards"]
    assert {row["mean error of predictions"] for row in listing(page, "rounds")} == {None}


def test_limits_are_shown_with_what_keeps_them(small: dict[str, Any]) -> None:
    run = kdnas_env.search(**{**small, "limits": {"speedup": 1.0, "parameters": 5_000}})
    rows = {row["limit"]: row for row in listing(run.report(), "limits")}
    kept = [record for record in run.records if not record.duplicate and record.evaluation.parameters <= 5_000]
    assert rows["parameters of the encoder"]["asked for"] == "at most 5,000"
    assert rows["parameters of the encoder"]["students that keep it"] == f"{len(kept)} of {len(run.records)}"
    assert rows["latency"]["students that keep it"] is None


def test_a_search_of_an_earlier_version_has_a_page(run: kdnas_env.SearchRun, tmp_path: Path) -> None:
    earlier = Path(shutil.copytree(run.path, tmp_path / "run"))
    results = json.loads((earlier / "results.json").read_text())
    for round_ in results["rounds"]:
        del round_["predicted"]
    (earlier / "results.json").write_text(json.dumps(results))
    page = kdnas_env.load_run(earlier).report()
    assert [chart.name for chart in page.views[0].scatters] == ["front", "rewards"]


def test_the_page_is_written_again_when_a_search_is_resumed(run: kdnas_env.SearchRun, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run.path, tmp_path / "run"))
    (moved / "report.html").write_text("an older page")
    kdnas_env.search(resume=moved, cache_dir=run.path.with_name("cache"))
    assert (moved / "report.html").read_text() == kdnas_env.load_run(moved).report().to_html()
    assert not [*moved.glob(".report*")]
