"""NAS-Bench-BERT as an external table.

The benchmark has 500 trainings of BERT models with heterogeneous layers, each with eight GLUE scores (Serianni and
Kalita 2023, arXiv:2306.00288). Its file ``data/BERT_benchmark.json`` is in the authors' repository, not in this
package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdnas_env.core.grid import Grid
from kdnas_env.errors import TableError
from kdnas_env.support.atomic import expanded
from kdnas_env.support.untrusted import is_integer, is_number, parse_json, shown
from kdnas_env.tables.external import ExternalTable

NAME = "nas-bench-bert"

SCORES = ("glue", "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts")
"""Scores of a training, in percent; ``glue`` is the mean of the other scores."""

LAYER = ("operation", "heads", "feed_forward", "feed_forwards")
"""Dimensions of a layer: token-mixing operation, number of heads, width and number of feed-forward blocks."""

NO_LAYER = "none"
"""Operation of an absent layer; its other dimensions have their first choice."""

LARGEST_FILE = 50_000_000
"""Bytes."""

Layer = tuple[str, int, int, int]


def import_nas_bench_bert(path: str | os.PathLike[str], metric: str = "glue") -> ExternalTable:
    """Read the file of NAS-Bench-BERT.

    The dimensions are the width, and ``LAYER`` for each layer, so that similar actions describe similar networks.

    Args:
        path: The file.
        metric: The score to optimise, one of ``SCORES``.

    Raises:
        TableError: If the file cannot be read or is malformed, no training is complete, or the metric is unknown.
    """
    if metric not in SCORES:
        raise TableError(f"metric is {shown(metric)}; expected one of {list(SCORES)}")
    try:
        file = expanded(path)
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
        entries = parse_json(file.read_bytes())
        if not isinstance(entries, list):
            raise ValueError(f"it holds {shown(entries)}, not a list of trainings")
        trainings = [_training(place, entry) for place, entry in enumerate(entries) if _is_complete(place, entry)]
        if not trainings:
            raise ValueError("it has no complete training")
    except (OSError, ValueError) as error:
        raise TableError(
            f"{os.fspath(path)!r} cannot be read as NAS-Bench-BERT: {error}; expected its BERT_benchmark.json"
        ) from error
    widths, layers, scores, seconds = zip(*trainings, strict=True)
    choices = _choices(widths, layers)
    grid = Grid(np.array([len(values) for values in choices.values()]))
    depth = max(map(len, layers))
    actions = [_action(width, own, depth, choices) for width, own in zip(widths, layers, strict=True)]
    index = np.array([grid.number(action) for action in actions], dtype=np.int64)
    order = np.argsort(index, kind="stable")
    title = "NAS-Bench-BERT (Serianni and Kalita 2023): BERTs whose layers differ, pretrained and fine-tuned on GLUE"
    return ExternalTable(
        NAME, title, metric, SCORES, choices, index[order], np.array(scores)[order], np.array(seconds)[order]
    )


def _choices(widths: Sequence[int], layers: Sequence[Sequence[Layer]]) -> dict[str, tuple[Any, ...]]:
    """Return the dimensions and their choices: all values that occur in any layer."""
    occurring = [sorted({layer[part] for own in layers for layer in own}) for part in range(len(LAYER))]
    choices: dict[str, tuple[Any, ...]] = {"hidden_size": tuple(sorted({*widths}))}
    for number in range(max(map(len, layers))):
        for name, values in zip(LAYER, occurring, strict=True):
            missing = [NO_LAYER] if name == LAYER[0] and any(len(own) <= number for own in layers) else []
            choices[f"{name}_{number + 1}"] = (*missing, *values)
    return choices


def _action(width: int, layers: Sequence[Layer], depth: int, choices: Mapping[str, tuple[Any, ...]]) -> list[int]:
    """Return the action of a network: the index of each value among the choices."""
    values = [width, *(value for layer in layers for value in layer)]
    names = list(choices)
    there = [choices[name].index(value) for name, value in zip(names, values, strict=False)]
    return there + [0] * (len(LAYER) * (depth - len(layers)))


def _is_complete(place: int, entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("completed"), bool):
        raise ValueError(f"entry {place} is {shown(entry)}, which does not say whether it is completed")
    return bool(entry["completed"])


def _training(place: int, entry: Mapping[str, Any]) -> tuple[int, tuple[Layer, ...], list[float], float]:
    """Return width, layers, scores and seconds of a training.

    Raises:
        ValueError: If the entry is malformed.
    """
    try:
        network = entry["hparams"]["model_hparam_overrides"]
        width, layers = network["hidden_size"], network["nas_config"]["encoder_layers"]
        scores, seconds = entry["scores"], entry["time_to_train"]
        known = [scores[name] for name in SCORES]
        own = tuple(_layer(layer) for layer in layers)
    except (KeyError, TypeError) as error:
        raise ValueError(f"entry {place} lacks a field: {error!r}") from error
    wrong = [score for score in known if not is_number(score) or not -100 <= score <= 100]
    if not is_integer(width) or width < 1 or not own or wrong or not is_number(seconds) or seconds <= 0:
        raise ValueError(f"entry {place} has an impossible width, layers, scores or time: {shown(entry)}")
    return width, own, [score / 100 for score in known], float(seconds)


def _layer(layer: Mapping[str, Any]) -> Layer:
    operation = f"{layer['operation_type']}-{layer['operation_parameter']}"
    numbers = tuple(layer[name] for name in ("num_operation_heads", "feed_forward_dimension", "num_feed_forward"))
    if not all(is_integer(number) and number > 0 for number in numbers):
        raise ValueError(f"a layer is {shown(layer)}; expected positive numbers of heads, width and feed-forwards")
    return operation, numbers[0], numbers[1], numbers[2]
