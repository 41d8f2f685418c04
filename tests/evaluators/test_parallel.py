"""Parallel evaluators pass the conformance tests, and results do not depend on the number of workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from processes import workers_of
from troubled import CONFIGS, SPACE, Troubled, begun

from kdnas_env.agents.classic.evolution import EvolutionAgent
from kdnas_env.agents.optuna import OptunaConfig
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.evaluators.parallel import ParallelEvaluator
from kdnas_env.evaluators.planted import PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.testing.evaluators import EvaluatorConformance

FIDELITY = Fidelity(epochs=2)


class TestOfPlanted(EvaluatorConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Iterator[ParallelEvaluator]:
        with ParallelEvaluator.local(partial(PlantedEvaluator, SPACE), 2) as evaluator:
            yield evaluator

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        return CONFIGS[:5]


@pytest.mark.slow
class TestOfMiniKD(EvaluatorConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(
        cls,
        tiny_teacher_dirs: dict[str, Path],
        tiny_corpus_file: Path,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[ParallelEvaluator]:
        settings = MiniKDSettings(
            teacher=str(tiny_teacher_dirs["bert"]),
            corpus=str(tiny_corpus_file),
            latency="analytic",
            cache_dir=tmp_path_factory.mktemp("cache"),
            device="cpu",
            threads=1,
        )
        with ParallelEvaluator.local(partial(MiniKDEvaluator, settings), 2) as evaluator:
            yield evaluator

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        return [StudentConfig(1, 2, 16, 16), StudentConfig(2, 4, 32, 64), StudentConfig(3, 2, 16, 32)]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_store_keeps_each_as_it_is_finished(workers: int, tmp_path: Path) -> None:
    order: list[int] = []
    with (
        ParallelEvaluator.local(Troubled(0.02), workers) as evaluator,
        StoredEvaluator(evaluator, tmp_path / "store.sqlite") as store,
        StoredEvaluator(PlantedEvaluator(SPACE), tmp_path / "store.sqlite") as reader,
    ):
        found = store.evaluate(CONFIGS, FIDELITY, on_epoch=lambda report: order.append(reader.count()))
    assert found == PlantedEvaluator(SPACE).evaluate(CONFIGS, FIDELITY)
    assert order == sorted(order)
    assert order[-1] >= len(CONFIGS) - workers


def test_an_interrupted_batch_leaves_no_process_and_keeps_what_is_finished(tmp_path: Path) -> None:
    def interrupt(report: object) -> bool:
        if store.count() == 5:
            raise KeyboardInterrupt
        return False

    with (
        ParallelEvaluator.local(Troubled(0.02), 2) as evaluator,
        StoredEvaluator(evaluator, tmp_path / "store.sqlite") as store,
    ):
        with pytest.raises(KeyboardInterrupt):
            store.evaluate(CONFIGS, FIDELITY, on_epoch=interrupt)
        assert evaluator.pool.open == 0
        assert not workers_of(os.getpid())
        assert store.count() == 5
        assert store.evaluate(CONFIGS, FIDELITY) == PlantedEvaluator(SPACE).evaluate(CONFIGS, FIDELITY)


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_agents_search_rounds_side_by_side_to_the_same_end(pruner: Any) -> None:
    """Also with a pruner, if there is one worker, which keeps the order of the epochs."""
    agent = OptunaAgent(OptunaConfig(sampler="random", pruner=pruner))
    plain = KDNASEnv(SPACE, PlantedEvaluator(SPACE), fidelity=FIDELITY, budget=16, round_size=4)
    agent.search(plain, seed=3)
    with ParallelEvaluator.local(Troubled(), 1 if pruner == "median" else 3) as evaluator:
        env = KDNASEnv(SPACE, evaluator, fidelity=FIDELITY, budget=16, round_size=4)
        agent.search(env, seed=3)
    assert [record.evaluation for record in env.history] == [record.evaluation for record in plain.history]
    assert any(record.evaluation.status is Status.STOPPED for record in env.history) == (pruner == "median")


def test_each_round_is_evaluated_as_one_batch() -> None:
    batches: list[int] = []

    class Counting(PlantedEvaluator):
        parallel = True

        def evaluate(self, configs, fidelity, *, on_epoch=None) -> list[Evaluation]:  # type: ignore[no-untyped-def]
            batches.append(len(configs))
            return super().evaluate(configs, fidelity, on_epoch=on_epoch)

    EvolutionAgent().search(KDNASEnv(SPACE, Counting(SPACE), budget=10, round_size=4), seed=1)
    assert batches == [4, 4, 2]


def test_ahead_is_only_what_the_budget_affords(tmp_path: Path) -> None:
    with ParallelEvaluator.local(Troubled(folder=str(tmp_path)), 2) as evaluator:
        env = KDNASEnv(SPACE, evaluator, fidelity=FIDELITY, budget=3, round_size=4)
        actions = [SPACE.encode(config) for config in CONFIGS[:6]]
        env.reset(seed=0)
        env.prefetch(np.array(actions))
        assert [begun(tmp_path, config) for config in CONFIGS[:6]] == [1, 1, 1, 0, 0, 0]
        for action in actions[:3]:
            *_, info = env.step(action)
            assert not info["duplicate"]
        assert [begun(tmp_path, config) for config in CONFIGS[:6]] == [1, 1, 1, 0, 0, 0]


def test_budgets_in_epochs_are_never_spent_ahead(tmp_path: Path) -> None:
    with ParallelEvaluator.local(Troubled(folder=str(tmp_path)), 2) as evaluator:
        env = KDNASEnv(SPACE, evaluator, fidelity=FIDELITY, budget=6, budget_unit="epochs")
        env.reset(seed=0)
        env.prefetch(np.array([SPACE.encode(config) for config in CONFIGS[:3]]))
    assert not list(tmp_path.iterdir())


def test_signals_of_the_terminal_are_left_to_the_driver(tmp_path: Path) -> None:
    with ParallelEvaluator.local(Troubled(folder=str(tmp_path)), 1) as evaluator:
        evaluator.evaluate(CONFIGS[:1], FIDELITY)
        (worker,) = (int(path.name.split()[-2]) for path in tmp_path.iterdir())
        psutil.Process(worker).send_signal(signal.SIGINT)
        evaluator.evaluate(CONFIGS[1:2], FIDELITY)
        assert evaluator.pool.replaced == 0
