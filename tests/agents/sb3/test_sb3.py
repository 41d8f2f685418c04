from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon
from torch import Tensor

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.ask_tell import AskTellAgent
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.agents.sb3.agent import (
    A2CAgent,
    DQNAgent,
    MaskablePPOAgent,
    PPOAgent,
    QRDQNAgent,
    RecurrentPPOAgent,
    SB3Agent,
    SB3Config,
    TRPOAgent,
)
from kdnas_env.agents.sb3.episodes import LastChoice, OneByOne, OneShot, build_candidates, closed_points, ranked
from kdnas_env.agents.sb3.learners import Learner, seeded_globals, undone_if_diverged
from kdnas_env.core.grid import Grid
from kdnas_env.errors import DependencyError, KDNASError
from kdnas_env.testing.bowl import BowlEnv
from kdnas_env.testing.clauses import global_states

AGENTS: list[type[SB3Agent[Any]]] = [
    PPOAgent,
    A2CAgent,
    TRPOAgent,
    MaskablePPOAgent,
    RecurrentPPOAgent,
    DQNAgent,
    QRDQNAgent,
]
ON_POLICY = AGENTS[:5]
MASKED = AGENTS[3:]

every = pytest.mark.parametrize("cls", AGENTS, ids=lambda cls: cls.__name__)


def make(cls: type[SB3Agent[Any]], **options: Any) -> SB3Agent[Any]:
    return cls(cls.Config(**options))


