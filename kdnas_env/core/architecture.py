"""Encoder architectures of students and teachers, and the numbers of their parameters and operations.

Pure data and arithmetic: nothing here imports torch or transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from kdnas_env.core.shapes import OFFSET_POSITIONS, customary_values, foreign_shape, plain_shape
from kdnas_env.errors import SpaceError, TeacherError
from kdnas_env.support.untrusted import restore, shown

FAMILIES = ("bert", "albert", "roberta")
"""Student families that can be searched."""

PLAIN_TYPES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "albert",
    "distilbert",
    "electra",
    "camembert",
    "data2vec-text",
    "ernie",
)
"""``model_type`` values of transformers with the layers of BERT, under different names: kdnas computes them itself.

Encoders of other types teach with their hidden states only.
"""

ALBERT_EMBEDDING_SIZE = 128
"""Width of ALBERT's factorised embeddings (Lan et al. 2020, table 3) if the teacher sets none."""

LARGEST_SIZE = 2**20
"""Maximum of every size of an architecture except the vocabulary, such that products fit into 64 bits."""

_LARGEST_VOCABULARY = 2**31

FULL = 0
"""Value of a dimension of embeddings that takes nothing away: not factorised, or the whole vocabulary."""

CORPUS_TOKENS = _LARGEST_VOCABULARY - 1
"""Vocabulary of all tokens that the corpus uses: the largest number of tokens, by their count in the corpus."""

SCALES: Mapping[str, Mapping[str, int]] = {
    "embedding_size": {"full": FULL},
    "vocabulary": {"corpus": CORPUS_TOKENS, "full": FULL},
}
"""Dimensions of embeddings: their choices are numbers, or words that stand for one."""

IDLE: Mapping[str, Any] = {"num_attention_heads": 1, "intermediate_size": 1, "hidden_act": "gelu"}
"""Fields without effect on a student of 0 layers, and the values that such a student has there."""

_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
_ACTIVATION_ALIASES = {"swish": "silu", "gelu_python": "gelu"}
_PRINTED = re.compile(r"(\w+) ([0-9]{1,9})L/([0-9]{1,9})h/([0-9]{1,9})a/([0-9]{1,9})f/(\w+)((?: \w+=[^\s=]+)*)")
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


