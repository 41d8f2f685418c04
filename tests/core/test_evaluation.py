from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from strategies import evaluations

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Latency, Status
from kdnas_env.errors import KDNASError

RECORD = Evaluation(StudentConfig(2, 2, 64, 128), Fidelity(), Status.OK)
PROBE = Latency(1.0, 0.1, 30, 4.0, 0.1, 0.25, 0.01, "torch")


@given(evaluations())
def test_json_round_trip(evaluation: Evaluation) -> None:
    text = evaluation.to_json()
    again = Evaluation.from_json(text)
    assert again == evaluation
    assert again.to_json() == text
    assert isinstance(again.status, Status)
    json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "curve", ["train_loss", "heldout_loss", "train_unexplained", "heldout_unexplained", "epoch_seconds"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_curves_refuse_what_is_not_finite(curve: str, value: float) -> None:
    change: dict[str, Any] = {curve: (0.5, value)}
    with pytest.raises(ValueError, match=f"{curve} holds a value that is not finite.*cut the curve and set status"):
        replace(RECORD, **change)


@pytest.mark.parametrize(
    "record",
    [
        replace(RECORD, wall_seconds=float("nan")),
        replace(RECORD, latency=replace(PROBE, ratio=float("inf"))),
        replace(RECORD, details={"loss": float("nan")}),
    ],
)
def test_nan_never_reaches_a_file(record: Evaluation) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.to_json()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "epochs is -1; expected a whole number, at least 0 and at most 100,000; 0 solves"),
        ({"data_fraction": 0.0}, r"data_fraction is 0.0; expected a number above 0 and at most 1"),
        ({"data_fraction": 1.5}, r"data_fraction is 1.5; expected a number above 0 and at most 1"),
    ],
)
def test_bad_fidelities_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fidelity(**arguments)  # type: ignore[arg-type]


def test_speedup_is_the_inverse_of_the_paired_ratio() -> None:
    assert PROBE.speedup == 4.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": "x"}, "parameters is 'x'; expected a whole number"),
        ({"latency": {"median_ms": 1}}, "missing"),
        ({"latency": {**asdict(PROBE), "ratio": 0}}, "ratio is 0.0; expected a positive number"),
        ({"latency": 3}, "latency is 3"),
        ({"config": {"num_hidden_layers": 0}}, "missing"),
        ({"config": {**asdict(RECORD.config), "hidden_size": -4}}, "hidden_size is -4"),
        ({"fidelity": {"epochs": 10**9}}, "epochs is 1000000000"),
        ({"status": "fine"}, "status is 'fine'"),
        ({"train_loss": [1, None]}, "train_loss is"),
        ({"details": []}, "details is"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, object], said: str) -> None:
    told = {**json.loads(replace(RECORD, latency=PROBE).to_json()), **change}
    with pytest.raises(KDNASError, match=f"is not a record of an evaluation: .*{said}"):
        Evaluation.from_json(json.dumps(told))


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "[" * 100_000, '{"wall_seconds": NaN}'])
def test_a_text_that_holds_no_record_is_refused(text: str) -> None:
    with pytest.raises(KDNASError, match="is not a record of an evaluation"):
        Evaluation.from_json(text)


def test_a_record_of_before_there_were_tasks_is_read() -> None:
    record = Evaluation(StudentConfig(2, 2, 16, 32), Fidelity(), Status.OK, heldout_unexplained=(0.5,))
    data = json.loads(record.to_json())
    assert (data.pop("task_divergence"), data.pop("task_unexplained")) == (None, None)
    assert Evaluation.from_json(json.dumps(data)) == record
    with pytest.raises(KDNASError, match="task_unexplained is nan; expected a finite number"):
        replace(record, task_unexplained=float("nan"))
