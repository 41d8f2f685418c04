"""Every evaluator passes the conformance tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_tables import planted_table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluator
from kdnas_env.core.space import SearchSpace
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.testing.evaluators import EvaluatorConformance

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER, families=["bert", "albert"])


class TestPlanted(EvaluatorConformance):
    @pytest.fixture(params=[0.0, 0.1], ids=["exact", "noisy"])
    def evaluator(self, request: pytest.FixtureRequest) -> Evaluator:
        return PlantedEvaluator(SPACE, noise=request.param)

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        return [SPACE.decode(SPACE.from_index(index)) for index in (0, 777, 2000)]


class TestStored(TestPlanted):
    @pytest.fixture
    def evaluator(self, tmp_path: Path) -> Any:
        with StoredEvaluator(PlantedEvaluator(SPACE, noise=0.1), tmp_path / "store.sqlite") as evaluator:
            yield evaluator


class TestTabular(EvaluatorConformance):
    @pytest.fixture(params=["mean", 1, "sample"])
    def evaluator(self, request: pytest.FixtureRequest) -> Evaluator:
        return TabularEvaluator(planted_table(), seed=request.param)

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        return planted_table().configs()[:3]


@pytest.fixture(scope="module", params=["analytic", "torch"])
def mini_kd(
    request: pytest.FixtureRequest,
    tiny_teacher_dirs: dict[str, Path],
    tiny_corpus_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> MiniKDEvaluator:
    return MiniKDEvaluator(
        MiniKDSettings(
            teacher=str(tiny_teacher_dirs["bert"]),
            corpus=str(tiny_corpus_file),
            latency={"runtime": request.param, "max_seconds": 0.02},
            cache_dir=tmp_path_factory.mktemp("cache"),
            device="cpu",
        )
    )


class TestMiniKD(EvaluatorConformance):
    @pytest.fixture
    def evaluator(self, mini_kd: MiniKDEvaluator) -> Evaluator:
        return mini_kd

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        return [StudentConfig(1, 2, 16, 16), StudentConfig(2, 2, 16, 32, "relu", "albert")]
