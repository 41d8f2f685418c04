from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import nn

import kdnas_env  # noqa: F401  (registers the environments)
from kdnas_env.agents.lstm.common import Features
from kdnas_env.agents.lstm.ensemble import Ensemble, Posterior, expected_improvement, features_of, fit
from kdnas_env.agents.lstm.ensemble_agent import LSTMEnsembleAgent, LSTMEnsembleConfig
from kdnas_env.errors import KDNASError
from kdnas_env.testing.bowl import BowlEnv

QUICK = LSTMEnsembleConfig(steps=2, members=2)
NVEC = np.array([4, 3, 5])

# Learning -------------------------------------------------------------------------------------------------------


def unexplained(features: Features, steps: int) -> float:
    """Return the unexplained share of the variance of unseen rewards, which depend on combinations of choices."""
    nvec, rng = np.array([6, 6, 4]), np.random.default_rng(0)
    gains = rng.normal(size=(2, 6))
    grid = np.stack(np.unravel_index(rng.permutation(nvec.prod()), nvec), axis=1)
    rewards = gains[0, grid[:, 0]] * gains[1, grid[:, 1]] + 0.2 * grid[:, 2]
    targets = torch.tensor((rewards - rewards.mean()) / rewards.std(), dtype=torch.float32)
    actions, known = torch.tensor(grid), slice(0, 90)
    model = ensemble(members=8, nvec=nvec, features=features)
    fit(model, actions[known], targets[known], steps=steps, learning_rate=0.02, weight_decay=0.02)
    with torch.no_grad():
        posterior = model.posterior(model(actions[known]), targets[known])
        error = posterior.mean(model(actions[90:])).mean(dim=0) - targets[90:]
    return float(error.var())


def test_the_lstm_and_its_training_are_what_learns_of_combinations() -> None:
    learned = unexplained("both", steps=100)
    assert learned < 0.6 * unexplained("both", steps=0)
    assert learned < 0.6 * unexplained("wide", steps=100)


# The ensemble ---------------------------------------------------------------------------------------------------


def ensemble(members: int = 3, nvec: np.ndarray = NVEC, features: Features = "both", seed: int = 0) -> Ensemble:
    generator = torch.Generator().manual_seed(seed)
    return Ensemble(nvec, members=members, embedding_size=6, hidden_size=16, features=features, generator=generator)


def candidates(n: int, seed: int = 1) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).integers(NVEC, size=(n, 3)))


def test_a_member_is_an_lstm() -> None:
    model, actions = ensemble(features="deep"), candidates(7)
    for member in range(3):
        reference: Any = nn.LSTM(6, 16, batch_first=True)
        with torch.no_grad():
            reference.weight_ih_l0.copy_(model.input_weight[member].T)
            reference.weight_hh_l0.copy_(model.hidden_weight[member].T)
            reference.bias_ih_l0.copy_(model.gate_bias[member, 0])
            reference.bias_hh_l0.zero_()
            places = model.places[actions + model.offsets]
            tokens = model.embedding[member, actions + model.offsets] + places[..., None] * model.direction[member]
            hidden = reference(tokens)[1][0][0]
            torch.testing.assert_close(model(actions)[member, :, 1:], 3 / 4 * hidden)


def test_it_reads_the_order_of_the_choices() -> None:
    model = ensemble(nvec=np.array([4, 4]))
    with torch.no_grad():
        model.embedding[:, 4:] = model.embedding[:, :4]
        model.direction[:, 1] = model.direction[:, 0]
        there, back = model(torch.tensor([[0, 3]])), model(torch.tensor([[3, 0]]))
    assert (there - back).abs()[..., -16:].max() > 0.01


def test_members_learn_for_themselves() -> None:
    actions, targets = candidates(20), torch.randn(20, generator=torch.Generator().manual_seed(3))
    together, alone = ensemble(members=2), ensemble(members=2)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter[1] = parameter[0]
    for model in (together, alone):
        fit(model, actions, targets, steps=5, learning_rate=0.01, weight_decay=0.1)
    for one, other in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)


