from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from kdnas_env.distillation.training.projection import LinearFit, Moments, Projection
from kdnas_env.errors import KDNASError

Array = NDArray[np.float64]


def problem(tokens: int = 500, inputs: int = 8, targets: int = 5, noise: float = 0.3, seed: int = 0) -> tuple[Any, Any]:
    """Return inputs with different variances and nonzero means, and targets that are nearly linear in them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, inputs)) * rng.uniform(0.2, 3, inputs) + rng.normal(size=inputs)
    y = x @ rng.normal(size=(inputs, targets)) + noise * rng.normal(size=(tokens, targets)) + 2.0
    return x.astype(np.float32), y.astype(np.float32)


def solve(x: Any, y: Any, ridge: float | Literal["gcv"], chunks: int = 4) -> LinearFit:
    moments = Moments()
    for part_x, part_y in zip(np.array_split(x, chunks), np.array_split(y, chunks), strict=True):
        moments.add(torch.from_numpy(part_x), torch.from_numpy(part_y))
    return moments.solve(ridge)


def residual(fit: LinearFit, x: Any, y: Any) -> float:
    """Return the actual squared error of the fitted map, in float64."""
    predicted = x.astype(np.float64) @ fit.weight.numpy() + fit.bias.numpy()
    return float(((predicted - y.astype(np.float64)) ** 2).sum())


def spread(y: Any) -> float:
    return float(((y.astype(np.float64) - y.astype(np.float64).mean(0)) ** 2).sum())


@given(st.integers(30, 200), st.integers(1, 12), st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_with_next_to_no_penalty_it_is_least_squares(
    tokens: int, inputs: int, targets: int, chunks: int, seed: int
) -> None:
    x, y = problem(tokens, inputs, targets, seed=seed)
    fit = solve(x, y, 0.0, chunks)
    columns = np.c_[x, np.ones(len(x))].astype(np.float64)
    best = float(((y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]) ** 2).sum())
    assert best * 0.999 <= residual(fit, x, y) + 1e-9 <= best * 1.001 + 1e-6 * spread(y)
    assert fit.count == tokens


@pytest.mark.parametrize("ridge", [1e-5, 1e-4, 0.1, 10.0])
def test_the_penalty_is_a_share_of_the_mean_variance(ridge: float) -> None:
    x, y = problem()
    fit = solve(x, y, ridge)
    reference = Ridge(alpha=ridge * len(x) * float(x.astype(np.float64).var(0).mean())).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(fit.weight, reference.coef_.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit.bias, reference.intercept_, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [60, 70, 90])
def test_with_few_tokens_cross_validation_predicts_others_better(tokens: int) -> None:
    x, y = problem(tokens + 400, inputs=60, noise=3.0)
    fixed, chosen = (solve(x[:tokens], y[:tokens], ridge) for ridge in (1e-4, "gcv"))
    errors = [residual(fit, x[tokens:], y[tokens:]) for fit in (fixed, chosen)]
    assert errors[1] < 0.8 * errors[0]


def test_with_many_tokens_cross_validation_changes_little() -> None:
    x, y = problem(20_000)
    fixed, chosen = (solve(x, y, ridge) for ridge in (1e-4, "gcv"))
    assert chosen.squared_error == pytest.approx(fixed.squared_error, rel=1e-3)


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.5])
def test_squared_error_is_that_of_the_map(ridge: float) -> None:
    x, y = problem()
    fit = solve(x, y, ridge)
    assert fit.squared_error == pytest.approx(residual(fit, x, y), rel=1e-4)


def badly_conditioned(x: Any) -> dict[str, Any]:
    return {
        "duplicated": np.c_[x, x, x],
        "nearly duplicated": np.c_[x, x + 1e-6 * x[::-1]],
        "constant columns": np.c_[x, np.full((len(x), 3), 7.3, dtype=np.float32)],
        "large": x * 1e4,
        "tiny": x * 1e-8,
        "one column large": x * np.array([100.0, *[1.0] * (x.shape[1] - 1)]),
        "huge offset": x + 1e4,
        "one token's offset": x + np.array([1e4, *[0.0] * (x.shape[1] - 1)]),
        "more columns than tokens": np.tile(x, (1, 100)),
    }


@pytest.mark.parametrize("chunks", [1, 7])
@pytest.mark.parametrize("case", badly_conditioned(problem()[0]))
def test_bad_conditioning_costs_next_to_nothing(case: str, chunks: int) -> None:
    x, y = problem()
    best = solve(x, y, 0.0).squared_error
    bad = badly_conditioned(x)[case].astype(np.float32)
    fit = solve(bad, y, 0.0, chunks)
    # The best map leaves less than 2 % unexplained; rounding may add at most 1 %.
    assert best < 0.02 * spread(y)
    assert residual(fit, bad, y) < best + 0.01 * spread(y)
    assert fit.squared_error == pytest.approx(residual(fit, bad, y), abs=1e-3 * spread(y))
    projection = Projection(1, bad.shape[1], y.shape[1], shared=True)
    projection.assign([fit])
    with torch.no_grad():
        applied = float((projection(torch.from_numpy(bad), 0) - torch.from_numpy(y)).double().square().sum())
    assert applied < best + 0.02 * spread(y)


@pytest.mark.parametrize("case", badly_conditioned(problem()[0]))
def test_a_penalty_never_does_worse_than_the_mean(case: str) -> None:
    x, y = problem()
    bad = badly_conditioned(x)[case].astype(np.float32)
    fit = solve(bad, y, 1e-4)
    assert fit.squared_error == pytest.approx(residual(fit, bad, y), abs=1e-3 * spread(y))
    assert fit.squared_error < spread(y)


@pytest.mark.parametrize("value", [0.0, 7.3, 1e5])
def test_inputs_that_say_nothing_predict_the_mean(value: float) -> None:
    _, y = problem()
    x = np.full((len(y), 6), value, dtype=np.float32)
    fit = solve(x, y, 1e-4)
    assert fit.squared_error == pytest.approx(spread(y), rel=1e-5)
    assert residual(fit, x, y) == pytest.approx(spread(y), rel=1e-5)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
@pytest.mark.parametrize("largest", [1, 0.1, 0.01])
def test_inputs_that_hardly_differ_do_not_seem_to_explain_more(largest: float, ridge: float) -> None:
    """The states of a collapsed student: nearly equal for all tokens, with variances of very different sizes."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        directions = np.linalg.qr(rng.normal(size=(32, 32)))[0] * np.geomspace(largest, 1e-5, 32)
        sources = rng.normal(size=(1000, 32))
        x = (sources @ directions.T + rng.normal(size=32)).astype(np.float32)
        y = (sources @ rng.normal(size=(32, 4))).astype(np.float32)
        fit = solve(x, y, ridge, chunks=1)
        assert fit.squared_error == pytest.approx(residual(fit, x, y), rel=0.05)


