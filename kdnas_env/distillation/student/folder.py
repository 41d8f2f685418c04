"""The folder of a student: weights, configuration, tokenizer, model card and lineage, in hub layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.checkpoint import load_encoder, read_architecture, read_config
from kdnas_env.distillation.student.vocabulary_cut import write_cut
from kdnas_env.errors import RunError, TeacherError
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.identity import check_same
from kdnas_env.support.places import found_again, with_places
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.untrusted import restore

LINEAGE, PROJECTION = "kdnas.json", "projection.safetensors"

_WEIGHT, _BIAS = "projection.weight", "projection.bias"

_PATHS = ("teacher", "corpus.source", "corpus.without")


@dataclass(frozen=True)
class Lineage:
    """The origin of a student; plain data, except for ``student``.

    Attributes:
        student: The student's architecture.
        teacher: Name or folder of the teacher.
        teacher_fingerprint: SHA-256 (hex) of the teacher.
        corpus: Arguments of :func:`kdnas_env.distillation.text.corpus.load_corpus`, including ``source``.
        recipe: Fields of :class:`kdnas_env.distillation.training.recipe.Recipe`.
        stages: The processing steps, oldest first: each has the command under ``stage``, and details of that step.
        versions: Versions of kdnas and its libraries.
        corpus_fingerprint: SHA-256 (hex) of the tokenised corpus before masking; None if unknown.
    """

    student: StudentConfig
    teacher: str
    teacher_fingerprint: str
    corpus: dict[str, Any]
    recipe: dict[str, Any]
    stages: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str] | None = None
    corpus_fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "student": self.student.to_dict(), "stages": list(self.stages)}

    def check_teacher(self, fingerprint: str) -> None:
        """Check that a teacher is the one that the student was distilled from.

        Raises:
            RunError: If the fingerprints differ.
        """
        self._check(f"teacher {self.teacher!r}", self.teacher_fingerprint, fingerprint)

    def check_corpus(self, fingerprint: str) -> None:
        """Check that a corpus is the one that the student was distilled on, if that is known.

        Raises:
            RunError: If the fingerprints differ.
        """
        name = self.corpus.get("source")
        self._check(f"corpus {name!r}", self.corpus_fingerprint or fingerprint, fingerprint)

    @staticmethod
    def _check(name: str, before: str, now: str) -> None:
        check_same(
            {name: before},
            {name: now},
            "the student cannot be compared with its origin",
            "restore that, or choose only rows that do not need it with `rows`",
            since="the student was distilled",
        )


def save_student(
    folder: Path,
    model: Any,
    tokenizer: Any,
    card: str,
    lineage: Lineage,
    projection: Mapping[str, Tensor] | None = None,
    *,
    kept: NDArray[np.int64] | None = None,
) -> None:
    """Write a student's folder atomically, replacing an older one.

    Args:
        folder: The folder.
        model: The student, a transformers encoder.
        tokenizer: The teacher's tokenizer.
        card: The model card.
        lineage: The student's origin.
        projection: State of the training objective, if it has any: the maps from the student's hidden states to the
            teacher's.
        kept: Ids of the tokens of the student's vocabulary; None for all. The model's embeddings are cut to them.

    Raises:
        RunError: If the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        if kept is not None:
            write_cut(model, tokenizer, kept, partial)
        else:
            with quiet_transformers():
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        write_lineage(lineage, partial)
        if projection:
            write_projection(partial, projection)
        for file in partial.iterdir():
            file.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"the student cannot be written to {str(folder)!r}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_lineage(lineage: Lineage, folder: Path, *, absolute: bool = True) -> None:
    """Write a student's origin into its folder, with the locations of its teacher and text.

    Args:
        lineage: The student's origin.
        folder: The student's folder, or a temporary folder beside it that will be renamed.
        absolute: Whether to write absolute paths too; these reveal the machine's folder names.

    Raises:
        RunError: If the lineage cannot be written.
    """
    write_json(folder / LINEAGE, with_places(lineage.to_dict(), _PATHS, folder, absolute=absolute))


def load_student(folder: str | os.PathLike[str]) -> Any:
    """Load a student from its folder: a transformers encoder without pooler, float32, on the CPU, in eval mode.

    Raises:
        RunError: If the student cannot be loaded.
    """
    what = f"the student in {os.fspath(folder)!r}"
    try:
        config = read_config(what, Path(folder))
        return load_encoder(what, Path(folder), config, read_architecture(config))[0]
    except TeacherError as error:
        raise RunError(f"{what} cannot be loaded: {error}") from error


def read_lineage(folder: str | os.PathLike[str]) -> Lineage | None:
    """Return the lineage of the student in a folder, or None if the folder has none.

    Raises:
        RunError: If the lineage is malformed.
    """
    path = Path(folder) / LINEAGE
    if not os.path.isfile(path):
        return None
    try:
        lineage = restore(Lineage, found_again(read_json(path), path.parent))
        return replace(lineage, student=lineage.student.check())
    except ValueError as error:
        raise RunError(f"the lineage of the student in {str(path)!r} cannot be read: {error}") from error


def write_projection(folder: Path, projection: Mapping[str, Tensor]) -> None:
    """Write the state of a student's training objective into the student's folder.

    Raises:
        OSError: If the state cannot be written.
    """
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in projection.items()}, folder / PROJECTION)


def read_projection(folder: str | os.PathLike[str]) -> dict[str, Tensor] | None:
    """Return the state of the training objective of the student in a folder, or None if the folder has none.

    Raises:
        RunError: If the state cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / PROJECTION
    if not os.path.isfile(path):
        return None
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"the projection in {str(path)!r} cannot be read: {error}") from error
    return state


def imitated_width(projection: Mapping[str, Any] | None, mapping: str) -> int | None:
    """Return the teacher's width if a projection maps the student's last layer to the teacher's last; else None.

    Args:
        projection: State of the student's training objective, arrays or tensors by name.
        mapping: The recipe's mapping of layers.
    """
    # With "skip", the student's last layer learns from a lower teacher layer.
    if not projection or _WEIGHT not in projection or mapping == "skip":
        return None
    return int(projection[_WEIGHT].shape[2]) // (2 if mapping == "uniform+last" else 1)


def fits(projection: Mapping[str, Any], hidden: int) -> bool:
    """Return whether the state of an objective fits a student of this width."""
    if not projection.keys() <= {_WEIGHT, _BIAS}:
        return False
    shapes = [tuple(projection[name].shape) for name in (_WEIGHT, _BIAS) if name in projection]
    match shapes:
        case [(maps, inputs, outputs), (biases, targets)]:
            return bool((maps, inputs, outputs) == (biases, hidden, targets))
    return False
