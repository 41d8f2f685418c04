"""Copies of the chosen classifier and its export in the run folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.exporting import folder as exporting
from kdnas_env.exporting.folder import EXPORT
from kdnas_env.latency.quantise import DYNAMIC, WEIGHTS_ONLY
from kdnas_env.pipeline.distill.products.classifier import ClassifierProduct
from kdnas_env.pipeline.run.candidates import Candidate
from kdnas_env.pipeline.run.loop import place_products
from kdnas_env.support.atomic import write_json

CLASSIFIERS = ClassifierProduct()


def candidate(run: Path, place: int) -> Candidate:
    """Make the folders of a candidate; each file contains the candidate's number."""
    nothing: Any = None
    config = StudentConfig(1, 2, 16, 16 * place, "gelu", "bert")
    made = Candidate(place, run / str(place), config, 1, 1.0, 1.0, 0.1, nothing, (), CLASSIFIERS.folder)
    for name in CLASSIFIERS.places:
        (made.files[name] / "onnx").mkdir(parents=True)
        for file in ("README.md", "onnx/model.onnx"):
            (made.files[name] / file).write_text(f"{name} {place}")
    return made


def content(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): path.read_text()
        for name in CLASSIFIERS.places
        for path in sorted((run / name).rglob("*"))
        if path.is_file()
    }


def placed(place: int) -> dict[str, str]:
    return {
        f"{name}/{file}": f"{name} {place}" for name in CLASSIFIERS.places for file in ("README.md", "onnx/model.onnx")
    }


def test_what_is_chosen_is_copied_and_takes_the_place_of_what_was(tmp_path: Path) -> None:
    first, second = candidate(tmp_path, 1), candidate(tmp_path, 2)
    assert place_products(tmp_path, CLASSIFIERS, None) == {}
    assert place_products(tmp_path, CLASSIFIERS, first) == {name: tmp_path / name for name in CLASSIFIERS.places}
    assert content(tmp_path) == placed(1)
    written = (tmp_path / "classifier").stat().st_ino
    place_products(tmp_path, CLASSIFIERS, first)
    assert (tmp_path / "classifier").stat().st_ino == written
    place_products(tmp_path, CLASSIFIERS, second)
    assert content(tmp_path) == placed(2)
    (tmp_path / "export" / "README.md").write_text("damaged")
    place_products(tmp_path, CLASSIFIERS, second)
    assert content(tmp_path) == placed(2)


def test_what_was_stopped_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = candidate(tmp_path, 1), candidate(tmp_path, 2)
    place_products(tmp_path, CLASSIFIERS, first)

    def killed(new: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "_take_place", killed)
        with pytest.raises(KeyboardInterrupt):
            place_products(tmp_path, CLASSIFIERS, second)
    assert content(tmp_path) == placed(1)
    left = tmp_path / ".export.killed"
    shutil.copytree(second.files["export"], left)
    place_products(tmp_path, CLASSIFIERS, second)
    assert content(tmp_path) == placed(2)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("format", "scheme", "costly"),
    [("int8", WEIGHTS_ONLY, WEIGHTS_ONLY), ("int8", DYNAMIC, None), ("float32", None, None)],
)
def test_an_int8_file_that_is_slower_or_larger(
    tmp_path: Path, format: str, scheme: str | None, costly: str | None
) -> None:
    measured: Any = SimpleNamespace(format=format)
    made = replace(candidate(tmp_path, 1), measured=measured)
    write_json(made.files["export"] / EXPORT, {"scheme": scheme})
    assert made.costly_int8 == costly
