"""The vector environment: one search, in which a step is a round, evaluated as one batch."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochCallback, Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.book import DUPLICATES
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.envs.vector import KDNASVectorEnv
from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
AWKWARD = {"num_hidden_layers": [3, 6, 24], "num_attention_heads": [5, 12], "hidden_act": ["gelu", "gelu_python"]}
STATE = ("evaluations", "budget_left", "round")
MODES = [mode.value for mode in AutoresetMode]


@dataclass
class Batches:
    """A planted evaluator that records each batch."""

    space: SearchSpace = SPACE
    deterministic: bool = True
    asked: list[list[StudentConfig]] = field(default_factory=list)
    closed: int = 0

    @property
    def fingerprint(self) -> str:
        raise AssertionError("computing the fingerprint may load the teacher")

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        self.asked.append(list(configs))
        return PlantedEvaluator(self.space).evaluate(configs, fidelity, on_epoch=on_epoch)

    def close(self) -> None:
        self.closed += 1


def make(num_envs: int = 2, evaluator: Any = None, *, mode: str = "NextStep", **options: Any) -> KDNASVectorEnv:
    space = options.pop("space", SPACE)
    env = KDNASEnv(space, evaluator or PlantedEvaluator(space), **{"budget": 12, **options})
    vector = KDNASVectorEnv(env, num_envs, autoreset_mode=mode)
    vector.reset(seed=0)
    return vector


def actions(*indices: int, space: SearchSpace = SPACE) -> np.ndarray:
    return np.array([space.from_index(index) for index in indices])


# Equivalence with the scalar environment ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*will not be spent:UserWarning")
@settings(max_examples=40, deadline=None)
@given(
    duplicates=st.sampled_from(DUPLICATES),
    seats=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    awkward=st.booleans(),
    unit=st.sampled_from(["evaluations", "epochs"]),
)
def test_a_step_is_a_round_of_the_scalar_environment(
    duplicates: str, seats: int, seed: int, awkward: bool, unit: str
) -> None:
    space = SearchSpace.from_dict(AWKWARD, PLANTED_TEACHER) if awkward else SPACE
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"duplicates": duplicates, "budget": 12, "budget_unit": unit, "fidelity": Fidelity(2)}
    if unit == "epochs":
        options["budget"] = 24
    vector = make(seats, space=space, **options)
    scalar = KDNASEnv(space, PlantedEvaluator(space), round_size=seats, **options)
    scalar.reset(seed=0)
    for _ in range(12 // seats):
        batch = rng.integers(np.minimum(space.nvec, 2), size=(seats, len(space.nvec)))
        observation, rewards, terminations, truncations, infos = vector.step(batch)
        answers = [scalar.step(action) for action in batch]
        assert rewards.tolist() == [answer[1] for answer in answers]
        assert observation in vector.observation_space
        for seat, (own, _, _, _, info) in enumerate(answers):
            for name, value in info.items():
                if name not in STATE and name != "error":
                    assert np.array_equal(infos[name][seat], value), name
            assert infos.get("error", [""] * seats)[seat] == info["error"]
            for name in ("last", "last_reward"):
                assert np.array_equal(observation[name][seat], own[name])
        assert infos["evaluations"].tolist() == [info["evaluations"]] * seats
        assert infos["budget_left"].tolist() == [info["budget_left"]] * seats
        if duplicates == "charge":  # otherwise rounds of the scalar environment end at other steps
            for name in ("previous_best", "previous_best_reward", "global_best", "global_best_reward", "progress"):
                assert (observation[name] == own[name]).all(), name
        assert [*vector.history] == [*scalar.history][: len(vector.history)]
        if terminations.any() or truncations.any():
            break
        assert not answers[-1][2]


def test_the_dtypes_are_those_of_sync_vector_env() -> None:
    seats = make(3)
    sync = gym.make_vec("kdnas/Planted-v0", num_envs=3, vectorization_mode="sync")
    batch = actions(3, 4, 5)
    for ours, theirs in ((seats.reset(seed=1), sync.reset(seed=1)), (seats.step(batch)[::4], sync.step(batch)[::4])):
        for part in (0, 1):
            for name, array in ours[part].items():
                assert array.shape == theirs[part][name].shape, name
                assert array.dtype == theirs[part][name].dtype, name
        assert set(theirs[1]) - set(ours[1]) == {"error", "_error"}
        assert set(theirs[0]) - set(ours[0]) == {"previous_round", "previous_round_rewards"}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_independent_searches_side_by_side(vectorization: str) -> None:
    """The scalar environment works in Gymnasium's own vector environments."""
    kwargs: dict[str, Any] = {"vector_kwargs": {"context": "spawn"}} if vectorization == "async" else {}
    vector = gym.make_vec("kdnas/Planted-v0", 2, vectorization_mode=vectorization, budget=2, round_size=1, **kwargs)
    try:
        vector.reset(seed=0)
        _, _, terminations, _, infos = vector.step(actions(1, 2))
        assert not terminations.any()
        assert infos["evaluations"].tolist() == [1, 1]
        assert vector.step(actions(3, 4))[2].all()
        _, rewards, _, _, infos = vector.step(actions(3, 4))
        assert rewards.tolist() == [0, 0]
        assert infos["status"].tolist() == ["none", "none"]
    finally:
        vector.close()


