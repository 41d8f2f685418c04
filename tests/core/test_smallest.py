"""Size limits that no student of a space keeps are refused before the search."""

from __future__ import annotations

from typing import Any

import pytest

from kdnas_env.core.architecture import EncoderArchitecture, count_parameters
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.smallest import check_possible, fewest_parameters
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import KDNASError

SIZES: dict[str, Any] = {
    "num_hidden_layers": [2, 4],
    "num_attention_heads": [3, 4],
    "hidden_size": [128, 192, 384],
    "intermediate_size": [384, 512],
}


def test_the_smallest_of_a_space_that_is_listed_can_be_built(bert_base: EncoderArchitecture) -> None:
    space = SearchSpace.from_dict({**SIZES, "num_attention_heads": [3]}, bert_base)
    counts = {config.hidden_size: count_parameters(config, bert_base) for _, config in space.students()}
    assert 128 not in counts  # 3 heads do not divide it
    assert fewest_parameters(space) == min(count_parameters(config, bert_base) for _, config in space.students())


@pytest.mark.parametrize("more", [{}, {"family": ["bert", "albert"]}, {"embedding_size": [32, "full"]}])
def test_a_bound_of_spaces_that_are_too_large_to_list(more: dict[str, Any], bert_base: EncoderArchitecture) -> None:
    listed = SearchSpace.from_dict({**SIZES, **more}, bert_base)
    wide = {"recipe.learning_rate": [rate / 1e6 for rate in range(1, 40_001)]}
    large = SearchSpace.from_dict({**SIZES, **more, **wide}, bert_base)
    assert not large.listable
    assert fewest_parameters(large) == fewest_parameters(listed)


def test_tokens_of_a_smaller_vocabulary_are_not_counted(bert_base: EncoderArchitecture) -> None:
    whole = SearchSpace.from_dict(SIZES, bert_base)
    smaller = SearchSpace.from_dict({**SIZES, "vocabulary": ["corpus", "full"]}, bert_base)
    assert fewest_parameters(whole) - fewest_parameters(smaller) == bert_base.vocab_size * 128


def test_limits_that_no_student_keeps(bert_base: EncoderArchitecture) -> None:
    space = SearchSpace.from_dict(SIZES, bert_base)
    fewest = fewest_parameters(space)
    size = fewest * 4.01 / 1e6
    for kept in (Constraints(speedup=900), Constraints(parameters=fewest), Constraints(size_mb=size + 0.01)):
        check_possible(kept, space)
    check_possible(Constraints(size_mb=size / 2, format="int8"), space)
    with pytest.raises(
        KDNASError, match=rf"limits.parameters` is 1,000, but .* have {fewest:,}; raise it, or search a"
    ):
        check_possible(Constraints(parameters=1000), space)
    with pytest.raises(KDNASError, match=rf"have {size:.3g} MB in float32; .* int8 .*{fewest * 1.05 / 1e6:.3g} MB"):
        check_possible(Constraints(size_mb=size - 0.01), space)
    with pytest.raises(KDNASError, match=r"MB in int8; raise it, or search .*dimension vocabulary"):
        check_possible(Constraints(size_mb=0.1, format="int8"), space)
