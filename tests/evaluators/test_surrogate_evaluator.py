from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_tables import planted_table

import kdnas_env
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluator, Fidelity, Status
from kdnas_env.core.space import LARGEST_ENUMERATION, SearchSpace
from kdnas_env.envs.surrogate import SurrogateEnv
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.evaluators.planted import PLANTED_TEACHER
from kdnas_env.evaluators.surrogate import SurrogateEvaluator, surrogate_space
from kdnas_env.tables.storage import write_table
from kdnas_env.tables.surrogates.inputs import Range
from kdnas_env.tables.surrogates.storage import write_surrogate
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.testing.environments import EnvironmentConformance, MakeEnv
from kdnas_env.testing.evaluators import EvaluatorConformance

SPACE: dict[str, Any] = {
    "num_hidden_layers": [3, 6, 12],
    "num_attention_heads": [4, 12],
    "hidden_size": [384, 768],
    "intermediate_size": [768, 3072],
    "hidden_act": ["gelu", "relu"],
}
NOISE = 0.05
TABLE = planted_table(SPACE, noise=NOISE, max_parameters=90_000_000)
SURROGATE = Surrogate.fit(TABLE)
BETWEEN = [StudentConfig(5, 6, 480, 1024), StudentConfig(7, 4, 396, 2000, "relu"), StudentConfig(3, 12, 768, 800)]


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "planted.npz"
    write_table(TABLE, path)
    return path


class TestSurrogate(EvaluatorConformance):
    @pytest.fixture(params=["mean", 1, "sample"])
    def evaluator(self, request: pytest.FixtureRequest) -> Evaluator:
        return SurrogateEvaluator(SURROGATE, seed=request.param)

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        return BETWEEN


class TestSurrogateEnv(EnvironmentConformance):
    @pytest.fixture(params=["mean", "sample"])
    def make_env(self, request: pytest.FixtureRequest, table_file: Path) -> MakeEnv:
        return lambda **changes: gym.make(
            "kdnas/Surrogate-v0", **{"table": str(table_file), "seed": request.param, **changes}
        )


def test_the_mean_is_what_the_surrogate_predicts() -> None:
    mean = SURROGATE.predict(BETWEEN)[0]
    found = SurrogateEvaluator(SURROGATE).evaluate(BETWEEN, Fidelity(epochs=2))
    for row, one in enumerate(found):
        assert one.heldout_unexplained == pytest.approx(mean.curves[row, :3, 3])
        assert one.latency is not None
        assert [one.latency.median_ms, one.latency.ratio] == pytest.approx(mean.latencies[row, 0])
        assert one.wall_seconds == pytest.approx(sum(one.epoch_seconds))


def test_draws_depend_on_student_and_seed_alone_and_are_as_large_as_in_the_table() -> None:
    evaluator = SurrogateEvaluator(SURROGATE, seed="sample")
    configs = TABLE.configs()
    losses = np.array(
        [
            [one.heldout_unexplained[-1] for one in evaluator.evaluate(configs, Fidelity(epochs=3, seed=seed))]
            for seed in range(40)
        ]
    )
    mean = [one.heldout_unexplained[-1] for one in SurrogateEvaluator(SURROGATE).evaluate(configs, Fidelity(epochs=3))]
    deviations = np.log(losses / mean)
    assert deviations.std() == pytest.approx(NOISE, rel=0.25)
    assert abs(deviations.mean()) < NOISE / 5
    # Draws of two students are independent, and so are those of two seeds.
    assert np.abs(np.corrcoef(deviations.T)[np.triu_indices(len(configs), 1)]).mean() < 0.2
    fixed = SurrogateEvaluator(SURROGATE, seed=7)
    answers = [fixed.evaluate(BETWEEN, Fidelity(epochs=3, seed=seed))[0].heldout_unexplained for seed in (0, 1)]
    assert answers[0] == answers[1]
    sampled = evaluator.evaluate(BETWEEN, Fidelity(epochs=3, seed=7))[0]
    assert sampled.heldout_unexplained == answers[0]


