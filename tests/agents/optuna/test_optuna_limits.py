"""Limits of the environment as constraints of Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
from optuna.trial import TrialState

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.optuna import CONSTRAINED, STATUS, OptunaConfig
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.errors import KDNASError

LIMIT_HANDLING: tuple[Literal["reward", "constraints"], ...] = ("reward", "constraints")
LIMITS = {"speedup": 8.0, "size_mb": 30.0}


def table(**changes: Any) -> gym.Env[Any, Any]:
    return gym.make("kdnas/Tabular-v0", **{"limits": LIMITS, "budget": 12, **changes})


def agent(sampler: Any, **changes: Any) -> OptunaAgent:
    options = {"population_size": 8} if sampler.startswith("nsga") else {"n_startup_trials": 5}
    return OptunaAgent(OptunaConfig(sampler=sampler, sampler_options=options, limits="constraints", **changes))


@pytest.mark.parametrize("handling", ["reward", "cost"])
@pytest.mark.parametrize("sampler", CONSTRAINED)
def test_every_trial_has_what_its_student_breaks(sampler: str, handling: str, tmp_path: Path) -> None:
    searcher = agent(sampler)
    result = searcher.search(table(constraints=handling), seed=1)
    trials = [trial for trial in searcher.study.get_trials() if STATUS in trial.user_attrs]
    costs = {tuple(action): info["costs"] for action, info in zip(result.actions.tolist(), result.infos, strict=True)}
    assert len(trials) == len(costs)
    assert all(trial.constraints == costs[*trial.params.values()] for trial in trials)
    assert any(sum(trial.constraints.values()) > 0 for trial in trials)
    # A dismissed trial copies the constraints of its point, so all completed trials have the same constraint names.
    known = [trial for trial in searcher.study.get_trials() if trial.state is TrialState.COMPLETE]
    assert {tuple(trial.constraints) for trial in known} == {tuple(LIMITS)}
    (best,) = searcher.pareto_front
    assert result.best is not None
    assert tuple(best.params.values()) == result.best.action

    searcher.save(tmp_path / "state.npz")
    other = agent(sampler)
    other.load(tmp_path / "state.npz")
    assert [trial.constraints for trial in other.study.get_trials()] == [
        trial.constraints for trial in searcher.study.get_trials()
    ]
    np.testing.assert_array_equal(other.ask(2), searcher.ask(2))


def test_several_objectives_have_limits_too() -> None:
    searcher = agent("nsgaii", objectives=("loss", "-speedup"))
    result = searcher.search(table(constraints="cost"), seed=0)
    front = searcher.pareto_front
    assert front
    assert all(not any(trial.constraints.values()) for trial in front)
    kept = [info for info in result.infos if info["cost"] == 0]
    assert min(trial.values[0] for trial in front) == min(info["loss"] for info in kept)


def test_without_limits_nothing_differs() -> None:
    plain, native = (
        OptunaAgent(OptunaConfig(limits=limits)).search(table(limits=None, budget=24)).actions
        for limits in LIMIT_HANDLING
    )
    np.testing.assert_array_equal(native, plain)


def test_a_sampler_that_knows_no_constraints_is_named() -> None:
    for sampler in ("cmaes", "qmc", "grid", "random"):
        with pytest.raises(KDNASError, match=f"limits is 'constraints'.*'{sampler}' does not support constraints"):
            OptunaConfig(sampler=sampler, limits="constraints")
