"""Private names of Optuna and cmaes that the agent uses; each test says what would break without the name.

Because of these names, Optuna is pinned to one major version. When you raise the pin, run these tests first.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseGASampler, CmaEsSampler, GPSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import Trial

from kdnas_env.agents.optuna.samplers import StudyView
from kdnas_env.agents.optuna.storage import optimizer_to_json, quiet


@pytest.fixture
def study() -> Study:
    with quiet():
        return optuna.create_study(direction="maximize")


@pytest.mark.parametrize(
    ("owner", "name", "breaks"),
    [
        (Study, "_get_trials", "samplers and pruners would see all trials of a long study, or none"),
        (BaseGASampler, "_get_parent_cache_key_prefix", "NSGA-II and III would lose parents that are older trials"),
        (TPESampler, "_compute_acquisition_func", "TPE would propose points that are known or not allowed"),
        (GPSampler, "_optimize_acqf", "the Gaussian process would propose points that are known or not allowed"),
        (CmaEsSampler, "_attr_key_optimizer", "our state of CMA-ES would stand under the name of Optuna's pickles"),
        (CmaEsSampler, "_split_optimizer_str", "CMA-ES would keep pickles in the study"),
        (CmaEsSampler, "_restore_optimizer", "CMA-ES would load pickles from the study"),
        (CmaEsSampler, "_init_optimizer", "CMA-ES would start afresh with every trial"),
        (Trial, "_get_latest_trial", "a pruner could not be asked about a running trial"),
    ],
)
def test_methods(owner: type, name: str, breaks: str) -> None:
    parameters: dict[str, list[str]] = {
        "_get_trials": ["self", "deepcopy", "states", "use_cache"],
        "_get_parent_cache_key_prefix": ["cls"],
        "_compute_acquisition_func": ["self", "samples", "mpe_below", "mpe_above"],
        "_optimize_acqf": ["self", "acqf", "best_params"],
        "_split_optimizer_str": ["self", "optimizer_str"],
        "_restore_optimizer": ["self", "completed_trials"],
        "_init_optimizer": ["self", "trans", "direction"],
        "_get_latest_trial": ["self"],
    }
    found = inspect.getattr_static(owner, name, None)
    assert found is not None, breaks
    if name in parameters:
        function = found.__func__ if isinstance(found, classmethod) else found
        assert [*inspect.signature(function).parameters] == parameters[name], breaks


def test_storage_of_a_study(study: Study) -> None:
    """Running trials would not get attributes, and saved studies would not be restored."""
    assert isinstance(study._storage, BaseStorage)


def test_number_of_a_study_in_its_storage(study: Study) -> None:
    """Saving an agent would lose the state that samplers store in a study in memory."""
    study._storage.set_study_system_attr(study._study_id, "key", 1)
    assert study._storage.get_study_system_attrs(study._study_id) == {"key": 1}


def test_number_of_a_trial_in_its_storage(study: Study) -> None:
    """A trial of another process could not be ended, and a trial of a saved search could not be resumed."""
    trial = study.ask()
    assert study.get_trials()[0]._trial_id == trial._trial_id
    assert Trial(study, trial._trial_id).number == trial.number


def test_what_a_study_is_made_of(study: Study) -> None:
    """``StudyView`` copies these attributes; without them, it could not write to the study."""
    assert {"_storage", "_study_id"} <= vars(study).keys()
    assert StudyView(study, list).study_name == study.study_name


def test_acquisition_of_the_gaussian_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Gaussian process could not score the unevaluated points."""
    seen: list[Any] = []

    class Watched(GPSampler):
        def _optimize_acqf(self, acqf: Any, best_params: Any) -> Any:
            rows = acqf.search_space.get_normalized_params([None], [{"x": 3}])
            seen.append((rows, acqf.eval_acqf_no_grad(rows)))
            return rows[0]

    with quiet():
        study = optuna.create_study(sampler=Watched(n_startup_trials=2, seed=0))
        study.optimize(lambda trial: trial.suggest_int("x", 0, 3), n_trials=3)
    ((rows, acquisition),) = seen
    assert rows.shape == (1, 1)
    assert np.shape(acquisition) == (1,)
    assert study.trials[-1].params == {"x": 3}


OPTIMISERS: dict[str, Callable[[Any], Any]] = {
    "CMA": lambda cmaes: cmaes.CMA(mean=np.zeros(2), sigma=1.0),
    "SepCMA": lambda cmaes: cmaes.SepCMA(mean=np.zeros(2), sigma=1.0),
    "CMAwM": lambda cmaes: cmaes.CMAwM(
        mean=np.zeros(2), sigma=1.0, bounds=np.array([[-1, 1], [-1, 1]]), steps=np.ones(2)
    ),
    "CMA that adapts its rate": lambda cmaes: cmaes.CMA(mean=np.zeros(2), sigma=1.0, lr_adapt=True),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_generator_of_an_optimiser(name: str) -> None:
    """The state of CMA-ES could not be written as JSON without its generator, which is reseeded for every trial."""
    optimiser = OPTIMISERS[name](pytest.importorskip("cmaes"))
    assert isinstance(optimiser._rng, np.random.RandomState)
    assert "_rng" not in json.dumps(optimizer_to_json(optimiser))
    assert "_funhist_values" in json.dumps(optimizer_to_json(optimiser))


@pytest.mark.parametrize("name", ["_g", "_sigma", "_Vmean", "_VSigma", "_eta_mean", "_eta_Sigma"])
def test_numbers_that_an_optimiser_learns(name: str) -> None:
    """A restored optimiser would lose this number."""
    optimiser = OPTIMISERS["CMA that adapts its rate"](pytest.importorskip("cmaes"))
    assert isinstance(optimiser.__getstate__()[name], int | float)


def test_generator_and_prefix_of_the_sampler_cmaes() -> None:
    """Proposals of CMA-ES would differ from Optuna's, and its state would be stored under other names."""
    pytest.importorskip("cmaes")
    sampler = CmaEsSampler(seed=0)
    assert sampler._attr_prefix == "cma:"
    assert isinstance(sampler._cma_rng.rng, np.random.RandomState)