# Evaluation in batches ------------------------------------------------------------------------------------------


def test_a_round_is_evaluated_as_one_batch_without_what_is_known() -> None:
    evaluator = Batches()
    vector = make(4, evaluator)
    vector.step(actions(7, 8, 7, 9))
    vector.step(actions(8, 10, 11, 10))
    vector.step(actions(7, 8, 9, 10))
    asked = [[SPACE.index(SPACE.encode(config)) for config in batch] for batch in evaluator.asked]
    assert asked == [[7, 8, 9], [10, 11]]
    vector.reset()
    vector.step(actions(7, 8, 9, 10))
    assert len(evaluator.asked[-1]) == 4


def test_aliases_and_impossible_students_are_not_evaluated_twice() -> None:
    space = SearchSpace.from_dict(AWKWARD, PLANTED_TEACHER)
    evaluator = Batches(space)
    vector = make(4, evaluator, space=space)
    # 3 layers with gelu under both names, 5 heads, 24 layers.
    _, rewards, _, _, infos = vector.step(np.array([[0, 1, 0], [0, 1, 1], [0, 0, 0], [2, 1, 0]]))
    assert [len(batch) for batch in evaluator.asked] == [1]
    assert infos["duplicate"].tolist() == [False, True, False, False]
    assert infos["status"].tolist() == ["ok", "ok", "invalid", "invalid"]
    assert rewards[0] == rewards[1] > 0
    assert rewards[2] == rewards[3] == vector.reward_function.floor
    assert "5 heads do not divide" in infos["error"][2]
    assert "more than the teacher's 12" in infos["error"][3]


def test_a_round_in_which_all_fail_has_no_best() -> None:
    space = SearchSpace.from_dict(AWKWARD, PLANTED_TEACHER)
    vector = make(2, space=space)
    observation = vector.step(np.array([[0, 0, 0], [2, 1, 0]]))[0]
    assert not observation["previous_best"].any()
    assert not observation["global_best"].any()
    assert observation["last"].all()


def test_what_is_known_is_seldom_copied_as_it_grows() -> None:
    """Otherwise, the time of a search would grow with the square of its length."""
    envs = make(num_envs=1, budget=500)
    envs.reset(seed=0)
    arrays: list[Any] = []
    for index in range(500):
        envs.step(actions(index))
        if not arrays or arrays[-1] is not envs._kept.columns.rewards:
            arrays.append(envs._kept.columns.rewards)
    assert len(arrays) <= 1 + np.ceil(np.log2(500))


