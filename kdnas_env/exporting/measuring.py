"""Size and speed of exported files relative to their teacher, and the record of all measurements.

The teacher is timed as a file of the same format. Quantisation to int8 speeds up large models more than small ones,
so a speed-up across formats would be misleading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdnas_env.errors import ExportError, one_line
from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH
from kdnas_env.latency.interleave import Pass, interleave, select_clock
from kdnas_env.latency.onnx_runtime import INPUT_NAMES, Output, open_graph, write_graph
from kdnas_env.latency.quantise import quantise
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.cpu_lock import pinned_threads, probe_lock, training_lock
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.scratch import scratch_folder
from kdnas_env.tasks.encoding import encode, pad
from kdnas_env.tasks.scores import Share, Standing
from kdnas_env.tasks.specs import Split
from kdnas_env.tasks.vector_scores import EmbeddingScore

SIMILARITY = "Spearman's correlation of the cosines of all pairs of texts with the teacher's"
"""The score of an embedding model, as text."""

FILES = {"float32": GRAPH, "int8": INT8_GRAPH}
"""Files of an export, by format."""

_PROBE = ("batch_size", "sequence_length", "threads")
_SESSIONS = 5
"""Sessions per file. Each has another memory layout, which changes the speed by a few percent."""
_MIN_ROUNDS = 20
"""Minimum rounds per session. On a busy machine, the time limit of a probe would allow only a few."""


@dataclass(frozen=True)
class Measured:
    """Measurements of an exported file; plain data.

    Attributes:
        file: The file, relative to the folder of the export.
        format: ``float32`` or ``int8``.
        size_mb: Its megabytes (1e6 bytes).
        latency_ms: Milliseconds per forward pass, median over sessions.
        teacher_latency_ms: The same for the teacher, in the same format.
        speedup: Latency of the teacher divided by that of the student, median over sessions.
        speedups: The same for each session.
        probe: Batch size, sequence length and threads of the timing.
        chosen_by: Share of the teacher's score kept on the split that candidates are selected on.
        scored: The same on the scored splits, which are not used for selection.
        standings: The scores on these splits; empty for embedding models, and in records of earlier versions.
        vectors: For an embedding model: full comparison of its vectors with the teacher's on the scored texts.
    """

    file: str
    format: str
    size_mb: float
    latency_ms: float
    teacher_latency_ms: float
    speedup: float
    speedups: tuple[float, ...]
    probe: dict[str, int]
    chosen_by: Share
    scored: tuple[Share, ...]
    standings: tuple[Standing, ...] = ()
    vectors: EmbeddingScore | None = None

    @property
    def conditions(self) -> str:
        """The conditions of the measurement, as text."""
        batch, length, threads = (self.probe[name] for name in _PROBE)
        of_vectors = "" if self.vectors is None else f". The score is {SIMILARITY}"
        return (
            f"Size, speed and score of {self.file} in ONNX Runtime; the speed-up is against the teacher's "
            f"{self.format} file ({self.teacher_latency_ms:.2f} ms): batch {batch}, {length} tokens, {threads} CPU "
            f"thread(s). Candidates are chosen by {self.chosen_by.split}, never by what is scored{of_vectors}"
        )

    @property
    def warning(self) -> str | None:
        """Warning, as text, that the share of the teacher's score means little; None if the teacher is good enough."""
        weak = [standing for standing in self.standings if standing.teacher_is_weak]
        if not weak:
            return None
        scores = "; ".join(
            f"{standing.split}: {score:.1%}, 95 % interval {low:.1%} - {high:.1%}, beside {standing.constant:.1%}"
            for standing in weak
            for score, low, high in (standing.teacher,)
        )
        return (
            f"the teacher hardly beats the {weak[0].answer} ({scores}), so the share of its score that is kept means "
            "little; give more labels, or another teacher"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class TeacherGraph:
    """A teacher that can be written to a file, to be timed with exports.

    Attributes:
        fingerprint: SHA-256 (hex) of everything that determines the teacher.
        model: The model, as a function of the inputs of its encoder.
        tokenizer: Its tokenizer.
        max_length: Maximum length of a text in tokens.
        outputs: Outputs of the graph by name.
        texts: Two example texts, in one or two columns.
    """

    fingerprint: str
    model: Any
    tokenizer: Any
    max_length: int
    outputs: Mapping[str, Output]
    texts: Split

    def write(self, path: Path) -> None:
        """Write the teacher as a graph."""
        batch = pad(encode(self.tokenizer, self.texts, self.max_length), self.tokenizer.pad_token_id)
        example = {name: batch[name] for name in INPUT_NAMES if name in batch}
        write_graph(self.model, example, path, longest=self.max_length, outputs=self.outputs)


@dataclass(frozen=True)
class TeacherFiles:
    """Files of teachers, to be timed with exports; each is written once.

    Attributes:
        folder: Folder of the files.
    """

    folder: Path

    def file(self, teacher: TeacherGraph, format: str) -> Path:
        """Return the file of a teacher.

        Args:
            teacher: The teacher.
            format: ``float32`` or ``int8``.
        """
        path = self.folder / f"{teacher.fingerprint}.onnx"
        if not path.exists():
            teacher.write(path)
        if format == "float32":
            return path
        smaller = path.with_suffix(".int8.onnx")
        if not smaller.exists():
            quantise(path, smaller)
        return smaller


@contextmanager
def teacher_files() -> Iterator[TeacherFiles]:
    """Provide a temporary folder for the files of teachers in the block."""
    with scratch_folder("teacher") as folder:
        yield TeacherFiles(folder)


def size_and_speed(
    export: Path, format: str, teacher: TeacherGraph, settings: LatencySettings, beside: TeacherFiles
) -> dict[str, Any]:
    """Return those fields of :class:`Measured` that do not depend on scores.

    Args:
        export: Folder of the export.
        format: File to measure: ``float32`` or ``int8``.
        teacher: The teacher to compare with.
        settings: Batch size, sequence length, threads, and duration.
        beside: Files of teachers.

    Raises:
        RunError: If the CPU lock cannot be used.
    """
    students, teachers, speedups = [], [], []
    rounds = max(settings.min_rounds, _MIN_ROUNDS)
    settings = replace(settings, min_rounds=rounds, max_rounds=max(settings.max_rounds, rounds))
    with training_lock():
        theirs = beside.file(teacher, format)
    # A student's vocabulary may be smaller than its teacher's.
    timed = (export / FILES[format], own_tokenizer(export)), (theirs, teacher.tokenizer)
    clock = select_clock(settings)
    for _ in range(_SESSIONS):
        with probe_lock(), pinned_threads(settings.threads):
            passes = (_pass(path, tokenizer, settings) for path, tokenizer in timed)
            times = interleave(next(passes), next(passes), settings, clock)
        students.append(float(np.median(times.student_ns)) / 1e6)
        teachers.append(float(np.median(times.teacher_ns)) / 1e6)
        speedups.append(float(np.median(1 / times.ratios)))
    return {
        "file": FILES[format],
        "format": format,
        "size_mb": (export / FILES[format]).stat().st_size / 1e6,
        "latency_ms": float(np.median(students)),
        "teacher_latency_ms": float(np.median(teachers)),
        "speedup": float(np.median(speedups)),
        "speedups": tuple(speedups),
        "probe": {name: getattr(settings, name) for name in _PROBE},
    }


def own_tokenizer(export: Path) -> Any:
    """Load the tokenizer of an export."""
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(export, local_files_only=True)


def served(export: Path, format: str, output: str) -> Callable[[Split], NDArray[np.float32]]:
    """Open a file of an export, and return a function that computes an output text by text, as in deployment.

    Args:
        export: Folder of the export.
        format: File to open: ``float32`` or ``int8``.
        output: Name of the output.

    Returns:
        A function from texts to the output, float32 ``(texts, width)``.
    """
    tokenizer, session = own_tokenizer(export), _open_session(export / FILES[format], torch.get_num_threads())
    names = [wanted.name for wanted in session.get_inputs()]

    def run(texts: Split) -> NDArray[np.float32]:
        rows = [
            session.run([output], {name: np.array([example[name]], dtype=np.int64) for name in names})[0][0]
            for example in encode(tokenizer, texts, tokenizer.model_max_length)
        ]
        return np.stack(rows)

    return run


def _open_session(file: Path, threads: int) -> Any:
    try:
        return open_graph(file, threads)
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime raises many types of errors for damaged files
        raise ExportError(f"{str(file)!r} cannot be opened: {one_line(error)}; export the model again") from error


def _pass(file: Path, tokenizer: Any, settings: LatencySettings) -> Pass:
    """Return a forward pass of a file in a new session, on random tokens without padding."""
    session = _open_session(file, settings.threads)
    shape = settings.batch_size, settings.sequence_length
    ids = np.random.default_rng(settings.seed).integers(tokenizer.vocab_size - 1, size=shape)
    batch = {"input_ids": ids + (ids >= tokenizer.pad_token_id), "attention_mask": np.ones_like(ids)}
    batch["token_type_ids"] = np.zeros_like(ids)
    feed = {wanted.name: batch[wanted.name] for wanted in session.get_inputs()}
    return lambda: session.run(None, feed)
