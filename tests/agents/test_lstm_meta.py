"""The controller that learns across tasks: its prior knowledge, its learning in a search, and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import kdnas_env
from kdnas_env.agents.environment import action_counts
from kdnas_env.agents.lstm.meta import MetaController, Unit, load_controller, save_controller
from kdnas_env.agents.lstm.meta_agent import SHIPPED, LSTMMetaAgent
from kdnas_env.agents.lstm.meta_training import MetaTraining, train
from kdnas_env.agents.transfer.examples import TaskExamples, examples_of
from kdnas_env.bench.truth import Truth
from kdnas_env.cli import main
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.envs.task_features import FEATURES
from kdnas_env.errors import KDNASError, RunError
from kdnas_env.support.statistics import kendall_tau

LEARNT = ["rotten-tomatoes", "rotten-tomatoes:alpha=-0.3", "rotten-tomatoes:alpha=-0.15,device=onnxruntime"]
UNSEEN = "imdb:alpha=-0.08,device=torch"
NVEC = np.array([3, 2, 4])


@pytest.fixture(scope="module")
def env() -> gym.Env[Any, Any]:
    return gym.make("kdnas/Tasks-v0", tasks=[*LEARNT, UNSEEN], budget=2000)


@pytest.fixture(scope="module")
def examples(env: gym.Env[Any, Any]) -> list[TaskExamples]:
    return examples_of(env, [str(Task.parse(name)) for name in LEARNT], (0,))


def untrained(task_features: int = 4) -> MetaController:
    return MetaController(NVEC, task_features, generator=torch.Generator().manual_seed(0))


def agreement(controller: MetaController, task: TaskExamples) -> float:
    mean, _ = controller.read(torch.from_numpy(task.task), torch.from_numpy(task.actions))
    return kendall_tau(mean.numpy(), task.targets)


def test_examples_hold_what_the_environment_answers(env: gym.Env[Any, Any], examples: list[TaskExamples]) -> None:
    assert [len(task.actions) for task in examples] == [660] * 3
    assert all(abs(float(task.targets.mean())) < 1e-3 for task in examples)
    assert len({task.task.tobytes() for task in examples}) == 3
    env.reset(seed=0, options={"task": LEARNT[0]})
    best = examples[0].actions[int(examples[0].targets.argmax())]
    worst = examples[0].actions[int(examples[0].targets.argmin())]
    assert float(env.step(best)[1]) > float(env.step(worst)[1])


def test_what_is_learnt_on_some_tasks_holds_on_another(
    env: gym.Env[Any, Any], examples: list[TaskExamples], tmp_path: Path
) -> None:
    nvec, losses = action_counts(env), list[float]()
    settings, file = MetaTraining(steps=150, tasks=3, learning_rate=5e-3), tmp_path / "made.safetensors"
    trained = train(examples, nvec, settings, file, lambda done, total, loss: losses.append(loss))
    assert losses[-1] < losses[5]
    [unseen] = examples_of(env, [UNSEEN], (0,))
    fresh = MetaController(nvec, len(unseen.task), generator=torch.Generator().manual_seed(0))
    assert agreement(trained, unseen) > 0.4 > agreement(fresh, unseen) + 0.2
    loaded = load_controller(file)
    read = torch.from_numpy(unseen.task), torch.from_numpy(unseen.actions)
    assert torch.equal(loaded.read(*read)[0], trained.read(*read)[0])


def test_a_training_that_is_stopped_goes_on_to_the_same_controller(
    env: gym.Env[Any, Any], examples: list[TaskExamples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.agents.lstm.meta_training._SAVED_EVERY", 4)
    nvec, settings = action_counts(env), MetaTraining(steps=10, tasks=2)
    train(examples, nvec, settings, tmp_path / "whole.safetensors", lambda done, total, loss: None)

    def stop(done: int, total: int, loss: float) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(examples, nvec, settings, tmp_path / "parts.safetensors", stop)
    assert not (tmp_path / "parts.safetensors").exists()
    steps = list[int]()
    train(examples, nvec, settings, tmp_path / "parts.safetensors", lambda done, total, loss: steps.append(done))
    assert steps == [5, 6, 7, 8, 9, 10]
    assert (tmp_path / "parts.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_a_training_on_other_tasks_begins_anew(
    env: gym.Env[Any, Any], examples: list[TaskExamples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdnas_env.agents.lstm.meta_training._SAVED_EVERY", 2)

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    nvec, settings, file = action_counts(env), MetaTraining(steps=4, tasks=2), tmp_path / "made.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(examples, nvec, settings, file, stop)
    steps = list[int]()
    train(examples[1:], nvec, settings, file, lambda done, total, loss: steps.append(done))
    assert steps == [1, 2, 3, 4]


def test_the_controller_of_the_package_knows_an_unseen_task_at_once() -> None:
    assert SHIPPED.stat().st_size < 2_000_000
    truth = Truth.of(Task.parse(UNSEEN))
    env = Task.parse(UNSEEN).make_env(Budget(8))
    result = kdnas_env.make_agent("lstm-meta").search(env, seed=0)
    earned = truth.reward[np.searchsorted(truth.index, [int(info["index"]) for info in result.infos])]
    # Random search finds one of the best 7 of 660 students within eight evaluations in 8 % of the searches.
    assert earned.max() >= np.sort(truth.reward)[-7]


def test_without_training_it_learns_from_the_search() -> None:
    def best(name: str, seed: int) -> float:
        env = gym.make("kdnas/Planted-v0", budget=48, round_size=12)
        reward = kdnas_env.make_agent(name).search(env, seed=seed).best_reward
        assert reward is not None
        return float(reward)

    ahead = [best("lstm-meta", seed) - best("random", seed) for seed in range(8)]
    assert np.mean(ahead) > 0
    assert sum(difference > 0 for difference in ahead) >= 7


def test_a_control_does_not_learn_from_the_search() -> None:
    def proposals(rewards: float, **config: Any) -> list[list[int]]:
        agent = LSTMMetaAgent(LSTMMetaAgent.Config(**config))
        agent.reset(NVEC, budget=24, round_size=4, seed=0)
        made = []
        for _ in range(3):
            actions = agent.ask(4)
            made += actions.tolist()
            agent.tell(actions, rewards * actions.sum(axis=1))
        return made

    assert proposals(1.0, adapt=False) == proposals(-1.0, adapt=False)
    assert proposals(1.0) != proposals(-1.0)


def test_the_unit_of_rewards_is_found() -> None:
    controller, generator = untrained().requires_grad_(False), torch.Generator().manual_seed(1)
    actions = torch.randint(0, 2, (24, 3), generator=generator)
    mean, phi = (part.double() for part in controller.read(torch.zeros(4), actions))
    mean = 3 * mean / mean.std()
    # The features are zero; otherwise they could explain a part of the mean, which would bias the scale.
    unit = Unit.of(mean, 0 * phi, 0.4 + 0.05 * mean, controller.noise.double(), usual=0.03)
    assert unit.scale == pytest.approx(0.05, rel=0.15)
    assert unit.offset + unit.scale * float(mean.mean()) == pytest.approx(0.4 + 0.05 * float(mean.mean()), abs=0.01)
    assert unit.surprise == 1
    noise, other = phi.new_tensor(1e-3), torch.randn(24, generator=generator, dtype=torch.float64)
    assert Unit.of(mean, phi, other, noise, 0.03).surprise > 1


def test_what_is_no_controller_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a file of the kind 'meta controller'"):
        load_controller(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(RunError, match="is not a file of the kind 'meta controller'"):
        load_controller(tmp_path / "text.safetensors")
    save_controller(untrained(), tmp_path / "old.safetensors")
    with pytest.raises(KDNASError, match="reads 4 task features, but tasks now have"):
        kdnas_env.make_agent("lstm-meta", controller=str(tmp_path / "old.safetensors")).reset(
            [3], budget=1, round_size=1
        )
    save_controller(untrained(task_features=len(FEATURES)), tmp_path / "other.safetensors")
    agent = kdnas_env.make_agent("lstm-meta", controller=str(tmp_path / "other.safetensors"))
    with pytest.raises(KDNASError, match=r"trained on spaces of \[3, 2, 4\] choices"):
        agent.reset([2, 2], budget=4, round_size=2)


def test_a_controller_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_controller(untrained(task_features=len(FEATURES)), file)
    agent = kdnas_env.make_agent("lstm-meta", controller=str(file))
    proposals = []
    for _ in range(2):
        agent.reset([3, 2, 4], budget=4, round_size=2)
        proposals.append(agent.ask(2).tolist())
        file.unlink(missing_ok=True)
    assert proposals[0] == proposals[1]


def test_a_command_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.safetensors"
    assert main(["bench", "train", "--to", str(file), "--steps", "3", "--tasks", *LEARNT[:2]]) == 0
    printed = "".join(capsys.readouterr().out.split())
    assert "trainedon2tasks" in printed
    assert load_controller(file).nvec == tuple(np.array(gym.make("kdnas/Tabular-v0").action_space.nvec))  # type: ignore[attr-defined]
    assert main(["bench", "train", "random", "--to", str(file)]) == 2
    assert "lstm-meta" in "".join(capsys.readouterr().err.split())
    assert main(["bench", "train", "--to", "own.txt"]) == 2
