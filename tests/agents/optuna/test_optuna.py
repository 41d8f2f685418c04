from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from processes import Started, start_command
from scipy.stats import wilcoxon

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.base import SearchResult
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.optuna import PRUNERS, SAMPLERS, OptunaConfig
from kdnas_env.agents.optuna.agent import OptunaAgent
from kdnas_env.agents.optuna.storage import open_storage, quiet
from kdnas_env.cli import main
from kdnas_env.core.evaluation import EpochReport, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import DependencyError, KDNASError, RunError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.stored import StoredEvaluator
from kdnas_env.testing.bowl import BowlEnv
from kdnas_env.wrappers.improvement import ImprovementReward

CMAES = find_spec("cmaes") is not None
HERE = [name for name in SAMPLERS if name != "cmaes" or CMAES]
SMALLER = {"num_hidden_layers": [5, 6], "intermediate_size": [512, 1024]}
POPULATION = {"nsgaii": {"population_size": 8}, "nsgaiii": {"population_size": 8}}


def make(**options: Any) -> OptunaAgent:
    return OptunaAgent(OptunaConfig(**options))


def points(result: SearchResult) -> list[tuple[int, ...]]:
    return [tuple(action) for action in result.actions.tolist()]


def evaluated(agent: OptunaAgent) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in agent.study.trials if "status" in trial.user_attrs]


def point(trial: optuna.trial.FrozenTrial) -> tuple[int, ...]:
    return tuple(trial.params.values())


# Learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", ["ordinal", "categorical"])
def test_tpe_learns(choices: Any) -> None:
    found = [
        [agent.search(BowlEnv([9] * 4), budget=40, seed=seed).best_reward for seed in range(8)]
        for agent in (make(choices=choices), RandomAgent())
    ]
    assert wilcoxon(*found, alternative="greater").pvalue < 0.02


def test_several_objectives_are_learned() -> None:
    """The hypervolume of the front, with reference loss 1 and latency ratio 1, is larger than that of random search."""

    def hypervolume(agent: Any, seed: int) -> float:
        infos = agent.search(gym.make("kdnas/Planted-v0", budget=80), seed=seed).infos
        volume, least = 0.0, 1.0
        for ratio, loss in sorted((info["latency_ratio"], info["loss"]) for info in infos):
            if loss < least and ratio < 1:
                volume += (1 - ratio) * (least - loss)
                least = loss
        return volume

    agent = make(sampler="nsgaii", sampler_options={"population_size": 8}, objectives=["loss", "latency_ratio"])
    found = [[hypervolume(one, seed) for seed in range(6)] for one in (agent, RandomAgent())]
    assert wilcoxon(*found, alternative="greater").pvalue < 0.05


# Proposing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("nvec", [[2], [1, 5, 1, 4], [4, 3, 3]], ids=str)
def test_every_sampler_searches_a_space_to_its_end(name: str, nvec: list[int]) -> None:
    budget = 15 if name == "gp" else 36
    options = {"sampler_options": POPULATION.get(name, {}), "retries": 2}
    result = make(sampler=name, **options).search(BowlEnv(nvec), budget=budget, seed=2)
    assert len(set(points(result))) == len(result.actions) == min(budget, np.prod(nvec))


@pytest.mark.parametrize("name", HERE)
def test_every_sampler_goes_on_from_a_saved_state_as_if_it_had_not_been_left(name: str, tmp_path: Path) -> None:
    env, options = BowlEnv([7, 6, 5]), {"sampler": name, "sampler_options": POPULATION.get(name, {}), "retries": 2}
    agent, loaded = make(**options), make(**options)
    agent.reset([7, 6, 5], budget=64, round_size=6, seed=5)
    for _ in range(2 if name == "gp" else 4):  # gp is slow, and only its first ten trials are random
        actions = agent.ask(6)
        agent.tell(actions, [env.reward(action) for action in actions])
    agent.ask(2)
    agent.save(tmp_path / "state.npz")
    loaded.load(tmp_path / "state.npz")
    for _ in range(2):
        actions, same = agent.ask(3), loaded.ask(3)
        assert actions.tolist() == same.tolist()
        for one in (agent, loaded):
            one.tell(actions, [env.reward(action) for action in actions])
    ours, theirs = ([(t.state, t.values, t.params, t.user_attrs) for t in one.study.trials] for one in (agent, loaded))
    assert ours == theirs


@pytest.mark.parametrize("options", [{}, {"duplicates": "fail"}, {"retries": 0}], ids=str)
def test_every_proposal_is_a_trial_and_the_rest_is_dismissed(options: dict[str, Any]) -> None:
    # Univariate TPE cannot restrict its proposals to unevaluated points.
    agent = make(sampler_options={"multivariate": False}, **options)
    result = agent.search(BowlEnv([4, 4]), budget=16)
    trials = evaluated(agent)
    assert [point(trial) for trial in trials] == points(result)
    assert [trial.value for trial in trials] == [trial.user_attrs["reward"] for trial in trials] == [*result.rewards]
    dismissed = [trial for trial in agent.study.trials if "dismissed" in trial.user_attrs]
    assert len(dismissed) + len(trials) == len(agent.study.trials)
    assert {trial.user_attrs["dismissed"] for trial in dismissed} == {"known"}
    earned = {point(trial): trial.value for trial in trials}
    for trial in dismissed:
        if options.get("duplicates") == "fail":
            assert trial.state is TrialState.FAIL
        elif trial.state is TrialState.COMPLETE:
            assert trial.value == earned[point(trial)]
    drawn = np.concatenate([record.random for record in result.rounds])
    assert drawn.any()
    assert drawn.tolist() == ["drawn" in trial.user_attrs for trial in trials]


