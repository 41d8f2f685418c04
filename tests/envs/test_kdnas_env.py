from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from hypothesis import given, settings
from hypothesis import strategies as st

import kdnas_env
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.book import DUPLICATES
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.vector import KDNASVectorEnv
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.searching.stopping import StoppingRule

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
AWKWARD = {"num_hidden_layers": [3, 6, 24], "num_attention_heads": [5, 12], "hidden_act": ["gelu", "gelu_python"]}


@dataclass
class Counting:
    """A planted evaluator that records the evaluated architectures; those in ``broken`` fail."""

    planted: PlantedEvaluator = field(default_factory=lambda: PlantedEvaluator(SPACE))
    broken: dict[StudentConfig, Status] = field(default_factory=dict)
    deterministic: bool = True
    asked: list[StudentConfig] = field(default_factory=list)
    closed: int = 0

    @property
    def fingerprint(self) -> str:
        raise AssertionError("computing the fingerprint may load the teacher")

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        self.asked.extend(configs)
        answers = self.planted.evaluate(configs, fidelity, on_epoch=on_epoch)
        return [
            replace(answer, status=self.broken[answer.config], latency=None, error="broken")
            if answer.config in self.broken
            else answer
            for answer in answers
        ]

    def close(self) -> None:
        self.closed += 1


def make(evaluator: Counting | None = None, **options: Any) -> KDNASEnv:
    env = KDNASEnv(SPACE, evaluator or Counting(), **{"budget": 6, "round_size": 2, **options})
    env.reset(seed=0)
    return env


def action(index: int, space: SearchSpace = SPACE) -> np.ndarray[Any, np.dtype[np.int64]]:
    return space.from_index(index)


def planted(**options: Any) -> KDNASEnv:
    env = gym.make("kdnas/Planted-v0", **options).unwrapped
    assert isinstance(env, KDNASEnv)
    return env


# Contracts of Gymnasium and stable-baselines3 -------------------------------------------------------------------

