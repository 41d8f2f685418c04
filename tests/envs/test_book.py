from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from call_counts import counted
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.evaluation import EpochReport, Evaluation, Fidelity
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.answers import Answers
from kdnas_env.envs.book import DUPLICATES, Book, Record
from kdnas_env.envs.budget import Budget
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator, random_failures

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
ACTIONS = [tuple(SPACE.from_index(index).tolist()) for index in range(30)]
CONFIGS = [SPACE.decode(action) for action in ACTIONS]
FAILURES = random_failures(SPACE, 0.2, np.random.default_rng(1))
PLANTED = PlantedEvaluator(SPACE, failures=FAILURES)


def make(round_size: int, *, duplicates: str = "charge", budget: Budget | None = None, **settings: Any) -> Book:
    return Book(
        budget or Budget(10_000), round_size=round_size, duplicates=duplicates, failure=-1.0, steps=10**6, **settings
    )


def answers_of(budget: Budget | None = None) -> Answers:
    answers = Answers(SPACE, KDReward(), Fidelity(), budget or Budget(1), epochs=1)
    answers.learn(dict(enumerate(ACTIONS)), lambda configs: PLANTED.evaluate(configs, Fidelity()))
    return answers


def best(records: list[Record]) -> Record | None:
    return max((record for record in records if record.usable), key=lambda record: record.reward.reward, default=None)


@given(
    places=st.lists(st.integers(0, 29), max_size=40), round_size=st.integers(1, 5), policy=st.sampled_from(DUPLICATES)
)
def test_it_is_what_a_list_of_all_answers_tells(places: list[int], round_size: int, policy: str) -> None:
    answers, book = answers_of(), make(round_size, duplicates=policy)
    for number, place in enumerate(places, start=1):
        reward, counted, duplicate = book.add(answers.rows[place], answers)
        assert duplicate == (place in places[: number - 1])
        assert counted == (not duplicate or policy == "charge")
        assert reward == (-1.0 if duplicate and policy == "reject" else answers.rows[place].value)
        records = list(book)
        charged = [record for record in records if record.counted]
        last_round = charged[: len(charged) // round_size * round_size][-round_size:]
        assert len(records) == len(book) == number
        assert records[-1][:2] == (ACTIONS[place], answers.rows[place].evaluation)
        assert (records[-1].reward.reward, records[-1].counted, records[-1].duplicate) == (reward, counted, duplicate)
        assert (book.evaluations, book.round) == (len(charged), len(charged) // round_size)
        assert book.last is records[-1]
        assert book.best is best(records)
        assert book.previous_round == last_round
        assert book.previous_best is best(last_round)
        firsts = [record for record in records if record.evaluation.config == CONFIGS[place]]
        assert book.find(CONFIGS[place]) is firsts[0]
        assert book.improved == (book.best is records[-1])


@given(
    rounds=st.lists(st.lists(st.integers(0, 29), min_size=3, max_size=3), max_size=8),
    policy=st.sampled_from(DUPLICATES),
    unit=st.sampled_from(["evaluations", "epochs", "seconds"]),
)
def test_a_round_at_once_is_written_like_one_answer_after_the_other(
    rounds: list[list[int]], policy: str, unit: str
) -> None:
    budget = Budget(20, unit)
    answers, together = answers_of(budget), make(3, duplicates=policy, budget=budget)
    alone, own = make(3, duplicates=policy, budget=budget), answers_of(budget)
    for places in rounds:
        rewards, counted, duplicates = together.add_round(np.array(places), answers)
        written = [alone.add(own.rows[place], own) for place in places]
        assert [*zip(rewards.tolist(), counted.tolist(), duplicates.tolist(), strict=True)] == written
        assert together.spent == pytest.approx(alone.spent)
        assert (together.evaluations, together.terminated) == (alone.evaluations, alone.terminated)
    assert [*together] == [*alone]
    assert together.best == alone.best
    assert together.previous_round == alone.previous_round


def test_the_budget_ends_a_search_and_too_many_answers_cut_it_off() -> None:
    answers, book = answers_of(), make(2, budget=Budget(3))
    for place in range(3):
        assert not book.over
        book.add(answers.rows[place], answers)
    assert (book.terminated, book.truncated, book.left, book.progress) == (True, False, 0, 1.0)
    answers.begin_episode()
    book = Book(Budget(3), round_size=2, duplicates="free", failure=-1.0, steps=4)
    for _ in range(4):
        assert not book.over
        book.add(answers.rows[0], answers)
    assert (book.terminated, book.truncated, book.left) == (False, True, 2)
    # The remaining budget is less than the cost of the next step.
    answers.begin_episode()
    book = make(2, budget=Budget(3), least=2)
    book.add_round(np.array([0, 1]), answers)
    assert (book.terminated, book.left) == (True, 1)


class Rule:
    """Early stopping that records the evaluations it learns from."""

    def __init__(self) -> None:
        self.learnt: list[Evaluation] = []

    def begin(self) -> None:
        self.learnt.clear()

    def __call__(self, report: EpochReport) -> bool:
        return report.epoch == 1

    def learn(self, evaluation: Evaluation) -> None:
        self.learnt.append(evaluation)


def test_early_stopping_learns_of_every_answer_and_hears_of_every_epoch() -> None:
    answers, rule = answers_of(), Rule()
    book = make(2, stop=rule)
    book.add(answers.rows[4], answers)
    book.add_round(np.array([5, 6]), answers)
    assert rule.learnt == [answers.rows[place].evaluation for place in (4, 5, 6)]
    heard: list[EpochReport] = []
    report = EpochReport(CONFIGS[0], 0, 1, 1, 2, 0.5, 1.0)
    listener = book.listener(lambda said: heard.append(said))
    assert listener is not None
    assert listener(report) is True
    assert heard == [report]
    assert book.listener(None) is rule
    assert make(2).listener(None) is None
    stubborn = make(2, stop=rule).listener(lambda said: True)
    assert stubborn is not None
    assert stubborn(EpochReport(CONFIGS[0], 0, 1, 0, 2, 0.5, 1.0)) is True


def test_an_answer_takes_no_longer_the_more_there_were() -> None:
    answers, book, work, kept = answers_of(), make(8), [], []

    def calls(n: int) -> int:
        with counted() as count:
            for place in range(n):
                book.add(answers.rows[place % 30], answers)
                book.find(CONFIGS[place % 30])
        return count[0]

    tracemalloc.start()
    try:
        for n in (800, 800, 800, 800):
            work.append(calls(n))
            kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(work[1:]) <= 1.1 * work[0]
    assert kept[-1] < 300 * len(book)
