"""A study of whether a short evaluation predicts which students are best on tasks after a long distillation.

A sample of students gets a short evaluation, as in a search. Then each student gets a long distillation and task
distillation on each task. It is judged by its divergence from the task's teacher on unseen texts, and by test labels.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdnas_env.core.architecture import StudentConfig, forward_flops
from kdnas_env.core.evaluation import Fidelity, Status
from kdnas_env.core.space import SearchSpace
from kdnas_env.distillation.training.embeddings import EmbeddingBases
from kdnas_env.distillation.training.full_kd import FullKDSettings, distil
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import Recipe, changed
from kdnas_env.distillation.training.training_text import TrainingText, prepare_text
from kdnas_env.errors import SpaceError, is_out_of_memory, one_line
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings
from kdnas_env.studies.texts import JUDGING, TRAINING, read_texts
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.child_processes import follow_parent, worker_context
from kdnas_env.support.cpu_lock import pinned_threads, training_lock
from kdnas_env.support.progress import OnProgress
from kdnas_env.tasks.distilling import TaskDistillationSettings, Texts, distil_task
from kdnas_env.tasks.divergence import departure
from kdnas_env.tasks.finetuning import predict
from kdnas_env.tasks.search_task import SearchTask
from kdnas_env.tasks.specs import Split, TaskData
from kdnas_env.tasks.stage import TaskStage
from kdnas_env.tasks.teacher import TaskTeacher

Kind = Literal["short", "long"]
KINDS: tuple[Kind, Kind] = ("short", "long")
"""Kinds of judgements: after a short evaluation, or after a long distillation and every task."""

_LENGTH = 50
"""Tokens of a text whose operations students are drawn by."""


@dataclass(frozen=True)
class ProxyStudy:
    """Settings of a study: students, and how to judge them; plain data.

    Attributes:
        mini: Settings of the short distillation; its task and limits are ignored.
        fidelity: Fidelity of the short distillation.
        tasks: The tasks.
        max_length: Maximum length of a text of the long distillation, in tokens.
        recipe: Recipe of the long distillation.
        epochs: Passes of the long distillation over the text of the study.
        learning: Settings of task distillation.
        folder: Folder of the text and all judgements.
    """

    mini: MiniKDSettings
    fidelity: Fidelity
    tasks: tuple[SearchTask, ...]
    max_length: int
    recipe: Recipe
    epochs: int
    learning: TaskDistillationSettings
    folder: str


@dataclass(frozen=True)
class Judgement:
    """A judgement to make: a student, a kind and a seed."""

    kind: Kind
    student: StudentConfig
    seed: int

    def path(self, folder: Path) -> Path:
        """Return the file of the judgement."""
        name = "-".join(str(value) for value in self.student.to_dict().values())
        return folder / "judgements" / f"{name}-{self.kind}-{self.seed}.json"


@dataclass(frozen=True, eq=False)
class PreparedTask:
    """A task with its teacher.

    Attributes:
        data: The task.
        teacher: Its teacher.
        stage: The task stage after the short distillation.
        soft_labels: The teacher's soft labels of the evaluation texts.
    """

    data: TaskData
    teacher: TaskTeacher
    stage: TaskStage
    soft_labels: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Laboratory:
    """Models and data that all judgements share, loaded when needed.

    Attributes:
        study: The study.
    """

    study: ProxyStudy

    @cached_property
    def evaluator(self) -> MiniKDEvaluator:
        """Makes the short distillations."""
        return MiniKDEvaluator(replace(self.study.mini, task=None, limits=None))

    @cached_property
    def text(self) -> TrainingText:
        """Text of the long distillation."""
        return prepare_text(
            self.evaluator.workload.teacher,
            {"source": str(Path(self.study.folder) / TRAINING), "max_length": self.study.max_length},
            batch_size=self.study.recipe.batch_size,
            cache_dir=self.study.mini.cache_dir,
        )

    @cached_property
    def bases(self) -> EmbeddingBases:
        """Bases of the teacher's embeddings, computed on that text."""
        return EmbeddingBases(self.text.workload)

    @cached_property
    def unlabelled(self) -> Texts:
        """Unlabelled texts for task distillation."""
        return read_texts(Path(self.study.folder) / TRAINING)

    @cached_property
    def judged(self) -> Texts:
        """Texts to evaluate students on."""
        return read_texts(Path(self.study.folder) / JUDGING)

    @cached_property
    def tasks(self) -> list[PreparedTask]:
        """The tasks, with their teachers."""
        workload, cache_dir = self.evaluator.workload, self.study.mini.cache_dir
        prepared = []
        for task in self.study.tasks:
            data, teacher = task.prepared(workload.teacher, cache_dir=cache_dir)
            stage = TaskStage(task.text(workload, data), data.spec.kind, teacher, task.stage, cache_dir)
            prepared.append(PreparedTask(data, teacher, stage, teacher.soft_labels(self.judged, cache_dir)))
        return prepared

    def judge(self, judgement: Judgement) -> dict[str, Any]:
        """Make a judgement; failures of the student are part of the result."""
        judge = self._short if judgement.kind == "short" else self._long
        try:
            with pinned_threads(self.evaluator.threads):
                result = judge(judgement)
        except Exception as error:
            if not (isinstance(error, FloatingPointError) or is_out_of_memory(error)):
                raise
            result = {"status": "failed", "error": one_line(error)}
        return {**result, "student": judgement.student.to_dict(), "kind": judgement.kind, "seed": judgement.seed}

    def _short(self, judgement: Judgement) -> dict[str, Any]:
        fidelity = replace(self.study.fidelity, seed=judgement.seed)
        distilled = self.evaluator.distil(judgement.student, fidelity)
        evaluation = distilled.evaluation
        result = {
            "status": str(evaluation.status),
            "error": evaluation.error,
            "unexplained": list(evaluation.heldout_unexplained),
            "latency_ratio": None if evaluation.latency is None else evaluation.latency.ratio,
            "parameters": evaluation.parameters,
            "seconds": sum(evaluation.epoch_seconds),
        }
        if evaluation.status is not Status.OK:
            return result
        tasks = {}
        for task in self.tasks:
            began = time.perf_counter()
            with training_lock():
                after = task.stage.run(distilled.model, judgement.student, fidelity, precision=self.evaluator.precision)
            tasks[task.data.name] = {
                "unexplained": after.unexplained,
                "agreement": after.agreement,
                "seconds": time.perf_counter() - began,
            }
        return {**result, "tasks": tasks}

    def _long(self, judgement: Judgement) -> dict[str, Any]:
        study, workload, seed = self.study, self.text.workload, judgement.seed
        precision = self.evaluator.precision
        began = time.perf_counter()
        recipe = changed(study.recipe, judgement.student.recipe)
        basis = self.bases.of(recipe.embeddings)
        kd = MiniKD(workload, judgement.student, recipe, self.text.start(seed), basis=basis, precision=precision)
        checkpoints = judgement.path(Path(study.folder)).with_suffix(".checkpoints")
        result = distil(
            kd,
            self.text.samples,
            FullKDSettings(epochs=study.epochs, evaluations=max(2, study.epochs), patience=None),
            checkpoints / "states",
            teacher_in_loop=self.text.teacher_in_loop,
        )
        judged = {
            "status": str(Status.OK),
            "unexplained": [point["unexplained"] for point in result.curve],
            "tasks": {task.data.name: self._task_quality(result.model, task, seed, checkpoints) for task in self.tasks},
            "seconds": time.perf_counter() - began,
        }
        shutil.rmtree(checkpoints)
        return judged

    def _task_quality(self, encoder: nn.Module, task: PreparedTask, seed: int, checkpoints: Path) -> dict[str, float]:
        """Train an encoder on a task with the task's teacher, and return its quality."""
        learning, tokenizer = self.study.learning, task.teacher.tokenizer
        learnt = distil_task(
            encoder,
            tokenizer,
            task.data,
            task.teacher,
            learning,
            seed,
            unlabelled=self.unlabelled,
            checkpoints=checkpoints / task.data.name,
            cache_dir=self.study.mini.cache_dir,
        )
        texts = Split(tuple(self.judged), np.zeros(len(self.judged[0])))
        with training_lock():
            outputs = predict(learnt.model, tokenizer, texts, learning.finetuning.max_length)
        after = departure(task.data.spec.kind, torch.from_numpy(outputs), torch.from_numpy(task.soft_labels))
        return {"unexplained": after.unexplained, "agreement": after.agreement, "score": learnt.score.score}


