from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_tables import planted_table

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.support.statistics import kendall_tau
from kdnas_env.tables.archive import write_archive
from kdnas_env.tables.storage import write_table
from kdnas_env.tables.surrogates.agent_ranking import ranking_agreement, surrogate_table
from kdnas_env.tables.surrogates.card import (
    RANDOM,
    TOP_DECILE,
    card_rows,
    judge,
    judge_parts,
    precision_at,
    prediction_quality,
    surrogate_card,
)
from kdnas_env.tables.surrogates.gaussian_process import GaussianProcess
from kdnas_env.tables.surrogates.seed_deviation import SeedDeviation
from kdnas_env.tables.surrogates.storage import load_source, read_surrogate, write_surrogate
from kdnas_env.tables.surrogates.surrogate import Quantities, Surrogate
from kdnas_env.tables.table import CURVES, LATENCIES, MISSING, Table

SPACE: dict[str, Any] = {
    "num_hidden_layers": [3, 4, 6, 9, 12],
    "num_attention_heads": [4, 12],
    "hidden_size": [384, 576, 768],
    "intermediate_size": [768, 3072],
    "hidden_act": ["gelu", "relu"],
}
"""120 students."""

NOISE = 0.02
TABLE = planted_table(SPACE, noise=NOISE)
SURROGATE = Surrogate.fit(TABLE)
LOSS, SECONDS = CURVES.index("heldout_unexplained"), CURVES.index("epoch_seconds")
ALL_BETWEEN = SearchSpace.from_dict(
    {
        "num_hidden_layers": list(range(3, 13)),
        "num_attention_heads": [4, 6, 12],
        "hidden_size": list(range(384, 769, 24)),
        "intermediate_size": list(range(768, 3073, 64)),
        "hidden_act": ["gelu", "relu"],
    },
    PLANTED_TEACHER,
)


def test_students_that_were_never_tabulated_are_predicted() -> None:
    rng = np.random.default_rng(0)
    configs = [ALL_BETWEEN.decode(ALL_BETWEEN.sample(rng)) for _ in range(200)]
    truth = PlantedEvaluator(ALL_BETWEEN).evaluate(configs, Fidelity(epochs=3))
    mean, _, doubt = SURROGATE.predict(configs)
    losses = np.array([one.heldout_unexplained for one in truth])
    for epoch in (0, 3):
        found = mean.curves[:, epoch, LOSS]
        assert (
            1 - ((found - losses[:, epoch]) ** 2).sum() / ((losses[:, epoch] - losses[:, epoch].mean()) ** 2).sum()
            > 0.9
        )
    assert kendall_tau(losses[:, -1], mean.curves[:, -1, LOSS]) > 0.85
    ratios = np.array([one.latency.ratio for one in truth if one.latency])
    assert mean.latencies[:, 0, 1] == pytest.approx(ratios, rel=0.05)
    errors = np.abs(mean.curves[:, -1, LOSS] - losses[:, -1])
    assert (errors < 2 * doubt.curves[:, -1, LOSS]).mean() > 0.7


def test_noise_between_seeds_and_doubt_are_kept_apart() -> None:
    _, noise, doubt = SURROGATE.predict(TABLE.configs())
    mean = SURROGATE.predict(TABLE.configs())[0]
    assert np.sqrt(((noise.curves / mean.curves)[:, -1, LOSS] ** 2).mean()) == pytest.approx(NOISE, rel=0.2)
    assert (noise.latencies == 0).all()
    noiseless = Surrogate.fit(planted_table(SPACE, noise=0.0)).predict(TABLE.configs())[1]
    assert (noiseless.curves < 1e-5).all()
    corner, far = TABLE.configs()[0], replace(TABLE.configs()[0], num_hidden_layers=1, hidden_size=96)
    _, _, further = SURROGATE.predict([corner, far], extrapolate=True)
    mean = SURROGATE.predict([corner, far], extrapolate=True)[0]
    relative = (further.curves / mean.curves)[:, -1, LOSS]
    assert relative[1] > 3 * relative[0]
    assert (doubt.curves > 0).all()


