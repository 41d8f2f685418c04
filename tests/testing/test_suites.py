"""The conformance suites detect broken implementations, and name the broken clause."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kdnas_env.agents.ask_tell import Proposal
from kdnas_env.agents.base import NoSettings
from kdnas_env.agents.classic.random import RandomAgent
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.envs.kdnas import KDNASEnv
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.testing import teachers
from kdnas_env.testing.agents import AgentConformance, AskTellConformance
from kdnas_env.testing.environments import EnvironmentConformance
from kdnas_env.testing.evaluators import EvaluatorConformance
from kdnas_env.testing.teachers import TeacherConformance
from kdnas_env.testing.tiny_encoders import save_tiny_encoder, tiny_texts

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
CONFIGS = [SPACE.decode(SPACE.from_index(index)) for index in (0, 500, 999)]


class Overspending(RandomAgent):
    """Spends one evaluation more than its budget."""

    def search(self, env: Any, **arguments: Any) -> Any:
        result = super().search(env, **arguments)
        env.step(result.actions[0])
        return result


class Repeating(RandomAgent):
    """Proposes points that were already evaluated."""

    def _propose(self, n: int) -> Proposal:
        return Proposal(self.rng.integers(self.grid.nvec, size=(n, len(self.grid.nvec))))


class Obstinate(RandomAgent):
    """Ignores the seed."""

    def _stream(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(0)


class Global(RandomAgent):
    """Draws from the global generator."""

    def _propose(self, n: int) -> Proposal:
        actions = self.grid.actions(self.grid.remaining(self.seen))
        return Proposal(np.array(random.sample(actions.tolist(), min(n, len(actions)))))


class Littering(RandomAgent):
    """Leaves a folder behind."""

    def _propose(self, n: int) -> Proposal:
        tempfile.mkdtemp(prefix="litter-")
        return super()._propose(n)


class Forgetful(RandomAgent):
    """Does not restore the state of its random generator."""

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.rng = self._stream(0)


class Credulous(RandomAgent):
    """Treats failures as successes."""

    def tell(self, actions: Any, rewards: Any, infos: Any = None) -> None:
        super().tell(actions, np.nan_to_num(rewards, posinf=9.0), [{} for _ in rewards])


@dataclass(frozen=True)
class Cfg:
    """Hyper-parameters whose class has another name than in the package."""

    width: int = 3
    made: int = field(default=0, init=False)


class Named(RandomAgent):
    """Keeps the contract."""

    Config: ClassVar[Any] = Cfg


class Indulgent(RandomAgent):
    """Accepts anything as its configuration."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(None)


class Terse(RandomAgent):
    """Raises an error that does not name the expected configuration."""

    def __init__(self, config: Any = None) -> None:
        if config is not None and not isinstance(config, NoSettings):
            raise KDNASError("no")
        super().__init__(config)


def test_the_configuration_may_have_any_name() -> None:
    AgentConformance().test_configuration(Named)


@pytest.mark.parametrize(
    ("broken", "test", "message"),
    [
        (Indulgent, "test_configuration", "clause 'config' does not hold: the text 'fast' is accepted instead of a"),
        (Terse, "test_configuration", "clause 'config' does not hold: the message 'no' names neither NoSettings"),
        (Overspending, "test_the_budget", "clause 'budget' does not hold: .* evaluations with a budget of"),
        (Repeating, "test_the_budget", "clause 'budget' does not hold"),
        (Obstinate, "test_the_seed", "clause 'seed' does not hold: another seed makes the same proposals"),
        (Global, "test_global_generators", "clause 'generators' does not hold"),
        (Credulous, "test_a_failure_with_the_highest_reward", "clause 'failures' does not hold: best_index is 9"),
    ],
)
def test_broken_agents(broken: type[RandomAgent], test: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        getattr(AgentConformance(), test)(broken)


def test_agents_that_leave_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "later").mkdir()
    with pytest.raises(AssertionError, match=r"clause 'files' does not hold: the search has left .*'litter-"):
        AgentConformance().test_temporary_files(Littering, tmp_path / "later", monkeypatch)


def test_agents_that_go_on_otherwise(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="clause 'resume' does not hold: a loaded agent makes other proposals"):
        AskTellConformance().test_a_loaded_agent(Forgetful, 4, True, tmp_path)


class Raising(PlantedEvaluator):
    def evaluate(self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: Any = None) -> Any:
        if any(config.hidden_size % config.num_attention_heads for config in configs):
            raise ValueError("heads")
        return super().evaluate(configs, fidelity, on_epoch=on_epoch)


