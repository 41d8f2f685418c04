from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.reward import KDReward
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.history import Record, SearchHistory
from kdnas_env.evaluators.planted import PLANTED_TEACHER, PlantedEvaluator, random_failures

SPACE = SearchSpace.from_teacher(PLANTED_TEACHER)
CONFIGS = [SPACE.decode(SPACE.from_index(index)) for index in range(30)]
FAILURES = random_failures(SPACE, 0.2, np.random.default_rng(1))
EVALUATIONS = PlantedEvaluator(SPACE, failures=FAILURES).evaluate(CONFIGS, Fidelity())
REWARDS = [KDReward()(evaluation) for evaluation in EVALUATIONS]


def add(history: SearchHistory, place: int, *, counted: bool = True) -> Record:
    return history.add((place,), EVALUATIONS[place], REWARDS[place], counted=counted, duplicate=not counted)


def best(records: list[Record]) -> Record | None:
    return max((one for one in records if one.usable), key=lambda one: one.reward.reward, default=None)


@given(answers=st.lists(st.tuples(st.integers(0, 29), st.booleans())), round_size=st.integers(1, 5))
def test_it_is_what_a_list_of_all_answers_tells(answers: list[tuple[int, bool]], round_size: int) -> None:
    history = SearchHistory(round_size)
    records: list[Record] = []
    for place, counted in answers:
        records.append(add(history, place, counted=counted))
        charged = [one for one in records if one.counted]
        last_round = charged[: len(charged) // round_size * round_size][-round_size:]
        assert [*history] == records
        assert (history.evaluations, history.round) == (len(charged), len(charged) // round_size)
        assert history.last is records[-1]
        assert history.best is best(records)
        assert history.previous_round == last_round
        assert history.previous_best is best(last_round)
        firsts = [one for one in records if one.evaluation.config == CONFIGS[place]]
        assert history.find(CONFIGS[place]) is firsts[0]


def test_an_answer_takes_no_longer_the_more_there_were() -> None:
    history, work, kept = SearchHistory(8), [], []

    def calls(n: int) -> int:
        count = 0

        def note(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            for place in range(n):
                add(history, place % 30)
                history.find(CONFIGS[place % 30])
        finally:
            sys.setprofile(None)
        return count

    tracemalloc.start()
    try:
        for n in (800, 800, 800, 800):
            work.append(calls(n))
            kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(work[1:]) <= 1.1 * work[0]
    assert kept[-1] < 300 * len(history)
