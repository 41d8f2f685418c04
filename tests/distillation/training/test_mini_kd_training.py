from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plain_kd
import pytest
import tiny_teachers
import torch
from hypothesis import given
from hypothesis import strategies as st
from pairwise import all_pairs
from transformers import AutoModel

from kdnas_env.core.architecture import FAMILIES, StudentConfig, count_parameters
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.training.embeddings import embedding_basis
from kdnas_env.distillation.training.mapping import map_layers
from kdnas_env.distillation.training.mini_kd import EpochResult, MiniKD, schedule
from kdnas_env.distillation.training.projection import Moments
from kdnas_env.distillation.training.recipe import EMBEDDINGS, LAYERS, MAPPINGS, RECIPES, Recipe
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import KDNASError, SpaceError

GENTLE = Recipe(learning_rate=4e-4)
"""The default recipe, with a learning rate for much narrower students than it was tuned for."""


def curves(results: list[EpochResult]) -> list[tuple[float, ...]]:
    return [(r.train.loss, r.train.unexplained, r.heldout.loss, r.heldout.unexplained) for r in results]


def weights(kd: MiniKD) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in kd.export().named_parameters()}


def direct(kd: MiniKD, samples: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the mean loss and unexplained share of some samples, computed one sentence at a time."""
    error = reference = 0.0
    count = 0
    with torch.no_grad():
        for batch in kd.workload.batches([samples[i : i + 1] for i in range(len(samples))]):
            part, terms = kd.objective.terms(kd.encoder(batch.packed), batch)
            error, reference, count = error + float(part), reference + kd.objective.reference(batch), count + terms
    return error / count, error / reference


# --- results ---


@pytest.mark.parametrize(
    "recipe",
    [RECIPES["default"], RECIPES["few-texts"], RECIPES["seed"], Recipe(objective="relations")],
    ids=["default", "few-texts", "seed", "relations"],
)
@pytest.mark.parametrize("epochs", [0, 2])
def test_one_result_before_training_and_one_an_epoch(epochs: int, recipe: Recipe, workload: Workload) -> None:
    kd = MiniKD(workload, plain_kd.tiny_student(), recipe, Fidelity(epochs))
    results = list(kd.epochs())
    assert [result.epoch for result in results] == list(range(epochs + 1))
    assert np.isfinite(curves(results)).all()
    assert all(value > 0 for curve in curves(results) for value in curve)
    assert all(result.seconds > 0 for result in results)
    memory = [result.peak_memory_bytes for result in results]
    assert memory == sorted(memory)
    assert memory[0] > 1 << 20


@pytest.mark.parametrize("mapping", ["uniform+last", "tinybert"])
@pytest.mark.parametrize("size", [0, 8], ids=["whole", "factorised"])
def test_a_static_student_explains_the_last_layer_by_the_tokens(size: int, mapping: str, workload: Workload) -> None:
    student = plain_kd.tiny_student(num_hidden_layers=0, embedding_size=size)
    kd = MiniKD(workload, student, Recipe(mapping=mapping), Fidelity(1))
    results = list(kd.epochs())
    moments = Moments()
    (batch,), depth = workload.batches([kd.train]), workload.cache.num_layers
    with torch.no_grad():
        moments.add(kd.encoder(batch.packed)[0], workload.states((depth,), batch.rows))
    fit = moments.solve(kd.recipe.ridge)
    spread = float((workload.states((depth,), batch.rows) - workload.train_means[depth]).square().sum())
    assert results[-1].train.unexplained == pytest.approx(fit.squared_error / spread, rel=1e-3)
    assert results[-1].heldout.unexplained < 1
    assert kd.export().config.num_hidden_layers == 0


def test_losses_of_a_smaller_vocabulary_are_of_the_teachers_tokens(workload: Workload) -> None:
    whole = MiniKD(workload, plain_kd.tiny_student(), GENTLE, Fidelity(1))
    results = list(whole.epochs())
    # A vocabulary with all of the teacher's tokens gives bit-identical results.
    everything = workload.in_tokens(np.arange(workload.teacher.architecture.vocab_size))
    assert curves(list(MiniKD(everything, plain_kd.tiny_student(), GENTLE, Fidelity(1)).epochs())) == curves(results)
    size = workload.teacher.architecture.vocab_size - 15
    small = MiniKD(workload, plain_kd.tiny_student(vocabulary=size), GENTLE, Fidelity(1))
    fewer = list(small.epochs())
    assert whole.kept is None
    assert small.kept is not None
    assert len(small.kept) <= size
    assert fewer[-1].heldout.reference == pytest.approx(results[-1].heldout.reference)
    assert fewer[-1].heldout.count == results[-1].heldout.count
    assert fewer[-1].train.unexplained < fewer[0].train.unexplained < 1
    assert fewer[-1].heldout.unexplained > results[-1].heldout.unexplained
    with pytest.raises(SpaceError, match="a student with a smaller vocabulary has other tokens than its teacher"):
        MiniKD(workload, plain_kd.tiny_student(vocabulary=size), Recipe(objective="relations"), Fidelity(1))


def test_a_static_student_has_no_relations(workload: Workload) -> None:
    with pytest.raises(SpaceError, match="a student of 0 layers has no relations"):
        MiniKD(workload, plain_kd.tiny_student(num_hidden_layers=0), Recipe(objective="relations"), Fidelity(1))


MEASURED = {
    "ridge": GENTLE,
    "gradient": replace(GENTLE, projection="gradient"),
    "relations": replace(GENTLE, objective="relations"),
    "strong ridge": replace(GENTLE, ridge=0.1),
}


@pytest.mark.parametrize(("name", "shared", "fraction"), all_pairs([*MEASURED], [False, True], [0.25, 1.0]))
def test_losses_are_those_of_a_direct_measurement(name: str, shared: bool, fraction: float, workload: Workload) -> None:
    recipe = replace(MEASURED[name], share_projection=shared)
    kd = MiniKD(workload, plain_kd.tiny_student(), recipe, Fidelity(1, fraction))
    assert len(kd.train) == round(fraction * len(workload.train))
    for result in kd.epochs():
        assert (result.heldout.loss, result.heldout.unexplained) == pytest.approx(direct(kd, kd.heldout), rel=1e-4)
        # Without a closed form, the training loss of each epoch after epoch 0 is the mean over its steps.
        if kd.objective.solved or result.epoch == 0:
            assert (result.train.loss, result.train.unexplained) == pytest.approx(direct(kd, kd.train), rel=1e-3)


def test_heldout_samples_are_the_first_of_those_held_out(workload: Workload) -> None:
    for asked, expected in ((5, 5), (10_000, len(workload.heldout)), (None, len(workload.heldout))):
        kd = MiniKD(workload, plain_kd.tiny_student(), Recipe(heldout_samples=asked), Fidelity(0))
        assert kd.heldout.tolist() == workload.heldout[:expected].tolist()


# --- training ---


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", [GENTLE, RECIPES["seed"], replace(GENTLE, objective="relations")])
def test_training_helps(recipe: Recipe, family: str, workload: Workload) -> None:
    results = list(MiniKD(workload, plain_kd.tiny_student(family), recipe, Fidelity(1)).epochs())
    assert results[-1].train.loss < results[0].train.loss
    assert results[-1].heldout.loss < results[0].heldout.loss


def test_a_student_that_starts_near_its_teacher_is_not_trained_away(workload: Workload) -> None:
    def ends(recipe: Recipe) -> tuple[float, float]:
        twin = workload.teacher.architecture.as_student()
        first, *_, last = MiniKD(workload, twin, recipe, Fidelity(2)).epochs()
        return first.heldout.unexplained, last.heldout.unexplained

    before, after = ends(Recipe(learning_rate=2e-3))
    assert before < 0.1
    assert after < before
    assert ends(Recipe(learning_rate=2e-3, distance_scaling=False))[1] > before


@pytest.mark.parametrize(
    ("family", "teacher"), [("bert", "albert"), ("roberta", "bert"), ("albert", "roberta"), ("bert", "distilbert")]
)
def test_default_beats_the_original_recipe_in_equal_epochs(
    family: str, teacher: str, make_workload: Callable[..., Workload]
) -> None:
    results = {}
    for name in ("default", "seed"):
        student = StudentConfig(2, 4, 16, 32, family=family)
        *_, results[name] = MiniKD(make_workload(teacher), student, RECIPES[name], Fidelity(2)).epochs()
    assert results["default"].heldout.unexplained < 0.8 * min(1.0, results["seed"].heldout.unexplained)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_trains_like_a_plain_loop(family: str, workload: Workload) -> None:
    """Compare with transformers' padded model, with the whole vocabulary and one batch per epoch."""
    recipe = replace(
        RECIPES["seed"],
        dropout=0.0,
        batch_size=len(workload.train),
        learning_rate=1e-3,
        weight_decay=0.1,
        max_grad_norm=0.5,
    )
    kd = MiniKD(workload, plain_kd.tiny_student(family), recipe, Fidelity(3))
    model = copy.deepcopy(kd.encoder.model).eval()
    projection: Any = copy.deepcopy(kd.objective.projection)
    losses = [result.train.loss for result in kd.epochs()][1:]

    named = dict(model.named_parameters())
    decayed = [p for name, p in named.items() if p.ndim > 1 and "embeddings." not in name]
    others = [p for name, p in named.items() if p.ndim == 1 or "embeddings." in name] + list(projection.parameters())
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    layers = map_layers(recipe.mapping, 2, tiny_teachers.LAYERS)
    for step, expected in enumerate(losses):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * schedule(step, 3, recipe.warmup_fraction)
        loss = plain_kd.hidden_state_loss(model, workload, kd.train, layers, projection)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([*decayed, *others], 0.5)
        optimiser.step()
    for name, parameter in weights(kd).items():
        # Attention does not depend on the key bias, so only rounding errors change that bias.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(parameter, named[name].detach(), atol=2e-5, rtol=1e-3, msg=name)


def test_steps_are_clipped_and_scaled_by_width(workload: Workload) -> None:
    """The first step of AdamW changes each weight by about the learning rate."""
    for width, scaling, expected in ((24, False, 1e-3), (24, True, 8e-3), (48, True, 4e-3)):
        recipe = replace(
            RECIPES["seed"], width_scaling=scaling, batch_size=100, weight_decay=0.0, warmup_fraction=0.0, dropout=0.0
        )
        kd = MiniKD(workload, plain_kd.tiny_student(hidden_size=width), recipe, Fidelity(1))
        query = kd.encoder.layers[0].query.weight
        before = query.detach().clone()
        list(kd.epochs())
        assert float((query.detach() - before).abs().max()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_embedding_tables_are_trained_if_asked(train_embeddings: bool, workload: Workload) -> None:
    kd = MiniKD(workload, plain_kd.tiny_student(), replace(GENTLE, train_embeddings=train_embeddings), Fidelity(1))
    before = {name: p.detach().clone() for name, p in kd.encoder.model.named_parameters()}
    list(kd.epochs())
    after = weights(kd)
    for table in ("word", "position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        assert torch.equal(before[name], after[name]) != train_embeddings, name
    word = "embeddings.word_embeddings.weight"
    changed_rows = (before[word] != after[word]).any(dim=1).nonzero().flatten()
    trained = np.unique(np.concatenate([tokens_of(workload, sample) for sample in kd.train]))
    assert changed_rows.tolist() == (trained.tolist() if train_embeddings else [])
    assert not torch.equal(before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"])
    assert not torch.equal(before["embeddings.LayerNorm.weight"], after["embeddings.LayerNorm.weight"])


def tokens_of(workload: Workload, sample: int) -> np.ndarray[Any, Any]:
    return workload.corpus.input_ids[workload.corpus.offsets[sample] : workload.corpus.offsets[sample + 1]]


# --- every option ---


def runs(workload: Workload, student: StudentConfig, recipe: Recipe) -> None:
    results = list(MiniKD(workload, student, recipe, Fidelity(1, 0.3)).epochs())
    assert len(results) == 2
    assert np.isfinite(curves(results)).all()


@pytest.mark.parametrize(
    ("family", "mapping", "projection", "shared"),
    all_pairs(FAMILIES, MAPPINGS, ["ridge", "gradient"], [False, True]),
)
def test_every_mapping_and_projection_runs(
    family: str, mapping: str, projection: str, shared: bool, make_workload: Callable[..., Workload]
) -> None:
    recipe = replace(GENTLE, mapping=mapping, projection=projection, share_projection=shared)
    runs(make_workload("roberta"), plain_kd.tiny_student(family), recipe)


@pytest.mark.parametrize(
    ("family", "objective", "embeddings", "layers", "train_embeddings"),
    all_pairs(FAMILIES, ["hidden_states", "relations"], EMBEDDINGS, LAYERS, [False, True]),
)
def test_every_start_and_objective_runs(
    family: str, objective: str, embeddings: str, layers: str, train_embeddings: bool, workload: Workload
) -> None:
    runs(
        workload,
        plain_kd.tiny_student(family),
        replace(
            GENTLE,
            objective=objective,
            embeddings=embeddings,
            layers=layers,
            train_embeddings=train_embeddings,
            dropout=0.1,
            max_grad_norm=None,
        ),
    )


@pytest.mark.parametrize(
    ("family", "teacher", "pairs", "objective"),
    all_pairs(FAMILIES, tiny_teachers.FAMILIES, [False, True], ["hidden_states", "relations"]),
)
def test_every_teacher_teaches(
    family: str, teacher: str, pairs: bool, objective: str, make_workload: Callable[..., Workload]
) -> None:
    runs(make_workload(teacher, pairs), plain_kd.tiny_student(family), replace(GENTLE, objective=objective))


# --- randomness ---


@pytest.mark.parametrize(
    ("family", "recipe"), [*((family, Recipe(dropout=0.1)) for family in FAMILIES), ("bert", RECIPES["seed"])]
)
def test_equal_seeds_give_equal_bits_and_others_do_not(family: str, recipe: Recipe, workload: Workload) -> None:
    outcomes = []
    for seed in (0, 0, 1):
        kd = MiniKD(workload, plain_kd.tiny_student(family), recipe, Fidelity(1, 0.5, seed))
        outcomes.append((curves(list(kd.epochs())), weights(kd)))
    (first, ours), (second, theirs), (other, _) = outcomes
    assert first == second
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in ours.items())
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_global_random_numbers_are_left_alone(workload: Workload) -> None:
    before = (torch.random.get_rng_state(), repr(np.random.get_state()), random.getstate())  # noqa: NPY002
    for recipe in (Recipe(dropout=0.1), RECIPES["seed"], Recipe(objective="relations", dropout=0.1)):
        kd = MiniKD(workload, plain_kd.tiny_student(), recipe, Fidelity(1))
        list(kd.epochs())
        kd.export()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_global_seeds_change_nothing(workload: Workload) -> None:
    outcomes = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outcomes.append(
                curves(list(MiniKD(workload, plain_kd.tiny_student(), RECIPES["seed"], Fidelity(1)).epochs()))
            )
    assert outcomes[0] == outcomes[1]


def test_larger_shares_of_the_data_hold_smaller_ones(workload: Workload) -> None:
    shares = [
        set(MiniKD(workload, plain_kd.tiny_student(), GENTLE, Fidelity(0, share, 5)).train.tolist())
        for share in (0.01, 0.3, 0.6, 1.0)
    ]
    assert all(small < large for small, large in pairwise(shares))
    assert shares[-1] == set(workload.train.tolist())


def test_a_shared_basis_is_the_same_as_an_own_one(workload: Workload) -> None:
    basis = embedding_basis(workload, GENTLE.embeddings)
    outcomes = [
        curves(list(MiniKD(workload, plain_kd.tiny_student(), GENTLE, Fidelity(1), basis=given).epochs()))
        for given in (basis, None)
    ]
    assert outcomes[0] == outcomes[1]


# --- precision and divergence ---


@pytest.mark.parametrize(
    ("family", "dtype", "objective"), all_pairs(FAMILIES, ["float32", "float16"], ["hidden_states", "relations"])
)
def test_bfloat16_stays_near_float32(
    family: str, dtype: str, objective: str, workload: Workload, tmp_path: Path
) -> None:
    recipe = replace(GENTLE, objective=objective)
    workload = replace(workload, cache=open_cache(workload.teacher, workload.corpus, tmp_path, dtype=dtype))
    full, half = (
        list(MiniKD(workload, plain_kd.tiny_student(family), recipe, Fidelity(1, 0.5), precision=precision).epochs())
        for precision in ("float32", "bfloat16")
    )
    assert curves(full) != curves(half)
    np.testing.assert_allclose(curves(half), curves(full), rtol=0.05)


def test_parameters_stay_float32_in_bfloat16(workload: Workload) -> None:
    kd = MiniKD(workload, plain_kd.tiny_student(), GENTLE, Fidelity(1), precision="bfloat16")
    list(kd.epochs())
    assert {parameter.dtype for parameter in weights(kd).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("roberta", {"projection": "gradient"}),
        ("albert", {"objective": "relations"}),
        ("albert", {"batch_size": 1}),
        ("roberta", {"max_grad_norm": None}),
    ],
)
def test_divergence_is_an_error(family: str, changes: dict[str, Any], workload: Workload) -> None:
    recipe = replace(Recipe(learning_rate=1e30), **changes)
    epochs = MiniKD(workload, plain_kd.tiny_student(family), recipe, Fidelity(2)).epochs()
    assert next(epochs).epoch == 0
    with pytest.raises(FloatingPointError, match="not finite"):
        list(epochs)


def test_divergence_is_found_before_the_epoch_is_over(workload: Workload) -> None:
    recipe = Recipe(learning_rate=1e30, batch_size=1)
    with pytest.raises(FloatingPointError, match=f"not finite: step 16 of {2 * len(workload.train)}"):
        list(MiniKD(workload, plain_kd.tiny_student(), recipe, Fidelity(2)).epochs())


# --- export ---


@pytest.mark.parametrize(
    ("family", "teacher"),
    [
        ("bert", "bert"),
        ("bert", "roberta"),
        ("roberta", "distilbert"),
        ("roberta", "roberta"),
        ("albert", "albert"),
        ("albert", "roberta"),
    ],
)
def test_the_exported_student_is_the_trained_one(
    family: str, teacher: str, make_workload: Callable[..., Workload], tmp_path: Path
) -> None:
    workload = make_workload(teacher, pairs=True)
    student = plain_kd.tiny_student(family)
    kd = MiniKD(workload, student, replace(GENTLE, train_embeddings=True), Fidelity(1, 0.2))
    list(kd.epochs())
    (batch,) = workload.batches([workload.heldout])
    with torch.no_grad():
        trained = [states.clone() for states in kd.encoder(batch.packed)]
    model = kd.export()
    assert not model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    architecture = workload.teacher.architecture
    assert model.config.vocab_size == architecture.vocab_size
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(student, architecture)
    model.save_pretrained(tmp_path)
    for exported in (model, AutoModel.from_pretrained(tmp_path).eval()):
        with torch.no_grad():
            states, mask = plain_kd.padded_forward(exported, workload, workload.heldout)
        for ours, theirs in zip(states, trained, strict=True):
            torch.testing.assert_close(ours[mask.bool()], theirs, atol=1e-4, rtol=1e-4)


def test_all_of_an_exported_student_can_be_trained_on(workload: Workload) -> None:
    kd = MiniKD(workload, plain_kd.tiny_student(), replace(GENTLE, train_embeddings=False), Fidelity(0))
    assert all(parameter.requires_grad for parameter in kd.export().parameters())


# --- bad input ---


def test_students_that_do_not_fit_are_refused(workload: Workload) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"num_hidden_layers": 4}, "a student of 4 layers cannot learn from a teacher of 3"),
        ({"num_attention_heads": 5}, "5 heads do not divide hidden_size 24"),
    ]
    for changes, message in refused:
        with pytest.raises(SpaceError, match=message):
            MiniKD(workload, plain_kd.tiny_student(**changes), Recipe(), Fidelity())


def test_unknown_precisions_are_refused(workload: Workload) -> None:
    with pytest.raises(KDNASError, match=r"precision is 'float16'; expected one of \['float32', 'bfloat16'\]"):
        MiniKD(workload, plain_kd.tiny_student(), Recipe(), Fidelity(), precision="float16")


# --- the learning rate ---


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_learning_rate_rises_once_and_falls_once(steps: int, warmup: float) -> None:
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = int(np.argmax(rates))
    assert rates[peak] == 1.0
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert abs(peak + 1 - max(1, warmup * steps)) <= 1


def test_the_learning_rate_by_hand() -> None:
    assert [schedule(step, 10, 0.2) for step in range(10)] == [
        0.5,
        1,
        1,
        7 / 8,
        6 / 8,
        5 / 8,
        4 / 8,
        3 / 8,
        2 / 8,
        1 / 8,
    ]
    assert [schedule(step, 4, 0.0) for step in range(4)] == [1, 1, 2 / 3, 1 / 3]
