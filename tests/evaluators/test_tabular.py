from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import DEVICE, planted_evaluations, planted_metadata, planted_table

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochReport, Fidelity, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError, TableError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator
from kdnas_env.evaluators.tabular import TabularEvaluator
from kdnas_env.tables.table import LATENCIES, Table
from kdnas_env.tabulation.from_evaluations import MeasuredLatencies, assemble_table

TABLE = planted_table(noise=0.02)
PLANTED = PlantedEvaluator(TABLE.space, noise=0.02)


@given(row=st.integers(0, len(TABLE) - 1), seed=st.integers(0, 2), epoch=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_a_query_is_what_was_tabulated(row: int, seed: int, epoch: int) -> None:
    config = TABLE.configs()[row]
    found = TabularEvaluator(TABLE, seed=seed).query(config, epoch)
    live = PLANTED.evaluate([config], Fidelity(epochs=3, seed=seed))[0]
    assert found.heldout_unexplained == pytest.approx(live.heldout_unexplained[: epoch + 1], rel=1e-6)
    assert found.train_loss == pytest.approx(live.train_loss[: epoch + 1], rel=1e-6)
    assert found.wall_seconds == pytest.approx(sum(live.epoch_seconds[: epoch + 1]), rel=1e-6)
    assert (found.parameters, found.flops, found.status) == (live.parameters, live.flops, Status.OK)
    assert found.latency is not None
    assert live.latency is not None
    assert found.latency.ratio == pytest.approx(live.latency.ratio, rel=1e-6)
    assert KDReward()(found).reward == pytest.approx(
        KDReward().score(live.heldout_unexplained[epoch], live.latency.ratio), rel=1e-6
    )


def test_the_mean_is_that_of_the_seeds() -> None:
    config = TABLE.configs()[7]
    curves = [TabularEvaluator(TABLE, seed=seed).query(config).heldout_unexplained for seed in (0, 1, 2)]
    assert TabularEvaluator(TABLE).query(config).heldout_unexplained == pytest.approx(np.mean(curves, axis=0))
    assert len({curve[-1] for curve in curves}) == 3


def test_a_trajectory_has_every_epoch() -> None:
    evaluator, config = TabularEvaluator(TABLE), TABLE.configs()[3]
    trajectory = evaluator.trajectory(config)
    assert [one.fidelity.epochs for one in trajectory] == [0, 1, 2, 3]
    assert [one.heldout_unexplained[-1] for one in trajectory] == list(evaluator.query(config).heldout_unexplained)
    seconds = [one.wall_seconds for one in trajectory]
    assert seconds == sorted(seconds)
    assert seconds[1] > seconds[0]


def test_sampled_seeds_depend_on_student_and_seed_alone() -> None:
    evaluator = TabularEvaluator(TABLE, seed="sample")
    configs = TABLE.configs()
    fidelity = Fidelity(epochs=3, seed=11)
    together = [one.heldout_unexplained for one in evaluator.evaluate(configs, fidelity)]
    assert together == [evaluator.evaluate([one], fidelity)[0].heldout_unexplained for one in configs]
    assert together[::-1] == [one.heldout_unexplained for one in evaluator.evaluate(configs[::-1], fidelity)]
    columns = np.stack([evaluator.columns(np.arange(len(TABLE)), seed) for seed in range(300)])
    # 24 * 300 draws among 3 seeds: each count is within five standard deviations of 2400.
    assert np.abs(np.bincount(columns.ravel(), minlength=3) - 2400).max() < 5 * np.sqrt(7200 * 2 / 9)
    assert len(np.unique(columns, axis=0)) == 300


@pytest.mark.parametrize("seed", ["mean", "sample", 1])
@pytest.mark.parametrize("epochs", [0, 3])
def test_columns_of_flat_indices_are_those_of_the_records(holes: Table, seed: int | str, epochs: int) -> None:
    evaluator, fidelity = TabularEvaluator(holes, seed=seed, missing="failed"), Fidelity(epochs=epochs, seed=4)
    index = np.random.default_rng(0).permutation(holes.index)
    cells = evaluator.look_up(index, fidelity)
    records = evaluator.evaluate([holes.space.decode(holes.space.from_index(point)) for point in index], fidelity)
    assert [cells.record(place) for place in range(len(cells))] == records
    assert cells.ok.tolist() == [record.ok for record in records]
    assert cells.rewards(KDReward()).tolist() == [KDReward()(record).reward for record in records]
    assert cells.wall_seconds == pytest.approx([record.wall_seconds for record in records])
    assert cells.parameters.tolist() == [record.parameters for record in records]
    assert cells.flops.tolist() == [record.flops for record in records]
    losses = cells.losses("heldout_unexplained")[cells.ok]
    assert losses.tolist() == [record.heldout_unexplained[-1] for record in records if record.ok]


def test_points_without_a_student_are_invalid() -> None:
    table = planted_table(max_parameters=60_000_000)
    cells = TabularEvaluator(table).look_up(np.arange(table.space.size), Fidelity(epochs=1))
    invalid = np.setdiff1d(np.arange(table.space.size), table.index)
    assert len(invalid)
    for place in invalid.tolist():
        record = cells.record(place)
        assert record.status is Status.INVALID
        assert "more than max_parameters" in record.error
    assert cells.parameters[invalid].tolist() == cells.wall_seconds[invalid].tolist() == [0] * len(invalid)


def test_a_listener_hears_every_epoch_and_may_stop() -> None:
    heard: list[EpochReport] = []

    def stop_after_one(report: EpochReport) -> bool:
        heard.append(report)
        return report.epoch == 1

    (found,) = TabularEvaluator(TABLE).evaluate([TABLE.configs()[0]], Fidelity(epochs=3), on_epoch=stop_after_one)
    assert found.status is Status.STOPPED
    assert [report.epoch for report in heard] == [0, 1]
    assert len(found.heldout_unexplained) == 2
    assert heard[1].heldout_unexplained == found.heldout_unexplained[1]
    assert heard[1].seconds == pytest.approx(found.wall_seconds)


@pytest.fixture(scope="module")
def holes() -> Table:
    """A table in which one student lacks seed 1 and another lacks all seeds."""
    space = TABLE.space
    configs = TABLE.configs()
    kept = [
        one
        for one in planted_evaluations(space)
        if one.config != configs[4] and (one.config, one.fidelity.seed) != (configs[2], 1)
    ]
    latencies = {one.config: one.latency for one in PLANTED.evaluate(configs, Fidelity(epochs=0)) if one.latency}
    return assemble_table(planted_metadata(space), kept, [MeasuredLatencies(DEVICE, latencies)])


def test_a_masked_cell_is_an_error_unless_it_is_to_be_a_failure(holes: Table) -> None:
    config = holes.configs()[2]
    with pytest.raises(TableError, match=r"with seed 1 is a masked cell of table 'planted'.*missing='failed'"):
        TabularEvaluator(holes, seed=1).query(config)
    failed = TabularEvaluator(holes, seed=1, missing="failed").query(config)
    assert (failed.status, failed.heldout_unexplained, failed.latency) == (Status.FAILED, (), None)
    assert KDReward()(failed).reward == KDReward().floor
    assert TabularEvaluator(holes, seed=0).query(config).ok


def test_a_mean_is_of_the_seeds_that_are_there(holes: Table) -> None:
    config = holes.configs()[2]
    there = [TabularEvaluator(holes, seed=seed).query(config).heldout_unexplained for seed in (0, 2)]
    assert TabularEvaluator(holes).query(config).heldout_unexplained == pytest.approx(np.mean(there, axis=0))
    with pytest.raises(TableError, match="masked cell"):
        TabularEvaluator(holes).query(holes.configs()[4])


def test_failures_are_answered_as_they_ended() -> None:
    table = planted_table(failures=0.4)
    answers = {
        status: config for config in table.configs() for status in [TabularEvaluator(table).query(config).status]
    }
    assert {Status.OK, Status.DIVERGED, Status.OUT_OF_MEMORY} == set(answers)
    diverged = TabularEvaluator(table).query(answers[Status.DIVERGED])
    assert len(diverged.heldout_unexplained) == 1
    # If the evaluation ends before the epoch in which the student diverges, it succeeds.
    assert TabularEvaluator(table).query(answers[Status.DIVERGED], 0).ok


def test_a_latency_that_was_not_measured_is_a_failure() -> None:
    latencies = TABLE.latencies.copy()
    latencies[0] = np.nan
    table = replace(TABLE, latencies=latencies)
    found = TabularEvaluator(table).query(table.configs()[0])
    assert found.status is Status.FAILED
    assert "no latency" in found.error
    assert TabularEvaluator(table).query(table.configs()[1]).ok


def test_the_device_is_chosen_by_name() -> None:
    fast = replace(DEVICE, name="fast")
    latencies = np.concatenate([TABLE.latencies, TABLE.latencies], axis=1)
    latencies[:, 1, LATENCIES.index("ratio")] /= 10
    table = replace(TABLE, metadata=replace(TABLE.metadata, devices=(DEVICE, fast)), latencies=latencies)
    config = table.configs()[0]
    slow, quick = (TabularEvaluator(table, device=name).query(config).latency for name in (None, "fast"))
    assert slow is not None
    assert quick is not None
    assert quick.ratio == pytest.approx(slow.ratio / 10)
    with pytest.raises(TableError, match=r"no latencies of 'phone'; choose one of \['analytic', 'fast'\]"):
        TabularEvaluator(table, device="phone")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, r"seed is 3; expected 'mean', 'sample', or one of the table's \[0, 1, 2\]"),
        ({"seed": "median"}, "seed is 'median'"),
        ({"seed": True}, "seed is True"),
        ({"missing": "guess"}, r"missing is 'guess'; expected one of \['error', 'failed'\]"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        TabularEvaluator(TABLE, **change)  # type: ignore[arg-type]


def test_bad_queries_are_refused() -> None:
    evaluator, config = TabularEvaluator(TABLE), TABLE.configs()[0]
    with pytest.raises(TableError, match="4 epochs are beyond the last of table 'planted', which has 3"):
        evaluator.query(config, 4)
    with pytest.raises(TableError, match="at is -1; expected an epoch from 0 to 3"):
        evaluator.query(config, -1)
    with pytest.raises(TableError, match=r"data_fraction is 0\.5"):
        evaluator.evaluate([config], Fidelity(data_fraction=0.5))
    with pytest.raises(SpaceError, match="is not in table 'planted': it is none of the space's choices"):
        evaluator.query(replace(config, intermediate_size=24))
    with pytest.raises(SpaceError, match="is not in table 'planted': 5 heads do not divide hidden_size 384"):
        evaluator.query(replace(config, num_attention_heads=5))


def test_a_capped_space_has_its_valid_points_only() -> None:
    table = planted_table(max_parameters=60_000_000)
    whole = SearchSpace.from_dict(TABLE.metadata.space, PLANTED_TEACHER)
    assert 0 < len(table) < whole.size
    large = StudentConfig(12, 12, 768, 3072)
    with pytest.raises(SpaceError, match="more than max_parameters 60000000"):
        TabularEvaluator(table).query(large)


def test_fingerprints_tell_tables_and_settings_apart() -> None:
    evaluators = [
        TabularEvaluator(TABLE),
        TabularEvaluator(TABLE, seed=0),
        TabularEvaluator(TABLE, missing="failed"),
        TabularEvaluator(planted_table(noise=0.03)),
    ]
    assert len({one.fingerprint for one in evaluators}) == 4
    assert TabularEvaluator(planted_table(noise=0.02)).fingerprint == evaluators[0].fingerprint


def test_known_results_are_kept_for_all_epochs_of_the_last_seed() -> None:
    evaluator = TabularEvaluator(planted_table(), seed="sample")
    first, short = Fidelity(epochs=3, seed=1), Fidelity(epochs=1, seed=1)
    known = evaluator.known(first)
    assert evaluator.known(short) is not known
    assert evaluator.known(first) is known
    evaluator.known(Fidelity(epochs=3, seed=2))
    assert evaluator.known(first) is not known