def test_points_that_are_not_allowed_are_dismissed() -> None:
    agent = make(sampler="random")
    agent.reset([5, 5], budget=6, round_size=3, candidates=[0, 7, 9, 13, 21, 24])
    numbers = np.ravel_multi_index(tuple(agent.ask(6).T), (5, 5))
    assert sorted(numbers) == [0, 7, 9, 13, 21, 24]
    reasons = {trial.user_attrs.get("dismissed") for trial in agent.study.trials}
    assert "not allowed" in reasons
    assert len(agent.ask(1)) == 0


@given(nvec=st.lists(st.integers(1, 5), min_size=1, max_size=3), data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_is_told_without_having_been_asked_is_in_the_study(nvec: list[int], data: Any) -> None:
    agent = make(sampler="random")
    agent.reset(nvec, budget=5, round_size=2)
    action = [data.draw(st.integers(0, count - 1)) for count in nvec]
    agent.tell([action], [0.25])
    (trial,) = agent.study.trials
    assert [*trial.params.values()] == action
    assert trial.value == 0.25
    assert action not in agent.ask(5).tolist()


def test_a_trial_that_somebody_enqueues_is_proposed_next() -> None:
    agent = make()
    agent.reset([6, 6], budget=20, round_size=4)
    agent.study.enqueue_trial({"dim_0": 5, "dim_1": 2})
    agent.study.enqueue_trial({"dim_0": 5, "dim_1": 2})
    assert agent.ask(3)[0].tolist() == [5, 2]
    assert len(np.unique(agent.pending, axis=0)) == 3


def test_parameters_are_named_by_the_dimensions_of_the_space() -> None:
    agent = make(sampler="random")
    env = gym.make("kdnas/Planted-v0", budget=2)
    agent.search(env)
    assert [*agent.study.trials[0].params] == [*env.get_wrapper_attr("search_space").dimensions]
    assert agent.study.trials[0].user_attrs["config"] == str(env.get_wrapper_attr("history")[0].evaluation.config)
    agent.search(BowlEnv([3, 3]), budget=2)
    assert [*agent.study.trials[0].params] == ["dim_0", "dim_1"]


def test_processes_that_share_a_seed_draw_by_the_number_of_the_trial() -> None:
    agent = make(sampler="random")
    agent.reset([50, 50], budget=9, round_size=3, seed=4)
    before = agent.ask(2)
    agent.reset([50, 50], budget=9, round_size=3, seed=4)
    agent.study.ask()
    assert agent.ask(1)[0].tolist() == before[1].tolist()


def test_optuna_is_silent_and_its_verbosity_stays(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    logger = logging.getLogger("optuna")
    level = logger.level
    for name in ("qmc", "grid", "nsgaiii"):
        make(sampler=name, storage=f"{tmp_path}/{name}.log").search(BowlEnv([3, 3]), budget=9)
    assert logger.level == level == logging.INFO
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError), quiet():
        raise RuntimeError
    assert logger.level == level


# Failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", ["fail", "reward"])
def test_failures_are_told(failures: Any) -> None:
    def answer(step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        return (-3.0, {"status": "out_of_memory"}) if action[0] > 3 else None

    agent = make(failures=failures)
    agent.search(BowlEnv([6, 6], answer), budget=20)
    failed = [trial for trial in evaluated(agent) if trial.user_attrs["status"] == "out_of_memory"]
    assert failed
    told = {"fail": (TrialState.FAIL, None), "reward": (TrialState.COMPLETE, [-3.0])}[failures]
    assert {(trial.state, str(trial.values)) for trial in failed} == {(told[0], str(told[1]))}


def test_rewards_that_are_not_finite_are_failures() -> None:
    agent = make(failures="reward")
    agent.search(BowlEnv([3, 3], lambda step, action: (float("nan"), {}) if step else None), budget=9)
    assert [trial.state for trial in evaluated(agent)] == [TrialState.COMPLETE] + [TrialState.FAIL] * 8


# Several objectives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tpe", "nsgaii", "nsgaiii", "gp", "random", "qmc", "grid"])
def test_the_front_is_what_none_beats(name: str) -> None:
    budget = 16 if name == "gp" else 32
    agent = make(sampler=name, sampler_options=POPULATION.get(name, {}), objectives=["loss", "-speedup"])
    result = agent.search(gym.make("kdnas/Planted-v0", failures=0.1, budget=budget), seed=1)
    assert [direction.name for direction in agent.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    ok = [
        (tuple(action), info["loss"], -info["speedup"])
        for action, info in zip(result.actions.tolist(), result.infos, strict=True)
        if info["status"] == "ok"
    ]
    expected = {
        action
        for action, *values in ok
        if not any(all(np.less_equal(other, values)) and other != values for _, *other in ok)
    }
    assert len(agent.pareto_front) == len(expected) > 1
    assert {point(trial) for trial in agent.pareto_front} == expected
    assert result.best_reward == result.rewards[[info["status"] == "ok" for info in result.infos]].max()


def test_without_objectives_the_front_is_the_best() -> None:
    agent = make()
    result = agent.search(BowlEnv([4, 4]), budget=16)
    assert result.best is not None
    assert [point(trial) for trial in agent.pareto_front] == [result.best.action]


def test_several_objectives_are_saved(tmp_path: Path) -> None:
    agent, loaded = (make(sampler="nsgaii", objectives=("loss", "parameters")) for _ in range(2))
    agent.search(gym.make("kdnas/Planted-v0", budget=12), seed=1)
    agent.save(tmp_path / "state.npz")
    loaded.load(tmp_path / "state.npz")
    assert [*map(point, loaded.pareto_front)] == [*map(point, agent.pareto_front)]
    assert loaded.study.metric_names == ["loss", "parameters"]


@pytest.mark.parametrize("missing", ["beauty", "config"])
def test_an_objective_that_the_info_lacks_is_named_after_the_first_evaluation(missing: str) -> None:
    env = gym.make("kdnas/Planted-v0", budget=12)
    with pytest.raises(KDNASError, match=f"objective '{missing}' is .* expected the name of .*'loss'"):
        make(objectives=["loss", missing]).search(env)
    assert len(env.get_wrapper_attr("history")) == 1


# Pruning --------------------------------------------------------------------------------------------------------

EPOCHS = 6
PRUNING: dict[str, dict[str, Any]] = {
    "median": {},
    "percentile": {"percentile": 30.0},
    "successive-halving": {"reduction_factor": 2},
    "hyperband": {"reduction_factor": 2},
    "threshold": {"lower": 0.4, "n_warmup_steps": 2},
}


def planted(**options: Any) -> gym.Env:
    return gym.make("kdnas/Planted-v0", epochs=EPOCHS, **{"budget": 32, **options})


@pytest.mark.parametrize("name", PRUNING)
def test_a_pruner_stops_evaluations(name: str) -> None:
    assert {"none", "patient", *PRUNING} == {*PRUNERS}
    agent = make(sampler="random", pruner=name, pruner_options=PRUNING[name])
    result = agent.search(planted(), seed=2)
    states = {"stopped": TrialState.PRUNED, "ok": TrialState.COMPLETE}
    assert {info["status"] for info in result.infos} == {*states}
    for trial, info in zip(evaluated(agent), result.infos, strict=True):
        assert trial.state is states[info["status"]]
        curve = {epoch: 1 - loss for epoch, loss in enumerate(info["heldout_curve"]) if loss >= 0}
        assert trial.intermediate_values == pytest.approx(curve)
        assert (len(curve) == EPOCHS + 1) == (trial.state is TrialState.COMPLETE)
    assert result.best_index is not None
    assert result.infos[result.best_index]["status"] == "ok"


class Epochs(BowlEnv):
    """Shares only the callback with kdnas. The loss falls or, for some actions, rises after the second epoch."""

    def __init__(self) -> None:
        super().__init__([6, 6], self.epochs)
        self.on_epoch: Any = None

    def epochs(self, step: int, action: list[int]) -> tuple[float, dict[str, Any]] | None:
        for epoch in range(7):
            loss = 0.9 - 0.1 * (epoch if action[0] < 3 else min(epoch, 4 - epoch))
            said = SimpleNamespace(candidate=0, candidates=1, epoch=epoch, epochs=6, heldout_unexplained=loss)
            if self.on_epoch is not None and self.on_epoch(said):
                return -1.0, {"status": "stopped"}
        return None


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_waits_for_the_loss_to_fall_again(patience: int) -> None:
    agent = make(sampler="grid", pruner="patient", pruner_options={"patience": patience})
    agent.search(Epochs(), budget=36)
    for trial in evaluated(agent):
        # After the last epoch there is nothing to stop.
        stopped = trial.params["dim_0"] >= 3 and patience < 3
        assert trial.state is (TrialState.PRUNED if stopped else TrialState.COMPLETE)
        assert trial.last_step == (3 + patience if stopped else 6)


def test_an_earlier_epoch_callback_is_still_called_may_stop_and_is_restored() -> None:
    heard: list[EpochReport] = []

    def listen(report: EpochReport) -> bool:
        heard.append(report)
        return len(heard) == 2

    env = planted()
    env.set_wrapper_attr("on_epoch", listen)
    agent = make(sampler="random", pruner="median")
    result = agent.search(gym.wrappers.TimeLimit(env, 100), budget=20, seed=2)
    assert env.get_wrapper_attr("on_epoch") is listen
    assert len(heard) == sum(int((info["heldout_curve"] >= 0).sum()) for info in result.infos)
    assert agent.study.trials[0].state is TrialState.PRUNED
    assert len(agent.study.trials[0].intermediate_values) == 2


def test_whoever_listens_is_restored_after_an_error() -> None:
    def complain(report: EpochReport) -> bool:
        raise KeyboardInterrupt

    env = planted()
    env.set_wrapper_attr("on_epoch", complain)
    with pytest.raises(KeyboardInterrupt):
        make(pruner="median").search(env)
    assert env.get_wrapper_attr("on_epoch") is complain


def test_an_evaluation_that_was_cut_off_is_reported_once_more() -> None:
    def interrupt(report: EpochReport) -> None:
        heard.append(report)
        if len(heard) == 4 * EPOCHS:
            raise KeyboardInterrupt

    heard: list[EpochReport] = []
    env, options = planted(), {"sampler": "random", "pruner": "threshold", "pruner_options": {"lower": 0.0}}
    env.set_wrapper_attr("on_epoch", interrupt)
    agent, whole = make(**options), make(**options)
    with pytest.raises(KeyboardInterrupt):
        agent.search(env, seed=2)
    assert 0 < len(agent.study.trials[3].intermediate_values) < EPOCHS
    assert points(agent.resume(planted())) == points(whole.search(planted(), seed=2))
    assert [trial.intermediate_values for trial in agent.study.trials] == [
        trial.intermediate_values for trial in whole.study.trials
    ]


def test_rounds_of_a_vector_environment_are_pruned() -> None:
    env: Any = gym.make_vec("kdnas/Planted-v0", num_envs=4, epochs=EPOCHS, budget=32)
    agent = make(sampler="random", pruner="percentile", pruner_options=PRUNING["percentile"])
    result = agent.search(env, seed=2)
    assert {info["status"] for info in result.infos} == {"stopped", "ok"}
    for trial, info in zip(evaluated(agent), result.infos, strict=True):
        assert len(trial.intermediate_values) == (info["heldout_curve"] >= 0).sum()
    assert env.unwrapped.on_epoch is None


def test_a_pruner_needs_something_to_stop() -> None:
    env = BowlEnv([4, 4])
    with pytest.raises(KDNASError, match="pruner 'median' stops evaluations, but the environment has no attr"):
        make(pruner="median").search(env, budget=4)
    assert env.seeds == []


@pytest.mark.parametrize("name", ["none", "median", "successive-halving", "hyperband"])
def test_a_pruned_search_that_is_started_again_on_its_store_ends_the_same(name: str, tmp_path: Path) -> None:
    """Like ``kdnas search --resume``: the store returns earlier evaluations, without epoch reports."""

    class Interrupted(gym.Wrapper[Any, Any, Any, Any]):
        left = 14

        def step(self, action: Any) -> Any:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().step(action)

    def env(store: str) -> KDNASEnv:
        space = SearchSpace.from_teacher(PLANTED_TEACHER)
        evaluator = StoredEvaluator(PlantedEvaluator(space), tmp_path / store)
        return KDNASEnv(space, evaluator, fidelity=Fidelity(epochs=EPOCHS), budget=24)

    whole, first, second = (make(pruner=name, pruner_options=PRUNING.get(name, {})) for _ in range(3))
    expected = whole.search(env("whole"), seed=4)
    with pytest.raises(KeyboardInterrupt):
        first.search(Interrupted(env("interrupted")), seed=4)
    found = second.search(env("interrupted"), seed=4)
    assert points(found) == points(expected)
    assert found.rewards.tolist() == expected.rewards.tolist()
    assert [(t.state, t.intermediate_values) for t in second.study.trials] == [
        (t.state, t.intermediate_values) for t in whole.study.trials
    ]
    assert ("stopped" in {info["status"] for info in expected.infos}) == (name != "none")


def test_a_hyperband_search_goes_on_from_a_saved_state(tmp_path: Path) -> None:
    options = {"pruner": "hyperband", "pruner_options": PRUNING["hyperband"]}
    whole, agent, loaded = (make(**options) for _ in range(3))
    expected = whole.search(planted(budget=24), seed=3)
    agent.search(planted(budget=24), seed=3, on_round=lambda ranking: agent.save(tmp_path / f"{ranking.evaluations}"))
    loaded.load(tmp_path / "16")
    assert points(loaded.resume(planted(budget=24))) == points(expected)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_pictures")
def test_a_killed_search_of_the_command_line_is_resumed_to_the_same_end(
    tiny_teacher_dirs: dict[str, Path], tiny_corpus_file: Path, tmp_path: Path, moments: Random
) -> None:
    space = {"num_hidden_layers": [1, 2, 3], "num_attention_heads": [2, 4], "hidden_size": [16, 32]}
    (tmp_path / "space.json").write_text(json.dumps({**space, "intermediate_size": [16, 32, 64]}))

    def arguments(out: str) -> list[str]:
        flags = {
            "teacher": tiny_teacher_dirs["bert"],
            "corpus.source": tiny_corpus_file,
            "space.file": tmp_path / "space.json",
            "agent": "optuna",
            "speedup": 0,
            "budget": 9,
            "round-size": 3,
            "epochs": 3,
            "data-fraction": 1.0,
            "latency.runtime": "analytic",
            "device": "cpu",
            "threads": 1,
            "cache-dir": tmp_path / "cache",
            "out": tmp_path / out,
        }
        options = "{n_startup_trials: 2}"
        settings = ["pruner=median", f"sampler_options={options}", f"pruner_options={options}"]
        return [
            "search",
            *(text for name, value in flags.items() for text in (f"--{name}", str(value))),
            "--agent-settings",
            *settings,
        ]

    def trail(out: str) -> list[tuple[Any, ...]]:
        students = json.loads((tmp_path / out / "results.json").read_text())["students"]
        return [(*one["student"].values(), one["status"], one["reward"]) for one in students]

    assert main(arguments("whole")) == 0
    process = start_command(arguments("killed"), output=tmp_path / "output.txt")
    store = tmp_path / "killed" / "evaluations.sqlite"
    deadline, students, rows = time.monotonic() + 120, moments.randint(1, 6), 0
    while rows < students and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        if store.exists():
            with closing(sqlite3.connect(store)) as connection, suppress(sqlite3.OperationalError):
                rows = connection.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0]
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "results.json").exists()
    assert main(["search", "--resume", str(tmp_path / "killed"), "--cache-dir", str(tmp_path / "cache")]) == 0
    assert trail("killed") == trail("whole")
    assert len(trail("whole")) == 9


# Shared studies -------------------------------------------------------------------------------------------------

FEW_STUDENTS = {"num_hidden_layers": [3, 4, 6, 12], "intermediate_size": [384, 512, 768, 1024, 1536, 3072]}
"""A space so small that two processes often choose the same student."""


class Logged(gym.Wrapper[Any, Any, Any, Any]):
    """Writes every action to a file and pauses, before the evaluation."""

    def __init__(self, env: gym.Env[Any, Any], log: Path, pause: float) -> None:
        super().__init__(env)
        self._log, self._pause = log, pause

    def step(self, action: Any) -> Any:
        with self._log.open("a") as file:
            file.write(json.dumps(action.tolist()) + "\n")
        time.sleep(self._pause)
        return super().step(action)


def search_when_told(
    config: dict[str, Any], log: Path, go: Path, budget: int, pause: float, space: dict[str, list[int]] | None
) -> None:
    """Search as soon as a file exists; for a separate process."""
    warnings.simplefilter("error")
    agent = make(**config)
    env = gym.make("kdnas/Planted-v0", space=space, budget=budget, round_size=4)
    print("ready", flush=True)
    until(go.exists)
    agent.search(Logged(env, log, pause), seed=3)


def ask_and_wait(config: dict[str, Any]) -> None:
    """Ask for three points of a small space and keep them pending; for a separate process."""
    agent = make(**config)
    agent.reset([4, 2], budget=8, round_size=3)
    print(agent.ask(3).tolist(), flush=True)
    time.sleep(600)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("place", ["study.log", pytest.param("sqlite:///{}/study.db", marks=pytest.mark.slow)])
def test_two_processes_share_a_study_and_evaluate_nothing_twice(place: str, tmp_path: Path) -> None:
    storage = place.format(tmp_path) if "://" in place else str(tmp_path / place)
    config = {"storage": storage, "study_name": "shared"}
    go = tmp_path / "go"
    processes = [Started(search_when_told, config, tmp_path / name, go, 8, 0.0, FEW_STUDENTS) for name in ("a", "b")]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    go.touch()
    for process in processes:
        output = process.read(timeout=300)
        assert process.returncode == 0, output
    asked = [*lines(tmp_path / "a"), *lines(tmp_path / "b")]
    assert len(asked) == len(set(asked)) == 16

    agent = make(**config)
    agent.search(gym.make("kdnas/Planted-v0", space=FEW_STUDENTS, budget=4))
    trials = evaluated(agent)
    assert len(trials) == len({point(trial) for trial in trials}) == 20
    assert len({trial.user_attrs["worker"] for trial in trials}) == 3


def test_where_others_have_evaluated_everything_there_is_nothing_to_ask(tmp_path: Path) -> None:
    place = {"storage": str(tmp_path / "study.log"), "study_name": "shared"}
    make(**place).search(BowlEnv([3, 2]), budget=4)
    second, third = make(**place), make(**place)
    assert len(second.search(BowlEnv([3, 2]), budget=6).actions) == 2
    assert len(third.search(BowlEnv([3, 2]), budget=6).actions) == 0


@pytest.mark.parametrize("seed", range(4))
def test_of_two_that_meet_at_a_point_the_later_one_leaves_it(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"storage": str(tmp_path / "study.log"), "study_name": "shared"}
    first, second = (make(sampler="random", **place) for _ in range(2))
    for agent in (first, second):
        agent.reset([2], budget=1, round_size=1, seed=seed)
    begin = second._grid_study.begin

    def begin_and_be_overtaken() -> Any:
        trial = begin()
        if not len(first.pending):
            first.ask(1)
        return trial

    monkeypatch.setattr(second._grid_study, "begin", begin_and_be_overtaken)
    assert second.ask(1)[0, 0] == 1 - first.pending[0, 0]


def test_a_killed_process_that_is_started_again_goes_through_its_trials(tmp_path: Path, moments: Random) -> None:
    config = {"storage": str(tmp_path / "study.journal"), "study_name": "mine", "worker": "a"}
    whole = make(**{**config, "study_name": "whole"})
    expected = whole.search(gym.make("kdnas/Planted-v0", budget=24, round_size=4), seed=3)

    log = tmp_path / "killed"
    (go := tmp_path / "go").touch()
    process = Started(search_when_told, config, log, go, 24, 0.05, None)
    deadline, trials = time.monotonic() + 60, moments.randint(1, 18)
    while len(lines(log)) < trials and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert trials <= len(lines(log)) < 24

    agent = make(**config)
    found = agent.search(gym.make("kdnas/Planted-v0", budget=24, round_size=4), seed=3)
    assert points(found) == points(expected)
    assert [(t.state, t.values, t.params) for t in agent.study.trials] == [
        (t.state, t.values, t.params) for t in whole.study.trials
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of heartbeats; tests set it ahead by ``seconds``. Heartbeats are sent every 0.05 real seconds."""
    ahead = SimpleNamespace(seconds=0.0)
    ahead.time = lambda: time.time() + ahead.seconds
    monkeypatch.setattr("kdnas_env.agents.optuna.storage.time", ahead)
    monkeypatch.setattr("kdnas_env.agents.optuna.storage._INTERVAL", 0.05)
    return ahead


def heartbeat_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "_send_repeatedly" in thread.name}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def evaluate_all(agent: OptunaAgent, env: BowlEnv) -> set[tuple[int, ...]]:
    return set(points(agent.search(env, budget=8, round_size=2)))


@pytest.mark.parametrize("place", ["study.log", pytest.param("sqlite:///{}/study.db", marks=pytest.mark.slow)])
def test_points_of_a_killed_process_are_tried_again(
    place: str, clock: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = place.format(tmp_path) if "://" in place else str(tmp_path / place)
    config = {"storage": storage, "study_name": "shared"}
    process = Started(ask_and_wait, config)
    asked = {tuple(action) for action in json.loads(process.stdout.readline())}
    assert len(asked) == 3

    # Another agent does not evaluate the pending points, and logs that it ended without them.
    others = {(one, two) for one in range(4) for two in range(2)} - asked
    assert evaluate_all(make(**config), BowlEnv([4, 2])) == others
    assert "ended after 5 of 8 evaluations, because other processes evaluate the remaining 3 points" in caplog.text
    process.kill()
    process.wait()
    assert evaluate_all(make(**config), BowlEnv([4, 2])) == set()
    clock.seconds = 700
    caplog.clear()
    last = make(**config)
    assert evaluate_all(last, BowlEnv([4, 2])) == asked
    assert not caplog.text
    abandoned = [trial for trial in last.study.trials if trial.user_attrs.get("dismissed") == "abandoned"]
    assert {(trial.state, point(trial)) for trial in abandoned} == {(TrialState.FAIL, one) for one in asked}


def test_a_process_with_heartbeats_keeps_its_points(clock: SimpleNamespace, tmp_path: Path) -> None:
    """Even if an evaluation takes long; heartbeats end when no candidate is pending or the agent is deleted."""
    config = {"storage": str(tmp_path / "study.log"), "study_name": "shared"}
    others = heartbeat_threads()  # from agents of other tests
    slow = make(**config)
    slow.reset([4, 2], budget=8, round_size=3)
    asked = slow.ask(3)
    clock.seconds = 10_000
    sign = f"kdnas:alive:{slow._grid_study.worker}"
    until(lambda: slow.study.user_attrs[sign] > time.time() + 9_000)
    assert len(evaluate_all(make(**config), BowlEnv([4, 2]))) == 5
    slow.tell(asked, [1.0, 2.0, 3.0])
    states = Counter(trial.state for trial in slow.study.trials if "dismissed" not in trial.user_attrs)
    assert states == {TrialState.COMPLETE: 8}
    until(lambda: heartbeat_threads() <= others)

    dropped = make(**{**config, "study_name": "dropped"})
    dropped.reset([4, 2], budget=8, round_size=3)
    dropped.ask(3)
    assert len(heartbeat_threads() - others) == 1
    del dropped
    # Collect repeatedly, because the agent cannot be freed while its thread sends a heartbeat.
    until(lambda: gc.collect() >= 0 and heartbeat_threads() <= others)


def test_a_trial_without_heartbeats_is_abandoned_by_its_age(clock: SimpleNamespace, tmp_path: Path) -> None:
    config = {"storage": str(tmp_path / "study.log"), "study_name": "shared"}
    make(**config).reset([4, 2], budget=8, round_size=3)
    with quiet():
        study = optuna.load_study(study_name="shared", storage=open_storage(config["storage"]))
        sizes = {"dim_0": 4, "dim_1": 2}
        trial = study.ask({name: IntDistribution(0, size - 1) for name, size in sizes.items()})
    clock.seconds = 500
    assert len(evaluate_all(make(**config), BowlEnv([4, 2]))) == 7
    clock.seconds = 700
    assert evaluate_all(make(**config), BowlEnv([4, 2])) == {tuple(trial.params.values())}


def test_a_search_in_a_storage_goes_on_from_a_saved_state(tmp_path: Path) -> None:
    """Even if the process continued after saving, so that the study has more trials than the state."""
    env, options = BowlEnv([7, 6, 5]), {"storage": str(tmp_path / "study.log")}
    agent, loaded = make(**options), make(**options)
    agent.reset([7, 6, 5], budget=64, round_size=6, seed=5)

    def play(one: OptunaAgent) -> list[list[int]]:
        actions = one.ask(6)
        one.tell(actions, [env.reward(action) for action in actions])
        proposed: list[list[int]] = actions.tolist()
        return proposed

    for _ in range(3):
        play(agent)
    waiting = agent.ask(2)
    agent.save(tmp_path / "state.npz")
    told = waiting[:1]
    agent.tell(told, [env.reward(told[0])])
    later = [play(agent), agent.ask(4).tolist()]
    trials = len(agent.study.trials)

    loaded.load(tmp_path / "state.npz")
    assert loaded.pending.tolist() == waiting.tolist()
    loaded.tell(told, [env.reward(told[0])])
    assert [play(loaded), loaded.ask(4).tolist()] == later
    assert len(loaded.study.trials) == trials
    assert len(optuna.get_all_study_names(loaded.study._storage)) == 1


def test_without_a_name_every_search_has_its_own_study(tmp_path: Path) -> None:
    agents = [make(storage=str(tmp_path / "study.log")) for _ in range(2)]
    results = [agent.search(BowlEnv([5, 5]), budget=12, seed=1) for agent in agents]
    assert points(results[0]) == points(results[1])
    assert agents[0].study.study_name != agents[1].study.study_name
    assert [len(evaluated(agent)) for agent in agents] == [12, 12]


def test_a_study_that_searches_something_else_is_not_joined(tmp_path: Path) -> None:
    place = {"storage": str(tmp_path / "study.log"), "study_name": "one"}
    make(**place).search(BowlEnv([4, 4]), budget=3)
    for other, nvec in (({}, [4, 5]), ({"choices": "categorical"}, [4, 4])):
        with pytest.raises(RunError, match=r"the study 'one' searches .* use another study_name"):
            make(**place, **other).search(BowlEnv(nvec), budget=3)
    with pytest.raises(RunError, match=r"\(maximize\), but this search is of .*\(minimize and minimize\)"):
        make(**place, objectives=["loss", "flops"]).search(gym.make("kdnas/Planted-v0", budget=3))


def four_students(depths: tuple[int, ...] = (4, 6), **settings: Any) -> gym.Env[Any, Any]:
    """An environment of four students."""
    space = {"num_hidden_layers": list(depths), "intermediate_size": [512, 1024]}
    return gym.make("kdnas/Planted-v0", space=space, budget=4, **settings)


OTHER_DEPTHS = (lambda: four_students((3, 6)), r"space num_hidden_layers is \[4, 6\] in the study and \[3, 6\] here")


@pytest.mark.parametrize(
    ("place", "other", "said"),
    [
        ("study.log", *OTHER_DEPTHS),
        pytest.param("sqlite:///{}/study.db", *OTHER_DEPTHS, marks=pytest.mark.slow),
        ("study.log", lambda: four_students(noise=0.1), r"workload is '\w{12}' in the study and '\w{12}' here"),
        ("study.log", lambda: four_students(alpha=-0.5), r"reward alpha is -0.06 in the study and -0.5 here"),
        ("study.log", lambda: four_students(epochs=5), r"fidelity epochs is \d in the study and 5 here"),
        (
            "study.log",
            lambda: ImprovementReward(four_students()),
            r"wrappers ImprovementReward is None in the study and {.start.: -1.0} here",
        ),
        (
            "study.log",
            lambda: gym.make_vec("kdnas/Planted-v0", num_envs=2, space=SMALLER),
            r"space .* \[5, 6\] here",
        ),
    ],
)
def test_a_study_is_only_joined_for_the_same_students_and_rewards(
    place: str, other: Callable[[], Any], said: str, tmp_path: Path
) -> None:
    """Equal names and numbers of choices of the dimensions are not enough."""
    storage = place.format(tmp_path) if "://" in place else str(tmp_path / place)
    agent = make(storage=storage, study_name="one")
    agent.search(four_students(), budget=2)
    agent.save(tmp_path / "state.npz")
    before = (tmp_path / storage.rsplit("/", 1)[-1]).read_bytes()
    with pytest.raises(RunError, match=rf"the study 'one' belongs to another search: .*{said}.*Use another study_name"):
        make(storage=storage, study_name="one").search(other(), budget=2)
    loaded = make(storage=storage, study_name="one")
    loaded.load(tmp_path / "state.npz")
    with pytest.raises(RunError, match=said):
        loaded.resume(other())
    assert (tmp_path / storage.rsplit("/", 1)[-1]).read_bytes() == before
    again = make(storage=storage, study_name="one").search(four_students())
    assert len(again.actions) == 2


def test_an_environment_that_tells_nothing_is_compared_by_its_choices(tmp_path: Path) -> None:
    place = {"storage": str(tmp_path / "study.log"), "study_name": "one"}
    for _ in range(2):
        assert len(make(**place).search(BowlEnv([2, 2]), budget=2).actions) == 2
    odd = BowlEnv([2, 2])
    odd.identity = {"answer": odd}  # type: ignore[attr-defined]
    with pytest.raises(KDNASError, match=r"the environment's identity is .*; expected plain data"):
        make(**place).search(odd, budget=2)


def test_a_study_of_the_first_version_is_joined_and_then_kept_to_its_content(tmp_path: Path) -> None:
    place = {"storage": str(tmp_path / "study.log"), "study_name": "one"}
    with quiet():
        old = optuna.create_study(storage=open_storage(place["storage"]), study_name="one", direction="maximize")
    counts = {"num_hidden_layers": 2, "intermediate_size": 2}
    old.set_user_attr("kdnas:searched", {"space": counts, "choices": "ordinal", "objectives": []})
    assert len(make(**place).search(four_students(), budget=2).actions) == 2
    with pytest.raises(RunError, match="belongs to another search"):
        make(**place).search(four_students((3, 6)), budget=2)


def test_a_state_whose_study_is_gone_is_refused(tmp_path: Path) -> None:
    agent = make(storage=str(tmp_path / "study.log"))
    agent.search(BowlEnv([4, 4]), budget=3)
    agent.save(tmp_path / "state.npz")
    (tmp_path / "study.log").unlink()
    with pytest.raises(RunError, match=r"the saved search has the study 'kdnas-.*', which is not in the storage"):
        make(storage=str(tmp_path / "study.log")).load(tmp_path / "state.npz")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("nowhere/study.log", "cannot be opened"),
        ("sqlite:///nowhere/study.db", "cannot be opened"),
        ("oracle9i://study", "cannot be opened"),
        ("redis://study", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named(storage: str, message: str) -> None:
    env = BowlEnv([4, 4])
    with pytest.raises(RunError, match=f"storage '{storage}' {message}"):
        make(storage=storage).search(env, budget=3)
    assert env.seeds == []


@pytest.mark.parametrize("text", ["dear diary\nnothing new\n", "hello", "{}\n"])
def test_a_file_that_is_no_journal_is_named_and_left_alone(text: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes.log"
    notes.write_text(text)
    with pytest.raises(RunError, match=r"^storage '.*' is not a journal of Optuna; name another file$"):
        make(storage=str(notes)).search(BowlEnv([4, 4]), budget=3)
    assert notes.read_text() == text
    assert [*tmp_path.iterdir()] == [notes]


def test_a_journal_whose_last_line_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    journal = tmp_path / "study.log"
    for seed in (0, 1):
        make(storage=str(journal), study_name="shared").search(BowlEnv([8, 8]), budget=4, seed=seed)
        written = journal.read_bytes()
        whole = written[: written[:-1].rfind(b"\n") + 1]
        journal.write_bytes(written[:-9])
    make(storage=str(journal), study_name="shared").search(BowlEnv([8, 8]), budget=4, seed=2)
    assert journal.read_bytes().startswith(whole), "no whole line is lost"
    assert all(json.loads(line) for line in journal.read_text().splitlines())


# Imports, settings and unsafe states ----------------------------------------------------------------------------


def test_a_pickle_in_a_saved_state_is_not_loaded(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    sampler = "cmaes" if CMAES else "tpe"
    agent = make(sampler=sampler)
    agent.search(BowlEnv([4, 4]), budget=4)
    state = agent.state_dict()
    state["study"]["trials"][-1]["system_attrs"]["cma:optimizer:0"] = pickle.dumps(Harm()).hex()
    again = make(sampler=sampler)
    again.load_state_dict(state)
    assert len(again.ask(2)) == 2
    assert not (tmp_path / "harm").exists()


def test_optuna_is_imported_when_an_agent_is_made() -> None:
    code = (
        "import sys, kdnas_env.agents.optuna.agent as module\n"
        "assert not {'optuna', 'torch', 'scipy'} & {*sys.modules}\n"
        "sys.modules['optuna'] = None\n"
        "from kdnas_env.errors import DependencyError\n"
        "try:\n"
        "    module.OptunaAgent()\n"
        "except DependencyError as error:\n"
        "    assert \"pip install 'kdnas[optuna]'\" in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(CMAES, reason="the package is there")
def test_a_package_that_a_sampler_needs_is_named() -> None:
    with pytest.raises(DependencyError, match=r"sampler 'cmaes' needs the package 'cmaes', .*pip install 'kdnas\[opt"):
        make(sampler="cmaes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "magic"}, "sampler is 'magic'; expected one of .*'tpe'"),
        ({"pruner": "bonsai"}, "pruner is 'bonsai'; expected one of .*'median'"),
        ({"choices": "nominal"}, "choices is 'nominal'"),
        ({"failures": "ignore"}, "failures is 'ignore'"),
        ({"duplicates": "keep"}, "duplicates is 'keep'"),
        ({"retries": -1}, "retries is -1; expected a whole number, at least 0"),
        ({"sampler_options": [1]}, r"sampler_options is \[1\]; expected a mapping"),
        ({"pruner_options": {"a": object()}}, "pruner_options is .*; expected plain data"),
        ({"sampler_options": {"speed": 9}}, "sampler_options of sampler 'tpe' are {'speed': 9}: .*speed"),
        ({"sampler_options": {"n_startup_trials": "5"}}, "n_startup_trials is '5'; expected a whole number"),
        (
            {"sampler": "nsgaii", "sampler_options": {"population_size": 8.5}},
            "population_size is 8.5",
        ),
        ({"pruner": "median", "pruner_options": {"n_warmup_steps": "1"}}, "n_warmup_steps is '1'; expected a whole"),
        ({"pruner": "patient", "pruner_options": {"patience": "1"}}, "patience is '1'; expected a whole number"),
        ({"sampler_options": {"seed": 9}}, "sampler_options has a 'seed'; leave it out"),
        ({"sampler": "nsgaii", "sampler_options": {"population_size": 1}}, "sampler_options of sampler 'nsgaii'"),
        ({"pruner": "percentile"}, "pruner_options of pruner 'percentile' are {}: .*percentile"),
        ({"pruner": "patient", "pruner_options": {"wrapped": "x"}}, "pruner is 'x'; expected one of"),
        ({"objectives": "loss"}, "objectives is 'loss'; expected a list"),
        ({"objectives": ["loss"]}, r"objectives is \['loss'\]; expected two or more different names of numbers"),
        ({"objectives": ["loss", "-loss"]}, "expected two or more different names of numbers"),
        ({"objectives": ["loss", "-"]}, "expected two or more different names of numbers"),
        ({"objectives": ["a", "b"], "sampler": "cmaes"}, "sampler 'cmaes' optimises a single objective"),
        ({"objectives": ["a", "b"], "failures": "reward"}, "failures 'reward' gives a single value"),
        ({"objectives": ["a", "b"], "pruner": "median"}, "pruner 'median' compares a single value"),
        ({"sampler": "cmaes", "choices": "categorical"}, "sampler 'cmaes' cannot search categorical choices"),
        ({"storage": "study.txt"}, "storage is 'study.txt'; expected the URL of a database"),
        ({"storage": ""}, "storage is ''; expected a non-empty text, or None"),
        ({"study_name": "x"}, "study_name is 'x', but storage is not set"),
        ({"storage": "x.log", "worker": "x"}, "worker is 'x', but study_name is not set"),
        ({"stale_after": 9.0}, "stale_after is 9.0, but changes nothing: a study without a study_name"),
        ({"storage": "x.log", "study_name": "x", "stale_after": 0}, "stale_after is 0.0; expected a number above 0"),
        ({"sampler": "random", "replay_size": 9}, "replay_size is 9, but changes nothing: sampler 'random' does not"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        make(**options)


def test_a_space_too_large_for_a_grid_is_refused() -> None:
    with pytest.raises(KDNASError, match="sampler 'grid' lists the whole space, which has 10000000000 points"):
        make(sampler="grid").search(BowlEnv([10] * 10), budget=3)