VARIANTS = [
    {},
    {"budget": 1},
    {"budget": 1, "round_size": 1, "duplicates": "reject"},
    {"families": ["bert", "albert", "roberta"], "noise": 0.1, "failures": 0.5},
    {"space": AWKWARD, "duplicates": "free", "budget": 4},
    {"epochs": 0, "round_size": 3},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_gymnasium_checker_has_no_complaint(options: dict[str, Any]) -> None:
    check_env(planted(**options))


@pytest.mark.parametrize("options", VARIANTS)
def test_stable_baselines3_checker_has_no_complaint(options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    sb3_check_env(planted(render_mode="rgb_array", **options), skip_render_check=False)


def test_stable_baselines3_learns_on_it() -> None:
    from stable_baselines3 import PPO

    env = gym.make("kdnas/Planted-v0", budget=8)
    PPO("MultiInputPolicy", env, n_steps=16, batch_size=8, n_epochs=1, seed=0, device="cpu").learn(32)


@pytest.mark.parametrize("options", [*VARIANTS, {"noise": 0.3, "duplicates": "reject", "budget": 30}])
def test_two_environments_agree_step_by_step(options: dict[str, Any]) -> None:
    one, other = (gym.make("kdnas/Planted-v0", **options) for _ in range(2))
    one.action_space.seed(5)
    for episode in range(2):
        assert data_equivalence(one.reset(seed=episode), other.reset(seed=episode), exact=True)
        done = False
        while not done:
            choice = one.action_space.sample()
            outcome = one.step(choice)
            assert data_equivalence(outcome, other.step(choice), exact=True)
            done = outcome[2] or outcome[3]


@given(duplicates=st.sampled_from(DUPLICATES), seed=st.integers(0, 1000), budget=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_every_observation_and_reward_is_in_its_space(duplicates: str, seed: int, budget: int) -> None:
    env = planted(space=AWKWARD, duplicates=duplicates, budget=budget, round_size=3, failures=0.3, seed=seed)
    env.action_space.seed(seed)
    observation, first_info = env.reset(seed=seed)
    truncated = terminated = False
    while not (terminated or truncated):
        assert observation in env.observation_space
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.reward_function.floor <= reward <= env.reward_function.upper_bound
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert {key: type(value) for key, value in info.items()} == {
            key: type(value) for key, value in first_info.items()
        }
        assert info["evaluations"] + info["budget_left"] == budget
    assert observation in env.observation_space
    assert terminated == (info["evaluations"] == budget)


def test_vectorised_infos_keep_their_dtypes() -> None:
    envs = gym.make_vec("kdnas/Planted-v0", num_envs=3, vectorization_mode="sync", failures=0.5, budget=4)
    envs.action_space.seed(1)
    _, infos = envs.reset(seed=0)
    for _ in range(4):
        *_, infos = envs.step(envs.action_space.sample())
        assert infos["loss"].dtype == infos["latency_ms"].dtype == np.float64
        assert infos["parameters"].dtype == infos["index"].dtype == np.int64
        assert infos["duplicate"].dtype == np.bool_
        assert infos["heldout_curve"].shape == (3, 3)
    assert infos["parameters"].min() > 1_000_000
    envs.close()


def test_pickled_in_mid_search_it_goes_on_alike() -> None:
    env = planted(budget=10, noise=0.1, duplicates="free")
    env.reset(seed=3)
    for index in (7, 400, 7):
        env.step(action(index))
    again: KDNASEnv = pickle.loads(pickle.dumps(env))
    assert [record.evaluation for record in again.history] == [record.evaluation for record in env.history]
    for index in (400, 31, 1199):
        assert data_equivalence(env.step(action(index)), again.step(action(index)), exact=True)
    assert data_equivalence(env.np_random.random(3), again.np_random.random(3), exact=True)


def test_what_it_made_itself_does_not_travel_in_the_pickle() -> None:
    env = KDNASEnv(SPACE, _Factory(), budget=4)
    env.reset()
    env.step(action(0))
    env.on_epoch = lambda report: None
    before = env.evaluator
    again: KDNASEnv = pickle.loads(pickle.dumps(env))
    assert isinstance(again.evaluator, Counting)
    assert again.evaluator.asked == []
    assert again.evaluator is again.evaluator
    assert len(again.history) == 1
    assert again.on_epoch is None
    assert env.evaluator is before
    passed_in: KDNASEnv = pickle.loads(pickle.dumps(make(Counting(asked=[SPACE.decode(action(1))]))))
    assert isinstance(passed_in.evaluator, Counting)
    assert passed_in.evaluator.asked == [SPACE.decode(action(1))]


class _Factory:
    def __call__(self) -> Counting:
        return Counting()


def test_no_global_generator_is_read_or_seeded() -> None:
    before = random.getstate(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    env = planted(budget=5, noise=0.1, failures=0.2, render_mode="rgb_array")
    env.reset(seed=0)
    for index in range(5):
        env.step(action(index))
    env.render()
    assert before == (random.getstate(), pickle.dumps(np.random.get_state()))  # noqa: NPY002


# Semantics ------------------------------------------------------------------------------------------------------


def test_actions_are_architectures() -> None:
    evaluator = Counting()
    env = make(evaluator)
    assert env.action_space == spaces.MultiDiscrete(SPACE.nvec)
    _, reward, _, _, info = env.step(action(123))
    config = SPACE.decode(SPACE.from_index(123))
    assert evaluator.asked == [config]
    (record,) = evaluator.planted.evaluate([config], env.fidelity)
    assert reward == KDReward()(record).reward
    assert info["config"] == str(config)
    assert info["index"] == 123
    assert info["loss"] == record.heldout_unexplained[-1]
    assert info["heldout_curve"].tolist() == list(record.heldout_unexplained)
    assert info["status"] == "ok"
    assert info["parameters"] == record.parameters
    assert record.latency is not None
    assert info["latency_ms"] == record.latency.median_ms
    assert info["speedup"] == pytest.approx(1 / info["latency_ratio"])
    assert reward == pytest.approx(info["quality"] * info["latency_factor"])


def test_the_actions_worth_a_step_are_listed_once_per_buildable_architecture() -> None:
    everything = planted().valid_action_indices
    assert everything is not None
    assert everything.tolist() == list(range(1200))
    env = planted(space=AWKWARD, budget=12)
    env.reset(seed=0)
    worthwhile = []
    for index in range(env.search_space.size):
        *_, info = env.step(env.search_space.from_index(index))
        if info["status"] == "ok" and not info["duplicate"]:
            worthwhile.append(index)
    assert env.valid_action_indices is not None
    assert env.valid_action_indices.tolist() == worthwhile
    assert len(worthwhile) == 2


def test_a_space_too_large_to_list_has_no_list_of_actions() -> None:
    env = planted(space={"intermediate_size": list(range(8, 8008, 8)), "hidden_size": list(range(12, 1224, 12))})
    assert env.search_space.size > 100_000
    assert env.valid_action_indices is None


def test_nothing_is_known_before_the_first_step() -> None:
    env = KDNASEnv(SPACE, Counting(), budget=6, round_size=2)
    observation, info = env.reset(seed=0)
    assert all(not array.any() for array in observation.values())
    assert (info["config"], info["index"], info["status"]) == ("", -1, "none")
    assert (info["evaluations"], info["budget_left"], info["round"]) == (0, 6, 0)
    assert info["heldout_curve"].tolist() == [-1.0, -1.0, -1.0]


def test_bests_follow_the_rounds() -> None:
    env = make(round_size=2, budget=6)
    indices = [10, 700, 300, 20, 900, 30]
    rewards: list[float] = []
    for index in indices:
        observation, reward, terminated, truncated, info = env.step(action(index))
        rewards.append(reward)
        done = len(rewards)
        finished = done // 2
        assert info["round"] == finished
        assert observation["progress"] == pytest.approx(done / 6)
        assert (observation["last"] == action(index) + 1).all()
        assert observation["last_reward"] == np.float32(reward)
        best = int(np.argmax(rewards))
        assert (observation["global_best"] == action(indices[best]) + 1).all()
        assert observation["global_best_reward"] == np.float32(rewards[best])
        if not finished:
            assert not observation["previous_best"].any()
            assert not observation["previous_round"].any()
            continue
        previous = slice(2 * finished - 2, 2 * finished)
        winner = 2 * finished - 2 + int(np.argmax(rewards[previous]))
        assert (observation["previous_best"] == action(indices[winner]) + 1).all()
        assert observation["previous_best_reward"] == np.float32(rewards[winner])
        expected = np.concatenate([action(indices[place]) + 1 for place in range(*previous.indices(6))])
        assert (observation["previous_round"] == expected).all()
        assert (observation["previous_round_rewards"] == np.array(rewards[previous], dtype=np.float32)).all()
        assert terminated == (done == 6)
        assert not truncated
    assert [record.round for record in env.history] == [0, 0, 1, 1, 2, 2]
    assert env.history.best is not None
    assert env.history.best.reward.reward == max(rewards)


@pytest.mark.parametrize(
    ("duplicates", "counted", "reward_is_kept"),
    [("charge", True, True), ("free", False, True), ("reject", False, False)],
)
def test_duplicates_cost_what_the_policy_says(duplicates: str, counted: bool, reward_is_kept: bool) -> None:
    evaluator = Counting()
    env = make(evaluator, duplicates=duplicates)
    _, reward, *_ = env.step(action(5))
    observation, again, _, _, info = env.step(action(5))
    assert evaluator.asked == [SPACE.decode(action(5))]
    assert info["duplicate"] is True
    assert info["counted"] is counted
    assert info["evaluations"] == 1 + counted
    assert info["round"] == int(counted)
    assert again == (reward if reward_is_kept else env.reward_function.floor)
    assert observation["last_reward"] == np.float32(again)
    assert observation["global_best_reward"] == np.float32(reward)
    assert env.history[1].evaluation is env.history[0].evaluation


def test_an_alias_is_a_duplicate() -> None:
    env = planted(space=AWKWARD, budget=5)
    env.reset()
    for alias, duplicate in ((0, False), (1, True)):
        choice = [0, env.search_space.choices["num_attention_heads"].index(12), alias]
        *_, info = env.step(np.array(choice))
        assert info["duplicate"] is duplicate


@pytest.mark.parametrize("duplicates", ["free", "reject"])
def test_endless_repetition_is_truncated(duplicates: str) -> None:
    env = make(duplicates=duplicates, budget=2)
    for step in range(1, 21):
        _, _, terminated, truncated, _ = env.step(action(5))
        assert terminated is False
        assert truncated is (step == 20)
    with pytest.raises(ResetNeeded):
        env.step(action(6))


def test_charged_repetition_spends_the_budget() -> None:
    env = make(duplicates="charge", budget=3)
    assert [env.step(action(5))[2] for _ in range(3)] == [False, False, True]


def test_an_architecture_that_cannot_be_built_is_answered_with_the_penalty() -> None:
    env = planted(space=AWKWARD, budget=3)
    evaluator = env.evaluator
    env.reset()
    invalid = np.array([0, 0, 0])
    observation, reward, terminated, _, info = env.step(invalid)
    assert reward == env.reward_function.floor == -1.0
    assert (info["status"], info["counted"]) == ("invalid", True)
    assert info["error"] == "5 heads do not divide hidden_size 768"
    assert not observation["global_best"].any()
    assert (observation["last"] == invalid + 1).all()
    assert not terminated
    assert env.step(invalid)[4]["duplicate"]
    assert env.evaluator is evaluator


@pytest.mark.parametrize("seats", [0, 2])
def test_the_penalty_can_be_set(seats: int) -> None:
    options: dict[str, Any] = {"space": AWKWARD, "budget": 8, "penalty": 0.3, "duplicates": "reject"}
    invalid, valid = [0, 0, 0], [0, 1, 0]
    if seats:
        envs = gym.make_vec("kdnas/Planted-v0", num_envs=2, **options)
        envs.reset()
        rewards = np.concatenate([envs.step(np.array([invalid, valid]))[1] for _ in range(2)])
        observed = envs.step(np.array([invalid, valid]))[0]["last_reward"][0, 0]
    else:
        env = planted(**options)
        env.reset()
        rewards = np.array([env.step(np.array(action))[1] for action in (invalid, valid, invalid, valid)])
        observed = env.step(np.array(invalid))[0]["last_reward"][0]
    assert rewards[[0, 2, 3]].tolist() == [0.3, 0.3, 0.3]
    assert rewards[1] > 0.3
    assert observed == np.float32(0.3)


def test_the_share_of_students_that_cannot_be_built_is_documented() -> None:
    made: list[Any] = [gym.make(f"kdnas/{name}-v0").unwrapped for name in ("Tabular", "Surrogate")]
    tabular, surrogate = made
    space, rng = surrogate.search_space, np.random.default_rng(0)
    drawn = [space.decode(one) for one in rng.integers(space.nvec, size=(4000, len(space.nvec)))]
    shares = {
        tabular: 1 - len(tabular.valid_action_indices) / tabular.search_space.size,
        surrogate: 1 - np.mean([space.is_valid(config) for config in drawn]),
    }
    for env, share in shares.items():
        told = next(percent for percent in (31, 20) if f"{percent} % of the" in " ".join(str(env.__doc__).split()))
        assert 100 * share == pytest.approx(told, abs=1.5)


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.OUT_OF_MEMORY, Status.FAILED, Status.STOPPED])
def test_failures_are_penalised_and_the_search_goes_on(status: Status) -> None:
    env = make(Counting(broken={SPACE.decode(action(9)): status}), reward=KDReward(floor=-3.0))
    _, reward, terminated, truncated, info = env.step(action(9))
    assert reward == -3.0
    assert (info["status"], info["error"]) == (str(status), "broken")
    assert info["latency_ms"] == 0.0
    assert not terminated
    assert not truncated
    observation, reward, *_ = env.step(action(10))
    assert reward > 0
    assert (observation["previous_best"] == action(10) + 1).all()


def test_a_reset_forgets_the_search_and_keeps_the_evaluator() -> None:
    made: list[Counting] = []

    def factory() -> Counting:
        made.append(Counting())
        return made[-1]

    env = KDNASEnv(SPACE, factory, budget=2, round_size=1)
    assert made == []
    for _ in range(3):
        observation, _ = env.reset()
        assert not observation["global_best"].any()
        assert len(env.history) == 0
        env.step(action(3))
    assert len(made) == 1
    assert len(made[0].asked) == 3
    env.close()
    env.close()
    assert made[0].closed == 1


def test_answers_of_a_table_are_remembered_from_search_to_search() -> None:
    evaluator = Counting()
    evaluator.tabular = True  # type: ignore[attr-defined]
    env = KDNASEnv(SPACE, evaluator, budget=4)
    answers = []
    for _ in range(2):
        env.reset(seed=0)
        answers.append([env.step(action(index)) for index in (3, 4, 3)])
    assert len(evaluator.asked) == 2
    assert data_equivalence(answers[0], answers[1], exact=True)
    assert [answer[4]["duplicate"] for answer in answers[1]] == [False, False, True]
    # The epoch callback is called in every search, also for cached answers, but not for duplicates.
    heard: list[int] = []
    env.on_epoch = lambda report: heard.append(report.epoch)
    env.reset(seed=0)
    env.step(action(3))
    env.step(action(3))
    assert heard == [0, 1, 2]
    # A student that the callback stops is stopped in that search only.
    env.on_epoch = lambda report: report.epoch == 1
    env.reset(seed=0)
    assert env.step(action(5))[4]["status"] == "stopped"
    env.on_epoch = None
    env.reset(seed=0)
    assert env.step(action(5))[4]["status"] == "ok"


def test_the_effort_can_change_between_steps() -> None:
    evaluator = Counting()
    env = make(evaluator, fidelity=Fidelity(4))
    long = env.step(action(3))[4]
    env.fidelity = Fidelity(1)
    short = env.step(action(3))[4]
    assert (short["epochs"], short["duplicate"], short["config"]) == (1, False, long["config"])
    assert short["loss"] > long["loss"]
    assert short["heldout_curve"].shape == long["heldout_curve"].shape
    assert env.step(action(3))[4]["duplicate"] is True
    env.fidelity = Fidelity(4)
    assert env.step(action(3))[4]["duplicate"] is True
    assert len(evaluator.asked) == 2
    with pytest.raises(
        KDNASError, match="the fidelity has 5 epochs; expected at most 4, the epochs that the environment was made with"
    ):
        env.fidelity = Fidelity(5)


def test_parameters_are_told_beside_the_actions_worth_a_step() -> None:
    env = make()
    assert env.valid_action_indices is not None
    assert env.parameter_counts is not None
    assert env.parameter_counts.shape == env.valid_action_indices.shape
    for place in (0, 5, -1):
        step = SPACE.from_index(int(env.valid_action_indices[place]))
        assert env.step(step)[4]["parameters"] == env.parameter_counts[place]


def test_an_evaluator_that_was_passed_in_is_not_closed() -> None:
    evaluator = Counting()
    make(evaluator).close()
    assert evaluator.closed == 0


def test_a_reset_option_sets_the_budget_of_one_episode() -> None:
    env = make(budget=6)
    env.reset(options={"budget": 1})
    observation, _, terminated, _, info = env.step(action(0))
    assert terminated
    assert observation["progress"] == 1.0
    assert info["budget_left"] == 0
    assert env.reset()[1]["budget_left"] == 6


def test_an_interrupted_step_leaves_the_search_as_it_was() -> None:
    env = make()
    env.step(action(0))

    def interrupt(report: object) -> None:
        raise KeyboardInterrupt

    env.on_epoch = interrupt
    with pytest.raises(KeyboardInterrupt):
        env.step(action(1))
    env.on_epoch = None
    assert len(env.history) == 1
    assert env.step(action(1))[4]["duplicate"] is False


def test_epochs_are_reported_and_can_stop_a_student() -> None:
    env = make(fidelity=Fidelity(4))
    env.on_epoch = lambda report: report.epoch == 2
    _, reward, _, _, info = env.step(action(8))
    assert info["status"] == "stopped"
    assert reward == env.reward_function.floor
    assert (info["heldout_curve"][:3] > 0).all()
    assert info["heldout_curve"][3:].tolist() == [-1.0, -1.0]


def test_returned_arrays_are_the_callers_own() -> None:
    env = make()
    observation, _, _, _, info = env.step(action(8))
    observation["last"][:] = 0
    info["heldout_curve"][:] = 0
    observation, _, _, _, _ = env.step(action(9))
    assert env.history[0].action == tuple(action(8))
    assert env.history[0].evaluation.heldout_unexplained[0] > 0


# Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([0, 0, 0, 0]), r"action has shape \(4,\); expected \(5,\)"),
        (np.zeros(5), "action has dtype float64; expected integers"),
        (np.array([0, 0, 2, 0, 0]), "hidden_size is 2, expected 0 to 1"),
        (np.array([0, 0, 0, 0, -1]), "hidden_act is -1, expected 0 to 2"),
        (3, r"action has shape \(\); expected \(5,\)"),
    ],
)
def test_actions_outside_the_space_raise_and_cost_nothing(bad: Any, message: str) -> None:
    env = make()
    with pytest.raises(SpaceError, match=message):
        env.step(bad)
    assert len(env.history) == 0