@given(st.integers(0, ALL_BETWEEN.size - 1), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_what_is_predicted_is_positive_and_time_runs_forward(index: int, seed: int) -> None:
    inputs = SURROGATE.features([ALL_BETWEEN.decode(ALL_BETWEEN.from_index(index))])
    normals = np.random.default_rng(seed).standard_normal((1, SURROGATE.curve_outputs))
    for one in (SURROGATE.mean(inputs), SURROGATE.sampled(inputs, 3 * normals)):
        assert (one.latencies > 0).all()
        assert (one.curves > 0).all()
        assert (np.diff(one.curves[0, :, CURVES.index("epoch_seconds")].cumsum()) > 0).all()


def test_students_beyond_the_table_are_refused_unless_asked_for() -> None:
    inside = TABLE.configs()[0]
    with pytest.raises(SpaceError, match="num_hidden_layers 2 is beyond the table's 3 to 12; extrapolate=True"):
        SURROGATE.predict([replace(inside, num_hidden_layers=2)])
    assert SURROGATE.predict([replace(inside, num_hidden_layers=2)], extrapolate=True)[0].curves.shape == (1, 4, 5)
    with pytest.raises(SpaceError, match=r"hidden_act 'silu' is none of the table's \['gelu', 'relu'\]"):
        SURROGATE.predict([replace(inside, hidden_act="silu")], extrapolate=True)


def test_masked_and_failed_cells_are_left_out() -> None:
    status, curves, valid = TABLE.status.copy(), TABLE.curves.copy(), TABLE.valid.copy()
    status[::2, 1], curves[::2, 1], valid[::2, 1] = MISSING, np.nan, False
    status[5], curves[5], valid[5] = MISSING, np.nan, False
    partial = Surrogate.fit(replace(TABLE, status=status, curves=curves, valid=valid))
    found, whole = (one.predict(TABLE.configs())[0].curves[:, -1, LOSS] for one in (partial, SURROGATE))
    assert found == pytest.approx(whole, rel=0.05)
    failing = Surrogate.fit(planted_table(SPACE, failures=0.2, noise=NOISE))
    assert np.isfinite(failing.predict(TABLE.configs(), extrapolate=True)[0].curves).all()


GRID = {**SPACE, "num_hidden_layers": [3, 12], "hidden_size": [384, 768]}
BETWEEN = {**SPACE, "num_hidden_layers": [5, 8], "hidden_size": [480, 624]}


def test_students_between_those_of_the_table_make_it_better_there() -> None:
    rng = np.random.default_rng(0)
    configs = [ALL_BETWEEN.decode(ALL_BETWEEN.sample(rng)) for _ in range(60)]
    truth = PlantedEvaluator(ALL_BETWEEN).evaluate(configs, Fidelity(epochs=3))
    losses = np.array([one.heldout_unexplained[-1] for one in truth])
    grid, between = planted_table(GRID, noise=0.0), planted_table(BETWEEN, noise=0.0, seeds=(7, 0))
    alone, better = Surrogate.fit(grid), Surrogate.fit(grid, between)
    without, errors = (np.abs(one.predict(configs)[0].curves[:, -1, LOSS] - losses).mean() for one in (alone, better))
    assert errors < 0.6 * without
    assert better.tables == (("planted", 32), ("planted", 32))
    # The surrogate without the added students tells how well they were predicted before.
    told = judge(alone, between)
    assert told["students"] == 32
    assert told["rmse"] > judge(better, between)["rmse"]
    # Cross-validation over the added students estimates how well further students are predicted.
    apart = judge_parts(grid, between, folds=4)
    assert apart["students"] == 32
    assert told["rmse"] > apart["rmse"] > judge(better, between)["rmse"]


def test_what_two_tables_have_counts_once_and_ranges_are_joined() -> None:
    again = Surrogate.fit(TABLE, TABLE)
    inputs = SURROGATE.features(TABLE.configs())
    assert np.array_equal(again.mean(inputs).curves, SURROGATE.mean(inputs).curves)
    wider = Surrogate.fit(planted_table(GRID, max_parameters=60_000_000), planted_table({"num_hidden_layers": [1, 3]}))
    assert wider.range.numbers["num_hidden_layers"] == (1, 12)
    assert wider.range.max_parameters is None
    capped = [planted_table(GRID, max_parameters=cap) for cap in (60_000_000, 80_000_000)]
    assert Surrogate.fit(*capped).range.max_parameters == 80_000_000
    # A seed that only one of the tables has is a further seed of its students.
    split = [planted_table(SPACE, seeds=seeds, noise=NOISE) for seeds in ((0, 1), (2,))]
    assert Surrogate.fit(*split).seeds == 3


def test_latencies_of_other_machines_are_left_out() -> None:
    slower = TABLE.latencies.copy() * 2
    other = replace(TABLE.metadata, devices=(replace(TABLE.metadata.devices[0], machine="another"),))
    few = TABLE.latencies.copy()
    few[60:] = np.nan
    known = replace(TABLE, latencies=few)
    renamed = replace(TABLE.metadata, devices=(replace(TABLE.metadata.devices[0], name="model"),))
    foreign, same = replace(TABLE, metadata=other, latencies=slower), replace(TABLE, metadata=renamed)
    ratios = [
        Surrogate.fit(known, *one).predict(TABLE.configs())[0].latencies[:, 0] for one in ((), (foreign,), (same,))
    ]
    assert np.array_equal(ratios[0], ratios[1])
    assert not np.array_equal(ratios[0], ratios[2])
    assert ratios[2] == pytest.approx(SURROGATE.predict(TABLE.configs())[0].latencies[:, 0])


def test_what_another_kind_of_device_found_counts_but_not_its_seconds() -> None:
    between = planted_table(BETWEEN, noise=0.0)
    curves = between.curves.copy()
    curves[..., SECONDS] *= 100
    elsewhere = replace(between.metadata, workload="1" * 64, alike=(TABLE.metadata.workload,), trained_on="a GPU")
    here, there = (
        Surrogate.fit(TABLE, between),
        Surrogate.fit(TABLE, replace(between, metadata=elsewhere, curves=curves)),
    )
    configs = between.configs()
    one, other = (surrogate.predict(configs)[0].curves for surrogate in (here, there))
    assert np.array_equal(one[..., LOSS], other[..., LOSS])
    assert other[..., SECONDS] == pytest.approx(SURROGATE.predict(configs)[0].curves[..., SECONDS])
    # Either table may name the other in ``alike``; values of a student in both tables may differ by rounding.
    inputs = SURROGATE.features(TABLE.configs())
    known = replace(TABLE, metadata=replace(TABLE.metadata, alike=("1" * 64,)))
    gpu = replace(TABLE.metadata, workload="1" * 64, trained_on="a GPU")
    rounded = replace(TABLE, curves=TABLE.curves * np.float32(1.01), metadata=gpu)
    assert np.array_equal(Surrogate.fit(known, rounded).mean(inputs).curves, SURROGATE.mean(inputs).curves)
    with pytest.raises(TableError, match="disagrees with another"):
        Surrogate.fit(known, replace(rounded, curves=TABLE.curves * np.float32(1.1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workload": "1" * 64}, "workload is 0000"),
        ({"workload": "1" * 64, "teacher": "another"}, "teacher is planted in the one and another in the other"),
        ({"workload": "1" * 64, "corpus": {"source": "imdb"}}, r"corpus is \{\} in the one and \{'source': 'imdb'\}"),
    ],
)
def test_tables_of_other_workloads_are_refused(changes: dict[str, Any], message: str) -> None:
    other = planted_table(BETWEEN)
    with pytest.raises(TableError, match=message):
        Surrogate.fit(TABLE, replace(other, metadata=replace(other.metadata, **changes)))
    with pytest.raises(TableError, match="epochs is 3 in the one and 2 in the other"):
        Surrogate.fit(TABLE, planted_table(BETWEEN, epochs=2))


def test_tables_that_disagree_about_a_student_are_refused() -> None:
    with pytest.raises(TableError, match="disagrees with another about losses of one student and seed"):
        Surrogate.fit(TABLE, replace(TABLE, curves=TABLE.curves * np.float32(1.01)))


def test_a_table_of_one_seed_has_no_noise() -> None:
    single = Surrogate.fit(planted_table(SPACE, seeds=(0,), noise=NOISE))
    mean, noise, doubt = single.predict(TABLE.configs())
    assert (noise.curves == 0).all()
    # With one seed, noise cannot be separated from the effect of the student, so it counts as doubt.
    assert (doubt.curves / mean.curves)[:, -1, LOSS].mean() > NOISE / 2


def test_a_table_of_few_students_is_refused() -> None:
    small = planted_table({"num_hidden_layers": [3, 6, 12], "hidden_size": [384, 768]})
    with pytest.raises(TableError, match="has 6 successful students; a surrogate needs at least 12"):
        Surrogate.fit(small)


def _equal(first: Quantities, second: Quantities) -> bool:
    return np.array_equal(first.curves, second.curves) and np.array_equal(first.latencies, second.latencies)


def test_a_surrogate_is_the_same_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "planted.npz"
    write_surrogate(SURROGATE, path)
    again = read_surrogate(path)
    assert again.metadata == SURROGATE.metadata
    assert again.range == SURROGATE.range
    assert again.tables == SURROGATE.tables == (("planted", 120),)
    configs = TABLE.configs()[:7]
    assert all(_equal(a, b) for a, b in zip(again.predict(configs), SURROGATE.predict(configs), strict=True))
    with np.load(path, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} <= {"f", "i"}
    assert path.stat().st_size < 200_000


def test_a_source_is_a_table_or_a_surrogate(tmp_path: Path) -> None:
    write_surrogate(SURROGATE, tmp_path / "surrogate.npz")
    write_table(TABLE, tmp_path / "table.npz")
    assert isinstance(load_source(tmp_path / "surrogate.npz"), Surrogate)
    source = load_source([tmp_path / "table.npz", str(tmp_path / "table.npz")])
    assert isinstance(source, tuple)
    assert [isinstance(one, Table) for one in source] == [True, True]
    alone = load_source(tmp_path / "table.npz")
    assert isinstance(alone, tuple)
    assert len(alone) == 1
    with pytest.raises(TableError, match="no table is named"):
        load_source([])
    with pytest.raises(TableError, match="there is no table 'nowhere'"):
        load_source("nowhere")
    with pytest.raises(TableError, match="is not a surrogate"):
        read_surrogate(tmp_path / "table.npz")


def test_damaged_surrogates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    write_surrogate(SURROGATE, path)
    whole, described = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    path.write_bytes(whole[:-7])
    with pytest.raises(TableError, match="does not match its checksum"):
        read_surrogate(path)
    path.write_bytes(whole)
    for change, message in (
        ({"schema_version": 2}, "has schema 2, this kdnas reads up to 1"),
        ({"processes": 9}, "is malformed: it has 3 processes, and the record says 9"),
        ({"schema_version": -1}, "has schema_version -1; expected a whole number from 1"),
        ({"max_parameters": -5}, "is malformed: max_parameters is -5"),
        ({"tables": [["planted", -1]]}, "is malformed: tables is"),
        ({"numbers": 3}, "is malformed"),
    ):
        path.with_suffix(".json").write_text(json.dumps({**described, **change}))
        with pytest.raises(TableError, match=message):
            read_surrogate(path)


def test_a_process_finds_a_smooth_function_in_noise() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (120, 2))

    def function(at: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(2 * at[:, 0]) + at[:, 1], 5 + np.sin(2 * at[:, 0]) * 3], axis=1)

    process = GaussianProcess.fit(x, function(x) + rng.normal(0, 0.1, (120, 2)), [0, 1])
    new = rng.uniform(-1.8, 1.8, (300, 2))
    errors = process.mean(new) - function(new)
    assert np.abs(errors).mean() < 0.1
    assert process.noise[0] == pytest.approx(0.1, rel=0.4)
    assert 0.8 < (np.abs(errors) < 2 * process.deviation(new)).mean() <= 1
    # Doubt depends on the place: it is larger where there are no data.
    assert (process.deviation(np.array([[6.0, 6.0]])) > 5 * process.deviation(new).mean(axis=0)).all()


