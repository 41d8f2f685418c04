from __future__ import annotations

import numpy as np
import pytest

from kdnas_env.core.architecture import EncoderArchitecture, forward_flops
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import SpaceError
from kdnas_env.studies.proxy import stratified_sample


def test_a_sample_spans_the_space_and_is_fixed_by_its_seed(bert_base: EncoderArchitecture) -> None:
    space = SearchSpace.from_teacher(bert_base)
    one, same, other = (stratified_sample(space, 20, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one == same != other
    assert len(set(one)) == 20
    assert all(space.is_valid(config) for config in one)
    costs = [forward_flops(config, bert_base, batch=1, length=50) for config in one]
    assert costs == sorted(costs)
    everything = sorted(forward_flops(config, bert_base, batch=1, length=50) for config in space)
    assert costs[0] <= np.quantile(everything, 0.05)
    assert costs[-1] >= np.quantile(everything, 0.95)


def test_slow_students_are_left_out(bert_base: EncoderArchitecture) -> None:
    space = SearchSpace.from_teacher(bert_base)
    teacher = forward_flops(bert_base.as_student(), bert_base, batch=1, length=50)
    sample = stratified_sample(space, 10, np.random.default_rng(0), least_speedup=6.0)
    assert all(forward_flops(config, bert_base, batch=1, length=50) <= teacher / 6 for config in sample)


def test_more_students_than_there_are(bert_base: EncoderArchitecture) -> None:
    space = SearchSpace.from_teacher(bert_base)
    with pytest.raises(SpaceError, match="20 students are requested, but the space holds 0 that need at most one over"):
        stratified_sample(space, 20, np.random.default_rng(0), least_speedup=1000.0)