def test_a_perfect_map_has_no_error() -> None:
    x, _ = problem()
    y = x[:, :3] * 2 + 1
    fit = solve(x, y, 0.0)
    assert 0 <= fit.squared_error < 1e-6 * spread(y)
    np.testing.assert_allclose(fit.weight, 2 * np.eye(8, 3), atol=1e-2)


def test_one_token_is_predicted() -> None:
    x, y = problem(tokens=1)
    fit = solve(x, y, 1e-4, chunks=1)
    np.testing.assert_allclose(x @ fit.weight.numpy() + fit.bias.numpy(), y, rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["inputs", "targets"])
def test_states_that_are_not_finite_are_refused(value: float, side: str) -> None:
    x, y = problem()
    (x if side == "inputs" else y)[200, 1] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        solve(x, y, 1e-4)


def test_without_tokens_there_is_nothing_to_fit() -> None:
    for call in (lambda: Moments().solve(0.1), Moments().means, Moments().centred):
        with pytest.raises(KDNASError, match="no token was added"):
            call()


def test_moments_about_the_means() -> None:
    x, y = problem()
    moments = Moments()
    for start in range(0, 500, 50):
        moments.add(torch.from_numpy(x[start : start + 50]), torch.from_numpy(y[start : start + 50]))
    gram, cross, square = moments.centred()
    deviations, targets = x.astype(np.float64) - x.mean(0, dtype=np.float64), y - y.mean(0, dtype=np.float64)
    np.testing.assert_allclose(gram, deviations.T @ deviations, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(cross, deviations.T @ targets, rtol=1e-4, atol=1e-2)
    assert square == pytest.approx(spread(y), rel=1e-5)
    np.testing.assert_allclose(moments.means()[0], x.mean(0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(moments.means()[1], y.mean(0, dtype=np.float64), rtol=1e-5)


# --- the projection module ---


def test_pairs_share_one_map_or_have_one_each() -> None:
    states = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    for shared, maps in ((True, 1), (False, 3)):
        projection = Projection(3, 4, 6, shared=shared).randomise(torch.Generator().manual_seed(1))
        assert projection.maps == maps
        outputs = [projection(states, pair) for pair in range(3)]
        for pair, output in enumerate(outputs):
            index = projection.map_of(pair)
            torch.testing.assert_close(output, states @ projection.weight[index] + projection.bias[index])
        assert torch.equal(outputs[0], outputs[1]) == shared


def test_random_maps_are_drawn_as_those_of_linear_layers() -> None:
    projection = Projection(2, 100, 50, shared=False)
    before = torch.random.get_rng_state()
    projection.randomise(torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        linear = torch.nn.Linear(100, 50)
    assert float(projection.weight.detach().std()) == pytest.approx(float(linear.weight.detach().std()), rel=0.05)
    for parameter in projection.parameters():
        assert 0.09 < float(parameter.detach().abs().max()) <= 0.1


def test_a_solution_is_taken_over() -> None:
    x, y = problem()
    fits = [solve(x, y, 0.0), solve(x, -y, 0.0)]
    projection = Projection(2, 8, 5, shared=False)
    projection.assign(fits)
    assert projection.weight.dtype == torch.float32
    for index, fit in enumerate(fits):
        torch.testing.assert_close(projection.weight[index].double(), fit.weight, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(projection.bias[index].double(), fit.bias, atol=1e-5, rtol=1e-6)
