"""The trials of a long study that a sampler learns from."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy.stats import wilcoxon

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.optuna import OptunaConfig
from kdnas_env.agents.optuna import samplers as optuna_samplers
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.agents.optuna.samplers import RecentTrials, RemainingTPESampler, StudyView
from kdnas_env.testing.bowl import BowlEnv

DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
OUTCOMES = st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])


def ended(number: int, state: TrialState, values: list[int]) -> FrozenTrial:
    trial = create_trial(state=state, values=values if state is TrialState.COMPLETE else None)
    trial.number = number
    return trial


@given(st.integers(1, 6), st.lists(st.tuples(OUTCOMES, st.integers(0, 9)), max_size=40), st.booleans())
def test_the_youngest_and_the_best_are_kept(size: int, told: list[tuple[TrialState, int]], largest: bool) -> None:
    recent = RecentTrials(size, DIRECTIONS[:1] if largest else DIRECTIONS[1:])
    trials = [ended(number, state, [value]) for number, (state, value) in enumerate(told)]
    for trial in trials:
        recent.add(trial)
    kept = recent.with_running([])
    numbers = [trial.number for trial in kept]
    assert numbers == sorted(set(numbers))
    useful = [trial for trial in trials if trial.state is not TrialState.FAIL]
    assert {trial.number for trial in useful[-size:]} <= {*numbers} <= {trial.number for trial in useful}
    assert len(kept) <= 3 * size
    done = [trial.value for trial in useful if trial.state is TrialState.COMPLETE]
    best = sorted((value for value in done if value is not None), reverse=largest)[:size]
    there = sorted((trial.value for trial in kept if trial.value is not None), reverse=largest)
    assert there[: len(best)] == best


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_of_several_objectives_those_that_none_beats_are_kept(values: list[tuple[int, int]]) -> None:
    recent = RecentTrials(30, DIRECTIONS)
    single = RecentTrials(1, DIRECTIONS)
    trials = [ended(number, TrialState.COMPLETE, [*pair]) for number, pair in enumerate(values)]
    for trial in trials:
        recent.add(trial)
        single.add(trial)
    assert [trial.number for trial in recent.with_running([])] == [*range(len(values))]
    assert len(single.with_running([])) <= 2
    front = {
        one.number
        for one in trials
        if not any(
            a.values[0] >= one.values[0] and a.values[1] <= one.values[1] and a.values != one.values for a in trials
        )
    }
    assert {trial.number for trial in recent._best} == front


def test_a_study_of_some_trials_is_written_to_like_the_whole() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    for value in range(4):
        study.add_trial(create_trial(value=float(value)))
    some = StudyView(study, lambda: study.get_trials(deepcopy=False)[1:3])
    assert [trial.value for trial in some.get_trials()] == [1.0, 2.0]
    assert some.get_trials(states=[TrialState.FAIL]) == []
    assert some.get_trials()[0] is not some.get_trials(deepcopy=False)[0]
    some.set_user_attr("said", 1)
    assert study.user_attrs == {"said": 1}
    assert len(study.trials) == 4


@pytest.mark.parametrize(
    ("name", "options"),
    [("tpe", {}), ("gp", {}), ("cmaes", {}), ("nsgaii", {"population_size": 6}), ("nsgaiii", {"population_size": 6})],
)
def test_a_study_that_is_not_long_is_learnt_from_whole(
    name: Any, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "cmaes":
        pytest.importorskip("cmaes")

    def proposals() -> Any:
        agent = OptunaAgent(OptunaConfig(sampler=name, sampler_options=options))
        return agent.search(BowlEnv([6, 6, 6]), budget=24, seed=3).actions.tolist()

    ours = proposals()
    monkeypatch.setattr("kdnas_env.agents.optuna.samplers._shortened", lambda study, trials: study)
    assert proposals() == ours


def test_parents_that_are_older_than_what_is_shown_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trials are the best and stay parents. With one objective, the sampler would see all of them."""

    def proposals() -> Any:
        options: dict[str, Any] = {"sampler_options": {"population_size": 4}, "replay_size": 8}
        agent = OptunaAgent(OptunaConfig(sampler="nsgaii", objectives=["loss", "latency_ratio"], **options))
        agent.reset([20, 20], budget=48, round_size=2, seed=0)
        for made in range(0, 48, 2):
            infos = [{"loss": number, "latency_ratio": number} for number in (made, made + 1)]
            agent.tell(agent.ask(2), [-float(info["loss"]) for info in infos], infos)
        return agent.evaluated.tolist()

    ours = proposals()
    monkeypatch.setattr("kdnas_env.agents.optuna.samplers._shortened", lambda study, trials: study)
    assert proposals() == ours


def test_a_long_search_learns_from_a_part_of_itself() -> None:
    seen: list[int] = []

    class Watched(RemainingTPESampler):
        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            seen.append(len(study.get_trials(deepcopy=False)))
            return super().sample_relative(study, trial, search_space)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(optuna_samplers._SAMPLERS, "tpe", Watched)
        agents = OptunaAgent(OptunaConfig(replay_size=20)), RandomAgent()
        found = [
            [agent.search(BowlEnv([20] * 4), budget=64, seed=seed).best_reward for seed in range(5)] for agent in agents
        ]
    assert 40 < np.max(seen) < 70  # the 20 newest trials, 20 to 40 of the best, and a round
    assert wilcoxon(*found, alternative="greater").pvalue < 0.05


def test_a_pruner_compares_with_a_part_of_a_long_search(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(optuna.pruners.MedianPruner):
        def prune(self, study: Any, trial: Any) -> bool:
            seen.append(len(study.get_trials(deepcopy=False)))
            return super().prune(study, trial)

    monkeypatch.setitem(optuna_samplers._PRUNERS, "median", Watched)
    env = gym.make("kdnas/Planted-v0", budget=60, epochs=3)
    agent = OptunaAgent(OptunaConfig(sampler="random", pruner="median", replay_size=10))
    result = agent.search(env, seed=0)
    statuses = [info["status"] for info in result.infos]
    assert statuses.count("stopped") > 5
    assert statuses.count("ok") > 5
    assert max(seen) <= 10 + 20 + 8  # the 10 newest trials, at most 20 of the best, and a round
