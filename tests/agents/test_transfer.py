"""Agents with experience of other tasks: their prior knowledge, their learning in a search, and their training."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import kdnas_env
from kdnas_env.agents.transfer.evolution import TransferEvolutionAgent
from kdnas_env.agents.transfer.experience import SHIPPED, Experience
from kdnas_env.agents.transfer.gaussian_process import _Mean, _most_likely, _Prior
from kdnas_env.agents.transfer.history import RecordedSearchEnv, history_width, observe_history
from kdnas_env.agents.transfer.maskable_ppo import MaskedSearchEnv, TransferMaskablePPOAgent
from kdnas_env.agents.transfer.ppo import DATA, SearchPolicy, TransferPPOAgent, load_policy, save_policy
from kdnas_env.agents.transfer.ppo_training import train, untrained
from kdnas_env.agents.transfer.recurrent_ppo import TransferRecurrentPPOAgent
from kdnas_env.bench.truth import Truth
from kdnas_env.cli import main
from kdnas_env.core.grid import Grid
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.errors import KDNASError, RunError

AGENTS = ("transfer-evolution", "transfer-gp", "transfer-maskable-ppo", "transfer-recurrent-ppo")
POLICIES: tuple[type[TransferPPOAgent], ...] = (TransferMaskablePPOAgent, TransferRecurrentPPOAgent)
UNSEEN = "imdb:alpha=-0.08,device=torch"
NVEC = np.array([3, 4])
policies = pytest.mark.parametrize("policy", POLICIES)


def small(tasks: int = 6) -> Experience:
    """Return experience of all but one point of a small space; on task t, the best last choice is t modulo 4."""
    points = np.stack(np.unravel_index(np.arange(1, 12), tuple(NVEC)), axis=1)
    described = np.zeros((tasks, len(FEATURES)), dtype=np.float32)
    described[:, 0] = np.arange(tasks) % 4
    raw = points[:, 0] - 2.0 * np.abs(points[:, 1] - described[:, :1])
    targets = ((raw - raw.mean(axis=1, keepdims=True)) / raw.std(axis=1, keepdims=True)).astype(np.float32)
    return Experience(NVEC, points, described, targets, np.full(tasks, 0.1, dtype=np.float32), 0.1)


def numbers(experience: Experience) -> np.ndarray:
    """Return the flat indices of the candidates."""
    return np.asarray(np.ravel_multi_index(tuple(experience.actions.T), tuple(experience.nvec)))


# Experience -----------------------------------------------------------------------------------------------------------


def test_similar_tasks_say_what_is_expected() -> None:
    experience = small()
    np.testing.assert_allclose(experience.expected(experience.tasks[2]), experience.targets[2], atol=1e-6)
    assert small(8).held_out_error() < 1e-6, "each task has an equal one among the others"
    assert small(4).held_out_error() > 0.3


def test_experience_is_saved_and_loaded(tmp_path: Path) -> None:
    experience = small()
    experience.save(tmp_path / "kept.safetensors")
    loaded = Experience.load(tmp_path / "kept.safetensors")
    np.testing.assert_array_equal(loaded.actions, experience.actions)
    np.testing.assert_allclose(loaded.targets, experience.targets, atol=2e-3)
    assert (loaded.bandwidth, loaded.mean_scale) == (experience.bandwidth, experience.mean_scale)


@pytest.mark.parametrize("content", [None, b"text"])
def test_a_damaged_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RunError, match="kind 'experience'"):
        Experience.load(file)
    with pytest.raises(RunError, match="kind 'search policy'"):
        load_policy("MaskablePPO", MaskedSearchEnv, file)


def test_experience_of_another_space_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path / "other.safetensors")
    agent = kdnas_env.make_agent("transfer-gp", experience=str(tmp_path / "other.safetensors"))
    with pytest.raises(KDNASError, match=r"trained on spaces of \[3, 4\] choices, but this space has \[2, 2\]"):
        agent.reset([2, 2], budget=4, round_size=2)


def test_experience_of_other_task_features_is_refused(tmp_path: Path) -> None:
    replace(small(), tasks=np.zeros((6, 2), dtype=np.float32)).save(tmp_path / "old.safetensors")
    agent = kdnas_env.make_agent("transfer-gp", experience=str(tmp_path / "old.safetensors"))
    with pytest.raises(KDNASError, match=f"by 2 features, but tasks now have {len(FEATURES)}"):
        agent.reset(NVEC, budget=4, round_size=2)


def test_a_command_gathers_experience(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.safetensors"
    tasks = ["rotten-tomatoes", "rotten-tomatoes:alpha=-0.3"]
    assert main(["bench", "train", "transfer-gp", "--to", str(file), "--tasks", *tasks]) == 0
    assert "transfer-gp:experience=" in "".join(capsys.readouterr().out.split())
    experience = Experience.load(file)
    assert experience.targets.shape == (2, 660)
    env = gym.make("kdnas/Tabular-v0", table="imdb", budget=8)
    result = kdnas_env.make_agent("transfer-gp", experience=str(file)).search(env, seed=0)
    assert len(result.rewards) == 8


# Searching an unseen task ---------------------------------------------------------------------------------------------


@cache
def found(agent: str, budget: int) -> np.ndarray:
    """Return the highest true reward of each of six searches, on a task of another text."""
    task, earned = Task.parse(UNSEEN), []
    truth = Truth.of(task)
    for seed in range(6):
        result = kdnas_env.make_agent(agent).search(task.make_env(Budget(budget)), seed=seed)
        visited = [int(info["index"]) for info in result.infos]
        earned.append(truth.reward[np.searchsorted(truth.index, visited)].max())
    return np.array(earned)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_search_begins_with_what_is_good_on_other_tasks(agent: str) -> None:
    assert SHIPPED.stat().st_size + sum(file.stat().st_size for file in DATA.iterdir()) < 2_000_000
    ahead = found(agent, 8) - found("random", 8)
    assert (ahead > 0).sum() >= 5
    assert ahead.mean() > 0


def test_a_process_learns_from_the_search() -> None:
    """The task contradicts the experience: the reward is highest where it is expected to be lowest."""
    experience = Experience.load(SHIPPED)
    expected = experience.expected(np.zeros(len(FEATURES), dtype=np.float32))
    agent = kdnas_env.make_agent("transfer-gp")
    agent.reset(experience.nvec, budget=64, round_size=8, candidates=numbers(experience))
    value = dict(zip(map(tuple, experience.actions.tolist()), -0.05 * expected, strict=True))
    bests = []
    for _ in range(8):
        actions = agent.ask(8)
        rewards = [value[tuple(action)] for action in actions.tolist()]
        agent.tell(actions, rewards)
        bests.append(max(rewards))
    assert np.mean(bests[-2:]) > np.quantile([*value.values()], 0.9)
    assert np.mean(bests[-2:]) > bests[0]


def test_the_marginal_likelihood_finds_noise_and_length() -> None:
    rng, mean = np.random.default_rng(0), _Mean.of(None, np.zeros(1, dtype=np.float32), Grid.of([40, 40]))
    points = mean.described(rng.integers(0, 40, (120, 2)))
    smooth = np.sin(points[:, 0] / 12) + np.cos(points[:, 1] / 12)
    calm = _most_likely(np.array([40, 40]), points, smooth)
    noisy = _most_likely(np.array([40, 40]), points, smooth + 0.3 * rng.standard_normal(120))
    assert calm.noise < noisy.noise
    rough = _most_likely(np.array([40, 40]), points, rng.standard_normal(120) * 0.5)
    assert (rough.length, rough.noise) != (calm.length, calm.noise)


def test_a_covariance_is_that_of_its_formula() -> None:
    mean = _Mean.of(small(), small().tasks[0], Grid.of(NVEC))
    prior = _Prior(NVEC, length=0.8, amplitude=0.3, noise=0.1)
    points = small().actions
    described = mean.described(points)
    full = prior.covariance(described, described)
    np.testing.assert_allclose(np.diag(full), prior.variances(described))
    one, other = points[3], points[7]
    squares = sum(((one[d] - other[d]) / (NVEC[d] - 1) / 0.8) ** 2 for d in range(2))
    by_hand = 4 + 0.25 * mean(points[[3]])[0] * mean(points[[7]])[0] + 0.09 * np.exp(-squares / 2)
    assert full[3, 7] == pytest.approx(by_hand)


def test_the_first_population_is_half_warm() -> None:
    experience = Experience.load(SHIPPED)
    agent = TransferEvolutionAgent(TransferEvolutionAgent.Config(population_size=12, warm=0.5))
    agent.reset(experience.nvec, budget=40, round_size=4, candidates=numbers(experience))
    random = list[bool]()
    for _ in range(3):
        actions = agent.ask(4)
        agent.tell(actions, actions.sum(axis=1))
        random += agent.ranking.rounds[-1].random.tolist()
    assert sum(random) == 6
    assert not any(random[:4])


# Policies -------------------------------------------------------------------------------------------------------------


def test_an_observation_holds_the_search() -> None:
    actions, rewards = np.array([[0, 1], [2, 3], [1, 0]]), np.array([0.2, 0.8, 0.4])
    seen = observe_history(
        np.ones(2, dtype=np.float32), NVEC, actions, rewards, np.array([True, True, False]), unit=0.1, spent=0.3
    )
    assert seen.shape == (history_width(NVEC, 2),)
    np.testing.assert_allclose(seen[:6], [1, 1, 0.3, 1, -5, 3], atol=1e-6)
    assert np.flatnonzero(seen[6:13]).tolist() == [1, 3]
    assert np.flatnonzero(seen[13:]).tolist() == [2, 6]


@pytest.mark.parametrize("env_class", [RecordedSearchEnv, MaskedSearchEnv])
def test_rewards_of_an_episode_add_up_to_the_best_target(env_class: type[RecordedSearchEnv]) -> None:
    env = env_class(small(), 4)
    env.reset(seed=3)
    rng, total, ended, info = np.random.default_rng(0), 0.0, False, dict[str, Any]()
    while not ended:
        if isinstance(env, MaskedSearchEnv):
            action: Any = rng.choice(np.flatnonzero(env.action_masks()))
        else:
            action = rng.integers(NVEC)
        observation, reward, ended, _, info = env.step(action)
        assert observation in env.observation_space
        total += reward
    assert total - 1 == pytest.approx(env.best)
    assert info["gap"] == pytest.approx(float(env.experience.targets[env.task].max()) - env.best)
    if isinstance(env, MaskedSearchEnv):
        assert len({tuple(action) for action in env.actions}) == 4
        assert (0, 0) not in {tuple(action) for action in env.actions}


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "steps"), [(TransferMaskablePPOAgent, 60), (TransferRecurrentPPOAgent, 120)])
def test_a_policy_learns_to_search(
    policy: type[TransferPPOAgent], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.agents.transfer.ppo_training.EVALUATIONS", 4)
    gaps, file = list[float](), tmp_path / "made.safetensors"
    train(
        policy.algorithm,
        policy.recorded,
        small(40),
        file,
        steps=steps,
        seed=0,
        on_update=lambda done, total, gap: gaps.append(gap),
        save=lambda network: None,
    )
    assert gaps[-1] < 0.5 * gaps[0]


@policies
def test_a_stopped_training_goes_on_to_the_same_policy(
    policy: type[TransferPPOAgent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.agents.transfer.ppo_training._SAVED_EVERY", 1)
    monkeypatch.setattr("kdnas_env.agents.transfer.ppo_training.SEARCHES", 2)
    monkeypatch.setattr("kdnas_env.agents.transfer.ppo_training.EVALUATIONS", 4)

    def trained(name: str, stop_at: int | None = None, full: bool = False) -> dict[str, torch.Tensor]:
        def on_update(done: int, total: int, gap: float) -> None:
            if done == stop_at:
                raise KeyboardInterrupt

        kept: dict[str, torch.Tensor] = {}

        def save(network: torch.nn.Module) -> None:
            if full:
                raise OSError(errno.ENOSPC, "no space left")
            kept.update(network.state_dict())

        made = policy.algorithm, policy.recorded, small(), tmp_path / name
        train(*made, steps=12, seed=0, on_update=on_update, save=save)
        return kept

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", stop_at=2)
    # If the policy cannot be written, its training is not lost.
    with pytest.raises(OSError, match="no space"):
        trained("parts", full=True)
    assert [file.name for file in tmp_path.iterdir()] == ["parts.training"]
    parts = trained("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not [*tmp_path.iterdir()]


@policies
def test_a_policy_is_saved_and_searches(policy: type[TransferPPOAgent], tmp_path: Path) -> None:
    network = untrained(policy.algorithm, policy.recorded(small(), 4), seed=1).policy
    file = tmp_path / "kept.safetensors"
    save_policy(SearchPolicy(NVEC, 0.1, network), policy.algorithm, file)
    loaded = load_policy(policy.algorithm, policy.recorded, file)
    saved = network.state_dict()
    assert all(torch.equal(weights, saved[name]) for name, weights in loaded.network.state_dict().items())
    agent = policy(policy.Config(policy=str(file)))
    agent.reset(NVEC, budget=12, round_size=4, seed=0)
    random = list[bool]()
    for _ in range(3):
        actions = agent.ask(4)
        agent.tell(actions, actions.sum(axis=1))
        random += agent.ranking.rounds[-1].random.tolist()
    assert len(np.unique(agent.evaluated, axis=0)) == 12
    assert not any(random[:8])
    [other] = [one for one in POLICIES if one is not policy]
    with pytest.raises(RunError, match=f"trained by {policy.algorithm}"):
        other(other.Config(policy=str(file))).reset(NVEC, budget=4, round_size=2)