def judgements(students: Sequence[StudentConfig], *, short_seeds: int, repeated: int, seed: int) -> list[Judgement]:
    """Return all judgements to make, ordered so that an unfinished study is as useful as possible.

    Args:
        students: The students, in ascending order of operations.
        short_seeds: Number of seeds of each short evaluation.
        repeated: Number of students, evenly spread, whose long distillation is repeated with another seed.
        seed: The first seed.
    """
    chosen = {students[index] for index in np.linspace(0, len(students) - 1, repeated).round().astype(int)}
    # Bit reversal, so that students of all sizes come early: the first, the middle, the quarters, and so on.
    bits = len(f"{len(students) - 1:b}")
    order = sorted(range(len(students)), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))
    first = [Judgement(kind, students[index], seed) for index in order for kind in KINDS]
    again = [Judgement("long", students[index], seed + 1) for index in order if students[index] in chosen]
    others = [Judgement("short", students[index], seed + extra) for extra in range(1, short_seeds) for index in order]
    return [*first, *others, *again]


def unjudged(study: ProxyStudy, wanted: Sequence[Judgement]) -> list[Judgement]:
    """Return the judgements that are not stored yet."""
    return [judgement for judgement in wanted if not judgement.path(Path(study.folder)).exists()]


def judge_all(study: ProxyStudy, wanted: Sequence[Judgement], *, workers: int, on_progress: OnProgress) -> None:
    """Make all missing judgements, and store each as soon as it is finished.

    Args:
        study: The study.
        wanted: The judgements to make.
        workers: Number of processes; 1 uses this process.
        on_progress: Called with the number of stored judgements and the total.
    """
    folder = Path(study.folder)
    (folder / "judgements").mkdir(parents=True, exist_ok=True)
    missing = unjudged(study, wanted)
    done = len(wanted) - len(missing)
    on_progress(done, len(wanted))
    for judgement, result in _make_judgements(study, missing, workers):
        write_json(judgement.path(folder), result)
        done += 1
        on_progress(done, len(wanted))


