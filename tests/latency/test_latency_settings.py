from __future__ import annotations

import json
import math
from dataclasses import asdict
from importlib import import_module
from typing import Any

import pytest

from kdnas_env.errors import LatencyError
from kdnas_env.latency import LatencySettings, ReferenceMachine
from kdnas_env.latency.settings import MEASURED


def test_settings_are_plain_data() -> None:
    settings = LatencySettings(runtime="analytic", threads=2, reference=ReferenceMachine(gflops=20.0))
    data = json.loads(json.dumps(asdict(settings)))
    assert LatencySettings(**{**data, "reference": ReferenceMachine(**data["reference"])}) == settings


@pytest.mark.parametrize("name", sorted(set(MEASURED.values())))
def test_a_runtime_that_runs_models_has_a_module_that_prepares_them(name: str) -> None:
    assert callable(import_module(f"kdnas_env.latency.{name}").load)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"runtime": "tensorrt"},
            r"unknown runtime 'tensorrt'; choose from \['torch', 'onnxruntime', 'onnxruntime-int8', 'analytic'\]",
        ),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number, at least 1"),
        ({"sequence_length": 2.5}, "sequence_length is 2.5; expected a whole number"),
        ({"threads": True}, "threads is True; expected a whole number"),
        ({"warmup_passes": 0}, "warmup_passes is 0"),
        ({"min_rounds": -1}, "min_rounds is -1"),
        ({"min_rounds": 9, "max_rounds": 8}, "max_rounds is 8; expected at least min_rounds, 9"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0; expected a number above 0"),
        ({"precision": math.nan}, "precision is nan; expected a number above 0"),
        ({"precision": "fine"}, "precision is 'fine'; expected a number above 0"),
        ({"runtime": "onnxruntime", "device": "cuda"}, "'onnxruntime' does not support device 'cuda'"),
        ({"runtime": "analytic", "device": "cuda:1"}, "'analytic' does not support device 'cuda:1'"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LatencyError, match=message):
        LatencySettings(**wrong)


@pytest.mark.parametrize("name", ["gflops", "gigabytes_per_second", "overhead_us"])
@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_a_reference_machine_has_positive_speeds(name: str, value: float) -> None:
    with pytest.raises(LatencyError, match=f"{name} is {value}; expected a number above 0"):
        ReferenceMachine(**{name: value})