class Shuffling(PlantedEvaluator):
    def evaluate(self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: Any = None) -> Any:
        return super().evaluate(configs[::-1], fidelity, on_epoch=on_epoch)


class Drifting(PlantedEvaluator):
    def evaluate(self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: Any = None) -> Any:
        records: list[Evaluation] = super().evaluate(configs, fidelity, on_epoch=on_epoch)
        return [replace(record, parameters=record.parameters + place) for place, record in enumerate(records)]


class Silent(PlantedEvaluator):
    def evaluate(self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: Any = None) -> Any:
        return super().evaluate(configs, fidelity)


IMPOSSIBLE = StudentConfig(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("broken", "test", "arguments", "message"),
    [
        (Raising, "what_cannot_be_built_is_a_record", (IMPOSSIBLE,), "clause 'failure' .* raised ValueError"),
        (Shuffling, "one_record_per_architecture_in_order", (), "clause 'batch'"),
        (Drifting, "equal_calls", (), "clause 'deterministic'"),
        (Silent, "epochs_are_reported", (), "clause 'on_epoch'"),
        (Silent, "a_true_answer_stops", (), "clause 'stop'"),
    ],
)
def test_broken_evaluators(broken: type[PlantedEvaluator], test: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        getattr(EvaluatorConformance(), f"test_{test}")(broken(SPACE), *arguments, CONFIGS, Fidelity())


class Generous(KDNASEnv):
    """Ends one evaluation late."""

    def step(self, action: Any) -> Any:
        observation, reward, _, truncated, info = super().step(action)
        self._running = True
        return observation, reward, len(self.history) > self.budget, truncated, info


class Sharing(KDNASEnv):
    """Returns an internal array instead of a copy."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._steps = np.zeros(1)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        *answer, info = super().step(action)
        self._steps += 1
        return *answer, {**info, "steps": self._steps}


class NumpyReward(KDNASEnv):
    """Returns a NumPy number as reward."""

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, np.float32(reward), *rest


@pytest.mark.parametrize(
    ("broken", "test", "message"),
    [
        (Generous, "test_the_budget", "clause 'budget' does not hold: ended: False after 6 of 6"),
        (NumpyReward, "test_every_answer_is_in_its_space", "clause 'answers' does not hold: the reward is"),
        (Sharing, "test_arrays_belong_to_the_caller", "clause 'copies' does not hold"),
    ],
)
def test_broken_environments(broken: type[KDNASEnv], test: str, message: str) -> None:
    def make(**options: Any) -> KDNASEnv:
        return broken(SPACE, PlantedEvaluator(SPACE), **options)

    suite = EnvironmentConformance()
    takes_function = test == "test_arrays_belong_to_the_caller"
    with pytest.raises(AssertionError, match=message):
        getattr(suite, test)(make if takes_function else make(budget=suite.BUDGET))


def blind_to_the_mask(teacher: Teacher) -> Teacher:
    """Make a teacher ignore the attention mask, so that it attends to padding."""
    forward = teacher.model.forward
    monkey: Any = teacher.model
    monkey.forward = lambda attention_mask=None, **inputs: forward(**inputs)
    return teacher


def padding_on_the_left(teacher: Teacher) -> Teacher:
    teacher.tokenizer.padding_side = "left"
    return teacher


@pytest.mark.parametrize(
    ("spoil", "test", "message"),
    [
        (
            lambda teacher: replace(teacher, architecture=replace(teacher.architecture, num_hidden_layers=3)),
            "test_states_do_not_depend_on_padding",
            "clause 'states' does not hold: hidden states of shapes",
        ),
        (
            blind_to_the_mask,
            "test_states_do_not_depend_on_padding",
            "clause 'padding' does not hold: with padding, layer 1",
        ),
        (
            padding_on_the_left,
            "test_states_do_not_depend_on_padding",
            "clause 'padding' does not hold: the tokenizer pads",
        ),
    ],
)
def test_broken_teachers(spoil: Callable[[Teacher], Teacher], test: str, message: str, tmp_path: Path) -> None:
    teacher = spoil(load_teacher(save_tiny_encoder(tmp_path, "bert")))
    with pytest.raises(AssertionError, match=message):
        getattr(TeacherConformance(), test)(teacher, tiny_texts())


def test_teachers_that_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeding(folder: Path) -> Teacher:
        random.seed(0)
        return load_teacher(folder)

    monkeypatch.setattr(teachers, "load_teacher", seeding)
    folder = save_tiny_encoder(tmp_path, "bert")
    teacher = load_teacher(folder)
    random.seed(0)  # the suite must notice even if the state is the same already
    with pytest.raises(AssertionError, match="clause 'generators' does not hold"):
        TeacherConformance().test_loading(folder, teacher)