def test_seed_noise_follows_the_size_and_the_correlation() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.uniform(-1, 1, (400, 1))
    common = rng.standard_normal((400, 3, 1))
    logs = 0.1 * np.exp(sizes)[:, None] * (common * [1, 2] + 0.1 * rng.standard_normal((400, 3, 2)))
    noise = SeedDeviation.fit(sizes, logs)
    assert noise.deviation(np.array([[0.8]])) == pytest.approx(0.1 * np.exp(0.8) * np.array([[1, 2]]), rel=0.15)
    assert noise.deviation(np.array([[-0.8]])) == pytest.approx(0.1 * np.exp(-0.8) * np.array([[1, 2]]), rel=0.15)
    drawn = noise.draw(rng.standard_normal((5000, 2)))
    assert drawn.std(axis=0) == pytest.approx([1, 1], rel=0.05)
    assert np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] > 0.95


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return surrogate_card(TABLE, folds=4)


def test_a_card_tells_a_good_surrogate_from_the_seeds(card: dict[str, Any]) -> None:
    assert (card["students"], card["seeds"], card["folds"]) == (120, 3.0, 4)
    assert {RANDOM, TOP_DECILE, "without num_hidden_layers 3", "without hidden_size 768"} <= set(card["splits"])
    told = card["splits"][RANDOM]
    assert {"reward", "seconds", "heldout_unexplained@0", "train_loss@3", "ratio@analytic"} <= set(told)
    loss = told["heldout_unexplained@3"]
    assert loss["r2"] > 0.9
    # ``tau_resolved`` ignores differences within the noise.
    assert loss["tau_resolved"] > loss["tau"] > 0.8
    assert loss["coverage_50"] < loss["coverage_90"] <= loss["coverage_95"]
    assert loss["coverage_90"] > 0.75
    assert told["ratio@analytic"]["r2"] > 0.99
    assert card["splits"]["without num_hidden_layers 12"]["reward"]["students"] == 24
    beyond = [told["heldout_unexplained@3"]["r2"] for split, told in card["splits"].items() if "without" in split]
    assert len(beyond) == 8
    assert min(beyond) < loss["r2"]
    json.dumps(card, allow_nan=False)


