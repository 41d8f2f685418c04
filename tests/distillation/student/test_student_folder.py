from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import plain_kd
import pytest
import tiny_teachers
import torch
from safetensors.torch import load_file, save_file

from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.student.folder import Lineage, load_student, read_lineage, read_projection, save_student
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.errors import RunError


@pytest.fixture
def folder(workload: Workload, tmp_path: Path) -> Path:
    student = plain_kd.tiny_student()
    lineage = Lineage(
        student=student,
        teacher="some/teacher",
        teacher_fingerprint="abc",
        corpus={"source": "demo"},
        recipe={"mapping": "last"},
        stages=({"stage": "mini-kd", "epochs": 1},),
        versions={"kdnas": "0"},
    )
    model = build_student(student, workload.teacher.architecture, seed=3)
    save_student(
        tmp_path / "student",
        model,
        workload.teacher.tokenizer,
        "card",
        lineage,
        {"weight": torch.arange(6.0).view(2, 3)},
    )
    return tmp_path / "student"


def test_all_of_it_can_be_read_back(folder: Path, workload: Workload) -> None:
    lineage, projection = read_lineage(folder), read_projection(folder)
    assert lineage is not None
    assert lineage.student == plain_kd.tiny_student()
    assert lineage.stages == ({"stage": "mini-kd", "epochs": 1},)
    assert projection is not None
    assert torch.equal(projection["weight"], torch.arange(6.0).view(2, 3))
    made = build_student(plain_kd.tiny_student(), workload.teacher.architecture, seed=3)
    for name, tensor in load_student(folder).state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name])


def test_a_student_of_a_smaller_vocabulary_is_written_with_its_tokens(
    folder: Path, workload: Workload, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer, lineage = workload.teacher.tokenizer, read_lineage(folder)
    assert lineage is not None
    retokenised = workload.of_vocabulary(workload.teacher.architecture.vocab_size - 15).retokenised
    assert retokenised is not None
    model = build_student(plain_kd.tiny_student(), workload.teacher.architecture, seed=3)
    words = model.embeddings.word_embeddings.weight.detach().clone()
    save_student(tmp_path / "cut", model, tokenizer, "card", lineage, kept=retokenised.kept)
    written, own = load_student(tmp_path / "cut"), AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert torch.equal(written.embeddings.word_embeddings.weight, words[retokenised.kept])
    # The saved tokenizer splits a text into the same tokens as in training.
    text, corpus = tiny_teachers.sentences()[0], workload.corpus
    whole = tokenizer(text)["input_ids"]
    index = next(
        place
        for place in range(len(corpus))
        if corpus.input_ids[corpus.offsets[place] : corpus.offsets[place + 1]].tolist() == whole
    )
    ids = retokenised.corpus.input_ids[slice(*retokenised.corpus.offsets[index:][:2])]
    assert retokenised.kept[own(text)["input_ids"]].tolist() == ids.tolist()


def test_a_folder_of_another_model_has_neither_lineage_nor_projection(tiny_teacher_dirs: dict[str, Path]) -> None:
    assert read_lineage(tiny_teacher_dirs["bert"]) is None
    assert read_projection(tiny_teacher_dirs["bert"]) is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"student": {"num_hidden_layers": 2}, "stages": []})])
def test_a_malformed_lineage_is_told(folder: Path, text: str) -> None:
    (folder / "kdnas.json").write_text(text)
    with pytest.raises(RunError, match=r"lineage of the student in .*kdnas.json' cannot be read"):
        read_lineage(folder)


def test_damaged_weights_are_told(folder: Path) -> None:
    (folder / "projection.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"projection in .* cannot be read"):
        read_projection(folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"student in .* cannot be loaded"):
        load_student(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("encoder.layer.1.output.dense.bias"), "lacks 1 of its encoder's weights"),
        (lambda weights: weights.update({"encoder.gate.weight": torch.zeros(3)}), "does not use: encoder.gate.weight"),
    ],
)
def test_a_student_with_fewer_or_more_weights_is_refused(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, folder: Path
) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=f"the student in .* cannot be loaded: .*{said}"):
        load_student(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corpus": 3}, "corpus is 3; expected a mapping of names"),
        ({"teacher": ["demo"]}, r"teacher is \['demo'\]; expected a text"),
        ({"stages": "full-kd"}, "stages is 'full-kd'; expected a list"),
        ({"stages": [3]}, r"stages is \[3\]; expected a mapping"),
        ({"versions": {"kdnas": 1}}, "versions is"),
        ({"student": {**plain_kd.tiny_student().to_dict(), "family": "../evil"}}, "unknown student family"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_lineage_of_other_types_is_refused(changes: dict[str, object], said: str, folder: Path) -> None:
    path = folder / "kdnas.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(RunError, match=said):
        read_lineage(folder)


def test_a_lineage_that_is_nested_too_deeply_is_refused(folder: Path) -> None:
    (folder / "kdnas.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="nested too deeply"):
        read_lineage(folder)
