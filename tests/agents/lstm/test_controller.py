from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdnas_env.agents.lstm.common import GLOBAL_BEST, NONE, PREVIOUS_BEST, PREVIOUS_CANDIDATE, ROLES
from kdnas_env.agents.lstm.controller import Contexts, Controller, fit, predict

NVEC = np.array([4, 3, 5])
TRAINING: dict[str, Any] = {
    "epochs": 60,
    "batch_size": 16,
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "context_dropout": 0.0,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def controller(seed: int = 0, ordinal: float = 0.5) -> Controller:
    return Controller(NVEC, embedding_size=8, hidden_size=16, ordinal=ordinal, generator=generator(seed))


def candidates(n: int, seed: int = 1) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).integers(NVEC, size=(n, 3)))


def contexts(n: int, seed: int = 2) -> Contexts:
    length = 4
    roles = torch.tensor([[GLOBAL_BEST, PREVIOUS_BEST, PREVIOUS_CANDIDATE, PREVIOUS_CANDIDATE]] * n)
    roles[0] = NONE
    rewards = torch.randn(n, length, generator=generator(seed)).masked_fill(roles == NONE, 0.0)
    return Contexts(candidates(n * length, seed).reshape(n, length, 3), rewards, roles)


@torch.no_grad()
def error(model: Controller, known: Contexts, rows: Tensor, actions: Tensor, targets: Tensor) -> float:
    return float(torch.mean((model(known, rows, actions) - targets) ** 2))


def test_a_prediction_depends_on_its_own_context_and_candidate_alone() -> None:
    model, known, actions = controller(), contexts(5), candidates(6)
    rows = torch.tensor([0, 1, 1, 3, 2, 4])
    together = model(known, rows, actions)
    for position, row in enumerate(rows.tolist()):
        alone = model(known[row : row + 1], torch.tensor([0]), actions[position : position + 1])
        torch.testing.assert_close(alone[0], together[position])
    assert together.shape == (6,)
    assert len(set(together.tolist())) == 6


def test_the_context_matters() -> None:
    model, actions = controller(), candidates(20)
    scores = [predict(model, contexts(5)[row : row + 1], actions) for row in range(5)]
    assert all(np.abs(one - scores[0]).max() > 1e-3 for one in scores[1:])


def test_a_hidden_context_is_the_one_before_the_first_round() -> None:
    model, known, actions = controller(), contexts(3), candidates(7)
    mask = torch.tensor([False, True, False])
    hidden = known.hidden(mask)
    np.testing.assert_allclose(
        predict(model, hidden[1:2], actions), predict(model, known[0:1], actions), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_array_equal(predict(model, hidden[2:], actions), predict(model, known[2:], actions))


def test_none_yet_is_a_learned_token() -> None:
    model, known = controller(), contexts(1)
    column = len(NVEC) * 8 + 1 + NONE
    weight = model.lstm.get_parameter("weight_ih_l0")
    assert weight.shape[1] == len(NVEC) * 8 + 1 + ROLES
    model(known, torch.zeros(5, dtype=torch.int64), candidates(5)).sum().backward()
    assert weight.grad is not None
    assert weight.grad[:, column].abs().max() > 0
    # The action of a token with the role NONE must not change predictions.
    other = Contexts(known.actions.flip(0, 1), known.rewards, known.roles)
    np.testing.assert_array_equal(predict(model, known, candidates(5)), predict(model, other, candidates(5)))


def test_it_learns_rewards_that_depend_on_candidate_and_context() -> None:
    model, known, actions = controller(), contexts(3), candidates(60)
    rows = torch.arange(60) % 3
    targets = actions.float() @ torch.tensor([0.4, -0.3, 0.2]) + rows.float() - 1.0
    before = error(model, known, rows, actions, targets)
    fit(model, known, rows, actions, targets, **TRAINING, generator=generator())
    after = error(model, known, rows, actions, targets)
    assert after < 0.02 < 0.5 < before


def test_with_its_contexts_hidden_it_learns_from_the_candidate_alone() -> None:
    model, known, actions = controller(), contexts(3), candidates(60)
    rows = torch.arange(60) % 3
    targets = rows.float() - 1.0
    fit(model, known, rows, actions, targets, **{**TRAINING, "context_dropout": 1.0}, generator=generator())
    assert error(model, known.hidden(torch.ones(3, dtype=torch.bool)), rows, actions, targets) > 0.1


def test_training_is_repeatable() -> None:
    known, actions, targets = contexts(3), candidates(40), torch.linspace(-1, 1, 40)
    runs = []
    for _ in range(2):
        model = controller()
        fit(model, known, torch.arange(40) % 3, actions, targets, **TRAINING, generator=generator(4))
        runs.append(predict(model, known[1:2], actions))
    np.testing.assert_array_equal(runs[0], runs[1])


def test_no_epochs_leave_it_as_it_was() -> None:
    model, fresh = controller(), controller()
    fit(
        model,
        contexts(2),
        torch.zeros(8, dtype=torch.int64),
        candidates(8),
        torch.randn(8, generator=generator()),
        **{**TRAINING, "epochs": 0},
        generator=generator(),
    )
    for trained, untrained in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(trained, untrained, rtol=0, atol=0)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_candidates_scored_in_parts_are_scored_alike(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, known, actions = controller(), contexts(2)[1:], candidates(n)
    whole = predict(model, known, actions)
    monkeypatch.setattr("kdnas_env.agents.lstm.controller._SCORED_TOGETHER", 3)
    np.testing.assert_allclose(predict(model, known, actions), whole, rtol=1e-5, atol=1e-6)
    assert whole.shape == (n,)
    assert whole.dtype == np.float64


def test_ordinal_embeddings_of_near_choices_are_alike() -> None:
    def spread(ordinal: float) -> Tensor:
        table = Controller(
            np.array([12]), embedding_size=64, hidden_size=4, ordinal=ordinal, generator=generator()
        ).embedding.weight.detach()
        distances = torch.cdist(table, table)
        return distances[0, 1] / distances[0, 11]

    assert spread(1.0) == pytest.approx(1 / 11, rel=1e-4)
    assert spread(0.0) == pytest.approx(1.0, abs=0.3)


def test_neither_the_global_generator_nor_the_number_of_threads_is_touched() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model = controller()
        fit(
            model,
            contexts(2),
            torch.zeros(8, dtype=torch.int64),
            candidates(8),
            torch.zeros(8),
            **TRAINING,
            generator=generator(),
        )
        predict(model, contexts(2)[:1], candidates(8))
        assert torch.get_num_threads() == 2
        with pytest.raises(IndexError):
            predict(model, contexts(2)[:1], candidates(8) + 50)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