def test_a_card_is_the_same_again_and_sees_no_student_that_it_judges() -> None:
    table = planted_table(GRID, noise=NOISE)
    curves = table.curves.copy()
    rng = np.random.default_rng(0)
    # Random losses cannot be predicted, unless the surrogate was fitted to them.
    curves[..., :4] *= np.exp(rng.normal(0, 1, (len(table), 1, 1, 1))).astype(np.float32)
    true, again, scrambled = (surrogate_card(one, folds=4) for one in (table, table, replace(table, curves=curves)))
    assert true == again
    found, unseen = (one["splits"][RANDOM]["heldout_unexplained@3"]["r2"] for one in (true, scrambled))
    assert found > 0.8
    assert unseen < 0.3


def test_a_table_of_predictions_is_like_its_table_and_of_what_was_not_seen() -> None:
    status, curves, valid = TABLE.status.copy(), TABLE.curves.copy(), TABLE.valid.copy()
    status[3, 1], curves[3, 1], valid[3, 1] = MISSING, np.nan, False
    holes = replace(TABLE, status=status, curves=curves, valid=valid)
    found = surrogate_table(holes, np.random.default_rng(0), folds=4)
    assert np.array_equal(found.status, status)
    assert np.array_equal(found.valid, valid)
    known = np.flatnonzero(valid.all(axis=(1, 2)))
    ours, theirs = (one.curve("heldout_unexplained")[known, :, -1].astype(np.float64) for one in (found, holes))
    assert (ours != theirs).all()
    assert np.corrcoef(ours.mean(axis=1), theirs.mean(axis=1))[0, 1] > 0.95
    # The predictions are as noisy between seeds as the table.
    assert ours.std(axis=1, ddof=1).mean() == pytest.approx(theirs.std(axis=1, ddof=1).mean(), rel=0.3)
    assert found.latencies[:, 0, LATENCIES.index("ratio")] == pytest.approx(
        TABLE.latencies[:, 0, LATENCIES.index("ratio")], rel=0.05
    )
    # Random losses are not predicted.
    rng = np.random.default_rng(0)
    curves = TABLE.curves * np.exp(rng.normal(0, 1, (len(TABLE), 1, 1, 1))).astype(np.float32)
    blind = surrogate_table(replace(TABLE, curves=curves), np.random.default_rng(0), folds=4)
    pair = [np.log(one[..., -1, LOSS].mean(axis=1)) for one in (blind.curves, curves)]
    assert abs(np.corrcoef(*pair)[0, 1]) < 0.5


