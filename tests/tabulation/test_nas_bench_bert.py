"""NAS-Bench-BERT as an external table, from a made-up file in its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from complaints import complaint
from small_bench_bert import trainings, write_bench_bert

import kdnas_env
from kdnas_env.bench.recorded_search import run_search
from kdnas_env.bench.specs import AgentSpec
from kdnas_env.bench.truth import Truth
from kdnas_env.cli import main
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.point_space import Point, PointSpace
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.envs.budget import Budget
from kdnas_env.errors import KDNASError, SpaceError, TableError
from kdnas_env.evaluators.external import ExternalEvaluator
from kdnas_env.tables.external import ExternalTable, read_external, write_external
from kdnas_env.tables.storage import load_table
from kdnas_env.tabulation.nas_bench_bert import LAYER, NO_LAYER, import_nas_bench_bert


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("nas-bench-bert")
    write_external(import_nas_bench_bert(write_bench_bert(folder / "BERT_benchmark.json")), folder / "bert.npz")
    return str(folder / "bert.npz")


def features(network: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the candidate for a network of the file, without the code of the importer."""
    values = {"hidden_size": network["hidden_size"]}
    for number, layer in enumerate(network["nas_config"]["encoder_layers"], start=1):
        values[f"operation_{number}"] = "{operation_type}-{operation_parameter}".format(**layer)
        values[f"heads_{number}"] = layer["num_operation_heads"]
        values[f"feed_forward_{number}"] = layer["feed_forward_dimension"]
        values[f"feed_forwards_{number}"] = layer["num_feed_forward"]
    return values


def test_every_training_is_found_by_its_features(table_file: str) -> None:
    entries, table = trainings(), read_external(table_file)
    assert list(table.choices) == ["hidden_size", *(f"{name}_{layer}" for layer in (1, 2, 3, 4) for name in LAYER)]
    assert table.choices["operation_4"][0] == NO_LAYER
    assert NO_LAYER not in table.choices["operation_2"]
    assert (len(table.index), len(table.space.valid_indices)) == (40, 38)
    candidates = [dict(table.space.decode(table.space.from_index(index)).values) for index in table.index.tolist()]
    for one in entries:
        wanted = features(one["hparams"]["model_hparam_overrides"])
        layers = len(wanted) // len(LAYER)
        absent = {f"operation_{number}": NO_LAYER for number in range(layers + 1, 5)}
        rows = [row for row, values in enumerate(candidates) if (wanted | absent).items() <= values.items()]
        assert one["time_to_train"] in table.seconds[rows]
        percent = [one["scores"][metric] for metric in table.metrics]
        assert np.isclose(table.scores[rows] * 100, percent).all(axis=1).any()


def test_the_reward_is_the_score(table_file: str) -> None:
    table = read_external(table_file)
    env = gym.make("kdnas/External-v0", table=table_file, budget=50, duplicates="free").unwrapped
    space = table.space
    env.reset(seed=0)
    assert env.get_wrapper_attr("valid_action_indices").tolist() == space.valid_indices.tolist()
    for (first, count), index in zip(table.trainings.tolist(), space.valid_indices.tolist(), strict=True):
        _, reward, _, _, info = env.step(space.from_index(index))
        assert reward == pytest.approx(table.score[first : first + count].mean())
        assert info["status"] == "ok"
        assert info["latency_ratio"] == pytest.approx(table.seconds[first] / table.seconds.max())
        assert info["config"].startswith("hidden_size=")
    missing = next(index for index in range(space.size) if index not in set(space.valid_indices.tolist()))
    _, reward, _, _, info = env.step(space.from_index(missing))
    assert (reward, info["status"]) == (-1.0, "invalid")


def test_a_candidate_that_was_trained_twice_is_noisy(table_file: str) -> None:
    table = read_external(table_file)
    assert table.noise > 0
    twice = int(np.flatnonzero(table.trainings[:, 1] == 2)[0])
    config: Any = table.space.decode(table.space.from_index(int(table.space.valid_indices[twice])))
    first = int(table.trainings[twice, 0])
    drawn = {
        1.0 - float(one.task_unexplained or 0)
        for seed in range(20)
        for one in ExternalEvaluator(table, "sample").evaluate([config], Fidelity(0, seed=seed))
    }
    assert sorted(drawn) == pytest.approx(sorted(table.score[first : first + 2]))


def test_the_truth_is_the_mean_of_the_trainings(table_file: str) -> None:
    table, truth = read_external(table_file), Truth.of(Task.parse(table_file))
    means = [table.score[first : first + count].mean() for first, count in table.trainings.tolist()]
    assert truth.reward == pytest.approx(means)
    assert truth.best == max(truth.reward)
    assert truth.tolerance == table.noise
    for setting in ("alpha=-0.2", "speedup=2", "epochs=1", "device=torch", "seed=1"):
        with pytest.raises(KDNASError, match=r"has no effect on an external table|seed"):
            Truth.of(Task.parse(f"{table_file}:{setting}"))


FAST = [name for name in kdnas_env.agent_names() if not name.startswith("lstm-")]