def test_spaces_too_large_for_an_array() -> None:
    choices = {"intermediate_size": list(range(8, 8 * 4001, 8)), "hidden_size": list(range(12, 12 * 65, 12))}
    space = SearchSpace.from_dict(
        {**choices, "num_hidden_layers": [*range(1, 13)], "max_parameters": 9**9}, PLANTED_TEACHER
    )
    space = SearchSpace.from_dict({**space.to_dict(), "hidden_act": ["gelu", "relu", "silu", "tanh"]}, PLANTED_TEACHER)
    assert space.size > 10_000_000
    vector = make(2, space=space)
    batch = space.nvec[None] - np.array([[1], [2]])
    first = vector.step(batch)
    again = vector.step(batch)
    assert again[1].tolist() == first[1].tolist()
    assert again[4]["duplicate"].all()


def test_epochs_are_reported_and_can_stop_a_student() -> None:
    vector = make(2, fidelity=Fidelity(4))
    vector.on_epoch = lambda report: report.candidate == 1 and report.epoch == 2
    _, rewards, _, _, infos = vector.step(actions(8, 9))
    assert infos["status"].tolist() == ["ok", "stopped"]
    assert rewards[1] == vector.reward_function.floor
    assert (infos["heldout_curve"][1][3:] == -1).all()
    vector.on_epoch = None
    vector.reset()
    assert vector.step(actions(8, 9))[4]["status"].tolist() == ["ok", "ok"]


# Episodes -------------------------------------------------------------------------------------------------------

# Budget 4, 2 sub-environments. Per step: whether rewards are positive, terminated, evaluations in the infos.
TABLES: dict[str, list[Any]] = {
    "NextStep": [(True, False, 2), (True, True, 4), (False, False, 0), (True, False, 2), (True, True, 4)],
    "SameStep": [(True, False, 2), (True, True, 0), (True, False, 2), (True, True, 0)],
    "Disabled": [(True, False, 2), (True, True, 4), "reset", (True, False, 2), (True, True, 4)],
}


@pytest.mark.parametrize("mode", MODES)
def test_autoreset_step_by_step(mode: str) -> None:
    vector = make(2, mode=mode, budget=4)
    assert vector.metadata["autoreset_mode"] is AutoresetMode(mode)
    for index, row in enumerate(TABLES[mode]):
        if row == "reset":
            with pytest.raises(ResetNeeded, match="call reset"):
                vector.step(actions(1, 2))
            observation, infos = vector.reset(options={"reset_mask": np.array([True, True])})
            assert infos["evaluations"].tolist() == [0, 0]
            assert not observation["global_best"].any()
            continue
        earns, ends, evaluations = row
        observation, rewards, terminations, truncations, infos = vector.step(actions(2 * index + 1, 2 * index + 2))
        assert (rewards > 0).all() == earns
        assert terminations.tolist() == [ends, ends]
        assert not truncations.any()
        assert infos["evaluations"].tolist() == [evaluations] * 2
        assert infos["_evaluations"].all()
        assert observation["progress"].ravel().tolist() == [evaluations / 4] * 2
        assert observation["last"].all() == (evaluations > 0)
        assert ("final_info" in infos) == (mode == "SameStep" and ends)


def test_the_end_of_a_search_under_same_step_is_told_as_sync_vector_env_does() -> None:
    vector = make(2, mode="SameStep", budget=2)
    sync = gym.make_vec(
        "kdnas/Planted-v0",
        2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        budget=1,
        round_size=1,
    )
    sync.reset(seed=0)
    ours, theirs = vector.step(actions(5, 6))[4], sync.step(actions(5, 6))[4]
    for name in ("_final_obs", "_final_info"):
        assert ours[name].tolist() == theirs[name].tolist() == [True, True]
    for seat in range(2):
        assert ours["final_obs"][seat] in vector.single_observation_space
        for name in ("last", "last_reward"):
            assert np.array_equal(ours["final_obs"][seat][name], theirs["final_obs"][seat][name])
    for name in ("config", "loss", "speedup", "heldout_curve", "status", "_loss"):
        assert np.array_equal(ours["final_info"][name], theirs["final_info"][name]), name
    assert ours["final_info"]["evaluations"].tolist() == [2, 2]
    assert ours["status"].tolist() == ["none", "none"]


