"""The folder of a student: weights, configuration, tokenizer, model card and lineage, in hub layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.distillation.checkpoint import load_encoder, read_architecture, read_config
from kdnas_env.errors import RunError, TeacherError
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.identity import check_same
from kdnas_env.support.libraries import quiet_transformers
from kdnas_env.support.places import found_again, with_places
from kdnas_env.support.untrusted import restore

LINEAGE, PROJECTION = "kdnas.json", "projection.safetensors"

_WEIGHT, _BIAS = "projection.weight", "projection.bias"

_PATHS = ("teacher", "corpus.source")


@dataclass(frozen=True)
class Lineage:
    """Where a student comes from; plain data, but for the student.

    Attributes:
        student: Its architecture.
        teacher: Name or folder of its teacher.
        teacher_fingerprint: SHA-256 (hex) of the teacher.
        corpus: Arguments of :func:`kdnas_env.distillation.text.corpus.load_corpus`, the first under ``source``.
        recipe: Fields of :class:`kdnas_env.distillation.training.recipe.Recipe`.
        stages: What was done to it, oldest first: for each, under ``stage``, the command, and whatever tells of it.
        versions: Versions of kdnas and its libraries.
        corpus_fingerprint: SHA-256 (hex) of the tokenised corpus, before any of it is masked; None if it is not known.
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
        """Refuse a teacher that the student was not distilled from.

        Raises:
            RunError: If its fingerprint is another.
        """
        self._check(f"teacher {self.teacher!r}", self.teacher_fingerprint, fingerprint)

    def check_corpus(self, fingerprint: str) -> None:
        """Refuse a corpus that the student was not distilled on, where that is known.

        Raises:
            RunError: If its fingerprint is another.
        """
        name = self.corpus.get("source")
        self._check(f"corpus {name!r}", self.corpus_fingerprint or fingerprint, fingerprint)

    @staticmethod
    def _check(name: str, before: str, now: str) -> None:
        check_same(
            {name: before},
            {name: now},
            "the student cannot be compared with what it was made from",
            "put that back, or name the rows that do not need it with `rows`",
            since="the student was distilled",
        )


def save_student(
    folder: Path,
    model: Any,
    tokenizer: Any,
    card: str,
    lineage: Lineage,
    projection: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a student's folder, whole or not at all; an older one is replaced.

    Args:
        folder: The folder.
        model: Encoder of transformers.
        tokenizer: Its teacher's tokenizer.
        card: The model card.
        lineage: Where it comes from.
        projection: State of the objective that it was trained with, if that has any: what maps its hidden states to
            its teacher's.

    Raises:
        RunError: If it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
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
    """Write where a student comes from into its folder, and where its teacher and text lie.

    Args:
        lineage: Where it comes from.
        folder: Its folder, or one beside that, to be renamed.
        absolute: Whether absolute paths are written too, which tell of the machine.

    Raises:
        RunError: If it cannot be written.
    """
    write_json(folder / LINEAGE, with_places(lineage.to_dict(), _PATHS, folder, absolute=absolute))


def load_student(folder: str | os.PathLike[str]) -> Any:
    """Load the student of a folder: an encoder of transformers without pooler, float32, on the CPU, in eval mode.

    Raises:
        RunError: If it cannot be loaded.
    """
    what = f"the student in {os.fspath(folder)!r}"
    try:
        config = read_config(what, Path(folder))
        return load_encoder(what, Path(folder), config, read_architecture(config))[0]
    except TeacherError as error:
        raise RunError(f"{what} cannot be loaded: {error}") from error


def read_lineage(folder: str | os.PathLike[str]) -> Lineage | None:
    """Return where the student of a folder comes from, or None if the folder does not say.

    Raises:
        RunError: If what it says is malformed.
    """
    path = Path(folder) / LINEAGE
    if not os.path.isfile(path):
        return None
    try:
        found = restore(Lineage, found_again(read_json(path), path.parent))
        return replace(found, student=found.student.check())
    except ValueError as error:
        raise RunError(f"the lineage of the student in {str(path)!r} cannot be read: {error}") from error


def write_projection(folder: Path, projection: Mapping[str, Tensor]) -> None:
    """Write the state of an objective into the folder of the student that was trained with it.

    Raises:
        OSError: If it cannot be written.
    """
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in projection.items()}, folder / PROJECTION)


def read_projection(folder: str | os.PathLike[str]) -> dict[str, Tensor] | None:
    """Return the state of the objective that the student of a folder was trained with, or None if it is not kept.

    Raises:
        RunError: If it cannot be read.
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
    """Return the width of a teacher's last layer, if a projection maps a student's last layer to it; else None.

    Args:
        projection: State of the objective that the student was trained with, arrays or tensors by name.
        mapping: The recipe's mapping of layers.
    """
    # Of "skip", the last layer learns from a lower one.
    if not projection or _WEIGHT not in projection or mapping == "skip":
        return None
    return int(projection[_WEIGHT].shape[2]) // (2 if mapping == "uniform+last" else 1)


def fits(projection: Mapping[str, Any], hidden: int) -> bool:
    """Return whether the state of an objective is what a student of some width was trained with."""
    if not projection.keys() <= {_WEIGHT, _BIAS}:
        return False
    shapes = [tuple(projection[name].shape) for name in (_WEIGHT, _BIAS) if name in projection]
    match shapes:
        case [(maps, inputs, outputs), (biases, targets)]:
            return bool((maps, inputs, outputs) == (biases, hidden, targets))
    return False
