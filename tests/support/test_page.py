"""The page of a race, in a real browser."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from kdnas_env.bench.race_page import COLUMNS
from kdnas_env.support.page import Chart, Cloud, Interval, Listing, Matrix, Page, Scatter, Series, Standings, View

HOSTILE = '<img src=x onerror="document.title=\'taken\'"></script><script>document.title="taken"</script>&amp;'


def _page(*, hostile: str = "lstm") -> Page:
    agents = ["random", hostile, "evolution"]
    x = [1, 10, 50]
    curves = Chart(
        "regret",
        "Normalised regret",
        "evaluations",
        "regret",
        x,
        [
            Series("random", [1.0, 0.9, 0.7], [0.9, 0.8, 0.6], [1.1, 1.0, 0.8]),
            Series(hostile, [1.0, 0.5, 0.02]),
            Series("evolution", [math.nan, 0.6, 0.1]),
        ],
        log=True,
    )
    standings = Standings(
        "standings",
        "Final regret",
        ["agent", "regret"],
        [["random", 0.7], [hostile, 0.02], ["evolution", None]],
        sort=1,
    )
    matrix = Matrix("better", "Who is better", {hostile: {"random": Interval(0.9, 0.8, 0.95)}})
    views = [
        View(
            "all tasks",
            "Both tasks.",
            standings,
            [curves],
            [matrix],
            ["A remark."],
            [_points(hostile)],
            [_rows(hostile)],
        ),
        View("imdb", hostile, None, [curves]),
    ]
    facts, commands = [("seeds", "20"), ("hostile", hostile)], [("Go on", f"kdnas {hostile}")]
    return Page("A race", "three agents", agents, views, facts, commands)


def _points(hostile: str) -> Scatter:
    clouds = [
        Cloud("random", [0.0, 1.0, math.nan], [0.0, 1.0, 0.5], ["low", "high", "nowhere"]),
        Cloud(hostile, [0.0, 1.0], [1.0, 0.0], [hostile, "right"], joined="step"),
        Cloud("evolution", [0.0, 1.0], [0.0, 1.0], joined="line"),
    ]
    return Scatter("students", "Students", "latency", "loss", clouds)


def _rows(hostile: str) -> Listing:
    rows: list[list[Any]] = [["b", 2, None], ["a", 1, hostile], ["c", None, "none"]]
    return Listing("limits", "Limits", ["limit", "value", "remark"], rows, about="As asked.")


def _open(browser: Any, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page.to_html(), encoding="utf-8")
    browser.get(path.as_uri())


def _find(browser: Any, selector: str) -> list[Any]:
    from selenium.webdriver.common.by import By

    return list(browser.find_elements(By.CSS_SELECTOR, selector))


def _column(browser: Any, column: int) -> list[str]:
    return [cell.text for cell in _find(browser, f"[data-table=standings] tbody td:nth-child({column})")]


def test_a_page_names_nothing_outside_itself() -> None:
    html = _page().to_html()
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", html)
    assert html.isascii() or "charset" in html


def test_a_page_is_drawn_and_clicked_through(browser: Any, tmp_path: Path) -> None:
    _open(browser, _page(), tmp_path)
    assert browser.title == "A race"
    assert _column(browser, 1) == ["lstm", "random", "evolution"]
    # In reverse order, missing values stay last.
    _find(browser, "[data-table=standings] thead button")[1].click()
    assert _column(browser, 1) == ["random", "lstm", "evolution"]
    assert len(_find(browser, "[data-chart=regret] path[fill=none]")) == 3
    hide = next(button for button in _find(browser, "#agents button") if button.text == "random")
    hide.click()
    assert _column(browser, 1) == ["lstm", "evolution"]
    assert len(_find(browser, "[data-chart=regret] path[fill=none]")) == 2
    assert _find(browser, "[data-table=better] tbody td")[0].text == ""
    _find(browser, "#tasks button")[1].click()
    assert not _find(browser, "[data-table=standings]")
    assert len(_find(browser, "[data-chart=regret]")) == 1
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_chart_tells_values_where_it_is_pointed_at(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    _open(browser, _page(), tmp_path)
    (picture,) = _find(browser, "[data-chart=regret] svg[role=img]")
    browser.execute_script("arguments[0].scrollIntoView()", picture)
    ActionChains(browser).move_to_element_with_offset(picture, picture.size["width"] // 2 - 12, 0).perform()
    told = _find(browser, "[data-chart=regret] .readout")[0].text
    assert told == "evaluations 50: random 0.700, lstm 0.0200, evolution 0.100"


def test_a_point_tells_what_it_is_where_it_is_pointed_at(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    _open(browser, _page(), tmp_path)
    marks = _find(browser, "[data-chart=students] circle")
    assert len(marks) == 4, "what has no place, and a line alone, has no mark"
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", marks[1])
    ActionChains(browser).move_to_element(marks[1]).perform()
    assert _find(browser, "[data-chart=students] .readout")[0].text == "high: latency 1, loss 1"
    assert [mark.get_attribute("class") for mark in marks] == [None, "pointed", None, None]
    steps, line = (path.get_attribute("d") for path in _find(browser, "[data-chart=students] path"))
    assert "H" in steps
    assert "H" not in line


def test_a_listing_is_in_its_order_until_it_is_sorted(browser: Any, tmp_path: Path) -> None:
    _open(browser, _page(), tmp_path)

    def first() -> list[str]:
        return [cell.text for cell in _find(browser, "[data-table=limits] tbody td:first-child")]

    assert first() == ["b", "a", "c"]
    _find(browser, "#agents button")[0].click()
    assert first() == ["b", "a", "c"], "rows of a listing are no agents"
    for order in (["a", "b", "c"], ["b", "a", "c"]):
        _find(browser, "[data-table=limits] thead button")[1].click()
        assert first() == order, "smallest first, then largest first; unknown values last"
    assert [command.text for command in _find(browser, "#next pre")] == ["kdnas lstm"]


@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString"])
def test_names_that_every_object_has_are_names(name: str, browser: Any, tmp_path: Path) -> None:
    _open(browser, _page(hostile=name), tmp_path)
    assert name in _column(browser, 1)
    assert _find(browser, "[data-table=better] tbody td")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_names_cannot_act(browser: Any, tmp_path: Path) -> None:
    _open(browser, _page(hostile=HOSTILE), tmp_path)
    assert browser.title == "A race"
    assert HOSTILE in _column(browser, 1)
    _find(browser, "#tasks button")[1].click()
    assert browser.title == "A race"
    assert not _find(browser, "img")


def _crowd() -> Page:
    """Return a page of 20 agents, whose names contain settings, with all columns of a race."""
    agents = [f"evolution:population_size={place},sample_size=5" for place in range(20)]
    row = [0.123456, 0.0123, 0.456, 1.23, 10.5, 0.667, 27, 0.5, 0.943, 100, 100, -0.0000644, 0.401, 0, 0.594]
    curve = Chart("regret", "Regret", "evaluations", "regret", [1, 50], [Series(one, [1.0, 0.5]) for one in agents])
    cells = {one: {other: Interval(0.5, 0.25, 0.75) for other in agents if other != one} for one in agents}
    standings = Standings("standings", "Less is better", COLUMNS, [[one, *row] for one in agents], sort=1)
    facts = [("task " + "long" * 30, "A text of the task. " * 20), ("intervals", "95%"), ("machine", "a processor")]
    view = View("all", "All.", standings, [curve], [Matrix("better", "Who is better", cells)])
    return Page("A race", "twenty agents", agents, [view], facts)


@pytest.mark.parametrize(("media", "width"), [("screen", 1400), ("print", 1047)])  # A4 across, less its margins
def test_twenty_agents_fit(media: str, width: int, browser: Any, tmp_path: Path) -> None:
    browser.set_window_size(width, 900)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    try:
        _open(browser, _crowd(), tmp_path)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        edge = browser.execute_script("return document.documentElement.clientWidth")
        for name in ("standings", "better"):
            rights = browser.execute_script(
                "return [...document.querySelectorAll(`[data-table=${arguments[0]}] :is(th, td)`)]"
                ".map(cell => cell.getBoundingClientRect().right)",
                name,
            )
            assert max(rights) <= edge, name
        facts = _find(browser, "#facts td")
        assert [cell.text for cell in facts[1:]] == ["95%", "a processor"]
        assert all(cell.rect["x"] + cell.rect["width"] <= edge for cell in facts)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_twenty_agents_are_told_apart(browser: Any, tmp_path: Path) -> None:
    _open(browser, _crowd(), tmp_path)

    def styles(selector: str) -> list[tuple[str, str]]:
        return [
            (line.get_attribute("stroke"), line.get_attribute("stroke-dasharray")) for line in _find(browser, selector)
        ]

    lines = styles("[data-chart=regret] path[fill=none]")
    assert len(lines) == len(set(lines)) == 20
    assert styles("[data-chart=regret] .legend line") == styles("#agents line") == lines
