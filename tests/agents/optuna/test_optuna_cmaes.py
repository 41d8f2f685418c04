"""CMA-ES of Optuna stores its state in studies, which may be untrusted files."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if find_spec("cmaes") is None:
    pytest.skip("cmaes is not installed", allow_module_level=True)

import numpy as np
import optuna
from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from kdnas_env.agents.optuna import OptunaConfig
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.agents.optuna.samplers import JSONCmaEsSampler
from kdnas_env.errors import RunError
from kdnas_env.testing.bowl import BowlEnv

OPTIONS: list[dict[str, Any]] = [{}, {"use_separable_cma": True}, {"with_margin": True}, {"lr_adapt": True}]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
    optuna.logging.set_verbosity(level)


def proposals(kind: type[CmaEsSampler], storage: Any = None, trials: int = 40, **options: Any) -> list[Any]:
    study = optuna.create_study(storage=storage, study_name="bowl", load_if_exists=True)
    for _ in range(trials):
        # Like agents, make a new sampler for every trial: its state is in the study.
        study.sampler = kind(seed=len(study.trials), warn_independent_sampling=False, popsize=5, **options)
        trial = study.ask()
        study.tell(trial, sum((trial.suggest_int(name, 0, 9) - 6) ** 2 for name in "abc"))
    return [trial.params for trial in study.trials]


def kept(trial: FrozenTrial) -> dict[str, Any]:
    return {name: value for name, value in trial.system_attrs.items() if "plain" in name}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_its_proposals_are_those_of_optuna(options: dict[str, Any]) -> None:
    ours, theirs = proposals(JSONCmaEsSampler, **options), proposals(CmaEsSampler, **options)
    assert ours == theirs
    assert len({str(params) for params in ours}) > 20


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_memory_that_is_not_initialised_may_hold_anything(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = proposals(JSONCmaEsSampler, **options)
    filled = SimpleNamespace(**{**vars(np), "empty": lambda shape: np.full(shape, np.nan)})
    for module in ("_cma", "_sepcma"):
        monkeypatch.setattr(f"cmaes.{module}.np", filled)
    assert proposals(JSONCmaEsSampler, **options) == expected


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_nothing_is_pickled(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def unpickle(data: bytes) -> Any:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(pickle, "loads", unpickle)
    storage = optuna.storages.InMemoryStorage()
    proposals(JSONCmaEsSampler, storage, **options)
    trials = optuna.load_study(study_name="bowl", storage=storage).trials
    assert [name for trial in trials for name in kept(trial)]
    texts = [value for trial in trials for value in trial.system_attrs.values() if isinstance(value, str)]
    assert texts
    for text in texts:
        with pytest.raises(ValueError, match="hexadecimal"):  # as which Optuna writes a pickle
            bytes.fromhex(text)


def test_a_pickle_in_a_study_is_left_alone(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    storage = optuna.storages.InMemoryStorage()
    proposals(JSONCmaEsSampler, storage, 6)
    study = optuna.load_study(study_name="bowl", storage=storage)
    harmful = {"cma:optimizer:0": pickle.dumps(Harm()).hex()}
    study.add_trial(optuna.create_trial(value=0.0, params={}, distributions={}, system_attrs=harmful))
    proposals(JSONCmaEsSampler, storage, 6)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is"),
        ("{}", r"_\w+ (has the shape|is None)"),
        ('{"_mean": "x"}', r"_\w+ (has the shape|is None)"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_state_is_told(damage: str, said: str) -> None:
    storage = optuna.storages.InMemoryStorage()
    proposals(JSONCmaEsSampler, storage, 12)
    (number,) = [trial._trial_id for trial in storage.get_all_trials(0) if kept(trial)][-1:]
    changed = storage._get_trial(number)
    for name in kept(changed):
        changed.system_attrs[name] = damage if name.endswith(":0") else ""
    with pytest.raises(RunError, match=rf"CMA-ES in trial {number} of the study is damaged: .*{said}"):
        proposals(JSONCmaEsSampler, storage, 1)


def test_an_agent_that_is_loaded_goes_on(tmp_path: Path) -> None:
    config = OptunaConfig(sampler="cmaes", sampler_options={"popsize": 5})
    whole, first, second = OptunaAgent(config), OptunaAgent(config), OptunaAgent(config)
    env = BowlEnv([8, 8, 8])
    expected = whole.search(env, budget=40, round_size=4, seed=3).actions
    first.reset([8, 8, 8], budget=40, round_size=4, seed=3)
    env.reset()
    for _ in range(5):
        actions = first.ask(4)
        first.tell(actions, [float(env.step(action)[1]) for action in actions])
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    assert second.resume(BowlEnv([8, 8, 8])).actions.tolist() == expected.tolist()