def read_judgements(study: ProxyStudy, wanted: Sequence[Judgement]) -> dict[Judgement, dict[str, Any]]:
    """Return the stored judgements."""
    paths = {judgement: judgement.path(Path(study.folder)) for judgement in wanted}
    return {judgement: read_json(path) for judgement, path in paths.items() if path.exists()}


def _make_judgements(
    study: ProxyStudy, missing: Sequence[Judgement], workers: int
) -> Iterator[tuple[Judgement, dict[str, Any]]]:
    if workers == 1 or len(missing) < 2:
        laboratory = Laboratory(study)
        for judgement in missing:
            yield judgement, laboratory.judge(judgement)
        return
    with ProcessPoolExecutor(workers, worker_context(*MiniKDEvaluator.MODULES), initializer=follow_parent) as pool:
        futures = {pool.submit(_judge_in_worker, _Frozen(study), judgement): judgement for judgement in missing}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(frozen=True, eq=False)
class _Frozen:
    """A study that is hashed by its folder, so that a worker loads it only once."""

    study: ProxyStudy
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.study.folder)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and other.key == self.key


@cache
def _laboratory(frozen: _Frozen) -> Laboratory:
    return Laboratory(frozen.study)


def _judge_in_worker(frozen: _Frozen, judgement: Judgement) -> dict[str, Any]:
    return _laboratory(frozen).judge(judgement)


def stratified_sample(
    space: SearchSpace, count: int, rng: np.random.Generator, *, least_speedup: float = 1.0
) -> list[StudentConfig]:
    """Draw students of all sizes: one from each of several strata of the space sorted by operations.

    Args:
        space: The space; it must be small enough to enumerate.
        count: Number of students.
        rng: Random generator.
        least_speedup: Excludes students that need more than 1 / ``least_speedup`` of the teacher's operations.

    Returns:
        Distinct students, in ascending order of operations.

    Raises:
        SpaceError: If there are fewer students.
    """
    teacher = space.teacher
    limit = forward_flops(teacher.as_student(), teacher, batch=1, length=_LENGTH) / least_speedup
    students = {config for config in space if space.is_valid(config)}
    costs = {config: forward_flops(config, teacher, batch=1, length=_LENGTH) for config in students}
    ranked = sorted((config for config in students if costs[config] <= limit), key=lambda c: (costs[c], c))
    if len(ranked) < count:
        raise SpaceError(
            f"{count} students are requested, but the space holds {len(ranked)} that need at most one over "
            f"{least_speedup:g} of the teacher's operations; request fewer, or widen the space"
        )
    borders = np.linspace(0, len(ranked), count + 1).astype(int)
    return [ranked[int(rng.integers(begin, end))] for begin, end in itertools.pairwise(borders)]
