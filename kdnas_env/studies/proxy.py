"""Does a short distillation tell which student is best after a long one, and on a task?

A sample of students is distilled shortly (mini-KD, as a search does), then for long, then scored on a task. What the
short distillation says is compared with the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.embeddings import EmbeddingBasis, embedding_basis
from kdnas_env.distillation.text.training_text import TrainingText, prepare_text
from kdnas_env.distillation.training.full_kd import FullKDSettings, distil
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import Recipe
from kdnas_env.evaluators.mini_kd import MiniKDEvaluator, MiniKDSettings
from kdnas_env.support.atomic import read_json, write_json
from kdnas_env.support.child_processes import follow_parent, worker_context
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.libraries import is_out_of_memory, one_line
from kdnas_env.support.progress import OnProgress
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.finetuning import finetune
from kdnas_env.tasks.probing import linear_probe
from kdnas_env.tasks.specs import TaskData

Kind = Literal["mini-kd", "full-kd"]


@dataclass(frozen=True)
class ProxyStudy:
    """A study of the proxy: which students, and how each is judged; plain data.

    Attributes:
        mini: What students are distilled from shortly, and how.
        fidelity: Effort of the short distillation.
        text: Arguments of :func:`kdnas_env.distillation.text.corpus.load_corpus` for the long one.
        recipe: Recipe of the long distillation.
        epochs: Passes of it over the text.
        task: Task that students are scored on.
        data: Folder of the task's data; None for the hub, or the embedded task.
        finetune: Whether students are fine-tuned on the task; else a linear probe is fitted.
        folder: Where every judgement is kept.
    """

    mini: MiniKDSettings
    fidelity: Fidelity
    text: Mapping[str, Any]
    recipe: Recipe
    epochs: int
    task: str
    data: str | None
    finetune: bool
    folder: str


@dataclass(frozen=True)
class Judgement:
    """A student that is to be judged, in one of two ways, with a seed."""

    kind: Kind
    student: StudentConfig
    seed: int

    def path(self, folder: Path) -> Path:
        """Return the file that keeps it."""
        name = "-".join(str(value) for value in self.student.to_dict().values())
        return folder / "judgements" / f"{name}-{self.kind}-{self.seed}.json"


@dataclass(frozen=True, eq=False)
class Laboratory:
    """What all judgements share, loaded when it is needed.

    Attributes:
        study: The study.
    """

    study: ProxyStudy

    @cached_property
    def evaluator(self) -> MiniKDEvaluator:
        """What distils shortly."""
        return MiniKDEvaluator(self.study.mini)

    @cached_property
    def text(self) -> TrainingText:
        """What is distilled on for long."""
        return prepare_text(
            self.evaluator.workload.teacher,
            self.study.text,
            batch_size=self.study.recipe.batch_size,
            cache_dir=self.study.mini.cache_dir,
        )

    @cached_property
    def basis(self) -> EmbeddingBasis | None:
        """Coordinates of the teacher's embeddings, on that text."""
        made = self.study.recipe.embeddings != "random"
        return embedding_basis(self.text.workload, self.study.recipe.embeddings) if made else None

    @cached_property
    def task(self) -> TaskData:
        """The task."""
        return load_task(self.study.task, self.study.data)

    def judge(self, judgement: Judgement) -> dict[str, Any]:
        """Judge a student; what goes wrong with it is part of the answer."""
        judge = self._mini if judgement.kind == "mini-kd" else self._full
        try:
            with pinned_threads(self.evaluator.threads):
                result = judge(judgement)
        except Exception as error:
            if not (isinstance(error, FloatingPointError) or is_out_of_memory(error)):
                raise
            result = {"status": "failed", "error": one_line(error)}
        return {**result, "student": judgement.student.to_dict(), "kind": judgement.kind, "seed": judgement.seed}

    def _mini(self, judgement: Judgement) -> dict[str, Any]:
        fidelity = replace(self.study.fidelity, seed=judgement.seed)
        evaluation = self.evaluator.evaluate([judgement.student], fidelity)[0]
        latency = evaluation.latency
        return {
            "status": str(evaluation.status),
            "error": evaluation.error,
            "unexplained": list(evaluation.heldout_unexplained),
            "latency_ratio": None if latency is None else latency.ratio,
            "parameters": evaluation.parameters,
            "seconds": evaluation.wall_seconds,
        }

    def _full(self, judgement: Judgement) -> dict[str, Any]:
        study, workload, seed = self.study, self.text.workload, judgement.seed
        precision = self.evaluator.precision
        kd = MiniKD(
            workload, judgement.student, study.recipe, self.text.start(seed), basis=self.basis, precision=precision
        )
        checkpoints = judgement.path(Path(study.folder)).with_suffix(".checkpoints")
        result = distil(
            kd,
            self.text.samples,
            FullKDSettings(epochs=study.epochs, evaluations=max(2, study.epochs), patience=None),
            checkpoints,
            teacher_in_loop=self.text.teacher_in_loop,
        )
        tokenizer = workload.teacher.tokenizer
        if study.finetune:
            score = finetune(result.model, tokenizer, self.task, seed=seed)
        else:
            score = linear_probe(result.model, tokenizer, self.task, seed)
        shutil.rmtree(checkpoints)
        return {
            "status": str(score.status),
            "error": score.error,
            "unexplained": [point["unexplained"] for point in result.curve],
            "score": score.score,
            "seconds": result.curve[-1]["seconds"] + score.seconds,
        }


