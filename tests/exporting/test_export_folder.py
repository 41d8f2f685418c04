"""Exports are written completely or not at all, and replace only earlier exports."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_teachers
import torch
import transformers
from transformers import AutoModel, AutoTokenizer, BertModel

from kdnas_env.distillation.student.folder import read_lineage, read_projection, write_projection
from kdnas_env.errors import ExportError, KDNASError
from kdnas_env.exporting.check import check_equal
from kdnas_env.exporting.folder import EXPORT, checked_target, written_whole
from kdnas_env.exporting.hub import push_folder
from kdnas_env.exporting.source import load_source
from kdnas_env.exporting.writing import write_export

StudentDir = Callable[[str], Path]


def fail_while_writing(target: Path, error: BaseException) -> None:
    with written_whole(target) as folder:
        (folder / "half").write_text("")
        raise error


@pytest.fixture
def student(student_dir: StudentDir) -> Path:
    return student_dir("bert of bert")


def test_a_clean_folder_in_hub_layout(student: Path, tmp_path: Path) -> None:
    report = write_export(student, tmp_path / "made" / "out", latency=None)
    folder = Path(report.folder)
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "export.json",
        "kdnas.json",
        "model.safetensors",
        "projection.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert report.checks["model.safetensors"].max_abs_error <= 1e-5
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert read_lineage(folder) == read_lineage(student)
    places = json.loads((folder / "kdnas.json").read_text())["places"]
    assert not any(os.path.isabs(place) for of_name in places.values() for place in of_name[0])
    projection, saved = read_projection(folder), read_projection(student)
    assert projection is not None
    assert saved is not None
    assert projection.keys() == saved.keys()
    assert all(projection[name].equal(saved[name]) for name in saved)
    ours, theirs = (AutoModel.from_pretrained(path, add_pooling_layer=False).state_dict() for path in (folder, student))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def save_with_head(folder: Path, head: str) -> Path:
    tokenizer = tiny_teachers.build_tokenizer("bert")
    getattr(transformers, head).from_config(tiny_teachers.build_config("bert", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("head", "part"),
    [("AutoModelForTokenClassification", "classifier"), ("AutoModelForQuestionAnswering", "qa_outputs")],
)
def test_a_model_with_another_head_is_refused(head: str, part: str, tmp_path: Path) -> None:
    model = save_with_head(tmp_path / "model", head)
    with pytest.raises(ExportError, match=rf"has a head for a task \({part}\).*save that first: AutoModel") as refused:
        write_export(model, tmp_path / "out", latency=None)
    assert not (tmp_path / "out").exists()
    # Do what the message advises.
    for kind in (AutoModel, AutoTokenizer):
        kind.from_pretrained(model).save_pretrained(tmp_path / "encoder")
        assert f"{kind.__name__}.from_pretrained({str(model)!r}).save_pretrained(FOLDER)" in str(refused.value)
    write_export(tmp_path / "encoder", tmp_path / "out", latency=None)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    model = save_with_head(tmp_path / "model", "AutoModelForPreTraining")
    (model / "modules.json").write_text("[]")
    report = write_export(model, tmp_path / "out", latency=None)
    pretraining, modules = report.notes
    assert pretraining.endswith("serve only its pretraining: pooler, cls")
    assert "its pooling, modules.json" in modules
    card = (tmp_path / "out" / "README.md").read_text()
    assert pretraining in card
    assert modules in card


def test_a_projection_of_another_model_is_refused(student: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(student, tmp_path / "model"))
    write_projection(model, {"projection.weight": torch.zeros(1, 17, 32), "projection.bias": torch.zeros(1, 32)})
    with pytest.raises(ExportError, match="does not fit the model there"):
        write_export(model, tmp_path / "out", latency=None)


def test_an_export_is_replaced_and_can_be_exported(student: Path, tmp_path: Path) -> None:
    write_export(student, tmp_path / "out", latency=None)
    (tmp_path / "out" / "stale").write_text("")
    write_export(student, tmp_path / "out", latency=None)
    assert not (tmp_path / "out" / "stale").exists()
    report = write_export(tmp_path / "out", tmp_path / "again", latency=None)
    assert report.model == str(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "again"}


def test_what_is_not_an_export_stays(student: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary").write_text("dear diary")
    with pytest.raises(ExportError, match="is not empty and not an export of kdnas"):
        write_export(student, tmp_path / "notes", latency=None)
    assert (tmp_path / "notes" / "diary").read_text() == "dear diary"
    (tmp_path / "empty").mkdir()
    assert checked_target(tmp_path / "empty", student) == tmp_path / "empty"
    with pytest.raises(ExportError, match="is a file"):
        write_export(student, tmp_path / "notes" / "diary", latency=None)


@pytest.mark.parametrize("out", [".", ".."])
def test_the_model_stays(student: Path, out: str) -> None:
    with pytest.raises(ExportError, match="would replace the model"):
        write_export(student, student / out, latency=None)
    assert (student / "model.safetensors").exists()


def test_a_place_that_cannot_be_written_is_named(student: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot be written to .*file/out.*`out`"):
        write_export(student, tmp_path / "file" / "out", latency=None)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_explained_and_leaves_the_old_export(tmp_path: Path, error: Exception) -> None:
    """Libraries written in other languages may raise exceptions other than OSError."""
    target = tmp_path / "out"
    target.mkdir()
    (target / EXPORT).write_text('{"format": "onnx"}')
    with pytest.raises(ExportError, match="no space is left"):
        fail_while_writing(target, error)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in target.iterdir()] == [EXPORT]


def test_a_student_that_cannot_be_saved_leaves_nothing(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, folder: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(BertModel, "save_pretrained", full)
    with pytest.raises(ExportError, match="no space is left"):
        write_export(student, tmp_path / "made" / "deep" / "out", latency=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KDNASError("of another kind"), KeyError("a bug")])
def test_other_errors_pass_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail_while_writing(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_with_no_number_fails(student: Path) -> None:
    source = load_source(student)

    def zeros(batch: Any) -> Any:
        return np.zeros((*batch["input_ids"].shape, 16), np.float32)

    def nothing(batch: Any) -> Any:
        return zeros(batch) * np.nan

    architecture, names = source.encoder.architecture, source.input_names
    assert check_equal("it", zeros, zeros, architecture, names).max_abs_error == 0
    with pytest.raises(ExportError, match="deviate by up to nan"):
        check_equal("it", nothing, zeros, architecture, names)


def test_a_hub_out_of_reach_is_explained(tmp_path: Path) -> None:
    (tmp_path / EXPORT).write_text("{}")
    with pytest.raises(ExportError, match=r"is complete, but uploading it to 'me/student' failed.*hf auth login"):
        push_folder(tmp_path, "me/student", endpoint="http://127.0.0.1:9")
    with pytest.raises(ExportError, match="write OWNER/NAME"):
        push_folder(tmp_path, "my student")
