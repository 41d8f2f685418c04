"""Corrupt records, students, spaces and specifications."""

from __future__ import annotations

import json
from dataclasses import asdict
from random import Random
from typing import Any

import pytest
import yaml
from fuzzing import BATCH, INPUTS, LEAST, answered, both_ways, fuzz, spoilt_bytes, spoilt_json, spoilt_tree, survive

from kdnas_env.bench.specs import AgentSpec
from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Latency, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.evaluators.planted import PLANTED_TEACHER

STUDENT = StudentConfig(3, 4, 384, 1536, "gelu", "albert")
PROBE = Latency(1.5, 0.1, 30, 4.0, 0.2, 0.375, 0.01, "torch")
RECORD = Evaluation(
    STUDENT,
    Fidelity(2, 0.5, 3),
    Status.OK,
    train_loss=(0.5, 0.25),
    heldout_unexplained=(0.75, 0.5),
    latency=PROBE,
    parameters=10,
    details={"recipe": {"epochs": [1, 2]}, "note": None},
)
RECORD_TEXT = RECORD.to_json()
SPACE: dict[str, Any] = {
    "num_hidden_layers": [3, 6, 12],
    "num_attention_heads": [4, 12],
    "hidden_size": 384,
    "hidden_act": ["gelu", "relu"],
    "family": ["bert", "albert"],
    "max_parameters": 10**8,
}
SPECIFICATIONS = (
    "lstm",
    'optuna:objectives=["loss","-latency"],sampler=gp',
    "evolution:population=8,rate=0.5,flag=true,nothing=null",
    'rotten-tomatoes:alpha=-0.2,device=torch,seed="sample"',
)


def test_there_are_enough_inputs() -> None:
    assert sum(INPUTS.values()) >= LEAST


def test_a_target_fails_if_no_answer_is_counted() -> None:
    with pytest.raises(pytest.fail.Exception, match="no answer was counted"):
        both_ways(lambda: None)()


def test_a_target_fails_if_one_of_its_readers_always_answers_the_same() -> None:
    def target() -> None:
        for accepted in (True, False):
            answered(accepted=accepted, reader="fair")
            answered(accepted=False, reader="strict")

    with pytest.raises(pytest.fail.Exception, match="the reader 'strict' only"):
        both_ways(target)()


@fuzz("evaluation text")
def test_text_of_an_evaluation(rng: Random) -> None:
    whole = RECORD_TEXT.encode()
    for _ in range(BATCH):
        survive(Evaluation.from_json, spoilt_bytes(rng, whole).decode("utf-8", "replace"))


@fuzz("evaluation tree")
def test_what_is_read_of_an_evaluation_can_be_used(rng: Random) -> None:
    reward, whole = KDReward(), json.loads(RECORD_TEXT)
    for _ in range(BATCH):
        text = spoilt_json(rng, whole).decode("utf-8", "replace")
        survive(lambda text=text: reward(Evaluation.from_json(text)), told=text)


@fuzz("student")
def test_students(rng: Random) -> None:
    space, whole = SearchSpace.from_teacher(PLANTED_TEACHER), STUDENT.to_dict()
    for _ in range(BATCH // 2):
        told = spoilt_tree(rng, whole)
        survive(lambda told=told: space.is_valid(StudentConfig.from_dict(told)), told=told, reader="mapping")
        words = spoilt_bytes(rng, str(STUDENT).encode()).decode("utf-8", "replace")
        survive(lambda words=words: space.is_valid(StudentConfig.parse(words)), told=words, reader="words")


@fuzz("space tree")
def test_spaces(rng: Random) -> None:
    for _ in range(BATCH):
        survive(_explored, spoilt_tree(rng, SPACE), PLANTED_TEACHER)


@fuzz("space file")
def test_files_of_spaces(rng: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "space.yaml"
    for _ in range(BATCH):
        whole = (yaml.safe_dump(SPACE) if rng.random() < 0.5 else json.dumps(SPACE)).encode()
        data = spoilt_bytes(rng, whole) if rng.random() < 0.5 else spoilt_json(rng, SPACE)
        path.write_bytes(data)
        survive(SearchSpace.from_file, path, PLANTED_TEACHER, told=data)


@fuzz("specification")
def test_specifications(rng: Random) -> None:
    for _ in range(BATCH):
        text = spoilt_bytes(rng, rng.choice(SPECIFICATIONS).encode()).decode("utf-8", "replace")
        if rng.random() < 0.5:
            survive(Task.parse, text, reader="task")
        else:
            survive(lambda text=text: AgentSpec.parse(str(AgentSpec.parse(text))), told=text, reader="agent")


def _explored(told: Any, teacher: EncoderArchitecture) -> None:
    space = SearchSpace.from_dict(told, teacher)
    action = space.from_index(space.size - 1)
    space.violation(space.decode(action))
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())), teacher).to_dict() == space.to_dict()
    assert space.nvec.prod() == space.size
    assert asdict(teacher)
