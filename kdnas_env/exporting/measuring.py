"""What an exported classifier is worth as it is served: size, speed and score, beside its teacher.

The teacher is timed as a file of the same format: int8 makes large models faster than small ones, so that a speed-up is
one within a format only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdnas_env.exporting.onnx import GRAPH, INT8_GRAPH, LOGITS
from kdnas_env.latency.interleave import Pass, interleave, select_clock
from kdnas_env.latency.onnx_runtime import INPUT_NAMES, open_graph, write_graph
from kdnas_env.latency.quantise import quantise
from kdnas_env.latency.settings import LatencySettings
from kdnas_env.support.cpu_lock import pinned_threads, probe_lock, training_lock
from kdnas_env.support.libraries import quiet_transformers
from kdnas_env.support.progress import SILENT, Progress
from kdnas_env.support.scratch import scratch_folder
from kdnas_env.tasks.encoding import encode, pad
from kdnas_env.tasks.scores import Share, Standing, share_kept, standing
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.splits import choosing_name, choosing_splits
from kdnas_env.tasks.teacher import TaskTeacher

FILES = {"float32": GRAPH, "int8": INT8_GRAPH}
"""Files of an export by their format."""

_PROBE = ("batch_size", "sequence_length", "threads")
_SESSIONS = 5
"""Sessions that a file is timed in: how each lays out its memory changes its speed by some percent."""
_LEAST_ROUNDS = 20
"""Rounds of a session at least: on a busy machine the time of a probe is up after a few, which tell too little."""

Decided = Mapping[str, NDArray[Any]]
"""What a classifier decides: of each split, as :meth:`kdnas_env.tasks.specs.TaskSpec.decide` returns it."""


@dataclass(frozen=True)
class Measured:
    """What was measured of an exported classifier; plain data.

    Attributes:
        file: The file, by its path in the folder of the export.
        format: ``float32`` or ``int8``.
        size_mb: Its megabytes (1e6 bytes).
        latency_ms: Milliseconds of a pass, the median over sessions.
        teacher_latency_ms: The same of the teacher, in the same format.
        speedup: Time of the teacher over that of the student, the median over sessions.
        speedups: The same in each session.
        probe: Batch size, sequence length and threads of these.
        chosen_by: Share of the teacher's score on what candidates are chosen by.
        scored: The same on the splits that make the score, which choose nothing.
        standings: The scores themselves on these splits; empty in records of earlier versions.
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

    @property
    def conditions(self) -> str:
        """How it was measured, in words."""
        batch, length, threads = (self.probe[name] for name in _PROBE)
        return (
            f"Size, speed and score of {self.file} in ONNX Runtime; the speed-up is against the teacher's "
            f"{self.format} file ({self.teacher_latency_ms:.2f} ms): batch {batch}, {length} tokens, {threads} CPU "
            f"thread(s). Candidates are chosen by {self.chosen_by.split}, never by what is scored"
        )

    @property
    def warning(self) -> str | None:
        """Why the share of the teacher's score says little, in words; None where the teacher knows its task."""
        weak = [one for one in self.standings if one.teacher_is_weak]
        if not weak:
            return None
        scores = "; ".join(
            f"{one.split}: {one.teacher[0]:.1%}, 95 % interval {one.teacher[1]:.1%} - {one.teacher[2]:.1%}, beside "
            f"{one.constant:.1%}"
            for one in weak
        )
        return (
            f"the teacher hardly beats the {weak[0].answer} ({scores}), so the share of its score that is kept says "
            "little; give more labels, or another teacher"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class TeacherFiles:
    """Files of the teachers beside which exports are timed; each is written once.

    Attributes:
        folder: Where they are.
    """

    folder: Path

    def file(self, teacher: TaskTeacher, format: str, task: TaskData) -> Path:
        """Return the file of a member of a teacher.

        Args:
            teacher: The teacher.
            format: ``float32`` or ``int8``.
            task: Its task.
        """
        path = self.folder / f"{teacher.fingerprint}.onnx"
        if not path.exists():
            _write_teacher(teacher, task, path)
        if format == "float32":
            return path
        smaller = path.with_suffix(".int8.onnx")
        if not smaller.exists():
            quantise(path, smaller)
        return smaller


@contextmanager
def teacher_files() -> Iterator[TeacherFiles]:
    """Make room for the files of teachers for the block."""
    with scratch_folder("teacher") as folder:
        yield TeacherFiles(folder)


def measure_export(
    export: Path,
    format: str,
    task: TaskData,
    teacher: TaskTeacher,
    latency: LatencySettings,
    beside: TeacherFiles,
    *,
    decided: Decided | None = None,
    cache_dir: str | None = None,
    progress: Progress = SILENT,
) -> Measured:
    """Measure an exported classifier in ONNX Runtime.

    Args:
        export: Folder of the export.
        format: Which of its files: ``float32`` or ``int8``.
        task: The task.
        teacher: Its teacher; where it has several members, one of them is timed.
        latency: Batch size, sequence length, threads, and how long to measure.
        beside: Files of teachers, of which one is timed.
        decided: What :func:`decide` returned of the file, if that is known.
        cache_dir: Where the soft labels of the teacher are kept.
        progress: Told what is done.

    Raises:
        RunError: If the lock of the cores cannot be used.
    """
    file = export / FILES[format]
    progress.begin(f"timing {file.name} beside its teacher")
    student_ms, teacher_ms, speedups = _times(export, format, task, teacher, latency, beside)
    if decided is None:
        progress.begin(f"scoring {file.name}")
        decided = decide(export, format, task)
    own = decided

    def judge(name: str, split: Split) -> tuple[Share, Standing]:
        taught = task.spec.decide(teacher.soft_labels(split.texts, cache_dir))
        share = share_kept(task.spec, name, own[name], taught, split.labels)
        return share, standing(task, name, own[name], taught, split)

    judged = [judge(name, split) for name, split in _judged(task).items()]
    chosen_by, *scored = (share for share, _ in judged)
    return Measured(
        file=FILES[format],
        format=format,
        size_mb=file.stat().st_size / 1e6,
        latency_ms=float(np.median(student_ms)),
        teacher_latency_ms=float(np.median(teacher_ms)),
        speedup=float(np.median(speedups)),
        speedups=tuple(speedups),
        probe={name: getattr(latency, name) for name in _PROBE},
        chosen_by=chosen_by,
        scored=tuple(scored),
        standings=tuple(scores for _, scores in judged),
    )


def decide(export: Path, format: str, task: TaskData) -> Decided:
    """Return what an exported classifier decides in ONNX Runtime, text by text, as it is served.

    Args:
        export: Folder of the export.
        format: Which of its files: ``float32`` or ``int8``.
        task: The task.

    Raises:
        RunError: If the lock of the cores cannot be used.
    """
    tokenizer = _own_tokenizer(export)
    with training_lock():
        session = open_graph(export / FILES[format], torch.get_num_threads())
        return {
            name: task.spec.decide(_logits(session, tokenizer, split, task)) for name, split in _judged(task).items()
        }


def _own_tokenizer(export: Path) -> Any:
    from transformers import AutoTokenizer

    with quiet_transformers():
        return AutoTokenizer.from_pretrained(export, local_files_only=True)


def _judged(task: TaskData) -> dict[str, Split]:
    """Return what candidates are chosen by, then the splits that make the score, by name."""
    _, choosing = choosing_splits(task)
    return {choosing_name(task, choosing): choosing, **{scored: task.evaluation[scored] for scored in task.spec.scored}}


def _times(
    export: Path, format: str, task: TaskData, teacher: TaskTeacher, settings: LatencySettings, beside: TeacherFiles
) -> tuple[list[float], list[float], list[float]]:
    """Return milliseconds of the student and of the teacher, and their ratio, in each session."""
    students, teachers, speedups = [], [], []
    rounds = max(settings.min_rounds, _LEAST_ROUNDS)
    settings = replace(settings, min_rounds=rounds, max_rounds=max(settings.max_rounds, rounds))
    with training_lock():
        theirs = beside.file(teacher, format, task)
    # A student may have fewer tokens than its teacher.
    timed = (export / FILES[format], _own_tokenizer(export)), (theirs, teacher.tokenizer)
    clock = select_clock(settings)
    for _ in range(_SESSIONS):
        with probe_lock(), pinned_threads(settings.threads):
            passes = (_pass(path, tokenizer, settings) for path, tokenizer in timed)
            times = interleave(next(passes), next(passes), settings, clock)
        students.append(float(np.median(times.student_ns)) / 1e6)
        teachers.append(float(np.median(times.teacher_ns)) / 1e6)
        speedups.append(float(np.median(1 / times.ratios)))
    return students, teachers, speedups


def _write_teacher(teacher: TaskTeacher, task: TaskData, path: Path) -> None:
    """Write a member of a teacher as a graph."""
    texts = Split(tuple(list(column[:2]) for column in task.train.texts), task.train.labels[:2])
    batch = pad(encode(teacher.tokenizer, texts, teacher.max_length), teacher.tokenizer.pad_token_id)
    example = {name: batch[name] for name in INPUT_NAMES if name in batch}
    write_graph(teacher.members[0], example, path, longest=teacher.max_length, outputs={LOGITS: lambda logits: logits})


def _pass(file: Path, tokenizer: Any, settings: LatencySettings) -> Pass:
    """Return a pass of a file in a new session, on random tokens without padding."""
    session = open_graph(file, settings.threads)
    shape = settings.batch_size, settings.sequence_length
    ids = np.random.default_rng(settings.seed).integers(tokenizer.vocab_size - 1, size=shape)
    batch = {"input_ids": ids + (ids >= tokenizer.pad_token_id), "attention_mask": np.ones_like(ids)}
    batch["token_type_ids"] = np.zeros_like(ids)
    feed = {wanted.name: batch[wanted.name] for wanted in session.get_inputs()}
    return lambda: session.run(None, feed)


def _logits(session: Any, tokenizer: Any, split: Split, task: TaskData) -> NDArray[np.float32]:
    """Return logits ``(samples, classes)`` or numbers ``(samples,)``, text by text, as they are served."""
    names = [wanted.name for wanted in session.get_inputs()]
    rows = [
        session.run([LOGITS], {name: np.array([example[name]], dtype=np.int64) for name in names})[0][0]
        for example in encode(tokenizer, split, tokenizer.model_max_length)
    ]
    logits: NDArray[np.float32] = np.stack(rows)
    return logits[:, 0] if task.spec.regression else logits
