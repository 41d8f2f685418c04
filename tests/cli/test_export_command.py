"""``kdnas export``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdnas_env.cli.export import run_export
from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.export import ExportOptions

pytestmark = pytest.mark.usefixtures("graphs_are_written_once", "few_rounds")


def test_an_export_is_made_and_reported(
    flat_teacher: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ExportOptions(str(flat_teacher("bert")), int8=True, out=str(out), sequence_length=12)
    assert run_export(options) == 0
    printed = capsys.readouterr().out
    for expected in ("onnx/model.onnx", "onnx/model_quantized.onnx", "largest error", "unexplained variance"):
        assert expected in printed
    for expected in ("model, torch", "model, onnxruntime int8", "1.00x", "12 tokens", "random tokens", str(out)):
        assert expected in printed
    report = json.loads((out / "export.json").read_text())
    assert report["format"] == "onnx"
    assert len(report["timings"]) == 3


def test_weights_alone_lie_beside_the_model_by_default(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(tiny_teacher_dirs["albert"], tmp_path / "student")
    assert run_export(ExportOptions(str(tmp_path / "student"), to="safetensors", latency=False)) == 0
    assert (tmp_path / "student-safetensors" / "model.safetensors").exists()
    assert not (tmp_path / "student-safetensors" / "onnx").exists()
    assert "Latency" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": "tflite"}, r"to is 'tflite'; choose one of"),
        ({"to": "safetensors", "int8": True}, r"`int8` quantises the graph"),
        ({"push": "not a name"}, r"'not a name' is not the name of a model on the hub"),
        ({"sequence_length": 1000}, r"sequence_length is 1000; the model takes at most 66 tokens"),
        ({"sequence_length": 0}, r"sequence_length is 0"),
        ({"model": "./nowhere"}, r"model './nowhere' cannot be exported: .*there is no such folder"),
        ({"model": ""}, r"model is empty"),
    ],
)
def test_bad_input_is_explained(
    tiny_teacher_dirs: dict[str, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    values = {"model": str(tiny_teacher_dirs["bert"]), "out": str(tmp_path / "out"), **changes}
    with pytest.raises(KDNASError, match=message):
        run_export(ExportOptions(**values))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_encoder_in_safetensors_is_refused(tiny_teacher_dirs: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    decoder, pickled = tmp_path / "decoder", tmp_path / "pickled"
    decoder.mkdir()
    (decoder / "config.json").write_text('{"model_type": "bert", "is_decoder": true}')
    shutil.copytree(tiny_teacher_dirs["bert"], pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for model, message in ((decoder, "with is_decoder is a decoder"), (pickled, "no safetensors weights")):
        with pytest.raises(KDNASError, match=message):
            run_export(ExportOptions(str(model), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_run_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    for name in ("config.json", "run.json", "student/config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        KDNASError, match=r"the folder of a run, not a model; name the folder of a model in it, '.*/student'"
    ):
        run_export(ExportOptions(str(tmp_path)))
    (tmp_path / "embedder").mkdir()
    with pytest.raises(KDNASError, match=r"name the folder of a model in it, '[^']*/embedder'$"):
        run_export(ExportOptions(str(tmp_path)))
    (tmp_path / "embedder").rmdir()
    (tmp_path / "student" / "config.json").unlink()
    with pytest.raises(KDNASError, match="it has no student yet"):
        run_export(ExportOptions(str(tmp_path)))