@pytest.mark.filterwarnings("ignore:.*will not be spent:UserWarning")
@pytest.mark.parametrize(("seats", "budget", "rounds"), [(3, 9, 3), (3, 10, 3), (4, 7, 1), (1, 2, 2)])
def test_the_budget_is_spent_in_whole_rounds_and_never_exceeded(seats: int, budget: int, rounds: int) -> None:
    vector = make(seats, budget=budget)
    assert vector.max_evaluations == rounds * seats
    for step in range(rounds):
        batch = actions(*range(step * seats, (step + 1) * seats))
        _, _, terminations, _, infos = vector.step(batch)
        assert terminations.all() == (step == rounds - 1)
    assert infos["evaluations"][0] <= budget
    assert infos["budget_left"][0] == budget - rounds * seats


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 10}, "1 of the budget of 10 evaluations will not be spent, since a round of 3 .* set budget=9"),
        (
            {"budget": 20, "budget_unit": "epochs", "epochs": 2},
            "2 of the budget of 20 epochs will not be spent, since a round of 3 sub-environments takes 6; set "
            "budget=18",
        ),
    ],
)
def test_a_budget_that_is_no_whole_rounds_is_warned_of(options: dict[str, Any], message: str) -> None:
    vector = gym.make_vec("kdnas/Planted-v0", num_envs=3, **options)
    with pytest.warns(UserWarning, match=message):
        vector.reset(seed=0)
    # A reset warns about its own budget only: 12 makes whole rounds of 3 (warnings are errors here).
    vector.reset(seed=0, options={"budget": 12})


def test_budgets_in_seconds_end_when_they_are_spent() -> None:
    vector = make(2, budget=1e-9, budget_unit="seconds")
    assert vector.max_evaluations is None
    assert vector.step(actions(1, 2))[2].all()


@pytest.mark.parametrize("duplicates", ["free", "reject"])
def test_endless_repetition_is_truncated(duplicates: str) -> None:
    vector = make(2, budget=4, duplicates=duplicates)
    for step in range(1, 21):
        _, rewards, terminations, truncations, infos = vector.step(actions(5, 5))
        assert not terminations.any()
        assert truncations.all() == (step == 20)
    assert infos["counted"].tolist() == [False, False]
    assert infos["evaluations"].tolist() == [1, 1]
    assert (rewards == vector.reward_function.floor).all() == (duplicates == "reject")


def test_a_reset_option_sets_the_budget_of_one_search() -> None:
    vector = make(2, budget=12)
    vector.reset(options={"budget": 2})
    assert vector.step(actions(1, 2))[2].all()
    assert vector.reset()[1]["budget_left"].tolist() == [12, 12]


# Gymnasium conventions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_made_by_name_and_again_from_its_spec(mode: str) -> None:
    vector = gym.make_vec("kdnas/Planted-v0", num_envs=3, autoreset_mode=mode, budget=6, noise=0.1)
    assert isinstance(vector.unwrapped, KDNASVectorEnv)
    assert vector.spec is not None
    spec = EnvSpec.from_json(json.dumps(json.loads(vector.spec.to_json())))
    again = gym.make_vec(spec)
    for one in (vector, again):
        one.reset(seed=0)
    assert data_equivalence(vector.step(actions(4, 5, 6)), again.step(actions(4, 5, 6)), exact=True)
    assert again.metadata["autoreset_mode"] is AutoresetMode(mode)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_gymnasium_are_right(mode: str) -> None:
    vector = gym.wrappers.vector.RecordEpisodeStatistics(make(2, mode=mode, budget=4))
    vector.reset(seed=0)
    _, first, *_ = vector.step(actions(1, 2))
    _, second, _, _, infos = vector.step(actions(3, 4))
    assert infos["episode"]["l"].tolist() == [2, 2]
    assert np.allclose(infos["episode"]["r"], first + second)


def test_pickled_in_mid_search_it_goes_on_alike() -> None:
    vector = make(2)
    vector.step(actions(1, 2))
    copy = pickle.loads(pickle.dumps(vector))
    assert data_equivalence(vector.step(actions(2, 9)), copy.step(actions(2, 9)), exact=True)
    assert [*vector.history] == [*copy.history]


