"""Live evaluations: distil a student briefly, then measure its latency beside its teacher's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdnas_env.core.architecture import StudentConfig, count_parameters, forward_flops
from kdnas_env.core.constraints import Constraints
from kdnas_env.core.evaluation import EpochCallback, EpochReport, Evaluation, Fidelity, Latency, Status
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.student.folder import Lineage, save_student
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.training.embeddings import EmbeddingBases
from kdnas_env.distillation.training.mini_kd import EpochResult, MiniKD
from kdnas_env.distillation.training.recipe import JUDGED, Recipe, changed, resolve_recipe
from kdnas_env.distillation.training.workload import open_workload
from kdnas_env.errors import CacheError, DependencyError, RunError, SpaceError, is_out_of_memory, one_line
from kdnas_env.evaluators.best_student import BestStudent
from kdnas_env.evaluators.mini_kd_settings import MiniKDSettings, latency_settings
from kdnas_env.latency import LatencyProbe
from kdnas_env.support.cpu_lock import pinned_threads, training_lock
from kdnas_env.support.identity import fingerprint_of
from kdnas_env.support.progress import SILENT, Progress

if TYPE_CHECKING:
    from kdnas_env.tasks.divergence import Departure
    from kdnas_env.tasks.stage import TaskStage

FORMAT_VERSION = 2
"""Version of the results; increased whenever equal settings would give different results."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """An evaluation together with its student.

    Attributes:
        evaluation: The record.
        model: The student as a transformers encoder, on the CPU; None if the evaluation failed.
        projection: State of the student's training objective.
        kept: Ids of the tokens of its vocabulary; None for all of the teacher's.
    """

    evaluation: Evaluation
    model: Any
    projection: dict[str, Tensor] = field(default_factory=dict)
    kept: NDArray[np.int64] | None = None


class MiniKDEvaluator:
    """Distils students of one teacher on one corpus.

    The constructor loads teacher, corpus and hidden states. An error of one student becomes a record of that student
    (``invalid``, ``diverged``, ``out_of_memory``, ``failed``); an error that affects every student, such as a lost
    cache, is raised.

    Args:
        settings: The settings of the evaluations.
        progress: Receives the progress of the preparations.
        best: Keeps the best of the students that :meth:`evaluate` distils; None discards all.

    Attributes:
        best: The keeper of the best student, or None.
        settings: The settings of the evaluations.
        recipe: The recipe of the search; :meth:`recipe_of` returns the recipe of a student.
        text_fingerprint: SHA-256 (hex) of the tokenised corpus before masking.
        workload: Teacher, corpus and hidden states.
        stage: The task stage after each distillation; None without a task.
        probe: The latency probe.
        precision: ``float32`` or ``bfloat16``.
        threads: PyTorch threads for teacher and students.
        deterministic: Whether equal calls give equal records, except for wall times: with a modelled latency on the
            CPU.
        MODULES: Modules that are slow to import and imported only when needed; workers import them in advance.

    Raises:
        TeacherError, CorpusError, CacheError, LatencyError, DependencyError: If a part of the workload is unavailable.
        KDNASError: If the recipe is malformed.
    """

    MODULES: ClassVar[tuple[str, ...]] = (
        __name__,
        "datasets",
        "transformers.models.auto.tokenization_auto",
        *(f"transformers.models.{family}.modeling_{family}" for family in ("bert", "roberta", "albert")),
    )

    def __init__(
        self,
        settings: MiniKDSettings,
        *,
        progress: Progress = SILENT,
        best: BestStudent | None = None,
    ) -> None:
        self.settings = settings
        self.best = best
        self.recipe: Recipe = resolve_recipe(settings.recipe)
        latency = latency_settings(settings.latency)
        self.threads = settings.threads or torch.get_num_threads()
        progress.begin("preparing teacher")
        teacher = load_teacher(
            settings.teacher, device=settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
        device = teacher.device
        with pinned_threads(self.threads):
            self.workload, self.text_fingerprint = open_workload(
                teacher,
                settings.corpus,
                self.recipe,
                cache_dir=settings.cache_dir,
                cache_dtype=settings.cache_dtype,
                progress=progress,
            )
        self.stage: TaskStage | None = None
        if settings.task is not None:
            from kdnas_env.tasks.search_task import SearchTask, open_stage

            with pinned_threads(self.threads):
                task = SearchTask.of(settings.task)
                self.stage = open_stage(self.workload, task, cache_dir=settings.cache_dir, progress=progress)
        self.probe = LatencyProbe(teacher.model, teacher.architecture, latency)
        self.precision = settings.precision or ("bfloat16" if device.type == "cuda" else "float32")
        self._limits = Constraints.of(settings.limits)
        self._bases = EmbeddingBases(self.workload)
        self.deterministic = device.type == "cpu" and not self.probe.needs_models

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of teacher, corpus, recipe, latency settings, precision and kind of device."""
        return self._fingerprint_on(self.workload.device.type)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of teacher and corpus, whose content may change under one name."""
        return {"teacher": self.workload.teacher.fingerprint, "corpus": self.workload.corpus.fingerprint}

    @property
    def alike(self) -> tuple[str, ...]:
        """Fingerprints of the same workload on other kinds of devices."""
        return tuple(self._fingerprint_on(kind) for kind in ("cpu", "cuda") if kind != self.workload.device.type)

    def _fingerprint_on(self, device: str) -> str:
        identity = {
            "format_version": FORMAT_VERSION,
            "workload": self.workload.fingerprint,
            "recipe": self.recipe.to_dict(),
            "latency": asdict(self.probe.settings),
            "precision": self.precision,
            "device": device,
        }
        if self.stage is not None:
            identity["task"] = self.stage.identity
        return fingerprint_of(identity)

    def warm_up(self) -> None:
        """Compute the data shared by all students, for which the first student would otherwise wait."""
        with self._training():
            _ = self.workload.train_means, self._bases.of(self.recipe.embeddings)

    def evaluate(
        self, configs: Sequence[StudentConfig], fidelity: Fidelity, *, on_epoch: EpochCallback | None = None
    ) -> list[Evaluation]:
        """Evaluate students one after the other.

        Raises:
            CacheError, RunError, DependencyError: If no student can be evaluated.
        """
        evaluations = []
        for index, config in enumerate(configs):
            student = self.distil(config, fidelity, on_epoch=on_epoch, candidate=index, candidates=len(configs))
            if self.best is not None and student.model is not None:
                self.best.offer(student.evaluation, partial(self.save, student))
            evaluations.append(student.evaluation)
        return evaluations

    def distil(
        self,
        config: StudentConfig,
        fidelity: Fidelity,
        *,
        on_epoch: EpochCallback | None = None,
        candidate: int = 0,
        candidates: int = 1,
    ) -> Distilled:
        """Evaluate one student and return it. On the CPU, equal calls give the same student, bit for bit.

        Args:
            config: The student.
            fidelity: Epochs, share of the training samples, and seed.
            on_epoch: Called after each epoch; a true return value stops the student.
            candidate: Index of the student in the batch, for the reports.
            candidates: Number of students in the batch.

        Raises:
            CacheError, RunError, DependencyError: If no student can be evaluated.
        """
        began = time.perf_counter()
        results: list[EpochResult] = []
        model, latency, status, reason = None, None, Status.OK, ""
        task: Departure | None = None
        projection: dict[str, Tensor] = {}

        def stop(result: EpochResult) -> bool:
            results.append(result)
            report = EpochReport(
                config=config,
                candidate=candidate,
                candidates=candidates,
                epoch=result.epoch,
                epochs=fidelity.epochs,
                heldout_unexplained=result.heldout.unexplained,
                seconds=time.perf_counter() - began,
            )
            return bool(on_epoch and on_epoch(report))

        try:
            if self._limits:
                # Measured even if the size alone breaks a limit: agents and reports compare students by the sum of all
                # excesses, which would be too small without the latency.
                known = self._record(config, fidelity, status, reason, results, None, began)
                latency = self._latency_untrained(known)
                known = replace(known, latency=latency)
                status = self._limits.screened(known).status
            if status is Status.OK:
                trained = self._train(config, fidelity, stop)
                if trained is None:
                    status, latency = Status.STOPPED, None
                else:
                    model, projection = trained.export(), trained.objective.state_dict()
                    task = self._on_task(model, config, fidelity, trained.kept)
                    latency = latency or self.probe.measure(model, config)
        except (CacheError, RunError, DependencyError):
            raise
        except Exception as error:
            status, reason = _status_of(error), one_line(error)
            latency, model, projection = None, None, {}
        record = self._record(config, fidelity, status, reason, results, latency, began)
        if task is not None and status is Status.OK:
            record = replace(record, task_divergence=task.divergence, task_unexplained=task.unexplained)
        kept = None if model is None else self.workload.kept_tokens(config.vocabulary)
        return Distilled(self._limits.screened(record), model, projection, kept)

    def _latency_untrained(self, known: Evaluation) -> Latency:
        """Return the latency of a student with random weights; it equals that of the distilled student.

        Args:
            known: The record of the student without its latency. The measurement ends as soon as the student surely
                breaks a limit.
        """
        teacher, config = self.workload.teacher, known.config
        # In eval mode, since the probe would copy a model in training mode.
        model = build_student(config, teacher.architecture, seed=0).eval() if self.probe.needs_models else None
        return self.probe.measure(
            model, config, enough=lambda latency: self._limits.surely_breaks(replace(known, latency=latency))
        )

    def _on_task(
        self, model: Any, config: StudentConfig, fidelity: Fidelity, kept: NDArray[np.int64] | None
    ) -> Departure | None:
        """Return the result of the task stage of a distilled student, which stays unchanged; None without a task."""
        if self.stage is None:
            return None
        with self._training():
            return self.stage.run(model, config, fidelity, precision=self.precision, kept=kept)

    def save(self, student: Distilled, folder: Path) -> None:
        """Write the folder of a student, without a model card, atomically.

        Raises:
            RunError: If the folder cannot be written.
        """
        tokenizer = self.workload.teacher.tokenizer
        lineage = self.lineage(student.evaluation)
        save_student(folder, student.model, tokenizer, "", lineage, student.projection, kept=student.kept)

    def lineage(self, evaluation: Evaluation) -> Lineage:
        """Return the lineage of the student of an evaluation."""
        fidelity = evaluation.fidelity
        corpus = self.settings.corpus
        return Lineage(
            student=evaluation.config,
            teacher=self.settings.teacher,
            teacher_fingerprint=self.workload.teacher.fingerprint,
            corpus={"source": corpus} if isinstance(corpus, str) else dict(corpus),
            recipe=self.recipe_of(evaluation.config).to_dict(),
            stages=(
                {
                    "stage": "mini-kd",
                    **asdict(fidelity),
                    "samples": len(self.workload.subset(fidelity.data_fraction, fidelity.seed)),
                    "heldout_unexplained": list(evaluation.heldout_unexplained),
                },
            ),
            versions={name: str(evaluation.details[name]) for name in ("kdnas", "torch", "transformers")},
            corpus_fingerprint=self.text_fingerprint,
        )

    def recipe_of(self, config: StudentConfig) -> Recipe:
        """Return the recipe of a student: the recipe of the search with the student's changes.

        Raises:
            SpaceError: If the student changes an unknown field of the recipe.
        """
        return changed(self.recipe, config.recipe)

    def _train(self, config: StudentConfig, fidelity: Fidelity, stop: Callable[[EpochResult], bool]) -> MiniKD | None:
        """Return the distilled student, or None if it was stopped."""
        recipe = self.recipe_of(config)
        judged = any(name in JUDGED for name, _ in config.recipe)
        with self._training():
            kd = MiniKD(
                self.workload,
                config,
                recipe,
                fidelity,
                basis=self._bases.of(recipe.embeddings),
                precision=self.precision,
                judge=self.recipe if judged else None,
            )
        epochs = kd.epochs()
        while True:
            # A latency probe of another process can run between two epochs.
            with self._training():
                result = next(epochs, None)
            if result is None:
                return kd
            if stop(result):
                return None

    @contextmanager
    def _training(self) -> Iterator[None]:
        with training_lock(), pinned_threads(self.threads):
            yield

    def _record(
        self,
        config: StudentConfig,
        fidelity: Fidelity,
        status: Status,
        reason: str,
        results: Sequence[EpochResult],
        latency: Latency | None,
        began: float,
    ) -> Evaluation:
        teacher, probe = self.workload.teacher.architecture, self.probe.settings
        vocabulary = self._vocabulary(config) if status is Status.OK else {}
        return Evaluation(
            config=config,
            fidelity=fidelity,
            status=status,
            train_loss=tuple(result.train.loss for result in results),
            heldout_loss=tuple(result.heldout.loss for result in results),
            train_unexplained=tuple(result.train.unexplained for result in results),
            heldout_unexplained=tuple(result.heldout.unexplained for result in results),
            epoch_seconds=tuple(result.seconds for result in results),
            wall_seconds=time.perf_counter() - began,
            latency=latency,
            parameters=count_parameters(config, teacher, tokens=vocabulary.get("tokens")),
            flops=forward_flops(config, teacher, batch=probe.batch_size, length=probe.sequence_length),
            peak_memory_bytes=max((result.peak_memory_bytes for result in results), default=0),
            device=str(self.workload.device),
            error=reason,
            details={
                "precision": self.precision,
                "threads": self.threads,
                "kdnas": version("kdnas"),
                "torch": version("torch"),
                "transformers": version("transformers"),
                **({"vocabulary": vocabulary} if vocabulary else {}),
            },
        )

    def _vocabulary(self, config: StudentConfig) -> dict[str, Any]:
        """Return the size of a reduced vocabulary and its effect on the held-out text; empty for the full one."""
        retokenised = self.workload.of_vocabulary(config.vocabulary).retokenised
        if retokenised is None:
            return {}
        unknown = self.workload.teacher.tokenizer.unk_token_id
        return {"tokens": len(retokenised.kept), **retokenised.shares(self.workload.heldout, unknown)}


def _status_of(error: Exception) -> Status:
    if isinstance(error, SpaceError):
        return Status.INVALID
    if isinstance(error, FloatingPointError):
        return Status.DIVERGED
    return Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.FAILED