def test_fingerprints_tell_settings_apart() -> None:
    spaces = SearchSpace.from_dict({**SPACE, "max_parameters": 90_000_000}, PLANTED_TEACHER)
    evaluators = [
        SurrogateEvaluator(SURROGATE),
        SurrogateEvaluator(SURROGATE, seed=1),
        SurrogateEvaluator(SURROGATE, extrapolate=True),
        SurrogateEvaluator(SURROGATE, search_space=spaces),
        SurrogateEvaluator(Surrogate.fit(planted_table(SPACE, noise=0.01))),
    ]
    assert len({one.fingerprint for one in evaluators}) == 5
    assert SurrogateEvaluator(Surrogate.fit(TABLE)).fingerprint == evaluators[0].fingerprint


def test_the_derived_space_stays_in_the_range_of_the_table() -> None:
    trusted = Range.of(TABLE)
    space = surrogate_space(TABLE.metadata, trusted)
    assert space.size > LARGEST_ENUMERATION
    assert space.choices["num_hidden_layers"] == tuple(range(3, 13))
    assert space.choices["num_attention_heads"] == (4, 6, 12)
    assert space.choices["hidden_act"] == ("gelu", "relu")
    assert (space.choices["hidden_size"][0], space.choices["hidden_size"][-1]) == (384, 768)
    assert space.max_parameters == 90_000_000
    rng = np.random.default_rng(0)
    configs = [space.decode(space.sample(rng)) for _ in range(200)]
    assert [trusted.outside(config) for config in configs] == [None] * 200
    wide = surrogate_space(TABLE.metadata, trusted, extrapolate=True)
    assert wide.size > max(space.size, 10**6)
    assert wide.choices["num_hidden_layers"] == tuple(range(1, 13))
    assert wide.choices["num_attention_heads"] == (1, 2, 3, 4, 6, 12)
    assert wide.max_parameters == 90_000_000


def test_what_cannot_be_built_is_invalid_and_what_is_too_far_an_error() -> None:
    evaluator = SurrogateEvaluator(SURROGATE)
    fine, heads, large = evaluator.evaluate(
        [BETWEEN[0], StudentConfig(5, 5, 384, 1024), StudentConfig(12, 12, 768, 3072)], Fidelity(epochs=1)
    )
    assert (fine.status, heads.status, large.status) == (Status.OK, Status.INVALID, Status.INVALID)
    assert "max_parameters" in large.error
    with pytest.raises(SpaceError, match="hidden_size 96 is beyond the table's 384 to 768"):
        evaluator.evaluate([StudentConfig(5, 4, 96, 1024)], Fidelity())
    far = SurrogateEvaluator(SURROGATE, extrapolate=True)
    assert far.evaluate([StudentConfig(5, 4, 96, 1024)], Fidelity())[0].ok
    with pytest.raises(TableError, match="4 epochs are beyond the last of table 'planted', which has 3"):
        evaluator.evaluate(BETWEEN, Fidelity(epochs=4))
    with pytest.raises(TableError, match=r"data_fraction is 0\.5"):
        evaluator.evaluate(BETWEEN, Fidelity(data_fraction=0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed is -1; expected 'mean', 'sample', or a whole number from 0"),
        ({"seed": "median"}, "seed is 'median'"),
        ({"seed": True}, "seed is True"),
        ({"device": "phone"}, r"no latencies of 'phone'; choose one of \['analytic'\]"),
        ({"epochs": 9}, "9 epochs are beyond the last"),
        ({"table": "nowhere"}, "there is no table 'nowhere'"),
        ({"space": {"hidden_size": [192, 384]}}, "hidden_size 192 is beyond the table's 384 to 768"),
        (
            {"space": {"hidden_size": 384, "hidden_act": ["gelu", "silu"]}},
            r"hidden_act 'silu' is none of the table's \['gelu', 'relu'\]",
        ),
        ({"space": {"family": ["bert", "albert"]}}, r"family 'albert' is none of the table's \['bert'\]"),
        (
            {"space": {"hidden_size": [384, 768], "max_parameters": 95_000_000}},
            "max_parameters of the space is 95000000",
        ),
    ],
)
def test_bad_settings_are_refused_where_the_environment_is_made(
    change: dict[str, Any], message: str, table_file: Path
) -> None:
    with pytest.raises((TableError, SpaceError), match=message):
        SurrogateEnv(**{"table": table_file, **change})


