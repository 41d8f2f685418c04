"""Conformance tests of evaluators; subclass them in your tests. Needs pytest.

class TestMine(EvaluatorConformance):
    @pytest.fixture
    def evaluator(self):
        return MyEvaluator(...)

    @pytest.fixture
    def configs(self):
        return [StudentConfig(...), StudentConfig(...)]
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import EpochReport, Evaluation, Evaluator, Fidelity, Status
from kdnas_env.testing.clauses import clause, global_states, shaken_generators


class EvaluatorConformance:
    """The contract of :class:`kdnas_env.core.evaluation.Evaluator`, clause by clause.

    A subclass provides the fixtures ``evaluator`` and ``configs``. It may override ``fidelity`` and ``impossible``.
    """

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """The evaluator under test."""
        raise NotImplementedError("provide a fixture 'evaluator'")

    @pytest.fixture
    def configs(self) -> list[StudentConfig]:
        """Two or more different architectures that it can evaluate."""
        raise NotImplementedError("provide a fixture 'configs'")

    @pytest.fixture
    def fidelity(self) -> Fidelity:
        """A cheap fidelity of two epochs or more."""
        return Fidelity(epochs=2)

    @pytest.fixture
    def impossible(self) -> StudentConfig:
        """An architecture that cannot be built."""
        return StudentConfig(1, 3, 16, 16)

    def test_one_record_per_architecture_in_order(
        self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity
    ) -> None:
        """Clause *batch*: one record per architecture, in order, also for repeated architectures."""
        order = [*configs, configs[0]]
        records = evaluator.evaluate(order, fidelity)
        clause("batch", len(records) == len(order), f"{len(records)} records for {len(order)} architectures")
        recorded = [record.config for record in records]
        clause("batch", recorded == order, f"records of {recorded} for {order}")
        clause("batch", all(record.fidelity == fidelity for record in records), "a record of another fidelity")
        clause("batch", evaluator.evaluate([], fidelity) == [], "an empty batch has an answer that is not empty")

    def test_records_are_complete(self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity) -> None:
        """Clause *record*: curves, latency and sizes are complete, and the record survives JSON."""
        for record in evaluator.evaluate(configs, fidelity):
            clause("record", record.status is Status.OK, f"{record.config} ended as {record.status}: {record.error}")
            for name in ("train_loss", "heldout_loss", "train_unexplained", "heldout_unexplained", "epoch_seconds"):
                curve = getattr(record, name)
                expected = fidelity.epochs + 1
                clause("record", len(curve) == expected, f"{name} has {len(curve)} entries, expected {expected}")
                clause("record", min(curve) >= 0, f"{name} holds a negative number: {curve}")
            latency = record.latency
            clause("record", latency is not None, "a record that is ok has no latency")
            assert latency is not None
            positive = (latency.median_ms, latency.teacher_median_ms, latency.ratio, record.parameters, record.flops)
            clause("record", all(0 < value < math.inf for value in positive), f"not positive: {positive}")
            clause("record", Evaluation.from_json(record.to_json()) == record, "the record does not survive JSON")

    def test_equal_calls(self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity) -> None:
        """Clause *deterministic*: a record does not depend on the batch or on earlier evaluations."""
        if not evaluator.deterministic:
            pytest.skip("the evaluator does not claim to be deterministic")
        together = [_timeless(record) for record in evaluator.evaluate(configs, fidelity)]
        alone = [_timeless(*evaluator.evaluate([config], fidelity)) for config in reversed(configs)][::-1]
        clause("deterministic", together == alone, "a record depends on the batch, or on what was evaluated before")

    def test_what_cannot_be_built_is_a_record(
        self, evaluator: Evaluator, impossible: StudentConfig, configs: list[StudentConfig], fidelity: Fidelity
    ) -> None:
        """Clause *failure*: an architecture that cannot be built gives a record with an error."""
        try:
            failed, fine = evaluator.evaluate([impossible, configs[0]], fidelity)
        except Exception as error:
            clause("failure", False, f"an architecture that cannot be built raised {error!r}; answer with a record")
            raise
        clause("failure", not failed.ok, f"{impossible} cannot be built, but its record is ok")
        clause("failure", bool(failed.error), "the record of a failure gives no reason in 'error'")
        clause("failure", failed.latency is None, "the record of a failure has a latency")
        clause("failure", fine.ok, f"a failure spoils the rest of its batch: {fine.error}")

    def test_epochs_are_reported(self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity) -> None:
        """Clause *on_epoch*: the callback gets one report per candidate and epoch."""
        reports: list[EpochReport] = []
        records = evaluator.evaluate(configs, fidelity, on_epoch=reports.append)
        expected = [(place, epoch) for place in range(len(configs)) for epoch in range(fidelity.epochs + 1)]
        for place, record in enumerate(records):
            own = sorted((report for report in reports if report.candidate == place), key=lambda report: report.epoch)
            losses = tuple(report.heldout_unexplained for report in own)
            clause("on_epoch", losses == record.heldout_unexplained, f"reported {losses} of {record.config}")
        calls = sorted((report.candidate, report.epoch) for report in reports)
        clause("on_epoch", calls == expected, f"reports of (candidate, epoch) {calls}, expected {expected}")
        sizes = {(report.candidates, report.epochs) for report in reports}
        clause("on_epoch", sizes == {(len(configs), fidelity.epochs)}, f"reports of (candidates, epochs) {sizes}")

    def test_a_true_answer_stops(self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity) -> None:
        """Clause *stop*: a true answer of the callback stops this student and no other."""
        stopped, going_on = evaluator.evaluate(
            configs[:2], fidelity, on_epoch=lambda report: report.candidate == 0 and report.epoch == 1
        )
        clause("stop", stopped.status is Status.STOPPED, f"a stopped student ended as {stopped.status}")
        curve = stopped.heldout_unexplained
        clause("stop", len(curve) == 2, f"a student stopped after epoch 1 has {len(curve)} losses, expected 2")
        clause("stop", going_on.ok, f"the student beside it ended as {going_on.status}")

    def test_the_fingerprint(self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity) -> None:
        """Clause *fingerprint*: it is a text that does not change."""
        before = evaluator.fingerprint
        evaluator.evaluate(configs[:1], fidelity)
        clause("fingerprint", isinstance(before, str) and bool(before), f"the fingerprint is {before!r}")
        clause("fingerprint", evaluator.fingerprint == before, "the fingerprint changes")

    def test_global_generators(self, evaluator: Evaluator, configs: list[StudentConfig], fidelity: Fidelity) -> None:
        """Clause *generators*: the evaluator neither reads nor seeds global random generators."""
        with shaken_generators():
            before = global_states()
            evaluator.evaluate(configs[:1], fidelity)
            clause("generators", global_states() == before, "a global random generator was read or seeded")


def _timeless(record: Evaluation) -> Evaluation:
    changes: dict[str, Any] = {"wall_seconds": 0.0, "epoch_seconds": (), "peak_memory_bytes": 0}
    return replace(record, **changes)
