"""Environments with real distillation, of tiny teachers on a tiny corpus."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import data_equivalence
from processes import workers_of

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.teacher.loading import load_teacher_architecture
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import CorpusError, KDNASError, SpaceError, TeacherError


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Cache folder of the teacher's hidden states; most tests share it."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def options(tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, cache_dir: str) -> dict[str, Any]:
    return {
        "teacher": str(tiny_teacher_dirs["bert"]),
        "corpus": {"source": str(tiny_corpus_file)},
        "cache_dir": cache_dir,
        "budget": 3,
        "round_size": 2,
        "epochs": 1,
        "device": "cpu",
    }


def make(name: str = "kdnas/MiniKDAnalytic-v0", **options: Any) -> KDNASEnv:
    env = gym.make(name, **options).unwrapped
    assert isinstance(env, KDNASEnv)
    return env


def test_making_it_reads_the_configuration_only(options: dict[str, Any]) -> None:
    missing = {**options, "corpus": "no/such/corpus", "store": "/nowhere/store.sqlite"}
    env = make(**missing, families=["bert", "albert"])
    teacher = load_teacher_architecture(options["teacher"])
    assert env.search_space == SearchSpace.from_teacher(teacher, families=["bert", "albert"])
    assert EnvSpec.from_json(gym.make("kdnas/MiniKD-v0", **missing).spec.to_json()).kwargs == missing  # type: ignore[union-attr]


def test_making_it_does_not_import_the_evaluator(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("kdnas_env.envs", "kdnas_env.evaluators"):
        monkeypatch.delattr(f"{package}.mini_kd", raising=False)
        monkeypatch.delitem(sys.modules, f"{package}.mini_kd", raising=False)
    gym.make("kdnas/MiniKD-v0", teacher=options["teacher"])
    assert "kdnas_env.envs.mini_kd" in sys.modules
    assert "kdnas_env.evaluators.mini_kd" not in sys.modules


def test_recipe_of_the_original_text_rewards_the_training_loss(options: dict[str, Any]) -> None:
    assert make(**options).reward_function.loss == "heldout"
    assert make(**options, recipe="seed").reward_function.loss == "train_raw"
    assert make(**options, recipe="seed", loss="heldout_raw").reward_function.loss == "heldout_raw"


def test_bad_teachers_and_spaces_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(TeacherError, match="unknown teacher"):
        make(**{**options, "teacher": "/no/such/teacher"})
    with pytest.raises(SpaceError, match="4 layers, more than the teacher's 3"):
        make(**options, space={"num_hidden_layers": [4, 5]})


def test_equal_runs_give_equal_results(options: dict[str, Any], tmp_path: Path) -> None:
    one, other = make(**options), make(**{**options, "cache_dir": str(tmp_path / "another")})
    one.action_space.seed(0)
    assert data_equivalence(one.reset(seed=0), other.reset(seed=0), exact=True)
    for _ in range(3):
        choice = one.action_space.sample()
        assert data_equivalence(one.step(choice), other.step(choice), exact=True)
    assert all(record.usable for record in one.history)
    one.close()
    other.close()


def test_a_store_answers_the_second_search(options: dict[str, Any], tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite")
    seconds = []
    for _ in range(2):
        env = make("kdnas/MiniKD-v0", **options, latency={"runtime": "torch", "max_seconds": 0.05}, store=store)
        env.reset()
        env.step(np.zeros(len(env.search_space.dimensions), dtype=np.int64))
        seconds.append(env.history[0].evaluation.wall_seconds)
        env.close()
    assert seconds[0] == seconds[1] > 0


@pytest.mark.slow
def test_workers_find_the_same_and_end_with_the_environment(options: dict[str, Any], tmp_path: Path) -> None:
    options |= {"threads": 1, "budget": 4}
    actions = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    envs = gym.make_vec("kdnas/MiniKDAnalytic-v0", num_envs=2, **_of_vectors(options))
    envs.reset(seed=0)
    expected = envs.step(actions)
    store = tmp_path / "store.sqlite"
    envs = gym.make_vec("kdnas/MiniKDAnalytic-v0", num_envs=2, workers=2, store=store, **_of_vectors(options))
    envs.reset(seed=0)
    assert data_equivalence(envs.step(actions)[:4], expected[:4])
    workers = workers_of(os.getpid())
    assert len(workers) == 2
    envs.close()
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.slow
def test_workers_name_a_corpus_that_is_missing(options: dict[str, Any]) -> None:
    env = make(**{**options, "corpus": "/no/such/corpus.txt"}, workers=2)
    with pytest.raises(CorpusError, match="no/such/corpus"):
        env.reset()
    env.close()
    with pytest.raises(KDNASError, match="workers is 0; expected a whole number of processes"):
        make(**options, workers=0)


def _of_vectors(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "round_size"}