def test_a_space_of_ones_own_gets_the_cap_of_the_table(table_file: Path) -> None:
    assert SurrogateEnv(table_file, space={"hidden_size": [384, 400, 768]}).search_space.max_parameters == 90_000_000
    wide = SurrogateEnv(table_file, space={"hidden_size": [96, 192, 768]}, extrapolate=True)
    assert wide.search_space.max_parameters is None
    wide.reset(seed=0)
    assert wide.step(np.array([0]))[4]["status"] == "ok"


def test_a_sampled_vector_episode_is_that_of_the_scalar_environment(table_file: Path) -> None:
    scalar = SurrogateEnv(table_file, seed="sample", budget=30)
    envs = gym.make_vec("kdnas/Surrogate-v0", num_envs=4, table=table_file, seed="sample", budget=24)
    rng = np.random.default_rng(0)
    actions = [scalar.search_space.sample(rng) for _ in range(8)]
    episodes = []
    for seed in (1, 2, 1):
        envs.reset(seed=seed)
        together = [float(value) for part in (actions[:4], actions[4:]) for value in envs.step(np.stack(part))[1]]
        scalar.reset(seed=seed)
        assert together == [float(scalar.step(action)[1]) for action in actions]
        episodes.append(together)
    assert episodes[0] == episodes[2] != episodes[1]


def test_an_environment_of_a_surrogate_is_that_of_its_table(table_file: Path, tmp_path: Path) -> None:
    write_surrogate(SURROGATE, tmp_path / "surrogate.npz")
    first, second = SurrogateEnv(table_file), SurrogateEnv(tmp_path / "surrogate.npz")
    assert first.search_space == second.search_space
    action = first.search_space.sample(np.random.default_rng(3))
    rewards = []
    for env in (first, second, pickle.loads(pickle.dumps(first))):
        env.reset(seed=0)
        rewards.append(env.step(action)[1])
    assert rewards[0] == rewards[1] == rewards[2]


def test_agents_climb_above_the_best_of_the_table(table_file: Path) -> None:
    env = gym.make("kdnas/Surrogate-v0", table=str(table_file), budget=150)
    found = {name: kdnas_env.make_agent(name).search(env, seed=0).best_reward for name in ("random", "local-search")}
    assert found["local-search"] > found["random"]


def test_a_surrogate_is_fitted_and_searched_with_numpy_alone(table_file: Path) -> None:
    code = (
        "import sys, gymnasium, kdnas_env\n"
        f"env = gymnasium.make('kdnas/Surrogate-v0', table={str(table_file)!r}); env.reset(seed=0)\n"
        "env.step(env.action_space.sample())\n"
        "print([name for name in ('torch', 'transformers', 'scipy', 'sklearn', 'pandas') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_aliases_of_activations_are_known() -> None:
    table = planted_table({**SPACE, "hidden_act": ["gelu", "silu"]})
    space = SearchSpace.from_dict({"hidden_act": ["gelu", "swish"]}, PLANTED_TEACHER)
    evaluator = SurrogateEvaluator(Surrogate.fit(table), search_space=space)
    assert evaluator.evaluate([replace(BETWEEN[0], hidden_act="swish")], Fidelity())[0].ok