def judgements(students: Sequence[StudentConfig], *, mini_seeds: int, repeated: int, seed: int) -> list[Judgement]:
    """Return what is to be judged, in an order in which an unfinished study is worth most.

    Args:
        students: The students, fewest operations first.
        mini_seeds: Seeds of every short distillation.
        repeated: Students whose long distillation and score are repeated with another seed, evenly spread.
        seed: The first seed.
    """
    chosen = {students[index] for index in np.linspace(0, len(students) - 1, repeated).round().astype(int)}
    # Students of all sizes early on: the first, the middle, the quarters, and so on.
    bits = len(f"{len(students) - 1:b}")
    order = sorted(range(len(students)), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))
    first = [Judgement(kind, students[index], seed) for index in order for kind in ("mini-kd", "full-kd")]
    again = [Judgement("full-kd", students[index], seed + 1) for index in order if students[index] in chosen]
    others = [Judgement("mini-kd", students[index], seed + extra) for extra in range(1, mini_seeds) for index in order]
    return [*first, *others, *again]


def unjudged(study: ProxyStudy, wanted: Sequence[Judgement]) -> list[Judgement]:
    """Return the judgements that are not there."""
    return [judgement for judgement in wanted if not judgement.path(Path(study.folder)).exists()]


def judge_all(study: ProxyStudy, wanted: Sequence[Judgement], *, workers: int, on_progress: OnProgress) -> None:
    """Judge what was not judged before, and keep every judgement as it comes.

    Args:
        study: The study.
        wanted: What is to be judged.
        workers: Processes; 1 for this one.
        on_progress: Called with the number of judgements that are there, and of those wanted.
    """
    folder = Path(study.folder)
    (folder / "judgements").mkdir(parents=True, exist_ok=True)
    missing = unjudged(study, wanted)
    done = len(wanted) - len(missing)
    on_progress(done, len(wanted))
    for judgement, result in _judged(study, missing, workers):
        write_json(judgement.path(folder), result)
        done += 1
        on_progress(done, len(wanted))


def read_judgements(study: ProxyStudy, wanted: Sequence[Judgement]) -> dict[Judgement, dict[str, Any]]:
    """Return the judgements that are there."""
    paths = {judgement: judgement.path(Path(study.folder)) for judgement in wanted}
    return {judgement: read_json(path) for judgement, path in paths.items() if path.exists()}


def _judged(
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
    """A study that is compared by its folder, so that a worker loads it once."""

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
