"""Whether a teacher's score beats the same answer to all texts."""

from __future__ import annotations

import numpy as np
import small_tasks

from kdnas_env.exporting.measuring import Measured
from kdnas_env.tasks.scores import Share, Standing, majority_class, standing


def test_a_teacher_that_answers_alike_is_weak_and_one_that_is_right_is_not() -> None:
    task = small_tasks.easy_task()
    split = task.evaluation["test"]
    commonest = np.full(len(split), np.bincount(task.train.labels).argmax())
    good = standing(task, "test", commonest, split.labels, split)
    assert (good.teacher, good.teacher_is_weak) == ((1.0, 1.0, 1.0), False)
    assert good.constant == good.model[0] == majority_class(task).split_score("test")
    assert good.model[1] < good.model[0] < good.model[2]
    weak = standing(task, "test", split.labels, commonest, split)
    assert (weak.model[0], weak.teacher[0], weak.answer) == (1.0, weak.constant, "majority class")
    assert weak.teacher_is_weak


def test_numbers_are_compared_with_their_mean() -> None:
    task = small_tasks.easy_task("stsb")
    split = task.evaluation["validation"]
    noise = np.random.default_rng(0).normal(size=len(split))
    found = standing(task, "validation", split.labels, noise, split)
    assert (found.constant, found.answer) == (0.0, "mean of the numbers")
    assert found.teacher_is_weak
    assert not standing(task, "validation", noise, split.labels, split).teacher_is_weak


def test_the_warning_names_the_splits_and_the_scores() -> None:
    share = Share("validation", 59, 0.8, 0.75, 1.07, 0.9, 1.2)
    good = Standing("validation", (0.8, 0.7, 0.9), (0.75, 0.64, 0.85), 0.5, "majority class")
    poor = Standing("test", (0.627, 0.508, 0.746), (0.593, 0.475, 0.712), 0.525, "majority class")
    measured = Measured("f", "int8", 1.0, 1.0, 2.0, 2.0, (2.0,), {}, share, (share,), (good,))
    assert measured.warning is None
    both = Measured("f", "int8", 1.0, 1.0, 2.0, 2.0, (2.0,), {}, share, (share,), (good, poor))
    assert both.warning == (
        "the teacher hardly beats the majority class (test: 59.3%, 95 % interval 47.5% - 71.2%, beside 52.5%), so the "
        "share of its score that is kept means little; give more labels, or another teacher"
    )