@dataclass(frozen=True, order=True, slots=True)
class StudentConfig:
    """One point of a search space, with the field names of transformers.

    An instance is canonical: sizes are plain integers, an activation with several names has one of them, changes of the
    recipe are sorted by name, and all students with 0 layers get the same values in the fields that have no effect.
    Therefore equal points are equal configurations.

    Attributes:
        num_hidden_layers: Transformer layers; 0 for a static student, whose states are its embeddings.
        num_attention_heads: Attention heads; must divide ``hidden_size``.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layer.
        hidden_act: Activation of the feed-forward layer (transformers' ``ACT2FN`` name).
        family: One of ``FAMILIES``.
        recipe: Changes of the distillation recipe: pairs of a field of
            :class:`kdnas_env.distillation.training.recipe.Recipe` and its value. Empty except in joint spaces, which
            search architecture and recipe together.
        embedding_size: Width of the embedding tables, mapped to ``hidden_size``; :data:`FULL` for tables as wide as
            the student (those of ALBERT are factorised anyway). A factorised ``bert`` is built as an ELECTRA encoder,
            which is a BERT with such a map.
        vocabulary: Tokens kept at most, of those that the corpus uses; :data:`FULL` for the teacher's whole vocabulary,
            :data:`CORPUS_TOKENS` for all that the corpus uses.

    Raises:
        SpaceError: If a change of the recipe is malformed, or a field of the recipe is changed twice.
    """

    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    intermediate_size: int
    hidden_act: str = "gelu"
    family: str = "bert"
    recipe: tuple[tuple[str, Any], ...] = ()
    embedding_size: int = FULL
    vocabulary: int = FULL

    def __post_init__(self) -> None:
        for name, words in SCALES.items():
            if isinstance(word := getattr(self, name), str):
                object.__setattr__(self, name, words.get(word, word))
        for name in (*_SIZES, *SCALES):
            if type(getattr(self, name)) is not int:
                object.__setattr__(self, name, int(getattr(self, name)))
        if self.num_hidden_layers == 0:
            for name, value in IDLE.items():
                object.__setattr__(self, name, value)
        if self.hidden_act in _ACTIVATION_ALIASES:
            object.__setattr__(self, "hidden_act", _ACTIVATION_ALIASES[self.hidden_act])
        if self.recipe:
            object.__setattr__(self, "recipe", tuple(sorted(map(_checked_change, self.recipe), key=_name)))
            if len(dict(self.recipe)) < len(self.recipe):
                raise SpaceError(f"recipe is {shown(self.recipe)}; expected each field once")

    @property
    def network(self) -> StudentConfig:
        """The configuration without changes of the recipe, which determines latency, parameters and operations."""
        return replace(self, recipe=()) if self.recipe else self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, without recipe and embedding fields that change nothing."""
        plain = {**asdict(self), "recipe": [[*change] for change in self.recipe]}
        return {name: value for name, value in plain.items() if value or name not in ("recipe", *SCALES)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StudentConfig:
        """Build a configuration from plain data.

        Raises:
            SpaceError: If a field is missing, unknown or malformed.
        """
        try:
            return restore(cls, data).check()
        except ValueError as error:
            raise SpaceError(f"incomplete or malformed student configuration {shown(data)}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> StudentConfig:
        """Parse the printed form of a student, such as ``bert 3L/192h/6a/384f/gelu``.

        The size of factorised embeddings, a smaller vocabulary and changes of the recipe follow, such as
        `` embedding_size=64 vocabulary=corpus batch_size=8 mapping=last``.

        Raises:
            SpaceError: If the text is malformed.
        """
        match = _PRINTED.fullmatch(text.strip())
        if match is None:
            raise SpaceError(f"{shown(text)} is not a student; expected the form 'bert 3L/192h/6a/384f/gelu'")
        family, layers, width, heads, inner, activation, changes = match.groups()
        named = [(name, _read_value(value)) for name, _, value in (c.partition("=") for c in changes.split())]
        recipe = tuple(change for change in named if change[0] not in SCALES)
        scales = {name: value for name, value in named if name in SCALES}
        try:
            return cls(int(layers), int(heads), int(width), int(inner), activation, family, recipe, **scales).check()
        except (TypeError, ValueError) as error:
            raise SpaceError(f"{shown(text)} is not a student: {error}") from error

    def check(self) -> StudentConfig:
        """Return the configuration itself if a network can have its sizes.

        Raises:
            SpaceError: If a size is out of range, or the family is unknown.
        """
        for name in _SIZES:
            least = 0 if name == "num_hidden_layers" else 1
            if not least <= getattr(self, name) <= LARGEST_SIZE:
                raise SpaceError(f"{name} is {shown(getattr(self, name))}; expected {least} to {LARGEST_SIZE}")
        for name, most in (("embedding_size", LARGEST_SIZE), ("vocabulary", CORPUS_TOKENS)):
            if not 0 <= getattr(self, name) <= most:
                raise SpaceError(f"{name} is {shown(getattr(self, name))}; expected {FULL} (full) to {most}")
        if self.family not in FAMILIES:
            raise SpaceError(f"unknown student family {shown(self.family)}; choose from {list(FAMILIES)}")
        return self

    def __str__(self) -> str:
        return (
            f"{self.family} {self.num_hidden_layers}L/{self.hidden_size}h/"
            f"{self.num_attention_heads}a/{self.intermediate_size}f/{self.hidden_act}"
            + "".join(f" {name}={_shown_scale(name, getattr(self, name))}" for name in SCALES if getattr(self, name))
            + "".join(
                f" {name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in self.recipe
            )
        )


def _shown_scale(name: str, value: int) -> str:
    return next((word for word, number in SCALES[name].items() if number == value), str(value))


def _name(change: tuple[str, Any]) -> str:
    return change[0]


def _checked_change(change: tuple[str, Any]) -> tuple[str, Any]:
    """Return a change of the recipe as a pair.

    Raises:
        SpaceError: If it is not a pair of a name and a plain value.
    """
    if not isinstance(change, list | tuple) or len(change) != 2 or not isinstance(change[0], str):
        raise SpaceError(f"{shown(change)} is not a change of the recipe; expected a pair of a field and its value")
    if change[1] is not None and not isinstance(change[1], str | int | float | bool):
        raise SpaceError(f"{change[0]} of the recipe is {shown(change[1])}; expected a number, name, true or false")
    return change[0], change[1]


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class _PretrainedConfig(Protocol):
    model_type: str

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class EncoderArchitecture:
    """A teacher's architecture, with the fields its students inherit.

    Attributes:
        family: The teacher's ``model_type``.
        max_length: Longest input in tokens (RoBERTa's reserved positions already taken off).
        embedding_size: Width of the embedding tables; equals ``hidden_size`` unless factorised.
        pad_token_id: Id of the padding token.

    Raises:
        TeacherError: If a number is out of range, or the type is not a name.
    """

    family: str
    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    intermediate_size: int
    hidden_act: str
    vocab_size: int
    max_length: int
    type_vocab_size: int
    embedding_size: int
    pad_token_id: int
    layer_norm_eps: float

    def __post_init__(self) -> None:
        if not _MODEL_TYPE.fullmatch(self.family):
            raise TeacherError(f"the teacher's type is {shown(self.family)}; expected a model_type of transformers")
        for name in (*_SIZES, "max_length", "type_vocab_size", "embedding_size"):
            least = 0 if name == "num_hidden_layers" else 1
            if not least <= getattr(self, name) <= LARGEST_SIZE:
                raise TeacherError(
                    f"the teacher's {name} is {shown(getattr(self, name))}; expected {least} to {LARGEST_SIZE}"
                )
        if not 0 < self.vocab_size <= _LARGEST_VOCABULARY or not 0 <= self.pad_token_id < _LARGEST_VOCABULARY:
            raise TeacherError(
                f"the teacher's vocab_size is {shown(self.vocab_size)}, its pad_token_id {shown(self.pad_token_id)}; "
                "expected a positive number of tokens and a token id, 0 or more"
            )
        if self.hidden_size % self.num_attention_heads:
            raise TeacherError(
                f"the teacher's {self.num_attention_heads} heads do not divide its hidden_size {self.hidden_size}; "
                "choose another teacher"
            )

    @classmethod
    def from_pretrained_config(cls, config: _PretrainedConfig) -> EncoderArchitecture:
        """Return the architecture in a configuration of ``transformers``.

        Raises:
            TeacherError: If the model is not an encoder of text, if it has a plain type with relative positions, pruned
                heads or as a decoder, or if the configuration is malformed.
        """
        values = config.to_dict()
        kind = config.model_type
        plain = kind in PLAIN_TYPES
        if plain:
            _check_plain(kind, values)
        try:
            return restore(cls, plain_shape(kind, values) if plain else foreign_shape(kind, customary_values(config)))
        except TeacherError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise TeacherError(f"the configuration of a teacher of type {kind!r} is malformed: {error}") from error

    @property
    def plain(self) -> bool:
        """Whether it has the layers of BERT, so that kdnas computes them itself and can slice them."""
        return self.family in PLAIN_TYPES

    @property
    def position_offset(self) -> int:
        """First row of the position table that a token can use (RoBERTa starts past the padding id)."""
        return self.pad_token_id + 1 if self.family in OFFSET_POSITIONS else 0

    def as_student(self) -> StudentConfig:
        """Return the teacher's own shape as a student (in the nearest student family)."""
        family = "roberta" if self.family in OFFSET_POSITIONS else "albert" if self.family == "albert" else "bert"
        return StudentConfig(
            self.num_hidden_layers,
            self.num_attention_heads,
            self.hidden_size,
            self.intermediate_size,
            self.hidden_act,
            family,
        )


def _check_plain(kind: str, values: Mapping[str, Any]) -> None:
    """Raise an error if a configuration of a plain type has layers that differ from those of BERT."""
    if values.get("is_decoder"):
        raise TeacherError(
            f"a model of type {kind!r} with is_decoder is a decoder, but kdnas distils encoders; choose a model "
            "without is_decoder"
        )
    positions = values.get("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise TeacherError(
            f"its position_embedding_type is {shown(positions)}; expected absolute, because kdnas does not compute "
            "relative positions; choose a model with absolute positions"
        )
    if values.get("use_task_id"):
        raise TeacherError(
            "its embeddings have task ids (use_task_id), which students do not have; choose a model without them"
        )
    if values.get("pruned_heads"):
        raise TeacherError(
            f"heads of its attention are pruned (pruned_heads is {shown(values['pruned_heads'])}), but kdnas needs "
            "layers of equal shape; choose the model before pruning"
        )


def factorised(student: StudentConfig) -> bool:
    """Whether a student maps its embeddings to its hidden size: with factorised tables, and as an ALBERT always."""
    return student.family == "albert" or bool(student.embedding_size)


def student_embedding_size(student: StudentConfig, teacher: EncoderArchitecture) -> int:
    """Width of a student's embedding tables."""
    if student.embedding_size or student.family != "albert":
        return student.embedding_size or student.hidden_size
    own = teacher.embedding_size if teacher.embedding_size < teacher.hidden_size else ALBERT_EMBEDDING_SIZE
    return min(own, student.hidden_size)


def student_position_offset(student: StudentConfig, teacher: EncoderArchitecture) -> int:
    """First usable row of a student's position table."""
    return teacher.pad_token_id + 1 if student.family == "roberta" else 0


def count_parameters(student: StudentConfig, teacher: EncoderArchitecture, *, tokens: int | None = None) -> int:
    """Count a student's parameters: embeddings and encoder, without pooler and heads.

    Args:
        student: The student.
        teacher: Its teacher.
        tokens: Tokens of its vocabulary; None: the maximum; the corpus may use fewer tokens.
    """
    width, inner = student.hidden_size, student.intermediate_size
    embedding = student_embedding_size(student, teacher)
    if tokens is None:
        tokens = min(student.vocabulary or teacher.vocab_size, teacher.vocab_size)
    rows = tokens + teacher.max_length + student_position_offset(student, teacher) + teacher.type_vocab_size
    attention = 4 * (width * width + width)
    feed_forward = width * inner + inner + inner * width + width
    layer = attention + feed_forward + 4 * width
    layers = 1 if student.family == "albert" else student.num_hidden_layers
    mapping = embedding * width + width if factorised(student) else 0
    return rows * embedding + 2 * embedding + mapping + layers * layer


def forward_flops(student: StudentConfig, teacher: EncoderArchitecture, *, batch: int, length: int) -> int:
    """Count the floating-point operations of one forward pass (a multiply-add is two).

    Matrix products only: attention projections, scores and values, feed-forward, the map of factorised embeddings.
    """
    width, inner, tokens = student.hidden_size, student.intermediate_size, batch * length
    dense = 2 * tokens * (4 * width * width + 2 * width * inner)
    attention = 4 * batch * length * length * width
    mapping = 2 * tokens * student_embedding_size(student, teacher) * width if factorised(student) else 0
    return student.num_hidden_layers * (dense + attention) + mapping