def weights(agent: SB3Agent[Any]) -> list[Tensor]:
    return [*agent.model.policy.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def play(agent: AskTellAgent[Any], env: BowlEnv, *sizes: int) -> None:
    for size in sizes:
        actions = agent.ask(size)
        agent.tell(actions, [env.reward(action) for action in actions])


def random_shares(agent: AskTellAgent[Any]) -> np.ndarray:
    return np.array([record.random.mean() for record in agent.ranking.rounds])


# Learning -------------------------------------------------------------------------------------------------------

SEEDS = range(6)


def best_rewards(agent: AskTellAgent[Any]) -> np.ndarray:
    return np.array([agent.search(BowlEnv([8] * 5), budget=96, seed=seed).best_reward for seed in SEEDS])


@cache
def by_chance() -> np.ndarray:
    return best_rewards(RandomAgent())


@pytest.mark.slow
@pytest.mark.parametrize("cls", [A2CAgent, DQNAgent], ids=lambda cls: cls.__name__)  # one on-policy, one off-policy
def test_it_finds_more_than_random_search(cls: type[SB3Agent[Any]]) -> None:
    found = best_rewards(cls())
    assert np.median(found) > np.median(by_chance())
    assert wilcoxon(found, by_chance(), alternative="greater", zero_method="zsplit").pvalue < 0.05


@pytest.mark.slow
def test_it_needs_its_training() -> None:
    found = best_rewards(make(A2CAgent, learning_rate=1e-9))
    assert wilcoxon(found, by_chance(), alternative="greater", zero_method="zsplit").pvalue > 0.1


@every
def test_it_learns_to_propose_good_students(cls: type[SB3Agent[Any]]) -> None:
    proposed, drawn = (agent.search(BowlEnv([8] * 4), budget=120, seed=1).rewards for agent in (cls(), RandomAgent()))
    assert np.median(proposed[-40:]) > np.quantile(drawn, 0.8)


@every
def test_only_the_order_of_the_rewards_matters(cls: type[SB3Agent[Any]]) -> None:
    def search(stretch: Any) -> list[list[int]]:
        env = BowlEnv([8] * 3)
        env.answer = lambda step, action: (float(stretch(env.reward(np.array(action)))), {})
        proposed: list[list[int]] = cls().search(env, budget=32).actions.tolist()
        return proposed

    assert search(lambda reward: reward) == search(lambda reward: 1e6 * np.exp(3 * reward) - 5)


# Proposals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MASKED, ids=lambda cls: cls.__name__)
def test_what_is_chosen_one_by_one_is_never_drawn_at_random(cls: type[SB3Agent[Any]]) -> None:
    agent = cls()
    agent.search(BowlEnv([5, 4]), budget=20)
    assert not random_shares(agent).any()
    env = gym.make("kdnas/Planted-v0", max_parameters=30_000_000, budget=24)
    assert {info["status"] for info in agent.search(env).infos} == {"ok"}
    assert not random_shares(agent).any()


@pytest.mark.parametrize("cls", [DQNAgent, QRDQNAgent], ids=lambda cls: cls.__name__)
def test_without_exploration_the_best_open_choices_are_made(cls: type[SB3Agent[Any]]) -> None:
    agent = make(cls, exploration_initial_eps=0.0, exploration_final_eps=0.0)
    agent.reset([4, 3], budget=12, round_size=6, seed=2)
    play(agent, BowlEnv([4, 3]), 6)
    state = agent.state_dict()
    agent.rng = np.random.default_rng(1)
    one = agent.ask(4).tolist()
    agent.load_state_dict(state)
    agent.rng = np.random.default_rng(2)
    assert agent.ask(4).tolist() == one


@every
@given(
    nvec=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    budget=st.integers(1, 40),
    round_size=st.integers(1, 12),
    update_every=st.integers(1, 12),
    kind=st.sampled_from(["bowl", "equal", "failing", "endless"]),
)
@settings(max_examples=5, deadline=None)
def test_the_budget_is_spent_and_never_exceeded(
    cls: type[SB3Agent[Any]], nvec: list[int], budget: int, round_size: int, update_every: int, kind: str
) -> None:
    answers: dict[str, Any] = {
        "bowl": None,
        "equal": (0.5, {}),
        "failing": (-1.0, {"status": "failed"}),
        "endless": (float("inf"), {}),
    }
    env = BowlEnv(nvec, lambda step, action: answers[kind])
    result = make(cls, update_every=update_every).search(env, budget=budget, round_size=round_size)
    assert len(env.actions) == len(result.actions) == min(budget, int(np.prod(nvec)))
    assert len({tuple(action) for action in env.actions}) == len(env.actions)


def test_a_vector_environment_is_searched_a_round_a_step() -> None:
    env = gym.make_vec("kdnas/Planted-v0", num_envs=8, budget=24)
    assert [len(record.rewards) for record in PPOAgent().search(env).rounds] == [8] * 3


# Updates --------------------------------------------------------------------------------------------------------


def test_updates_wait_for_enough_evaluations() -> None:
    agent = make(PPOAgent, update_every=16, n_epochs=3)
    agent.reset([6, 6], budget=36, round_size=8)
    updates = []
    for _ in range(4):
        play(agent, BowlEnv([6, 6]), 8)
        updates.append(agent.model._n_updates)
    assert updates == [0, 3, 3, 6]


def test_gradient_steps_go_with_the_evaluations() -> None:
    agent = make(DQNAgent, update_every=4, gradient_steps=5)
    agent.reset([6, 6], budget=36, round_size=9)
    play(agent, BowlEnv([6, 6]), 9)
    assert agent.model._n_updates == 10


class Noted:
    """Copies of the buffers that a learner trains on."""

    def __init__(self, learner: Learner, name: str) -> None:
        self.buffers: list[Any] = []
        train = learner.model.train

        def noted(**arguments: Any) -> None:
            self.buffers.append(pickle.loads(pickle.dumps(getattr(learner.model, name))))
            train(**arguments)

        learner.model.train = noted


@pytest.mark.parametrize("cls", ON_POLICY, ids=lambda cls: cls.__name__)
def test_rollouts_are_the_candidates_with_their_ranks(cls: type[SB3Agent[Any]]) -> None:
    options = {} if cls in AGENTS[:3] else {"algorithm_kwargs": {"gae_lambda": 1.0}}
    agent, env = make(cls, **options), BowlEnv([5, 3, 4])
    agent.reset([5, 3, 4], budget=60, round_size=6)
    noted = Noted(agent._trained_learner(), "rollout_buffer")
    play(agent, env, 8)
    _ = agent.model
    (buffer,) = noted.buffers
    actions, rewards = agent.evaluated, ranked(agent.ranking.rewards, np.ones(8, dtype=np.bool_))
    steps = 1 if cls in AGENTS[:3] else 3
    assert buffer.rewards.shape == (steps, 8)
    assert buffer.rewards[-1] == pytest.approx(rewards)
    assert not buffer.rewards[:-1].any()
    assert buffer.returns == pytest.approx(np.tile(rewards, (steps, 1)), abs=1e-6)
    assert buffer.episode_starts.tolist() == [[1.0] * 8] + [[0.0] * 8] * (steps - 1)
    chosen = buffer.actions[0] if steps == 1 else buffer.actions[..., 0].T
    assert chosen.tolist() == actions.tolist()
    # An untrained policy makes all choices about equally likely.
    choices = np.array([5 * 3 * 4]) if steps == 1 else np.array([5, 3, 4] if cls is MaskablePPOAgent else [5, 5, 5])
    assert np.exp(buffer.log_probs) == pytest.approx(np.tile(1 / choices[:, None], (1, 8)), rel=0.2)


@pytest.mark.parametrize("cls", [DQNAgent, QRDQNAgent], ids=lambda cls: cls.__name__)
def test_every_choice_is_worth_what_its_candidate_earned(cls: type[SB3Agent[Any]]) -> None:
    agent, env = cls(), BowlEnv([5, 3, 4])
    agent.reset([5, 3, 4], budget=60, round_size=6)
    noted = Noted(agent._trained_learner(), "replay_buffer")
    play(agent, env, 10)
    _ = agent.model
    (buffer,) = noted.buffers
    worth = ranked(agent.ranking.rewards, np.ones(10, dtype=np.bool_))
    episodes, actions = OneByOne(np.array([5, 3, 4])), agent.evaluated
    expected = {
        (episodes.observe(actions, step)[row].tobytes(), int(actions[row, step]), round(worth[row], 5))
        for row in range(10)
        for step in range(3)
    }
    with seeded_globals(np.random.default_rng(0), torch.device("cpu")):
        batch = buffer.sample(500)
    assert (batch.dones == 1).all()
    found = {
        (seen.numpy().tobytes(), int(choice), round(float(reward), 5))
        for seen, choice, reward in zip(batch.observations, batch.actions, batch.rewards, strict=True)
    }
    assert found == expected


def test_the_youngest_are_learnt_from() -> None:
    agent, env = make(DQNAgent, replay_size=4), BowlEnv([5, 3, 4])
    agent.reset([5, 3, 4], budget=60, round_size=6)
    noted = Noted(agent._trained_learner(), "replay_buffer")
    play(agent, env, 10)
    _ = agent.model
    (buffer,) = noted.buffers
    assert buffer.actions[..., 0].T.tolist() == agent.evaluated[-4:].tolist()
    assert sorted(buffer.rewards[-1].tolist()) == pytest.approx([-1.0, -1 / 3, 1 / 3, 1.0])


def test_an_update_that_breaks_the_policy_is_undone(caplog: pytest.LogCaptureFixture) -> None:
    agent = PPOAgent()
    agent.reset([4, 4], budget=16, round_size=8)
    before = [weight.clone() for weight in weights(agent)]
    with caplog.at_level(logging.WARNING), undone_if_diverged(agent.model):
        with torch.no_grad():
            weights(agent)[0].fill_(torch.nan)
        raise ValueError("logits are not finite")
    assert same(weights(agent), before)
    assert "an update of PPO was undone, because its weights diverged; lower the learning rate" in caplog.text
    with pytest.raises(ValueError, match="something else"), undone_if_diverged(agent.model):
        raise ValueError("something else")


def test_a_learning_rate_that_is_far_too_high_does_not_end_the_search() -> None:
    result = make(MaskablePPOAgent, learning_rate=0.3, update_every=3).search(BowlEnv([4, 6, 3, 6, 2]), budget=60)
    assert len(result.actions) == 60


# Global state and foreign evaluations ---------------------------------------------------------------------------


def test_training_that_is_interrupted_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, other = PPOAgent(), PPOAgent()
    for one in (agent, other):
        one.reset([6, 6], budget=36, round_size=8)
        play(one, BowlEnv([6, 6]), 8)

    learner = agent._learner
    assert learner is not None
    train = learner.model.train

    def half() -> None:
        train()
        raise KeyboardInterrupt

    monkeypatch.setattr(learner.model, "train", half)
    with pytest.raises(KeyboardInterrupt):
        agent.ask(8)
    assert same(weights(agent), weights(other))


@every
def test_what_was_told_without_being_asked_is_learned_from(cls: type[SB3Agent[Any]]) -> None:
    env, agent, other = BowlEnv([5, 4]), cls(), cls()
    for one in (agent, other):
        one.reset([5, 4], budget=4, round_size=4)
    actions = np.array([[0, 0], [4, 3], [0, 0], [2, 2], [1, 3], [4, 3], [3, 0], [2, 1]])
    agent.tell(actions, [env.reward(action) for action in actions])
    assert not same(weights(agent), weights(other))
    assert len({*map(tuple, agent.ask(40).tolist())} - {*map(tuple, actions.tolist())}) == 14


def test_generators_are_given_back_as_they_were() -> None:
    def draws() -> tuple[float, float]:
        return np.random.rand(), float(torch.rand(1))  # noqa: NPY002

    before = global_states()
    with seeded_globals(np.random.default_rng(1), torch.device("cpu")):
        first = draws()
    with suppress(KeyboardInterrupt), seeded_globals(np.random.default_rng(1), torch.device("cpu")):
        assert draws() == first
        raise KeyboardInterrupt
    with seeded_globals(np.random.default_rng(2), torch.device("cpu")):
        assert draws() != first
    assert global_states() == before


def test_threads_are_given_back_as_they_were() -> None:
    before = torch.get_num_threads()
    PPOAgent().search(BowlEnv([4, 4]), budget=16)
    assert torch.get_num_threads() == before


@every
def test_it_is_quiet(cls: type[SB3Agent[Any]], capfd: pytest.CaptureFixture[str]) -> None:
    cls().search(BowlEnv([4, 4]), budget=16)
    assert capfd.readouterr() == ("", "")


# Episodes -------------------------------------------------------------------------------------------------------

counts = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(np.array)


@given(nvec=counts, seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_observations_tell_the_choices_before_and_nothing_else(nvec: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    actions, others = rng.integers(nvec, size=(2, 7, len(nvec)))
    for episodes in (OneShot(nvec), OneByOne(nvec), LastChoice(nvec)):
        for step in range(episodes.steps):
            seen = episodes.observe(actions, step)
            assert seen.shape == (7, episodes.width)
            assert all(row in episodes.observation_space for row in seen)
            assert all(choice in episodes.action_space for choice in episodes.chosen(actions, step))
            changed = np.concatenate([actions[:, :step], others[:, step:]], axis=1)
            assert (episodes.observe(changed, step) == seen).all()
    for step in range(len(nvec)):
        seen, remembered = OneByOne(nvec).observe(actions, step), LastChoice(nvec).observe(actions, step)
        parts = np.split(seen, np.cumsum(nvec), axis=1)
        assert (parts[-1].argmax(axis=1) == step).all()
        for axis, part in enumerate(parts[:-1]):
            assert (part.sum(axis=1) == (axis < step)).all()
            assert axis >= step or (part.argmax(axis=1) == actions[:, axis]).all()
        assert (remembered[:, nvec.max() :].argmax(axis=1) == step).all()
        assert step == 0 or (remembered[:, : nvec.max()].argmax(axis=1) == actions[:, step - 1]).all()


@given(nvec=counts, seed=st.integers(0, 2**31), n=st.integers(1, 9), at_once=st.integers(1, 9), listed=st.booleans())
@settings(max_examples=80, deadline=None)
def test_candidates_are_put_together_from_open_points(
    nvec: np.ndarray, seed: int, n: int, at_once: int, listed: bool
) -> None:
    rng = np.random.default_rng(seed)
    points = int(np.prod(nvec))
    allowed = rng.choice(points, size=rng.integers(1, points + 1), replace=False) if listed else None
    grid = Grid.of(nvec, allowed)
    taken = {int(number) for number in rng.choice(points, size=rng.integers(0, points + 1), replace=False)}
    open_points = {*(range(points) if allowed is None else allowed.tolist())} - taken

    def choose(actions: np.ndarray, step: int, masks: np.ndarray) -> np.ndarray:
        assert masks.any(axis=1).all()
        return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])

    numbers = grid.numbers(build_candidates(grid, n, closed_points(grid, taken), choose, at_once=at_once))
    assert {*numbers} <= open_points
    assert len({*numbers}) == len(numbers) == min(n, len(open_points))
    assert len(closed_points(grid, taken)) == grid.size - len(open_points)


@given(st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e300, 1e300)), min_size=2, max_size=30))
def test_ranks_are_spread_evenly(values: list[float]) -> None:
    rewards = np.array(values)
    ranks = ranked(rewards, np.ones(len(rewards), dtype=np.bool_))
    assert ranks == pytest.approx(2 * (rankdata(rewards) - 1) / (len(rewards) - 1) - 1)


