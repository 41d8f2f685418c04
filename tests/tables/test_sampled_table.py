"""Tables of spaces too large to tabulate: a sample of a joint space, and the surrogate that answers for the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from small_tables import DEVICE, planted_metadata

from kdnas_env.bench.hardness import hardness, hardness_rows
from kdnas_env.bench.truth import Truth
from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.evaluators.planted import PLANTED_TEACHER
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.pipeline.table.agreement import table_agreement
from kdnas_env.pipeline.table.inspect import Inspection, inspect_table
from kdnas_env.support.statistics import kendall_tau
from kdnas_env.tables.external import read_external
from kdnas_env.tables.storage import checksum, load_table, write_table
from kdnas_env.tables.surrogates.card import _splits
from kdnas_env.tables.surrogates.storage import read_surrogate, write_surrogate
from kdnas_env.tables.surrogates.students import LARGEST_LOSS, capped
from kdnas_env.tables.surrogates.surrogate import Surrogate
from kdnas_env.tables.table import CURVES, Table
from kdnas_env.tabulation.around import students_around
from kdnas_env.tabulation.build import networks, planned_students
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies, assemble_table
from kdnas_env.tabulation.latencies import modelled
from kdnas_env.tabulation.verify import find_faults

CHOICES: dict[str, Any] = {
    "num_hidden_layers": [*range(1, 13)],
    "num_attention_heads": [4, 12],
    "hidden_size": [*range(96, 769, 96)],
    "intermediate_size": [*range(128, 3073, 128)],
    "recipe.learning_rate": [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016],
    "recipe.batch_size": [4, 8, 16],
    "recipe.mapping": ["uniform", "last", "skip"],
    "recipe.train_embeddings": [False, True],
    "recipe.warmup_fraction": [0.0, 0.1],
}
JOINT = SearchSpace.from_dict(CHOICES, PLANTED_TEACHER)
STUDENTS = planned_students(JOINT, 300)


def loss(student: StudentConfig) -> float:
    """A smooth function of size and recipe, in which the best learning rate depends on the width."""
    recipe = dict(student.recipe)
    best = 0.004 * 192 / student.hidden_size * recipe["batch_size"] / 8
    size = 0.5 / np.sqrt(student.num_hidden_layers) + 40 / student.hidden_size + 50 / student.intermediate_size
    recipes = 0.05 * np.log(recipe["learning_rate"] / best) ** 2 + 0.1 * (recipe["mapping"] == "last")
    return float(size + recipes + 0.03 * recipe["train_embeddings"] + 0.2 * recipe["warmup_fraction"])


def evaluated(student: StudentConfig) -> Evaluation:
    curve = tuple(loss(student) * factor for factor in (1.5, 1.2, 1.1, 1.0))
    return Evaluation(student, Fidelity(epochs=3), Status.OK, curve, curve, curve, curve, epoch_seconds=(0, 1, 1, 1))


def tabulated(students: list[StudentConfig]) -> Table:
    latencies = {network: modelled(DEVICE, network, PLANTED_TEACHER) for network in networks(students)}
    metadata = planted_metadata(JOINT, seeds=(0,))
    return assemble_table(metadata, map(evaluated, students), [MeasuredLatencies(DEVICE, latencies)])


@pytest.fixture(scope="module")
def table() -> Table:
    return tabulated(STUDENTS)


@pytest.fixture(scope="module")
def surrogate(table: Table) -> Surrogate:
    return Surrogate.fit(table)


def test_a_sample_has_a_hardness_and_is_compared_with_other_tasks(table: Table, tmp_path: Path) -> None:
    """Both use the sampled students only; no agent can search a sample."""
    write_table(table, tmp_path / "sample.npz")
    found = inspect_table(f"{tmp_path / 'sample.npz'}:speedup=4")
    assert isinstance(found, Inspection)
    assert found.hardness is not None
    assert 0 < found.hardness["feasible"] < 1
    assert found.hardness["points"] == round(300 * found.hardness["feasible"])
    alike = found.against(f"{tmp_path / 'sample.npz'}:alpha=-1.0")
    assert alike["points"] == found.hardness["points"]
    assert alike["tau"] < 1


def test_a_sample_is_drawn_once_and_grows() -> None:
    assert len(set(STUDENTS)) == 300
    assert planned_students(JOINT, 20) == STUDENTS[:20]
    with pytest.raises(TableError, match="set sample"):
        planned_students(JOINT)
    small = SearchSpace.from_dict({"num_hidden_layers": [1, 2, 3]}, PLANTED_TEACHER)
    assert planned_students(small, 2) == planned_students(small)[:2]
    with pytest.raises(TableError, match="has 3 valid students"):
        planned_students(small, 4)


def test_the_rows_are_what_was_evaluated(table: Table) -> None:
    configs = table.configs()
    assert table.sampled
    assert table.complete == 1
    assert set(configs) == set(STUDENTS)
    assert find_faults(table) == []
    evaluator = TabularEvaluator(table)
    for student in STUDENTS[:20]:
        assert evaluator.query(student).heldout_unexplained == pytest.approx(evaluated(student).heldout_unexplained)
    indices = np.array([JOINT.index(JOINT.encode(student)) for student in STUDENTS])
    assert [configs[row] for row in table.rows_of(indices)] == STUDENTS
    assert (table.rows_of(np.arange(50)) == -1).all()


def test_students_of_one_network_have_one_latency() -> None:
    other = {"learning_rate": 0.001, "batch_size": 4, "mapping": "skip", "train_embeddings": True}
    twin = replace(STUDENTS[0], recipe=(*other.items(), ("warmup_fraction", 0.0)))
    assert twin != STUDENTS[0]
    table = tabulated([STUDENTS[0], twin])
    assert len(networks([STUDENTS[0], twin])) == 1
    assert len(table) == 2
    assert np.array_equal(table.latencies[0], table.latencies[1])


def test_a_student_that_was_not_drawn_is_not_in_the_table(table: Table) -> None:
    absent = next(config for config in map(JOINT.decode, np.eye(9, dtype=np.int64)) if config not in STUDENTS)
    with pytest.raises(SpaceError, match="not in table"):
        TabularEvaluator(table).query(absent)
    invalid = replace(STUDENTS[0], num_hidden_layers=13)
    with pytest.raises(TableError, match="not a valid student"):
        tabulated([*STUDENTS[:3], invalid])


def test_it_is_read_as_it_was_written(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "joint.npz")
    found = load_table(tmp_path / "joint.npz")
    assert found.fingerprint == table.fingerprint
    assert found.space == JOINT


def test_a_surrogate_knows_how_recipe_and_size_go_together(surrogate: Surrogate) -> None:
    others = planned_students(JOINT, 400)[300:]
    mean, _, _ = surrogate.predict(others)
    predicted = mean.curves[:, -1, 3]
    # Means by network alone, or by recipe alone, would rank worse.
    assert kendall_tau(predicted, np.array([loss(student) for student in others])) > 0.85
    assert surrogate.range.numbers["recipe.learning_rate"] == (0.0005, 0.016)
    assert surrogate.range.names["recipe.train_embeddings"] == (False, True)
    plain = STUDENTS[0].network
    with pytest.raises(SpaceError, match="other fields of the recipe"):
        surrogate.predict([plain])


def test_a_student_that_diverges_does_not_disturb_what_is_said_of_others(table: Table) -> None:
    """Losses are capped where the reward reaches its floor; otherwise, one of 30,000 would dominate the fit."""
    others, unexplained = planned_students(JOINT, 400)[300:], CURVES.index("heldout_unexplained")
    curves = table.curves.copy()
    rows = np.arange(0, 300, 30)
    curves[rows, :, 1:, :4] = 30_000.0
    diverged = Surrogate.fit(replace(table, curves=curves))
    predicted = diverged.predict(others)[0].curves[:, -1, unexplained]
    assert kendall_tau(predicted, np.array([loss(student) for student in others])) > 0.6
    again = diverged.predict(table.configs()[::30])[0].curves[:, -1]
    assert (again[:, :4] < 1.5 * LARGEST_LOSS).all()
    kept = capped(curves)
    assert kept[..., unexplained].max() == LARGEST_LOSS
    assert np.array_equal(kept[1], table.curves[1])
    assert kept[0, 0, 1, 0] == pytest.approx(curves[0, 0, 1, 0] * LARGEST_LOSS / curves[0, 0, 1, 2])


def test_the_losses_before_training_have_a_process_of_their_own(surrogate: Surrogate, tmp_path: Path) -> None:
    assert surrogate.staged
    assert [len(part) for part in surrogate.columns[:3]] == [4, 12, 4]
    write_surrogate(surrogate, tmp_path / "staged.npz")
    read = read_surrogate(tmp_path / "staged.npz")
    inputs = surrogate.features(STUDENTS[:5])
    last = surrogate.output("heldout_unexplained", 3)
    assert np.array_equal(read.log_mean(inputs), surrogate.log_mean(inputs))
    assert np.allclose(surrogate.log_mean(inputs, [last])[:, last], surrogate.log_mean(inputs)[:, last])
    _, _, doubt = surrogate.predict(STUDENTS[:5])
    assert (doubt.curves[..., :4] > 0).all()


def test_students_around_the_best_are_better_than_a_fair_sample(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "joint.npz")
    around = students_around(JOINT, str(tmp_path / "joint.npz"), 20)
    assert len(set(around)) == 20
    assert all(student in JOINT for student in around)
    best = np.sort([loss(student) for student in STUDENTS])[:30]
    assert np.median([loss(student) for student in around]) < best.max()
    assert around == students_around(JOINT, str(tmp_path / "joint.npz"), 20)


def test_an_environment_answers_for_the_whole_space(surrogate: Surrogate, tmp_path: Path) -> None:
    write_surrogate(surrogate, tmp_path / "joint-surrogate.npz")
    env = gym.make("kdnas/Surrogate-v0", table=str(tmp_path / "joint-surrogate.npz"), budget=8)
    space = env.get_wrapper_attr("search_space")
    assert space == JOINT
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(8):
        action = env.action_space.sample()
        _, _, terminated, _, info = env.step(action)
        assert info["status"] == "ok"
        assert info["loss"] == pytest.approx(loss(space.decode(action)), rel=0.5)
    assert terminated


def test_a_sample_cannot_be_searched_itself(table: Table, tmp_path: Path) -> None:
    write_table(table, tmp_path / "joint.npz")
    with pytest.raises(TableError, match="fit a surrogate"):
        gym.make("kdnas/Tabular-v0", table=str(tmp_path / "joint.npz"))


def test_agents_are_raced_on_the_students_of_a_sample_and_on_what_a_surrogate_says_of_them(tmp_path: Path) -> None:
    path, table = str(tmp_path / "sample.npz"), tabulated(STUDENTS[:60])
    write_table(table, path)
    out = tmp_path / "agreement"
    asked: dict[str, Any] = {"agents": ("random", "least-squares"), "seeds": 4, "budget": 20, "workers": 1}
    found = table_agreement(path, **asked, out=str(out))
    assert found.table()[0]["agent"] == "least-squares"
    (says,) = out.glob("predicted-*.npz")
    true, predicted = (read_external(out / f"students-{checksum(file)[:12]}.npz") for file in (Path(path), says))
    assert len(true.space.valid_indices) == 60
    assert true.score.max() == pytest.approx(Truth.of_table(Task(path), table).best)
    assert np.array_equal(true.index, predicted.index)
    assert kendall_tau(true.score, predicted.score) > 0.3
    assert table_agreement(path, **asked, out=str(out)).scores == found.scores


def test_of_a_sample_the_report_of_hardness_says_what_holds_for_the_space(table: Table) -> None:
    report = hardness(table, np.random.default_rng(0))
    said = dict(hardness_rows(report))
    assert report["sampled"]
    assert {"points", "additive R2 of the log reward"} <= said.keys()
    assert not any("local" in name or "search" in name for name in said)


def test_a_surrogate_is_judged_by_recipes_it_has_not_seen(table: Table) -> None:
    splits = [split.name for split in _splits(table, np.arange(300), np.arange(300.0), 5, np.random.default_rng(0))]
    assert "without recipe.learning_rate 0.016" in splits
    assert "without recipe.batch_size 4" in splits


def test_a_space_without_the_recipe_is_refused(surrogate: Surrogate) -> None:
    plain = SearchSpace.from_dict({"num_hidden_layers": [1, 2]}, PLANTED_TEACHER)
    with pytest.raises(SpaceError, match="of the recipe"):
        SurrogateEvaluator(surrogate, search_space=plain)
