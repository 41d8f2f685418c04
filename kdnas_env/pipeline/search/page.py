"""The page of a search: its front, its rewards, what the agent learned, the limits, and every student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from kdnas_env.core.constraints import Constraints
from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.envs.book import Record
from kdnas_env.envs.render import LOSS_LABELS
from kdnas_env.pipeline.limits import Line, plain_lines
from kdnas_env.pipeline.search.record import SearchRecord
from kdnas_env.searching.recorded import flag_words
from kdnas_env.searching.run_folder import RESULTS, STUDENT, read_run
from kdnas_env.support.page import Cloud, Listing, Page, Scatter, View
from kdnas_env.support.shell import command, non_defaults, python_command
from kdnas_env.support.statistics import kendall_tau

CHOSEN, DRAWN, BREAKING, FRONT, BEST, EXACT = (
    "chosen by the agent",
    "drawn at random",
    "breaks a limit",
    "Pareto front",
    "best so far",
    "as predicted",
)
LEGEND = (CHOSEN, DRAWN, BREAKING, FRONT, BEST, EXACT)
"""Names in the legend of the page, each with its own colour."""

_FEWEST = 3
"""Minimum number of predictions for a rank correlation with the rewards."""


def search_page(run: SearchRecord) -> Page:
    """Return the page of a search."""
    return Page(
        title=f"Search for a student of {teacher_title(run.options.teacher)}",
        subtitle=_subtitle(run),
        agents=LEGEND,
        views=[search_view(run)],
        facts=search_facts(run),
        commands=search_commands(run),
    )


def search_view(run: SearchRecord) -> View:
    """Return the plots and listings of a search."""
    learned = _predictions(run)
    return View(
        name="search",
        about=_about(run),
        scatters=[_front(run), _rewards(run), *([] if learned is None else [learned])],
        listings=[_limits(run), _rounds(run), _students(run)],
        notes=_notes(run),
    )


def search_facts(run: SearchRecord) -> list[tuple[str, str]]:
    """Return the settings, text, lineage, versions and machine of a search."""
    options, recorded = run.options, read_run(run.path)
    latency = options.latency
    facts = [
        ("teacher", f"{teacher_title(options.teacher)}, {run.teacher_parameters:,} parameters in the encoder"),
        ("text", _text(options.corpus.source, recorded.get("corpus", {}))),
        ("agent", " ".join((options.agent, *options.agent_settings))),
        ("budget", f"{options.budget} students in rounds of {options.round_size}, seed {options.seed}"),
        ("mini-KD", f"{options.epochs} epoch(s) of {options.data_fraction:.0%} of the text, recipe {options.recipe}"),
        (
            "latency",
            f"{latency.runtime}, batch {latency.batch_size}, {latency.sequence_length} tokens, "
            f"{latency.threads} thread(s)",
        ),
        (
            "reward",
            f"quality {options.reward.quality}, alpha {options.reward.alpha:g}, beta {options.reward.beta:.4g}",
        ),
    ]
    facts += [(f"lineage: {name}", value) for name, value in recorded.get("fingerprints", {}).items()]
    if "started" in recorded:
        facts.append(("started", str(recorded["started"])))
    for name in ("versions", "machine"):
        if recorded.get(name):
            facts.append((name, ", ".join(f"{part} {value}" for part, value in recorded[name].items())))
    return facts


def load_command(student: str) -> str:
    """Return the command that loads the student of a folder with transformers."""
    load = f"AutoModel.from_pretrained({student!r}, add_pooling_layer=False)"
    return python_command(f"from transformers import AutoModel; print({load})")


def task_command(run: SearchRecord) -> str:
    """Return the command that teaches the best student of a search the task of the search."""
    task = run.options.task
    given = non_defaults(task, [field.name for field in fields(task) if field.name != "name"])
    words = [word for name, value in given.items() for word in flag_words(f"task.{name}", value)]
    return command("distill", run.path, "--task", task.name, *words)


def search_commands(run: SearchRecord) -> list[tuple[str, str]]:
    """Return next steps after a search, as pairs of a description and a command."""
    again = ("See the search again, or resume it", command("search", "--resume", run.path))
    if run.best is None:
        return [again]
    student = str(run.path / STUDENT)
    distil = ("Distil the best student for longer, on all text", command("distill", run.path))
    if run.options.task.name is not None:
        distil = ("Distil the best student for longer, then on the task", task_command(run))
    return [
        ("Load the student with transformers", load_command(student)),
        distil,
        ("Score it on a task, beside its teacher", command("score", student)),
        ("Export it to ONNX", command("export", student)),
        again,
    ]


def _subtitle(run: SearchRecord) -> str:
    tried = f"{len(run.records)} students tried by {run.options.agent}"
    return tried if run.best is None else f"{tried}; best: {run.best.evaluation.config}"


def _about(run: SearchRecord) -> str:
    if run.best is not None:
        reward = run.best.reward
        return (
            f"The best student, {run.best.evaluation.config}, has a loss of {reward.loss:.4f} and is "
            f"{reward.speedup:.2f} times as fast as the teacher. The Pareto front holds the students that no other "
            "beats in both loss and latency."
        )
    nearest = run.nearest
    if nearest is None:
        return f"No student could be distilled; {RESULTS} beside this page says why."
    return (
        f"No student keeps the limits. The closest is {nearest.evaluation.config}: "
        f"{nearest.broken_limits(run.options.limits)}."
    )


def _origins(run: SearchRecord) -> list[bool]:
    """Return for every answer whether it was drawn at random; False if that was not recorded."""
    drawn = [bool(flag) for round_ in run.rounds for flag in round_["random"]]
    return drawn[: len(run.records)] + [False] * (len(run.records) - len(drawn))


def _predicted(run: SearchRecord) -> list[float]:
    """Return the predicted reward of every answer, NaN without a prediction."""
    values = [
        math.nan if value is None else float(value) for round_ in run.rounds for value in round_.get("predicted", ())
    ]
    return values[: len(run.records)] + [math.nan] * (len(run.records) - len(values))


def _label(record: Record) -> str:
    latency = record.evaluation.latency
    time = "" if latency is None else f"{latency.median_ms:.2f} ms, {record.reward.speedup:.2f}x, "
    size = f"{record.evaluation.parameters / 1e6:.2f}M parameters"
    return f"{record.evaluation.config} ({time}{size}, reward {record.reward.reward:.4f})"


def _cloud(name: str, points: Sequence[tuple[float, float, Record]]) -> Cloud:
    labels = [_label(record) for _, _, record in points]
    return Cloud(name, [x for x, _, _ in points], [y for _, y, _ in points], labels)


def _front(run: SearchRecord) -> Scatter:
    """Return the plot of loss against latency, with the Pareto front."""
    by_name: dict[str, list[tuple[float, float, Record]]] = {CHOSEN: [], DRAWN: [], BREAKING: []}
    for record, drawn in zip(run.records, _origins(run), strict=True):
        if record.duplicate or not record.evaluation.ok or record.evaluation.latency is None:
            continue
        name = BREAKING if not record.usable else DRAWN if drawn else CHOSEN
        by_name[name].append((record.reward.latency_ratio, record.reward.loss, record))
    front = run.front
    line = Cloud(
        FRONT,
        [record.reward.latency_ratio for record in front],
        [record.reward.loss for record in front],
        joined="step",
    )
    clouds = [line, *(_cloud(name, points) for name, points in by_name.items() if points)]
    return Scatter(
        "front", "Students: lower and further left is better", "latency over the teacher's", _loss(run), clouds
    )


def _rewards(run: SearchRecord) -> Scatter:
    """Return the plot of the reward of every evaluation, and of the best so far."""
    by_name: dict[str, list[tuple[float, float, Record]]] = {CHOSEN: [], DRAWN: []}
    places, bests = [], []
    best = -math.inf
    for place, (record, drawn) in enumerate(zip(run.records, _origins(run), strict=True), start=1):
        if record.usable:
            best = max(best, record.reward.reward)
            by_name[DRAWN if drawn else CHOSEN].append((place, record.reward.reward, record))
        if best > -math.inf:
            places.append(place)
            bests.append(best)
    line = Cloud(BEST, places, bests, joined="step")
    clouds = [line, *(_cloud(name, points) for name, points in by_name.items() if points)]
    return Scatter("rewards", "Reward by evaluation", "evaluation", "reward", clouds)


def _pairs(run: SearchRecord) -> list[tuple[float, float, Record, bool]]:
    """Return prediction and reward of every student that has both, and whether it was drawn at random."""
    return [
        (predicted, record.reward.reward, record, drawn)
        for record, predicted, drawn in zip(run.records, _predicted(run), _origins(run), strict=True)
        if record.usable and math.isfinite(predicted)
    ]


def _predictions(run: SearchRecord) -> Scatter | None:
    """Return the plot of rewards against predicted rewards; None for an agent without predictions."""
    pairs = _pairs(run)
    if not pairs:
        return None
    ends = [
        min(min(predicted, reward) for predicted, reward, _, _ in pairs),
        max(max(predicted, reward) for predicted, reward, _, _ in pairs),
    ]
    clouds = [Cloud(EXACT, ends, ends, joined="line")]
    for name, of in ((CHOSEN, False), (DRAWN, True)):
        points = [(predicted, reward, record) for predicted, reward, record, drawn in pairs if drawn is of]
        if points:
            clouds.append(_cloud(name, points))
    return Scatter(
        "predictions", "What the agent learned: predicted and actual rewards", "predicted reward", "reward", clouds
    )


def _limits(run: SearchRecord) -> Listing:
    limits, shown = run.options.limits, run.best or run.nearest
    rows: list[list[Any]] = []
    for line in () if shown is None else _lines(limits, shown):
        name, asked, measured, _, kept = line.cells
        name = "quality, as a share of the teacher's" if line.limit == "keep" else name
        keeping = None if line.asked is None else _keeping(limits, line.limit, run.records)
        rows.append([name, asked, measured, kept, keeping])
    which = "the best student" if run.best is not None else "the closest student"
    return Listing(
        "limits",
        "Limits",
        ("limit", "asked for", which, "kept", "students that keep it"),
        rows,
        about="The size of the file is estimated from the parameters; kdnas export measures it.",
    )


def _lines(limits: Constraints, record: Record) -> tuple[Line, ...]:
    evaluation, latency = record.evaluation, record.evaluation.latency
    assert latency is not None
    size = float(limits.megabytes(evaluation.parameters))
    plain = plain_lines(limits, record.reward.speedup, latency.median_ms, size, evaluation.parameters)
    return (*plain, Line("keep", limits.keep, record.reward.quality)) if evaluation.ok else plain


def _keeping(limits: Constraints, name: str, records: Sequence[Record]) -> str:
    """Return how many students keep a limit, of those with a measurement of it."""
    costs = [
        limits.costs(record.evaluation, record.reward.quality if record.evaluation.ok else None)[name]
        for record in records
        if record.evaluation.latency is not None and not record.duplicate and (name != "keep" or record.evaluation.ok)
    ]
    return f"{sum(cost == 0 for cost in costs)} of {len(costs)}"


def _rounds(run: SearchRecord) -> Listing:
    """Return the listing of rounds: share of random draws, best rewards, and errors of predictions."""
    rows, begin, best = [], 0, -math.inf
    predicted = _predicted(run)
    for round_ in run.rounds:
        end = min(begin + len(round_["random"]), len(run.records))
        records = run.records[begin:end]
        own = max((record.reward.reward for record in records if record.usable), default=None)
        best = best if own is None else max(best, own)
        errors = [
            abs(value - record.reward.reward)
            for value, record in zip(predicted[begin:end], records, strict=True)
            if record.usable and math.isfinite(value)
        ]
        off = sum(errors) / len(errors) if errors else None
        drawn = f"{sum(map(bool, round_['random']))} of {len(round_['random'])}"
        rows.append([round_["round"] + 1, drawn, own, best if best > -math.inf else None, off])
        begin = end
    return Listing(
        "rounds",
        "Rounds",
        ("round", "drawn at random", "best reward of the round", "best so far", "mean error of predictions"),
        rows,
        about="The error is the absolute difference of predicted and actual reward, if the agent predicts rewards.",
    )


def _students(run: SearchRecord) -> Listing:
    rows = []
    for place, (record, drawn, predicted) in enumerate(
        zip(run.records, _origins(run), _predicted(run), strict=True), start=1
    ):
        evaluation, reward, latency = record.evaluation, record.reward, record.evaluation.latency
        known = latency is not None
        why = "repeated" if record.duplicate else evaluation.error or record.broken_limits(run.options.limits)
        rows.append(
            [
                place,
                str(evaluation.config),
                DRAWN if drawn else CHOSEN,
                reward.loss if evaluation.ok else None,
                latency.median_ms if latency is not None else None,
                reward.speedup if known else None,
                evaluation.parameters or None,
                float(run.options.limits.megabytes(evaluation.parameters)) or None,
                reward.reward,
                predicted,
                str(evaluation.status),
                why,
            ]
        )
    columns = ("#", "student", "origin", "loss", "ms", "speed-up", "parameters", "MB", "reward", "predicted", "status")
    return Listing(
        "students",
        "Students",
        (*columns, "remark"),
        rows,
        about=f"MB: the exported file ({run.options.limits.format}), estimated from the parameters.",
        sort=columns.index("reward"),
        down=True,
    )


def _notes(run: SearchRecord) -> list[str]:
    pairs = _pairs(run)
    notes = [f"text: {note}" for note in run.notes]
    if len(pairs) >= _FEWEST:
        tau = kendall_tau([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        if math.isfinite(tau):
            notes.append(f"Predicted and actual rewards of {len(pairs)} students: Kendall's tau {tau:.2f}.")
    return notes


def _text(source: str, corpus: Mapping[str, Any]) -> str:
    if not corpus:
        return source
    columns = ", ".join(corpus["text_columns"])
    return (
        f"{source} (column {columns}): {corpus['kept']:,} samples of at most {corpus['max_length']} tokens, "
        f"{corpus['truncated']:,} of them cut; {corpus['heldout_samples']:,} held out"
    )


def _loss(run: SearchRecord) -> str:
    return LOSS_LABELS[run.reward.goes_by]
