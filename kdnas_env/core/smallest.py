"""The fewest parameters of the students of a search space, by which limits of size are judged before a search."""

from __future__ import annotations

import itertools
from dataclasses import replace

from kdnas_env.core.architecture import FULL, StudentConfig, count_parameters
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.space import SearchSpace
from kdnas_env.errors import KDNASError

_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size")
_KINDS = ("family", "embedding_size", "vocabulary")


def fewest_parameters(space: SearchSpace) -> int:
    """Return the parameters of the smallest student; in spaces that are too large to list, a lower bound.

    Of a smaller vocabulary no tokens are counted: how many of them the corpus uses is not known before it is read.

    Args:
        space: The space.
    """
    if space.listable:
        return min(_at_least(config, space) for _, config in space.students())
    smallest = {name: min(space.choices[name]) for name in _SIZES if name in space.choices}
    base, kinds = space.teacher.as_student(), [name for name in _KINDS if name in space.choices]
    picked = itertools.product(*(space.choices[name] for name in kinds))
    return min(
        _at_least(replace(base, **smallest, **dict(zip(kinds, values, strict=True))), space) for values in picked
    )


def check_possible(limits: Constraints, space: SearchSpace) -> None:
    """Refuse limits of size that no student of a space keeps.

    Raises:
        KDNASError: If there is such a limit.
    """
    if limits.size_mb is None and limits.parameters is None:
        return
    fewest = fewest_parameters(space)
    bound = "have" if space.listable else "have more than"
    advice = ["search a space of smaller students (`space.file`)"]
    if "vocabulary" not in space.choices and "embedding_size" not in space.choices:
        advice.append("add the dimension vocabulary or embedding_size to it")
    if limits.parameters is not None and fewest > limits.parameters:
        raise KDNASError(
            f"`limits.parameters` is {limits.parameters:,}, but the smallest students of the space {bound} {fewest:,}; "
            f"raise it, or {', or '.join(advice)}"
        )
    megabytes = limits.megabytes(fewest)
    if limits.size_mb is not None and megabytes > limits.size_mb:
        if limits.format != "int8":
            quantised = replace(limits, format="int8").megabytes(fewest)
            if quantised <= limits.size_mb:
                advice.insert(0, f"export in int8 (`limits.format=int8`), where it is {quantised:.3g} MB")
        raise KDNASError(
            f"`limits.size_mb` is {limits.size_mb:g}, but the smallest students of the space {bound} {megabytes:.3g} "
            f"MB in {limits.format}; raise it, or {', or '.join(advice)}"
        )


def _at_least(config: StudentConfig, space: SearchSpace) -> int:
    return count_parameters(config, space.teacher, tokens=None if config.vocabulary == FULL else 0)