def test_many_candidates_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdnas_env.agents.lstm.ensemble.SCORED_TOGETHER", 4)
    model, actions = ensemble(), candidates(11)
    torch.testing.assert_close(features_of(model, actions), model(actions).detach())
    assert features_of(model, actions[:0]).shape[1] == 0


@given(seed=st.integers(0, 10**6), known=st.integers(1, 12))
def test_the_posterior_is_that_of_a_gaussian_process(seed: int, known: int) -> None:
    rng = np.random.default_rng(seed)
    features, targets, noise = rng.normal(size=(2, known + 3, 4)), rng.normal(size=known), rng.uniform(0.1, 1, size=2)
    tensors = [torch.tensor(array) for array in (features[:, :known], targets, noise)]
    one = Posterior.of(*[tensor.float() for tensor in tensors])
    new = torch.tensor(features[:, known:]).float()
    for member in range(2):
        kernel = features[member] @ features[member].T
        gram = kernel[:known, :known] + noise[member] * np.eye(known)
        gain = np.linalg.solve(gram, kernel[:known, known:]).T
        variance = np.diag(kernel[known:, known:] - gain @ kernel[:known, known:])
        evidence = multivariate_normal(cov=gram).logpdf(targets) + known / 2 * np.log(2 * np.pi)
        np.testing.assert_allclose(one.mean(new)[member], gain @ targets, atol=1e-3)
        np.testing.assert_allclose(one.deviation(new)[member], np.sqrt(variance), atol=1e-3)
        np.testing.assert_allclose(one.log_evidence(*[t.float() for t in tensors[:2]])[member], evidence, atol=1e-2)


def test_what_is_believed_makes_sure_and_changes_no_mean() -> None:
    features = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(1))
    posterior = Posterior.of(features[:, :5], torch.arange(5.0), torch.tensor([0.1, 0.2]))
    surer = posterior.believing(features[:, 5:6])
    told = torch.cat([torch.arange(5.0), posterior.mean(features[:, 5:6])[0]])
    expected = Posterior.of(features[:, :6], told, posterior.noise)
    torch.testing.assert_close(surer.mean(features)[0], expected.mean(features)[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(surer.deviation(features), expected.deviation(features), rtol=1e-3, atol=1e-3)
    assert (surer.deviation(features)[:, 5] < posterior.deviation(features)[:, 5]).all()


def test_the_expected_improvement() -> None:
    mean, deviation, best = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 0.5, 2.0]), torch.tensor(0.5)
    draws = mean + deviation * torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0))
    expected = (draws - best).clamp(min=0).mean(dim=0)
    torch.testing.assert_close(expected_improvement(mean, deviation, best), expected, rtol=0.02, atol=0.002)


# The round ------------------------------------------------------------------------------------------------------


def test_a_search_begins_with_candidates_that_are_spread() -> None:
    result = LSTMEnsembleAgent(QUICK).search(BowlEnv([8, 8, 4]), budget=8, round_size=8)
    assert [sorted(column) for column in result.actions.T.tolist()] == [
        [*range(8)],
        [*range(8)],
        [0, 0, 1, 1, 2, 2, 3, 3],
    ]


def test_candidates_asked_one_by_one_are_those_asked_together() -> None:
    one_by_one, together = (LSTMEnsembleAgent(LSTMEnsembleConfig(epsilon_start=0.0)) for _ in range(2))
    env = BowlEnv([9, 9, 9])
    one_by_one.reset([9, 9, 9], budget=40, round_size=4, seed=3)
    for _ in range(4):
        actions = one_by_one.ask(4)
        one_by_one.tell(actions, [env.reward(action) for action in actions])
    together.load_state_dict(one_by_one.state_dict())
    assert np.concatenate([one_by_one.ask(1) for _ in range(4)]).tolist() == together.ask(4).tolist()


# Configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "all"}, r"features is 'all'; expected one of \['both', 'deep', 'wide'\]"),
        ({"design": -1}, "design is -1; expected a whole number, at least 0"),
        ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
        ({"members": 0}, "members is 0; expected a whole number, at least 1"),
    ],
)
def test_malformed_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KDNASError, match=message):
        LSTMEnsembleConfig(**options)