def test_the_rows_of_a_card(card: dict[str, Any]) -> None:
    head, *rows = card_rows(card)
    assert head[:3] == ("split", "quantity", "students")
    assert all(len(row) == len(head) for row in rows)
    assert {row[1] for row in rows} >= {"reward", "heldout_unexplained@3", "ratio@analytic", "seconds"}
    assert {row[1] for row in card_rows(card, ("reward",))[1:]} == {"reward"}
    head, *rows = card_rows(card, splits=(RANDOM,), metrics=("tau", "rmse"))
    assert head == ("split", "quantity", "students", "tau", "rmse")
    assert {row[0] for row in rows} == {RANDOM}


def test_a_card_of_few_students_is_refused() -> None:
    with pytest.raises(TableError, match=r"has 16 successful students .*a card needs at least 24"):
        surrogate_card(planted_table({"num_hidden_layers": [3, 6, 9, 12], "hidden_size": [384, 480, 576, 768]}))


def test_measures_of_agreement() -> None:
    truth = np.arange(20.0)
    perfect = prediction_quality(truth, truth, np.ones(20), 0.0, largest=True)
    assert [perfect[name] for name in ("r2", "rmse", "tau", "spearman", "precision_at_10")] == [1, 0, 1, 1, 1]
    assert perfect["precision_at_50"] is None
    assert perfect["nll"] == pytest.approx(0.5 * np.log(2 * np.pi))
    swapped = truth.reshape(-1, 2)[:, ::-1].ravel()
    other = prediction_quality(truth, swapped, np.ones(20), 1.0, largest=True)
    assert (other["tau"], other["tau_resolved"]) == (pytest.approx(1 - 4 * 10 / (20 * 19)), 1)
    vague = prediction_quality(truth, np.zeros(20), np.ones(20), 30.0, largest=True)
    assert (vague["tau"], vague["tau_resolved"], vague["spearman"]) == (None, None, None)
    assert precision_at(truth, swapped, 1, largest=True) == 0
    assert precision_at(truth, truth, 3, largest=False) == 1
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(20_000)
    told = prediction_quality(drawn[:2000], np.zeros(2000), np.ones(2000), 0.0, largest=True)
    assert [told[name] for name in ("coverage_50", "coverage_90", "coverage_95")] == pytest.approx(
        [0.5, 0.9, 0.95], abs=0.04
    )


