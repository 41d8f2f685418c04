"""Every registered environment passes the conformance tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from small_bench_bert import write_bench_bert
from small_tables import planted_table

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.tables.external import write_external
from kdnas_env.tables.storage import write_table
from kdnas_env.tabulation.nas_bench_bert import import_nas_bench_bert
from kdnas_env.testing.environments import EnvironmentConformance, MakeEnv

IDS = sorted(spec.id for spec in gym.registry.values() if spec.namespace == "kdnas")


@pytest.fixture(scope="module")
def options_of(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Options that make the environments small, by id."""
    folder = tmp_path_factory.mktemp("sources")
    table, external = str(folder / "planted.npz"), str(folder / "external.npz")
    write_table(planted_table(), table)
    write_external(import_nas_bench_bert(write_bench_bert(folder / "file.json")), external)
    distilling = {
        "teacher": str(tiny_teacher_dirs["bert"]),
        "corpus": str(tiny_corpus_file),
        "cache_dir": str(folder / "cache"),
        "device": "cpu",
        "epochs": 1,
        "data_fraction": 0.2,
    }
    return {
        "kdnas/MiniKD-v0": {**distilling, "latency": {"runtime": "torch", "max_seconds": 0.05}},
        "kdnas/MiniKDAnalytic-v0": distilling,
        "kdnas/Tabular-v0": {"table": table},
        "kdnas/Surrogate-v0": {"table": table},
        "kdnas/External-v0": {"table": external},
        # Tasks without limits: a student that breaks a limit spends no budget, but the suite expects every step to.
        "kdnas/Tasks-v0": {"tasks": ["rotten-tomatoes", "imdb:alpha=-0.2"]},
    }


class TestRegistered(EnvironmentConformance):
    """Every registered id; distillation uses the tiny teacher."""

    BUDGET = 4

    @pytest.fixture(params=IDS)
    def make_env(self, request: pytest.FixtureRequest, options_of: dict[str, dict[str, Any]]) -> MakeEnv:
        options = options_of.get(request.param, {})
        return lambda **changes: gym.make(request.param, **options, **changes)
