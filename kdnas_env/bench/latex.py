"""The standings of a race as a LaTeX table, for papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HEADINGS = (
    "Agent",
    "Regret",
    "Interval",
    "On the way",
    "Rank",
    r"Top 1\,\%",
    "Optimum",
    "Hypervolume",
    "Wins",
    "$p$ (Holm)",
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def standings_tex(summary: Mapping[str, Any], view: Mapping[str, Any]) -> str:
    r"""Return the agents of a view, the least regret first, as a ``table`` that needs the package ``booktabs``.

    Args:
        summary: A summary of :func:`kdnas_env.bench.summary.summarise`.
        view: One of its views.
    """
    caption = (
        f"{_escaped(view['title'])}: normalised regret after {summary['budget']:g} {summary['unit']} (interquartile "
        f"mean over {summary['seeds']} seeds, {100 * summary['confidence']:g}\\,\\% bootstrap interval); 0 is the "
        "optimum, 1 the median of random search. Wins: how likely less regret than "
        f"{_escaped(summary['reference'])}, to which $p$ compares."
    )
    agents = sorted(view["agents"].items(), key=lambda item: float(item[1]["final"]["value"]))
    rows = [_row(name, told, view["improvement"][name].get(summary["reference"])) for name, told in agents]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(_HEADINGS) - 1)}}}",
            r"\toprule",
            " & ".join(_HEADINGS) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _row(name: str, told: Mapping[str, Any], wins: Mapping[str, float] | None) -> list[str]:
    final, targets, test = told["final"], told["targets"], told["test"]
    return [
        _escaped(name),
        f"{final['value']:.3f}",
        f"{final['low']:.3f}--{final['high']:.3f}",
        f"{told['area']['value']:.3f}",
        f"{told['mean_rank']:.2f}",
        f"{100 * targets['top_1_percent']['reached']:.0f}\\,\\%",
        f"{100 * targets['optimum']['reached']:.0f}\\,\\%",
        f"{100 * told['hypervolume']['value']:.0f}\\,\\%",
        "--" if wins is None else f"{wins['value']:.2f}",
        "--" if test is None else f"{test['corrected']:.2g}",
    ]


def _escaped(text: str) -> str:
    """Return a text that LaTeX prints as it is, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
