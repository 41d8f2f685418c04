from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import teachers

from kdnas_env.core.architecture import EncoderArchitecture, StudentConfig
from kdnas_env.core.evaluation import EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator, random_failures

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
LARGE = SearchSpace.from_dict(
    {
        "num_hidden_layers": list(range(1, 13)),
        "num_attention_heads": [1, 2, 3, 4, 6, 12],
        "hidden_size": [96 * n for n in range(1, 9)],
        "intermediate_size": [64 * n for n in range(1, 31)],
        "hidden_act": ["gelu", "relu", "silu"],
        "family": ["bert", "albert"],
    },
    PLANTED_TEACHER,
)


def everything(evaluator: PlantedEvaluator, fidelity: Fidelity) -> list[Evaluation]:
    return evaluator.evaluate(list(evaluator.space), fidelity)


def test_is_an_evaluator() -> None:
    assert isinstance(PlantedEvaluator(SPACE), Evaluator)
    assert PlantedEvaluator(SPACE).evaluate([], Fidelity()) == []


@pytest.mark.parametrize("alpha", [0.0, -0.06, -0.3])
@pytest.mark.parametrize("epochs", [0, 1, 2, 8])
def test_optimum_is_the_best_of_all_evaluations(alpha: float, epochs: int) -> None:
    evaluator, reward, fidelity = PlantedEvaluator(SPACE), KDReward(alpha=alpha), Fidelity(epochs)
    best = max(everything(evaluator, fidelity), key=lambda record: reward(record).reward)
    assert evaluator.optimum(reward, fidelity) == best


def test_optimum_is_not_at_the_border_of_the_space() -> None:
    best = SPACE.encode(PlantedEvaluator(SPACE).optimum().config)
    inside = (best > 0) & (best < SPACE.nvec - 1)
    assert inside[SPACE.dimensions.index("num_hidden_layers")]
    assert inside[SPACE.dimensions.index("intermediate_size")]


def test_pareto_front_is_what_nothing_dominates() -> None:
    evaluator, fidelity = PlantedEvaluator(SPACE), Fidelity()
    points = {
        record.config: (record.heldout_unexplained[-1], record.latency.ratio)
        for record in everything(evaluator, fidelity)
        if record.latency is not None
    }
    undominated = {
        config
        for config, (loss, ratio) in points.items()
        if not any(a <= loss and b <= ratio and (a, b) != (loss, ratio) for a, b in points.values())
    }
    front = evaluator.pareto_front(fidelity)
    assert {record.config for record in front} == undominated
    ratios = [points[record.config][1] for record in front]
    assert ratios == sorted(ratios)


def test_planted_failures_are_recorded_and_never_optimal() -> None:
    plain = PlantedEvaluator(SPACE)
    champion = plain.optimum().config
    front = [record.config for record in plain.pareto_front()]
    evaluator = PlantedEvaluator(SPACE, failures={champion: Status.DIVERGED, front[0]: Status.OUT_OF_MEMORY})
    diverged, starved, fine = evaluator.evaluate([champion, front[0], front[1]], Fidelity(3))
    assert (diverged.status, starved.status, fine.status) == (Status.DIVERGED, Status.OUT_OF_MEMORY, Status.OK)
    assert len(diverged.heldout_loss) == 1
    assert diverged.latency is starved.latency is None
    assert "diverged" in diverged.error
    assert "out of memory" in starved.error
    assert evaluator.optimum().config != champion
    assert front[0] not in [record.config for record in evaluator.pareto_front()]
    assert KDReward()(evaluator.optimum()).reward < KDReward()(plain.optimum()).reward


def test_invalid_students_are_recorded_and_never_optimal() -> None:
    space = SearchSpace.from_dict({"num_attention_heads": [5, 12], "num_hidden_layers": [6, 24]}, PLANTED_TEACHER)
    evaluator = PlantedEvaluator(space)
    records = everything(evaluator, Fidelity())
    assert [record.status for record in records].count(Status.INVALID) == 3
    assert all(record.error for record in records if not record.ok)
    assert space.is_valid(evaluator.optimum().config)
    assert [record.config for record in evaluator.pareto_front()] == [evaluator.optimum().config]