def test_agreement_with_scipy() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 9, (2, 80)).astype(float)
    second += first
    told = prediction_quality(first, second, np.ones(80), 0.0, largest=True)
    assert told["tau"] == pytest.approx(stats.kendalltau(first, second).statistic)
    assert told["spearman"] == pytest.approx(stats.spearmanr(first, second).statistic)


def test_agreement_of_rankings() -> None:
    rng = np.random.default_rng(0)
    scores = {name: (level + rng.normal(0, 0.1, 20)).tolist() for name, level in zip("abcd", range(4), strict=True)}
    same = ranking_agreement(scores, scores, np.random.default_rng(1))
    assert (same["tau"], same["low"], same["high"], same["ceiling"], same["agents"]) == (1, 1, 1, 1, 4)
    opposed = {name: [-value for value in values] for name, values in scores.items()}
    assert ranking_agreement(scores, opposed, np.random.default_rng(1))["tau"] == -1
    alike = {name: rng.normal(0, 1, 20).tolist() for name in "abcd"}
    vague = ranking_agreement(alike, alike, np.random.default_rng(1))
    assert vague["low"] < vague["ceiling"] < 0.9
    with pytest.raises(ValueError, match=r"expected the same two or more on both sides"):
        ranking_agreement(scores, {"a": [1.0]}, rng)
    with pytest.raises(ValueError, match="agent 'b' has no runs"):
        ranking_agreement({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": []}, rng)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.weights", lambda array: array[:-1], "weights is float64"),
        ("0.inputs", lambda array: array * np.nan, "inputs holds a number that is not finite"),
        ("1.groups", lambda array: array + 100, "groups hold indices of length scales that do not exist"),
        ("1.hyper", lambda array: array.astype(np.float32), "hyper is float32"),
        ("noise.factor", lambda array: array[:2], "factor is float64"),
        ("0.columns", lambda array: array[::-1][:3], "do not predict every output once"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(name: str, change: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    write_surrogate(SURROGATE, path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    record = json.loads(path.with_suffix(".json").read_text())
    write_archive(path, {**arrays, name: change(arrays[name])}, record, "surrogate")
    with pytest.raises(TableError, match=message):
        read_surrogate(path)