def test_failures_rank_with_the_worst() -> None:
    rewards, usable = np.array([3.0, np.nan, 1.0, 9.0]), np.array([True, False, True, False])
    assert ranked(rewards, usable).tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    assert ranked(rewards, np.zeros(4, dtype=np.bool_)).tolist() == [0.0] * 4
    assert ranked(np.array([5.0]), np.array([True])).tolist() == [-1.0]


# TensorBoard ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
def test_a_search_is_logged_to_tensorboard(tmp_path: Path) -> None:
    agent = make(PPOAgent, tensorboard_log=str(tmp_path / "logs"))
    for seed in range(2):
        agent.search(BowlEnv([4, 4]), budget=16, seed=seed)
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["PPO_1", "PPO_2"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tmp_path / "logs" / "PPO_2"))
    log.Reload()
    bests = [record.global_best.reward for record in agent.ranking.rounds if record.global_best]
    assert [(event.step, event.value) for event in log.Scalars("search/reward_best")] == [
        (8, pytest.approx(bests[0])),
        (16, pytest.approx(bests[1])),
    ]


# Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (PPOAgent, {"update_every": 0}, "update_every is 0; expected a whole number, at least 1"),
        (PPOAgent, {"learning_rate": 0}, "learning_rate is 0.0; expected a number above 0"),
        (PPOAgent, {"learning_rate": "fast"}, "learning_rate is 'fast'"),
        (PPOAgent, {"learning_rate": float("inf")}, "learning_rate is inf"),
        (PPOAgent, {"net_arch": 64}, "net_arch is 64; expected a list"),
        (PPOAgent, {"net_arch": "64"}, "net_arch is '64'"),
        (PPOAgent, {"net_arch": [64, 0]}, r"net_arch is \[64, 0\]; expected the widths of the hidden layers"),
        (PPOAgent, {"policy_kwargs": [1]}, r"policy_kwargs is \[1\]; expected a mapping of names"),
        (PPOAgent, {"policy_kwargs": {"optimizer_class": np.ndarray}}, "policy_kwargs is .* expected plain data"),
        (PPOAgent, {"policy_kwargs": {"net_arch": [3]}}, r"policy_kwargs has \['net_arch'\], which the agent sets"),
        (PPOAgent, {"algorithm_kwargs": {"gamma": 0.9}}, r"algorithm_kwargs has \['gamma'\], which the agent sets"),
        (PPOAgent, {"algorithm_kwargs": {"ent_coef": 0}}, r"algorithm_kwargs has \['ent_coef'\]"),
        (PPOAgent, {"algorithm_kwargs": {"speed": 9}}, "PPO cannot be created with .* keyword argument 'speed'"),
        (DQNAgent, {"policy_kwargs": {"depth": 9}}, "DQN cannot be created with .* keyword argument 'depth'"),
        (PPOAgent, {"policy_kwargs": {"activation_fn": "Rely"}}, "PPO cannot be created with .* 'Rely'"),
        (TRPOAgent, {"device": "abacus"}, "TRPO cannot be created with .* abacus"),
        (PPOAgent, {"ent_coef": -1}, "ent_coef is -1.0; expected a number at least 0"),
        (A2CAgent, {"tries": 0}, "tries is 0"),
        (PPOAgent, {"n_epochs": 1.5}, "n_epochs is 1.5"),
        (PPOAgent, {"clip_range": 0}, "clip_range is 0.0; expected a number above 0"),
        (MaskablePPOAgent, {"n_epochs": 0}, "n_epochs is 0"),
        (TRPOAgent, {"target_kl": 0.0}, "target_kl is 0.0; expected a number above 0"),
        (RecurrentPPOAgent, {"lstm_hidden_size": 0}, "lstm_hidden_size is 0"),
        (DQNAgent, {"gradient_steps": 0}, "gradient_steps is 0"),
        (DQNAgent, {"replay_size": 0}, "replay_size is 0"),
        (DQNAgent, {"batch_size": True}, "batch_size is True"),
        (DQNAgent, {"exploration_initial_eps": 1.5}, "exploration_initial_eps is 1.5; .* at least 0 and at most 1"),
        (DQNAgent, {"exploration_final_eps": -0.1}, "exploration_final_eps is -0.1"),
        (DQNAgent, {"exploration_fraction": 0}, "exploration_fraction is 0.0; expected a number above 0 and at most 1"),
        (QRDQNAgent, {"n_quantiles": 0}, "n_quantiles is 0"),
    ],
)
def test_malformed_settings_are_named(cls: type[SB3Agent[Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        make(cls, **options)


def test_further_arguments_reach_the_algorithm_and_its_policy() -> None:
    agent = make(PPOAgent, net_arch=(7, 5), policy_kwargs={"activation_fn": "ReLU"}, algorithm_kwargs={"vf_coef": 0.25})
    agent.reset([3, 3], budget=9, round_size=3)
    assert agent.model.vf_coef == 0.25
    assert [type(layer).__name__ for layer in agent.model.policy.mlp_extractor.policy_net] == ["Linear", "ReLU"] * 2
    assert agent.model.policy.mlp_extractor.policy_net[2].out_features == 5
    assert type(agent.config)(**vars(agent.config)) == agent.config


@every
def test_the_algorithm_can_be_saved_and_loaded_as_any_other(cls: type[SB3Agent[Any]], tmp_path: Path) -> None:
    agent = cls()
    agent.search(BowlEnv([4, 4]), budget=12)
    agent.model.save(tmp_path / "model.zip")
    loaded = type(agent.model).load(tmp_path / "model.zip", device="cpu")
    assert same(weights(agent), [*loaded.policy.parameters()])


def test_the_algorithm_needs_a_search() -> None:
    with pytest.raises(KDNASError, match="this PPOAgent has no search"):
        _ = PPOAgent().model


@pytest.mark.parametrize(("cls", "missing"), [(PPOAgent, "stable_baselines3"), (QRDQNAgent, "sb3_contrib")])
def test_a_missing_package_is_named(cls: type[SB3Agent[Any]], missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DependencyError, match=rf"{missing}.*pip install 'kdnas\[sb3\]'"):
        cls()


def test_tensorboard_is_needed_for_its_logs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stable_baselines3.common.logger.SummaryWriter", None)
    with pytest.raises(DependencyError, match="tensorboard_log is 'logs', but TensorBoard cannot be imported"):
        make(PPOAgent, tensorboard_log="logs")


def test_importing_the_agents_is_light() -> None:
    code = (
        "import sys, kdnas_env.agents.sb3.agent\n"
        "heavy = {'torch', 'stable_baselines3', 'sb3_contrib', 'matplotlib', 'pandas'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_are_those_of_the_agent() -> None:
    with pytest.raises(KDNASError, match="PPOAgent takes a PPOConfig"):
        PPOAgent(SB3Config())  # type: ignore[arg-type]