@given(teacher=teachers(), epochs=st.integers(0, 10), data_fraction=st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_curves_fall_and_stay_between_zero_and_one(
    teacher: EncoderArchitecture, epochs: int, data_fraction: float
) -> None:
    evaluator = PlantedEvaluator(SearchSpace.from_teacher(teacher))
    rng = np.random.default_rng(epochs)
    configs = [evaluator.space.decode(evaluator.space.sample(rng)) for _ in range(20)]
    for record in evaluator.evaluate(configs, Fidelity(epochs, data_fraction)):
        curve = record.heldout_unexplained
        assert len(curve) == epochs + 1 == len(record.epoch_seconds)
        assert all(0 < after < before < 1 for before, after in itertools.pairwise(curve))
        assert 0 < curve[-1] < 1
        assert record.latency is not None
        assert record.latency.ratio > 0


def test_larger_students_end_better_and_run_slower() -> None:
    evaluator = PlantedEvaluator(SPACE)
    small = StudentConfig(4, 6, 384, 768)
    for larger in (
        replace(small, num_hidden_layers=6),
        replace(small, hidden_size=768, num_attention_heads=12),
        replace(small, intermediate_size=1024),
    ):
        one, other = evaluator.evaluate([small, larger], Fidelity(20))
        assert other.heldout_unexplained[-1] < one.heldout_unexplained[-1]
        assert one.latency is not None
        assert other.latency is not None
        assert other.latency.ratio > one.latency.ratio
        assert other.epoch_seconds[-1] > one.epoch_seconds[-1] > 0


def test_landscape_agrees_with_evaluations() -> None:
    evaluator, fidelity = PlantedEvaluator(LARGE), Fidelity(1, 0.5)
    losses, ratios = evaluator.landscape(fidelity)
    assert losses.shape == ratios.shape == (LARGE.size,)
    for index in np.random.default_rng(0).integers(LARGE.size, size=50).tolist():
        config = LARGE.decode(LARGE.from_index(index))
        (record,) = evaluator.evaluate([config], fidelity)
        if record.latency is not None:
            assert losses[index] == record.heldout_unexplained[-1]
            assert ratios[index] == record.latency.ratio


def test_noise_belongs_to_configuration_and_seed_alone() -> None:
    evaluator, configs = PlantedEvaluator(SPACE, noise=0.05), list(SPACE)
    first = evaluator.evaluate(configs, Fidelity(2, seed=7))
    backwards = evaluator.evaluate(configs[::-1], Fidelity(2, seed=7))[::-1]
    other_seed = evaluator.evaluate(configs, Fidelity(2, seed=8))
    other_epochs = evaluator.evaluate(configs, Fidelity(3, seed=7))
    clean, _ = evaluator.landscape(Fidelity(2))
    clean_at_3, _ = evaluator.landscape(Fidelity(3))
    assert first == backwards
    draws = np.log(np.array([record.heldout_unexplained[-1] for record in first]) / clean)
    others = np.log(np.array([record.heldout_unexplained[-1] for record in other_seed]) / clean)
    again = np.log(np.array([record.heldout_unexplained[-1] for record in other_epochs]) / clean_at_3)
    assert np.std(draws) == pytest.approx(0.05, rel=0.1)
    assert abs(np.mean(draws)) < 0.01
    assert abs(np.corrcoef(draws, others)[0, 1]) < 0.1
    np.testing.assert_allclose(draws, again, atol=1e-12)


def test_noise_does_not_move_the_known_optimum() -> None:
    assert PlantedEvaluator(SPACE, noise=0.5).optimum() == PlantedEvaluator(SPACE).optimum()


def test_handles_more_than_a_hundred_thousand_points() -> None:
    assert LARGE.size > 100_000
    began = time.perf_counter()
    evaluator = PlantedEvaluator(LARGE)
    assert evaluator.optimum().ok
    assert len(evaluator.pareto_front()) > 10
    assert time.perf_counter() - began < 30


def test_reports_every_epoch_and_can_be_stopped() -> None:
    evaluator, configs = PlantedEvaluator(SPACE), list(SPACE)[:2]
    reports: list[EpochReport] = []

    def stop_the_second(report: EpochReport) -> bool:
        reports.append(report)
        return report.candidate == 1 and report.epoch == 1

    whole, stopped = evaluator.evaluate(configs, Fidelity(3), on_epoch=stop_the_second)
    assert [(report.candidate, report.epoch) for report in reports] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert [report.heldout_unexplained for report in reports[:4]] == list(whole.heldout_unexplained)
    assert {report.candidates for report in reports} == {2}
    assert (whole.status, stopped.status) == (Status.OK, Status.STOPPED)
    assert len(stopped.heldout_unexplained) == 2
    assert stopped.latency is None


def test_the_fingerprint_names_the_landscape_in_every_process() -> None:
    evaluator = PlantedEvaluator(SPACE)
    code = (
        "from kdnas_env.evaluators.planted import *; from kdnas_env.core.space import SearchSpace;"
        "print(PlantedEvaluator(SearchSpace.from_teacher(PLANTED_TEACHER)).fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == evaluator.fingerprint
    failing = {evaluator.optimum().config: Status.DIVERGED}
    others = [PlantedEvaluator(LARGE), PlantedEvaluator(SPACE, 0.1), PlantedEvaluator(SPACE, failures=failing)]
    assert len({evaluator.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_pickled_it_is_the_same() -> None:
    evaluator = PlantedEvaluator(SPACE, 0.1, random_failures(SPACE, 0.2, np.random.default_rng(0)))
    again = pickle.loads(pickle.dumps(evaluator))
    assert again.fingerprint == evaluator.fingerprint
    assert everything(again, Fidelity()) == everything(evaluator, Fidelity())


def test_random_failures_take_their_share() -> None:
    failures = random_failures(SPACE, 0.25, np.random.default_rng(3))
    assert 0.2 < len(failures) / SPACE.size < 0.3
    assert set(failures.values()) == {Status.DIVERGED, Status.OUT_OF_MEMORY}
    assert failures == random_failures(SPACE, 0.25, np.random.default_rng(3))
    assert random_failures(SPACE, 0.0, np.random.default_rng(3)) == {}


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(KDNASError, match=r"noise is -0.1; expected a number at least 0"):
        PlantedEvaluator(SPACE, noise=-0.1)
    with pytest.raises(KDNASError, match="noise is nan"):
        PlantedEvaluator(SPACE, noise=float("nan"))
    with pytest.raises(
        KDNASError, match=r"the failure of .* is .*ok.*; expected one of \['diverged', 'out_of_memory'\]"
    ):
        PlantedEvaluator(SPACE, failures={next(iter(SPACE)): Status.OK})
    with pytest.raises(KDNASError, match=r"share of failures is 1; expected a number at least 0 and below 1"):
        random_failures(SPACE, 1, np.random.default_rng(0))
