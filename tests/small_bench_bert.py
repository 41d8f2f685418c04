"""A made-up file in the format of NAS-Bench-BERT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts")
PARAMETERS: dict[str, list[Any]] = {"SA": ["SDP", "WMA"], "LT": ["DFT", "DCT"], "DSC": [5, 9]}


def entry(number: int, network: dict[str, Any], scores: dict[str, float], seconds: float = 2000.0) -> dict[str, Any]:
    """Return one training, with all keys of the file."""
    return {
        "id": number,
        "is_running": False,
        "completed": True,
        "time_to_train": seconds,
        "scores": scores,
        "hparams": {
            "use_tpu": True,
            "num_tpu_cores": 8,
            "tpu_name": "grpc://",
            "learning_rate": 0.0005,
            "eval_batch_size": 128,
            "train_batch_size": 128,
            "num_train_steps": 100000,
            "model_hparam_overrides": network,
        },
    }


def trainings(count: int = 40, repeated: int = 2) -> list[dict[str, Any]]:
    """Return trainings of random networks, the last of which repeat the first."""
    rng, entries = np.random.default_rng(0), list[dict[str, Any]]()
    for number in range(count):
        depth = int(rng.choice([2, 4]))
        layers = []
        for _ in range(depth):
            kind = str(rng.choice([*PARAMETERS]))
            layers.append(
                {
                    "operation_type": kind,
                    "operation_parameter": PARAMETERS[kind][int(rng.integers(2))],
                    "num_operation_heads": int(rng.choice([2, 4])),
                    "feed_forward_dimension": int(rng.choice([512, 1024])),
                    "num_feed_forward": int(rng.choice([1, 3])),
                }
            )
        network: dict[str, Any] = {"hidden_size": int(rng.choice([128, 256])), "nas_config": {"encoder_layers": layers}}
        if number >= count - repeated:
            network = entries[number - count + repeated]["hparams"]["model_hparam_overrides"]
        blocks = sum(layer["num_feed_forward"] for layer in network["nas_config"]["encoder_layers"])
        scores = {task: float(np.round(60 + blocks + rng.normal(), 2)) for task in TASKS}
        scores["cola"] = float(np.round(rng.uniform(-3, 40), 2))
        entries.append(entry(number, network, {**scores, "glue": float(np.mean([*scores.values()]))}, 500.0 * blocks))
    return entries


def write_bench_bert(path: Path, entries: list[dict[str, Any]] | None = None) -> Path:
    """Write trainings to a file."""
    path.write_text(json.dumps(trainings() if entries is None else entries))
    return path
