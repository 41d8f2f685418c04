"""Hostile names and texts of a race add no HTML elements to its page, and the page has them unchanged."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from random import Random
from typing import Any

from fuzzing import BATCH, ODD, fuzz

from kdnas_env.support.page import Chart, Cloud, Interval, Listing, Matrix, Page, Scatter, Series, Standings, View

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "&lt;script&gt;",
    "\u2028\u2029",
    "'\"`",
    "{data}",
    "${alert(1)}",
    "javascript:alert(1)",
    "__proto__",
    "constructor",
    "\ud800",
    *(word for word in ODD if isinstance(word, str)),
)


class Elements(HTMLParser):
    """Collects tags with their attributes, and the text of the element that holds the data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.data = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", []))

    def handle_data(self, data: str) -> None:
        if self.tags and ("id", "data") in self.tags[-1][1]:
            self.data += data


EMPTY = Elements(Page("", "", [], []).to_html()).tags


@fuzz("page", refuses=False)
def test_pages(rng: Random) -> None:
    for _ in range(BATCH):
        page = _page(rng)
        html = page.to_html()
        found = Elements(html)
        assert found.tags == EMPTY
        told = json.loads(found.data)
        assert told["agents"] == list(page.agents)
        assert told["views"][0]["notes"] == list(page.views[0].notes)
        assert html.encode("ascii", "xmlcharrefreplace")


def _page(rng: Random) -> Page:
    def word() -> str:
        return "".join(rng.choices(HOSTILE, k=rng.randint(1, 3)))

    def number() -> Any:
        return rng.choice((0, 1.5, float("nan"), float("inf"), 10**30))

    agents = [word() for _ in range(3)]
    chart = Chart(word(), word(), word(), word(), [number(), number()], [Series(agents[0], [number(), number()])])
    standings = Standings(
        word(), word(), [word(), word()], [[agent, rng.choice((word(), number()))] for agent in agents]
    )
    matrix = Matrix(word(), word(), {agents[0]: {agents[1]: Interval(number(), number(), number())}})
    scatter = Scatter(word(), word(), word(), word(), [Cloud(agents[0], [number()], [number()], [word()])])
    listing = Listing(word(), word(), [word()], [[rng.choice((word(), number()))]], word())
    view = View(word(), word(), standings, [chart], [matrix], [word(), word()], [scatter], [listing])
    return Page(word(), word(), agents, [view, view], [(word(), word())], [(word(), word())])
