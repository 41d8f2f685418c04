"""Mappings from student layers to the teacher layers that they learn from."""

from __future__ import annotations

from dataclasses import dataclass

from kdnas_env.distillation.training.recipe import MAPPINGS
from kdnas_env.errors import SpaceError


@dataclass(frozen=True)
class LayerPair:
    """A student layer and the teacher layers that it learns, concatenated.

    Attributes:
        student: Hidden state of the student: 0 for the embeddings, then 1 to its number of layers.
        teacher: Hidden states of the teacher, numbered likewise.
    """

    student: int
    teacher: tuple[int, ...]


def map_layers(mapping: str, student_layers: int, teacher_layers: int) -> tuple[LayerPair, ...]:
    """Pair the layers of a student with those of its teacher.

    With Ls student and Lt teacher layers, student layer i = 1..Ls learns:

    ================ ============================================= =========================
    mapping          teacher layers                                example Ls = 3, Lt = 6
    ================ ============================================= =========================
    ``uniform``      floor(i Lt / Ls)                              2, 4, 6
    ``skip``         1 + floor((i - 1) Lt / Ls)                    1, 3, 5
    ``last``         Lt - Ls + i                                   4, 5, 6
    ``uniform+last`` both of the above, concatenated               (2, 4), (4, 5), (6, 6)
    ``tinybert``     i Lt / Ls for i = 0..Ls, embeddings included  0, 2, 4, 6
    ================ ============================================= =========================

    The embeddings of a static student (Ls = 0) learn the teacher's last layer, whatever the mapping.

    ``uniform`` ends at the teacher's last layer; ``skip`` (called uniform in the code of KD-NAS) begins at the first.
    ``uniform+last`` is KD-NAS (arXiv:2303.09639), ``tinybert`` is Jiao et al. 2020 (arXiv:1909.10351).

    Raises:
        SpaceError: If the mapping is unknown, or the student is deeper than the teacher.
    """
    if mapping not in MAPPINGS:
        raise SpaceError(f"unknown layer mapping {mapping!r}; choose from {list(MAPPINGS)}")
    if not 0 <= student_layers <= teacher_layers:
        raise SpaceError(
            f"a student of {student_layers} layers cannot learn from a teacher of {teacher_layers}; "
            f"give it 0 to {teacher_layers} layers"
        )
    if student_layers == 0:
        return (LayerPair(0, (teacher_layers,) * (2 if mapping == "uniform+last" else 1)),)
    layers = range(1, student_layers + 1)
    uniform = {i: i * teacher_layers // student_layers for i in (0, *layers)}
    last = {i: teacher_layers - student_layers + i for i in layers}
    if mapping == "uniform":
        return tuple(LayerPair(i, (uniform[i],)) for i in layers)
    if mapping == "skip":
        return tuple(LayerPair(i, (1 + (i - 1) * teacher_layers // student_layers,)) for i in layers)
    if mapping == "last":
        return tuple(LayerPair(i, (last[i],)) for i in layers)
    if mapping == "uniform+last":
        return tuple(LayerPair(i, (uniform[i], last[i])) for i in layers)
    return tuple(LayerPair(i, (uniform[i],)) for i in (0, *layers))