def test_steps_outside_an_episode_raise() -> None:
    env = KDNASEnv(SPACE, Counting(), budget=1)
    with pytest.raises(ResetNeeded, match=r"no search is running: call reset\(\) before the first step"):
        env.step(action(0))
    env.reset()
    env.step(action(0))
    with pytest.raises(ResetNeeded, match="after the end of an episode"):
        env.step(action(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget is 0; expected a whole number of evaluations, at least 1"),
        ({"budget": -5}, "budget is -5; expected"),
        ({"budget": 2.5}, "budget is 2.5; expected"),
        ({"budget": True}, "budget is True; expected"),
        ({"round_size": 0}, "round_size is 0; expected"),
        ({"duplicates": "ignore"}, r"duplicates is 'ignore'; expected one of \['charge', 'free', 'reject'\]"),
        ({"render_mode": "human"}, r"render_mode is 'human'; expected None or one of \['ansi', 'rgb_array'\]"),
        ({"budget": 1201, "duplicates": "free"}, "budget is 1201, but the space has 1200 points"),
        ({"budget": 1201, "duplicates": "reject"}, "lower the budget or use duplicates='charge'"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        KDNASEnv(SPACE, Counting(), **options)


def test_bad_reset_options_are_refused() -> None:
    env = make()
    with pytest.raises(KDNASError, match=r"unknown reset option\(s\) \['bugdet'\]; the only option is 'budget'"):
        env.reset(options={"bugdet": 3})
    with pytest.raises(KDNASError, match="budget is 0; expected"):
        env.reset(options={"budget": 0})


# Recorded evaluations, and early stopping -----------------------------------------------------------------------


def test_an_evaluation_that_was_made_elsewhere_is_answered_as_a_step_would() -> None:
    stepped, recorded = make(), make()
    evaluation = PlantedEvaluator(SPACE).evaluate([SPACE.decode(action(8))], Fidelity())[0]
    answers = recorded.record(action(8), evaluation)
    assert data_equivalence(answers, stepped.step(action(8)), exact=True)
    assert isinstance(recorded.evaluator, Counting)
    assert recorded.evaluator.asked == []
    # A second record of the same student is a duplicate; the first answer stays.
    worse = replace(evaluation, heldout_unexplained=(1.0, 0.9))
    _, reward, _, _, info = recorded.record(action(8), worse)
    assert (reward, info["duplicate"]) == (answers[1], True)
    with pytest.raises(SpaceError):
        recorded.record(action(8) + 99, evaluation)


def test_a_stopped_student_from_elsewhere_is_stopped_for_that_search_only() -> None:
    evaluator = Counting()
    evaluator.tabular = True  # type: ignore[attr-defined]
    env = make(evaluator)
    (whole,) = evaluator.planted.evaluate([SPACE.decode(action(5))], Fidelity())
    assert env.record(action(5), replace(whole, status=Status.STOPPED, latency=None))[4]["status"] == "stopped"
    env.reset()
    assert env.step(action(5))[4]["status"] == "ok"


@pytest.mark.parametrize("vector", [False, True])
def test_early_stopping_compares_the_students_of_one_search(vector: bool) -> None:
    """Scalar and vector environments both report every epoch and every evaluation to the stopping rule."""

    def search() -> list[Status]:
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        points = rng.permutation(SPACE.size)[:24].tolist()
        if vector:
            for start in range(0, 24, 4):
                env.step(np.array([action(index) for index in points[start : start + 4]]))
        else:
            for index in points:
                env.step(action(index))
        return [record.evaluation.status for record in env.history]

    env: Any = make(budget=24, round_size=4, fidelity=Fidelity(epochs=4), stop=StoppingRule("median", 4))
    if vector:
        env = KDNASVectorEnv(env, 4)
    first = search()
    assert first.count(Status.STOPPED) >= 3
    assert first.count(Status.OK) >= 3
    assert search() == first


# Limits ---------------------------------------------------------------------------------------------------------

SPEEDUP = 3.0


def limited(**options: Any) -> KDNASEnv:
    return make(**{"limits": {"speedup": SPEEDUP, "keep": 0.2}, "budget": 20, **options})


def test_what_breaks_a_limit_is_told_and_costs_no_evaluation() -> None:
    env, plain = limited(), make(budget=20)
    infeasible = 0
    for index in range(0, SPACE.size, SPACE.size // 19):
        observation, reward, terminated, _, info = env.step(action(index))
        _, usual, _, _, before = plain.step(action(index))
        assert env.observation_space.contains(observation)
        assert set(info["costs"]) == {"speedup", "keep"}
        assert info["cost"] == pytest.approx(sum(info["costs"].values()))
        assert (info["cost"] > 0) == (before["speedup"] < SPEEDUP or before["quality"] < 0.2)
        if before["speedup"] < SPEEDUP:
            infeasible += 1
            assert (info["status"], info["counted"]) == ("infeasible", False)
            assert info["speedup"] == before["speedup"]
            assert (info["heldout_curve"] == -1).all()
        else:
            assert (info["status"], info["counted"]) == ("ok", True)
        assert reward == usual if info["cost"] == 0 else reward < env.reward_function.floor
        assert info["evaluations"] + infeasible == len(env.history)
        if terminated:
            break
    assert 0 < infeasible < len(env.history)
    best = env.history.best
    assert best is not None
    assert best.reward.cost == 0
    assert best.reward.speedup >= SPEEDUP


def test_what_breaks_a_limit_can_be_charged_and_ends_no_search_for_ever() -> None:
    env = limited(infeasible="charge", budget=3)
    slow = action(SPACE.size - 1)
    assert env.step(slow)[4]["counted"] is True
    env = limited(budget=2, limits={"speedup": 1e9})
    for index in range(20):
        _, _, terminated, truncated, info = env.step(action(index))
    assert (terminated, truncated, info["evaluations"], env.history.best) == (False, True, 0, None)


def test_costs_can_be_left_to_the_algorithm() -> None:
    env, plain = limited(constraints="cost"), make(budget=20)
    for index in range(0, SPACE.size, SPACE.size // 15):
        _, reward, _, _, info = env.step(action(index))
        _, usual, _, _, before = plain.step(action(index))
        assert reward == usual
        assert info["status"] == before["status"]
        assert (info["cost"] > 0) == (before["speedup"] < SPEEDUP or before["quality"] < 0.2)
    best = env.history.best
    assert best is None or best.reward.speedup >= SPEEDUP


def test_malformed_limits_are_refused() -> None:
    with pytest.raises(KDNASError, match="limits are"):
        make(limits={"speed": 2})
    with pytest.raises(KDNASError, match="constraints is 'none'; expected one of"):
        limited(constraints="none")
    with pytest.raises(KDNASError, match="infeasible is 'no'; expected one of"):
        limited(infeasible="no")


@pytest.mark.parametrize("agent", ["random", "evolution", "local-search", "lstm", "optuna"])
def test_an_agent_spends_its_budget_on_students_that_keep_the_limits(agent: str) -> None:
    env = limited(budget=16, round_size=4)
    result = kdnas_env.make_agent(agent).search(env, seed=1)
    counted = [record for record in env.history if record.counted]
    assert len(counted) == 16
    assert len(env.history) > 16
    assert result.best is not None
    assert result.infos[result.best.index]["cost"] == 0


@pytest.mark.parametrize("constraints", ["reward", "cost"])
def test_an_agent_searches_seats_under_limits(constraints: str) -> None:
    vector = KDNASVectorEnv(limited(budget=16, constraints=constraints), 4)
    result = kdnas_env.make_agent("random").search(vector, seed=1)
    assert result.best is not None
    assert result.infos[result.best.index]["costs"] == {"speedup": 0.0, "keep": 0.0}
    assert {info["status"] for info in result.infos} == {"ok"} | ({"infeasible"} if constraints == "reward" else set())


def test_seats_are_told_what_one_after_the_other_is() -> None:
    env, vector = limited(round_size=4), KDNASVectorEnv(limited(), 4)
    vector.reset(seed=0)
    rng = np.random.default_rng(3)
    for _ in range(3):
        batch = np.array([action(int(index)) for index in rng.integers(SPACE.size, size=4)])
        infos = vector.step(batch)[4]
        for seat, one in enumerate(batch):
            info = env.step(one)[4]
            assert {name: infos["costs"][name][seat] for name in info["costs"]} == info["costs"]
            assert (infos["cost"][seat], infos["counted"][seat]) == (info["cost"], info["counted"])
            assert infos["_costs"][seat]
            assert infos["costs"]["_keep"][seat]