@pytest.mark.parametrize("agent", FAST)
def test_fast_agents_search_it(agent: str, table_file: str) -> None:
    search = run_search(AgentSpec.parse(agent), Task.parse(table_file), 0, Budget(12))
    assert (search.error, len(search)) == ("", 12)
    truth = Truth.of(Task.parse(table_file))
    assert search.true.max() <= truth.best


def test_a_vector_of_it_answers_alike(table_file: str) -> None:
    space = read_external(table_file).space
    actions = np.stack([space.from_index(index) for index in space.valid_indices[:8].tolist()])
    scalar = gym.make("kdnas/External-v0", table=table_file, budget=8)
    scalar.reset(seed=0)
    vector = gym.make_vec("kdnas/External-v0", num_envs=8, table=table_file, budget=8)
    vector.reset(seed=0)
    assert vector.step(actions)[1].tolist() == [scalar.step(action)[1] for action in actions]


def test_it_is_imported_inspected_and_raced_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, table = str(write_bench_bert(tmp_path / "BERT_benchmark.json")), str(tmp_path / "bert.npz")
    assert main(["table", "import-nas-bench-bert", file, "--to", table, "--metric", "mnli"]) == 0
    assert read_external(table).metric == "mnli"
    assert main(["table", "inspect", table]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("38, 2 of them trained more than once") == 2
    assert "searches maximise mnli" in printed
    assert "an external table" in complaint(["table", "inspect", table, "--surrogate"], capsys)
    words = ["--agents", "random", "evolution", "--tasks", table, "--budget", "6", "--seeds", "2", "--workers", "1"]
    assert main(["bench", *words, "--repetitions", "20", "--out", str(tmp_path / "race")]) == 0


def broken(change: str) -> list[Any]:
    entries = trainings(4, 0)
    network = entries[2]["hparams"]["model_hparam_overrides"]
    match change:
        case "no scores":
            del entries[2]["scores"]
        case "score":
            entries[2]["scores"]["mnli"] = "72"
        case "layers":
            network["nas_config"]["encoder_layers"] = []
        case "heads":
            network["nas_config"]["encoder_layers"][0]["num_operation_heads"] = 0
        case "none complete":
            return [{**one, "completed": False} for one in entries]
        case "text":
            return ["text"]
    return entries


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no scores", "entry 2 lacks a field: KeyError"),
        ("score", "entry 2 has an impossible width, layers, scores or time"),
        ("layers", "entry 2 has an impossible width, layers, scores"),
        ("heads", "expected positive numbers of heads"),
        ("none complete", "no complete training"),
        ("text", "entry 0 is 'text'"),
    ],
)
def test_a_malformed_file_is_refused(change: str, words: str, tmp_path: Path) -> None:
    file = write_bench_bert(tmp_path / "file.json", broken(change))
    with pytest.raises(TableError, match=words):
        import_nas_bench_bert(file)


def test_trainings_that_are_not_complete_are_left_out(tmp_path: Path) -> None:
    entries = trainings(6, 0)
    entries.append({"id": 6, "is_running": True, "completed": False})
    assert len(import_nas_bench_bert(write_bench_bert(tmp_path / "file.json", entries)).index) == 6


def test_what_is_no_external_table_is_refused(table_file: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read as NAS-Bench-BERT"):
        import_nas_bench_bert(tmp_path / "nothing.json")
    with pytest.raises(TableError, match="metric is 'accuracy'"):
        import_nas_bench_bert(tmp_path / "nothing.json", "accuracy")
    with pytest.raises(TableError):
        load_table(table_file)
    table = read_external(table_file)
    parts: dict[str, Any] = {name: getattr(table, name) for name in ExternalTable.__dataclass_fields__}
    for change in ({"seconds": -table.seconds}, {"scores": table.scores * 100}, {"index": table.index[::-1].copy()}):
        with pytest.raises(TableError, match="import it again"):
            ExternalTable(**parts | change)


def test_a_space_of_points() -> None:
    space = PointSpace({"a": (1, 2), "b": ("x", "y", "z")}, np.array([0, 4]))
    assert [space.index(space.encode(space.decode(space.from_index(index)))) for index in range(6)] == list(range(6))
    assert space.indices(np.array([[0, 0], [1, 1]])).tolist() == [0, 4]
    assert [space.violation(space.decode(space.from_index(index))) is None for index in range(6)] == [
        index in (0, 4) for index in range(6)
    ]
    assert space.ordered == (True, False)
    assert str(space.decode([1, 2])) == "a=2 b=z"
    assert {space.index(space.sample(np.random.default_rng(seed))) for seed in range(20)} == {0, 4}
    for action in ([2, 0], [0], [0.5, 0], [[0, 0]]):
        with pytest.raises(SpaceError):
            space.decode(action)
    with pytest.raises(SpaceError, match="not in the space"):
        space.encode(Point((("a", 3), ("b", "x"))))
    with pytest.raises(SpaceError, match="not on its grid"):
        PointSpace({"a": (1, 2)}, np.array([2]))
