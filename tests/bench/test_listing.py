"""A listing: the predictions of a surrogate for every student of its space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdnas_env.bench import listing
from kdnas_env.bench.listing import list_students
from kdnas_env.bench.truth import Truth
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.core.space import SearchSpace
from kdnas_env.envs.benchmark_task import Task
from kdnas_env.errors import TableError
from kdnas_env.evaluators.surrogate import SurrogateEvaluator
from kdnas_env.tables.surrogates.storage import load_source
from kdnas_env.tables.surrogates.surrogate import Surrogate


@pytest.fixture
def evaluator(surrogate_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SurrogateEvaluator:
    monkeypatch.setenv("KDNAS_CACHE", str(tmp_path / "cache"))
    return SurrogateEvaluator.of(surrogate_file)


def test_a_listing_is_what_evaluations_find(evaluator: SurrogateEvaluator) -> None:
    space = evaluator.space
    found = list_students(evaluator, "heldout_unexplained", 2)
    np.testing.assert_array_equal(found.index, space.valid_indices)
    assert 100 < len(found.index) < space.size
    configs = [space.decode(space.from_index(index)) for index in found.index.tolist()]
    whole, short = (evaluator.evaluate(configs, Fidelity(epochs=epochs)) for epochs in (3, 2))
    np.testing.assert_allclose(found.loss, [one.heldout_unexplained[-1] for one in whole], rtol=1e-12)
    np.testing.assert_allclose(found.ratio, [one.latency.ratio for one in whole if one.latency], rtol=1e-12)
    np.testing.assert_allclose(found.latency_ms, [one.latency.median_ms for one in whole if one.latency], rtol=1e-12)
    np.testing.assert_array_equal(found.parameters, [one.parameters for one in whole])
    np.testing.assert_allclose(found.seconds, [one.wall_seconds for one in short], rtol=1e-12)


def test_a_listing_is_kept(evaluator: SurrogateEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    first = list_students(evaluator, "heldout_loss", 3, lambda done, total: told.append((done, total)))
    assert told[-1] == (evaluator.space.size, evaluator.space.size)

    def never(*_: object) -> None:
        raise AssertionError("it is listed again")

    with monkeypatch.context() as patched:
        patched.setattr(listing, "_listed", never)
        again = list_students(evaluator, "heldout_loss", 3)
        for name in listing.Listing.ARRAYS:
            np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        with pytest.raises(AssertionError, match="again"):
            list_students(evaluator, "train_loss", 3)


def test_a_space_too_large_to_list_is_refused(
    evaluator: SurrogateEvaluator, surrogate_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LARGEST_LISTING", 100)
    with pytest.raises(TableError, match=f"{evaluator.space.size:,} points.*up to 100.*smaller table"):
        Truth.of(Task(str(surrogate_file), alpha=-0.055))


def test_a_joint_space_is_listed_network_by_network() -> None:
    """Inputs are combined from those of networks and of recipes; the listing equals the evaluations."""
    surrogate = load_source("joint-sentences")
    assert isinstance(surrogate, Surrogate)
    choices = {name: values[:1] for name, values in surrogate.metadata.search_space.choices.items()}
    several = ("num_hidden_layers", "hidden_size", "hidden_act", "recipe.learning_rate", "recipe.embeddings")
    choices |= {name: surrogate.metadata.search_space.choices[name][:2] for name in several}
    evaluator = SurrogateEvaluator(surrogate, search_space=SearchSpace(choices, surrogate.teacher))
    found = listing._listed_by_network(evaluator, "heldout_unexplained", 2, lambda done, total: None)
    space = evaluator.space
    assert [index for index, _ in space.students()] == found.index.tolist()
    configs = [space.decode(space.from_index(index)) for index in found.index.tolist()]
    whole, short = (evaluator.evaluate(configs, Fidelity(epochs=epochs)) for epochs in (3, 2))
    np.testing.assert_allclose(found.loss, [one.heldout_unexplained[-1] for one in whole], rtol=1e-9)
    np.testing.assert_allclose(found.ratio, [one.latency.ratio for one in whole if one.latency], rtol=1e-9)
    np.testing.assert_array_equal(found.parameters, [one.parameters for one in whole])
    np.testing.assert_allclose(found.seconds, [one.wall_seconds for one in short], rtol=1e-9)