def test_returned_arrays_are_the_callers_own() -> None:
    vector = make(2)
    observation, rewards, _, _, infos = vector.step(actions(8, 9))
    expected = vector.step(actions(8, 9))
    for array in (*observation.values(), rewards, infos["heldout_curve"], infos["loss"], infos["parameters"]):
        array[...] = 0
    assert [record.action for record in vector.history[:2]] == [tuple(action) for action in actions(8, 9)]
    again = vector.step(actions(8, 9))
    assert np.array_equal(again[1], expected[1])
    assert np.array_equal(again[0]["global_best"], expected[0]["global_best"])
    assert np.array_equal(again[4]["heldout_curve"], expected[4]["heldout_curve"])


def test_it_closes_what_it_made() -> None:
    made: list[Batches] = []

    def factory() -> Batches:
        made.append(Batches())
        return made[-1]

    vector = KDNASVectorEnv(KDNASEnv(SPACE, factory, budget=4), 2)
    assert made == []
    vector.reset()
    vector.close()
    assert made[0].closed == 1


def test_pictures_and_texts() -> None:
    vector = make(2, render_mode="ansi")
    vector.step(actions(1, 2))
    text, other = vector.render() or ("", "")
    assert text == other
    assert "2 of 12 evaluations, round 2 of 6" in text
    assert make(2).render() is None


# Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 5), dtype=np.int64), r"of shape \(3, 5\); expected integers of shape \(2, 5\)"),
        (np.zeros((2, 5)), "float64"),
        (np.array([[0, 0, 0, 0, 0], [0, 0, 2, 0, 0]]), "hidden_size is 2, expected 0 to 1"),
        (np.array([[0, 0, 0, 0, -1], [0, 0, 0, 0, 0]]), "hidden_act is -1, expected 0 to 2"),
    ],
)
def test_actions_outside_the_space_raise_and_cost_nothing(bad: Any, message: str) -> None:
    vector = make()
    with pytest.raises(SpaceError, match=message):
        vector.step(bad)
    assert len(vector.history) == 0


def test_steps_before_the_first_reset_raise() -> None:
    vector = KDNASVectorEnv(KDNASEnv(SPACE, PlantedEvaluator(SPACE), budget=4), 2)
    with pytest.raises(ResetNeeded, match="call reset"):
        vector.step(actions(1, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"num_envs": 13}, "budget is 12 evaluations, less than one round of 13 sub-environments"),
        ({"mode": "Sometimes"}, "autoreset_mode is 'Sometimes'; expected one of"),
        ({"budget_unit": "hours"}, "budget_unit is 'hours'"),
        ({"num_envs": 4, "budget_unit": "epochs", "budget": 7}, "budget is 7 epochs, less than one round"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        make(**options)


def test_bad_reset_options_are_refused() -> None:
    vector = make(2)
    with pytest.raises(KDNASError, match="expected true for all 2 sub-environments"):
        vector.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(KDNASError, match=r"unknown reset option\(s\) \['colour'\]"):
        vector.reset(options={"colour": 1})
    with pytest.raises(KDNASError, match="less than one round"):
        vector.reset(options={"budget": 1})
    with pytest.raises(KDNASError, match="leave it out and set num_envs"):
        gym.make_vec("kdnas/Planted-v0", num_envs=2, round_size=4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4", None])
def test_actions_may_be_of_any_width_or_lists(dtype: Any) -> None:
    env, expected = make(2), make(2)
    for each in (env, expected):
        each.reset(seed=0)
    actions = np.zeros_like(env.action_space.sample())
    given: Any = actions.tolist() if dtype is None else actions.astype(dtype)
    ours, theirs = env.step(given), expected.step(actions)
    assert data_equivalence(ours, theirs, exact=True)


@pytest.mark.parametrize("options", [3, "budget", ["budget"], {3: 4}, {"reset_mask": "x"}, {"reset_mask": [[True]]}])
def test_options_of_other_types_are_refused(options: Any) -> None:
    with pytest.raises(KDNASError, match=r"options of reset are|unknown reset option|reset_mask is"):
        make(2).reset(options=options)
