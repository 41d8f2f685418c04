"""Recipes of mini-KD: a student's initialisation, objective and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from kdnas_env.errors import KDNASError, SpaceError
from kdnas_env.support.checks import check_choice, check_number, check_whole
from kdnas_env.support.untrusted import shown

GCV: Literal["gcv"] = "gcv"
"""The penalty that generalised cross-validation chooses."""

Ridge = float | Literal["gcv"]
"""A penalty as a fraction of the inputs' mean variance, or :data:`GCV`."""

MAPPINGS = ("uniform", "skip", "last", "uniform+last", "tinybert")
OBJECTIVES = ("hidden_states", "relations")
PROJECTIONS = ("ridge", "gradient")
EMBEDDINGS = ("random", "pca", "token_means")
LAYERS = ("random", "teacher")

_REFERENCE_WIDTH = 192
_REFERENCE_DISTANCE = 0.3
_LARGEST_DISTANCE_FACTOR = 2.0
_LARGEST_SCALED_BATCH = 32


_CHOICES = {
    "mapping": MAPPINGS,
    "objective": OBJECTIVES,
    "projection": PROJECTIONS,
    "embeddings": EMBEDDINGS,
    "layers": LAYERS,
}
"""Valid values of the fields that are names."""

JUDGED = ("mapping", "objective", "projection", "share_projection")
"""Fields that change a student's own loss; a search over them compares students by another measure."""

OF_TEXT = ("mask_probability", "heldout_samples")
"""Fields that change the text or the measured part of it; these are equal for all students of a search."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a distillation; the defaults are the recipe ``default``.

    Closed forms initialise the student: embeddings reduced from the teacher's hidden states, layers sliced from the
    teacher's, and projections solved by ridge regression before training and after every epoch. Gradient steps then
    improve on this start.

    Attributes:
        mapping: Teacher layers that a student layer learns
            (:func:`kdnas_env.distillation.training.mapping.map_layers`).
        objective: ``hidden_states`` (mean squared error through a projection) or ``relations`` (MiniLMv2).
        projection: ``ridge`` (solved in closed form) or ``gradient`` (trained).
        share_projection: Whether all layers share one projection.
        ridge: Penalty of the closed form, as a fraction of the student states' mean variance (at least 1e-5); or
            ``gcv``, chosen by generalised cross-validation, for texts of few tokens.
        embeddings: ``random``, ``pca`` or ``token_means``
            (:func:`kdnas_env.distillation.training.embeddings.embedding_basis`).
        layers: ``random``, or ``teacher``: sliced from the teacher's
            (:func:`kdnas_env.distillation.training.slicing.slice_layers`). The shared layer of an ALBERT student stays
            random, which measured better. So do all layers if the teacher's layers lack the linear maps of BERT's.
        train_embeddings: Whether to train the embedding tables; position and segment tables are always trained if the
            teacher's are not known.
        batch_size: Sentences per step.
        learning_rate: Peak learning rate of AdamW; with scaling, the rate of a student of width 192 that starts with
            0.3 of the teacher's variance unexplained.
        width_scaling: Whether the learning rate is inversely proportional to the student's width (Yang et al. 2022,
            arXiv:2203.03466), so that one value suits a whole search space.
        distance_scaling: Whether the learning rate is proportional to the variance that the closed forms leave
            unexplained (up to twice ``learning_rate``); large steps would disturb a student close to its teacher.
        warmup_fraction: Fraction of the steps over which the learning rate rises, before it falls linearly to 0.
        weight_decay: Weight decay of matrices other than embeddings.
        max_grad_norm: Gradient clipping norm, or None.
        dropout: Dropout of the student during training.
        mask_probability: Fraction of tokens corrupted as in masked language modelling, for teacher and student alike.
        heldout_samples: Held-out sentences evaluated after every epoch, or None for all.
    """

    mapping: str = "uniform+last"
    objective: str = "hidden_states"
    projection: str = "ridge"
    share_projection: bool = False
    ridge: Ridge = 1e-4
    embeddings: str = "token_means"
    layers: str = "teacher"
    train_embeddings: bool = False
    batch_size: int = 8
    learning_rate: float = 2.6e-3
    width_scaling: bool = True
    distance_scaling: bool = True
    warmup_fraction: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    dropout: float = 0.0
    mask_probability: float = 0.0
    heldout_samples: int | None = 256

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("share_projection", "train_embeddings", "width_scaling", "distance_scaling"):
            if not isinstance(flag := getattr(self, name), bool):
                raise KDNASError(f"{name} is {shown(flag)}; expected true or false")
        object.__setattr__(self, "batch_size", check_whole("batch_size", self.batch_size, at_least=1))
        if self.heldout_samples is not None:
            object.__setattr__(
                self, "heldout_samples", check_whole("heldout_samples", self.heldout_samples, at_least=1)
            )
        check_number("learning_rate", self.learning_rate, above=0)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0)
        check_number("weight_decay", self.weight_decay, at_least=0)
        if self.ridge != GCV:
            check_number("ridge", self.ridge, at_least=0)
        for name in ("warmup_fraction", "dropout", "mask_probability"):
            check_number(name, getattr(self, name), at_least=0, below=1)

    def peak_learning_rate(self, width: int, unexplained: float | None = None) -> float:
        """Return the peak learning rate of a student.

        Args:
            width: The student's hidden size.
            unexplained: Fraction of the teacher's variance unexplained before the first step; None if nothing was
                solved in closed form.
        """
        rate = self.learning_rate
        if self.width_scaling:
            rate *= _REFERENCE_WIDTH / width
        if self.distance_scaling and unexplained is not None:
            rate *= min(unexplained / _REFERENCE_DISTANCE, _LARGEST_DISTANCE_FACTOR)
        return rate

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


