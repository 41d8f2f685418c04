"""Conformance tests of teachers; subclass them in your tests. Needs pytest.

class TestMine(TeacherConformance):
    @pytest.fixture
    def folder(self):
        return Path("path/to/my-encoder")
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.folder import Lineage, save_student
from kdnas_env.distillation.teacher.foreign import relative_distance
from kdnas_env.distillation.teacher.loading import Teacher, load_teacher, load_teacher_architecture
from kdnas_env.distillation.text.corpus import Corpus
from kdnas_env.distillation.training.packed import pack_samples, states_of
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.tasks.encoding import PooledEncoder
from kdnas_env.testing.clauses import clause, global_states, shaken_generators
from kdnas_env.testing.tiny_encoders import tiny_texts

_LARGEST_DIFFERENCE = 1e-4
_SAMPLES = 6


class TeacherConformance:
    """The contract of a teacher, clause by clause: a student can learn from it and replace it.

    A subclass provides the fixture ``folder``. It may override ``texts`` and ``student``. No test changes the teacher,
    so ``teacher`` may return the same object to all tests.
    """

    @pytest.fixture
    def folder(self) -> Path:
        """Folder of the teacher in hub layout."""
        raise NotImplementedError("provide a fixture 'folder'")

    @pytest.fixture
    def texts(self) -> list[str]:
        """A hundred or more different texts with tokens of its vocabulary."""
        return tiny_texts()

    @pytest.fixture
    def student(self) -> StudentConfig:
        """A student whose distillation is fast."""
        return StudentConfig(1, 2, 32, 48)

    @pytest.fixture
    def teacher(self, folder: Path) -> Teacher:
        """The teacher, loaded."""
        return load_teacher(folder)

    @pytest.fixture
    def evaluator(self, folder: Path, texts: list[str], tmp_path: Path) -> MiniKDEvaluator:
        """Mini-KD of the teacher on the texts."""
        file = tmp_path / "texts.txt"
        file.write_text("\n".join(texts), encoding="utf-8")
        return MiniKDEvaluator(
            MiniKDSettings(
                teacher=str(folder),
                corpus={"source": str(file), "proxy_fraction": 1.0},
                latency="analytic",
                cache_dir=tmp_path / "cache",
                cache_dtype="float32",
                device="cpu",
            )
        )

    def test_loading(self, folder: Path, teacher: Teacher) -> None:
        """Clauses *generators*, *fingerprint* and *architecture*."""
        with shaken_generators():
            before = global_states()
            again = load_teacher(folder).fingerprint
            clause("generators", global_states() == before, "a global random generator was read or seeded by loading")
        clause("fingerprint", again == teacher.fingerprint, "a teacher that is loaded twice has two fingerprints")
        configured, loaded = load_teacher_architecture(folder), teacher.architecture
        for name in ("family", "num_hidden_layers", "hidden_size", "vocab_size", "type_vocab_size"):
            expected, own = getattr(configured, name), getattr(loaded, name)
            clause("architecture", own == expected, f"{name} is {own}, but {expected} by the configuration alone")

    def test_the_fingerprint_tells_weights(self, folder: Path, teacher: Teacher, tmp_path: Path) -> None:
        """Clause *fingerprint*: teachers with different weights have different fingerprints."""
        model: Any = copy.deepcopy(teacher.model)
        with torch.no_grad():
            model.get_input_embeddings().weight[-1] += 1
        model.save_pretrained(tmp_path / "other")
        teacher.tokenizer.save_pretrained(tmp_path / "other")
        other = load_teacher(tmp_path / "other").fingerprint
        clause("fingerprint", other != teacher.fingerprint, "teachers of different weights have one fingerprint")

    def test_states_do_not_depend_on_padding(self, teacher: Teacher, texts: list[str]) -> None:
        """Clauses *states* and *padding*: hidden states have the expected shapes and do not depend on padding."""
        batch = dict(teacher.tokenizer(texts[:_SAMPLES], padding=True, return_tensors="pt"))
        padded = teacher.hidden_states(**batch)
        shape = (*batch["input_ids"].shape, teacher.architecture.hidden_size)
        actual = [tuple(states.shape) for states in padded]
        expected = [shape] * (teacher.architecture.num_hidden_layers + 1)
        clause("states", actual == expected, f"hidden states of shapes {actual}, expected {expected}")
        mask = batch["attention_mask"].bool()
        clause("padding", not mask.all(), "all texts have the same length, so nothing was tested; give other texts")
        clause("padding", bool(mask[:, 0].all()), "the tokenizer pads on the left, but positions count from the left")
        for place, text in enumerate(texts[:_SAMPLES]):
            alone = teacher.hidden_states(**dict(teacher.tokenizer(text, return_tensors="pt")))
            for layer, (whole, own) in enumerate(zip(padded, alone, strict=True)):
                difference = relative_distance(whole[place][mask[place]], own[0])
                complaint = f"with padding, layer {layer} of {text!r} is {difference:.2g} away from what it is without"
                clause("padding", difference < _LARGEST_DIFFERENCE, complaint)

    def test_vectors_are_pooled(self, teacher: Teacher, texts: list[str]) -> None:
        """Clause *pooling*: pooled vectors have the hidden size."""
        pooled = PooledEncoder(teacher.model)
        vectors = pooled(**dict(teacher.tokenizer(texts[:_SAMPLES], padding=True, return_tensors="pt")))
        expected = (_SAMPLES, teacher.architecture.hidden_size)
        clause("pooling", pooled.width == expected[1], f"the width of pooled vectors is {pooled.width}")
        clause("pooling", tuple(vectors.shape) == expected, f"pooled vectors of shape {vectors.shape}, not {expected}")

    def test_a_student_learns(
        self, evaluator: MiniKDEvaluator, student: StudentConfig, texts: list[str], tmp_path: Path
    ) -> None:
        """Clauses *learning*, *folder* and *loop*: a student learns, can be saved, and cached states are exact."""
        distilled = evaluator.distil(student, Fidelity(epochs=1))
        evaluation, teacher = distilled.evaluation, evaluator.workload.teacher
        clause("learning", evaluation.ok, f"the distillation ended as {evaluation.status}: {evaluation.error}")
        before, after = evaluation.heldout_unexplained
        clause("learning", before < 1, f"{before:.3f} of the variance is unexplained before the first step")
        clause("learning", after < before, f"{after:.3f} is unexplained after an epoch, {before:.3f} before")
        _check_folder(tmp_path / "student", distilled.model, teacher, student, texts)
        _check_loop(evaluator, teacher)


def _check_folder(folder: Path, model: Any, teacher: Teacher, student: StudentConfig, texts: list[str]) -> None:
    from transformers import AutoModel, AutoTokenizer

    lineage = Lineage(student, teacher.name, teacher.fingerprint, {}, {})
    save_student(folder, model, teacher.tokenizer, "", lineage)
    loaded = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts, truncation=True)["input_ids"]
    clause("folder", ids == teacher.tokenizer(texts, truncation=True)["input_ids"], "its tokenizer has other tokens")
    padding = (tokenizer.pad_token_id, loaded.config.pad_token_id)
    clause("folder", padding[0] == padding[1], f"tokenizer and model pad with tokens {padding}")
    batch = tokenizer(texts[:_SAMPLES], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours, theirs = (encoder.eval()(**batch).last_hidden_state for encoder in (model, loaded))
    clause("folder", torch.equal(ours, theirs), "loaded again, the student has other states")


def _check_loop(evaluator: MiniKDEvaluator, teacher: Teacher) -> None:
    workload = evaluator.workload
    corpus: Corpus = workload.corpus
    samples = workload.train[:_SAMPLES]
    in_loop = states_of(teacher)(pack_samples(corpus, samples, device=teacher.device))
    rows = workload.cache.token_rows(samples)
    for layer, states in enumerate(in_loop):
        difference = relative_distance(states, workload.states((layer,), rows))
        complaint = f"run in the loop, layer {layer} is {difference:.2g} away from what is cached"
        clause("loop", difference < _LARGEST_DIFFERENCE, complaint)
