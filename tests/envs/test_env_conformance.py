"""Every registered environment keeps the contract."""

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


class TestRegistered(EnvironmentConformance):
    """Every id, with the tiny teacher where there is one."""

    @pytest.fixture(params=IDS)
    def make_env(
        self, request: pytest.FixtureRequest, tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path
    ) -> MakeEnv:
        options: dict[str, Any] = {}
        if "MiniKD" in request.param:
            options = {
                "teacher": str(tiny_teacher_dirs["bert"]),
                "corpus": str(tiny_corpus_file),
                "cache_dir": str(tmp_path / "cache"),
                "device": "cpu",
                "epochs": 1,
                "data_fraction": 0.2,
            }
        if request.param in ("kdnas/Tabular-v0", "kdnas/Surrogate-v0"):
            options = {"table": str(tmp_path / "planted.npz")}
            write_table(planted_table(), options["table"])
        if request.param == "kdnas/Tasks-v0":
            # One that breaks no limit: a clause wants a best student after six random ones.
            options = {"tasks": ["rotten-tomatoes", "imdb:alpha=-0.2"]}
        if request.param == "kdnas/External-v0":
            options = {"table": str(tmp_path / "external.npz")}
            write_external(import_nas_bench_bert(write_bench_bert(tmp_path / "file.json")), options["table"])
        if request.param == "kdnas/MiniKD-v0":
            options["latency"] = {"runtime": "torch", "max_seconds": 0.05}
        return lambda **changes: gym.make(request.param, **options, **changes)