_KD_NAS = Recipe(
    projection="gradient",
    share_projection=True,
    embeddings="random",
    layers="random",
    train_embeddings=True,
    batch_size=32,
    learning_rate=1e-3,
    width_scaling=False,
    distance_scaling=False,
    dropout=0.1,
)

RECIPES = {"default": Recipe(), "few-texts": Recipe(ridge=GCV), "kd-nas": _KD_NAS, "seed": _KD_NAS}
"""Recipes by name. ``few-texts`` is ``default`` with a penalty by cross-validation. ``kd-nas``, which earlier versions
call ``seed``, is the recipe of KD-NAS (Trivedi et al. 2023, arXiv:2303.09639): a random student with a shared
projection, all trained by gradient descent."""

PAPER = ("kd-nas", "seed")
"""Names of the recipe of KD-NAS."""

TOKENS_PER_INPUT = 16
"""Tokens of training text for each dimension of a student, below which ``few-texts`` is clearly better."""


def resolve_recipe(recipe: str | Mapping[str, Any] | Recipe) -> Recipe:
    """Return a recipe by name, or apply changes to ``default`` (or to the recipe under the key ``base``).

    Raises:
        KDNASError: If the name or a field is unknown, or a value is invalid.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise KDNASError(f"unknown recipe {recipe!r}; choose from {sorted(RECIPES)}")
        return RECIPES[recipe]
    if not isinstance(recipe, Mapping):
        raise KDNASError(f"recipe {recipe!r} is neither a name nor a mapping of fields")
    base = resolve_recipe(recipe.get("base", "default"))
    changes = {name: value for name, value in recipe.items() if name != "base"}
    known = {field.name for field in fields(Recipe)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise KDNASError(f"unknown recipe field(s) {unknown}; known fields are {sorted(known)}")
    return Recipe(**{**base.to_dict(), **changes})


def full_recipe(
    recipe: str | Mapping[str, Any] | Recipe,
    batch_size: int,
    *,
    learning_rate: float | None = None,
    train_embeddings: bool = True,
) -> Recipe:
    """Return the recipe of a full distillation: the search recipe for larger batches and longer training.

    The learning rate grows with the square root of the batch size (Malladi et al. 2022, arXiv:2205.10287), up to
    batches of 32: the rule's rate for 128 diverges after thousands of steps.

    Args:
        recipe: Recipe of the search.
        batch_size: Samples per step, over all processes.
        learning_rate: Peak learning rate of a student of width 192; None for the recipe's rate at this batch size.
        train_embeddings: Whether to train the embedding tables; position and segment tables are always trained if the
            teacher's are not known.
    """
    short = resolve_recipe(recipe)
    scaled = min(batch_size, max(_LARGEST_SCALED_BATCH, short.batch_size))
    return replace(
        short,
        batch_size=batch_size,
        learning_rate=learning_rate or short.learning_rate * (scaled / short.batch_size) ** 0.5,
        train_embeddings=train_embeddings,
        heldout_samples=None,
    )


def changed(recipe: Recipe, changes: Sequence[tuple[str, Any]]) -> Recipe:
    """Return a recipe with the changes of a student from a joint space.

    Args:
        recipe: The recipe of the search.
        changes: Pairs of field and value, as in :attr:`kdnas_env.core.architecture.StudentConfig.recipe`.

    Raises:
        SpaceError: If a field is unknown or belongs to the text, or a value is invalid.
    """
    searchable = [field.name for field in fields(Recipe) if field.name not in OF_TEXT]
    for name, _ in changes:
        if name not in searchable:
            raise SpaceError(f"the recipe has no field {shown(name)} that can be searched; choose from {searchable}")
    try:
        return replace(recipe, **dict(changes))
    except KDNASError as error:
        raise SpaceError(f"a change of the recipe is malformed: {error}") from error


def check_recipe_choices(choices: Mapping[str, Sequence[Any]]) -> None:
    """Check the recipe dimensions of a joint space.

    Args:
        choices: Maps recipe fields to their choices (:attr:`kdnas_env.core.space.SearchSpace.recipe_choices`).

    Raises:
        SpaceError: If a field is unknown, or a choice is invalid.
    """
    for name, values in choices.items():
        for value in values:
            changed(Recipe(), ((name, value),))
