"""Early stopping rules, tested without a search."""

from __future__ import annotations

from dataclasses import replace

import pytest
from troubled import CONFIGS, SPACE

from kdnas_env.core.evaluation import EpochReport, Evaluation, Fidelity, Status
from kdnas_env.errors import KDNASError
from kdnas_env.evaluators.planted import PlantedEvaluator
from kdnas_env.searching.stopping import RULES, StoppingRule

EPOCHS = 8
SOME = PlantedEvaluator(SPACE).evaluate(CONFIGS, Fidelity(epochs=EPOCHS))


def run(rule: StoppingRule, evaluation: Evaluation) -> int:
    """Evaluate a student under a rule; return the length of its learning curve, including the loss before training."""
    for epoch, loss in enumerate(evaluation.heldout_unexplained):
        if rule(EpochReport(evaluation.config, 0, 1, epoch, EPOCHS, loss, 0.0)):
            cut = replace(
                evaluation, status=Status.STOPPED, heldout_unexplained=evaluation.heldout_unexplained[: epoch + 1]
            )
            rule.learn(cut)
            return epoch + 1
    rule.learn(evaluation)
    return EPOCHS + 1


@pytest.mark.parametrize("name", RULES)
def test_the_best_live_and_the_worst_are_stopped(name: str) -> None:
    rule = StoppingRule(name, EPOCHS)
    lived = [run(rule, evaluation) for evaluation in SOME * 3]
    losses = [evaluation.heldout_unexplained[-1] for evaluation in SOME]
    last = dict(zip(losses, lived[-len(SOME) :], strict=True))
    assert last[min(losses)] == EPOCHS + 1
    assert last[max(losses)] < EPOCHS + 1
    assert sum(lived) < 0.8 * len(lived) * (EPOCHS + 1)


@pytest.mark.parametrize("name", RULES)
def test_the_first_and_the_last_report_stop_nobody(name: str) -> None:
    rule = StoppingRule(name, 2)
    for place, loss in enumerate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]):
        assert not rule(EpochReport(CONFIGS[place], 0, 1, 0, 2, loss, 0.0))
        assert not rule(EpochReport(CONFIGS[place], 0, 1, 2, 2, loss, 0.0))


@pytest.mark.parametrize("name", ["asha", "median"])
def test_what_was_never_heard_is_learnt_from_the_record(name: str) -> None:
    """A resumed search must stop the same students as one that was never interrupted."""
    heard, told = StoppingRule(name, EPOCHS), StoppingRule(name, EPOCHS)
    for evaluation in SOME[:12]:
        lived = run(heard, evaluation)
        record = (
            evaluation
            if lived > EPOCHS
            else replace(evaluation, status=Status.STOPPED, heldout_unexplained=evaluation.heldout_unexplained[:lived])
        )
        told.learn(record)
        told.learn(record)
    assert [run(heard, evaluation) for evaluation in SOME[12:]] == [run(told, evaluation) for evaluation in SOME[12:]]


def test_a_student_whose_worker_died_begins_anew() -> None:
    rule = StoppingRule("median", EPOCHS)
    for evaluation in SOME[:6]:
        run(rule, evaluation)
    best = min(SOME, key=lambda evaluation: evaluation.heldout_unexplained[-1])
    for epoch in (0, 1):
        rule(EpochReport(best.config, 0, 1, epoch, EPOCHS, 0.99, 0.0))
    assert run(rule, best) == EPOCHS + 1


def test_unknown_rules_and_nothing_to_stop_are_refused() -> None:
    with pytest.raises(KDNASError, match="stop is 'luck'"):
        StoppingRule("luck", 3)
    with pytest.raises(KDNASError, match="two or more"):
        StoppingRule("asha", 1)
