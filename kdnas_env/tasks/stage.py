"""A short task stage: what a student of a task's teacher is worth on the task, in about the time of its mini-KD."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdnas_env.core.architecture import StudentConfig, student_position_offset
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.corpus import Corpus, load_corpus
from kdnas_env.distillation.text.demo import is_demo
from kdnas_env.distillation.training.mini_kd import schedule
from kdnas_env.distillation.training.packed import PackedBatch, PackedEncoder
from kdnas_env.distillation.training.workload import Workload, measuring_batches, training_batches
from kdnas_env.errors import KDNASError
from kdnas_env.support.progress import SILENT, OnProgress, Progress, enter_step
from kdnas_env.support.settings import Settings
from kdnas_env.support.untrusted import restore, shown
from kdnas_env.tasks.data import check_task, load_task
from kdnas_env.tasks.divergence import Departure, departure, divergences
from kdnas_env.tasks.finetuning import default_learning_rate
from kdnas_env.tasks.own import OwnTask
from kdnas_env.tasks.specs import REGRESSION, TaskData, TaskSpec, unlabelled_source
from kdnas_env.tasks.splits import text_keys
from kdnas_env.tasks.teacher import TASK_TEACHER, TaskTeacher, TeacherSettings, task_teacher

FORMAT_VERSION = 2

_ORDER, _DRAW = 11, 12
_SOLVER_STEPS = 100
_LEAST_SAMPLES = 8
_JUDGED_SHARE = 1 / 3


@dataclass(frozen=True)
class StageSettings(Settings):
    """How long a task stage is, and how it is trained.

    Attributes:
        samples: Texts to train on, at most, whatever the fidelity. With a few hundred, deep students get worse than
            they start.
        heldout: Texts to judge on, at most; no more than a third of the corpus, but for what mini-KD holds out.
        epochs: Passes over the texts; 0 for a head on frozen states alone.
        batch_size: Texts per step.
        learning_rate: Peak learning rate of AdamW; None for
            :func:`kdnas_env.tasks.finetuning.default_learning_rate`.
        warmup_fraction: Share of the steps over which it rises.
        penalty: Of the squared weights of the head as it is solved before and after the training, for pooled states of
            variance 1; the divergences of all texts are summed.

    Raises:
        KDNASError: If a value is out of range.
    """

    samples: int = 2000
    heldout: int = 1000
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_fraction: float = 0.1
    penalty: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("samples", "heldout", at_least=_LEAST_SAMPLES)
        self.check_numbers("epochs", at_least=0)
        self.check_numbers("batch_size", at_least=1)
        self.check_numbers("learning_rate", above=0)
        self.check_numbers("warmup_fraction", at_least=0, below=1)
        self.check_numbers("penalty", above=0)


@dataclass(frozen=True)
class SearchTask(Settings):
    """The task of a search, as plain data.

    Attributes:
        name: Name of a task, or a file, folder or dataset of one's own, as :func:`kdnas_env.tasks.data.load_task` takes
            it.
        data: Folder of GLUE.
        own: How a task of one's own is laid out.
        unlabelled: Text of the stage: a source of :func:`kdnas_env.distillation.text.corpus.load_corpus`, or ``none``
            for the corpus of the search; by default ``demo:all`` for the embedded tasks, and the corpus for others.
            Text that the task's teacher was trained on tells less: it knows the labels by heart.
        teacher: How the teacher is fine-tuned on it.
        stage: The stage that students take.

    Raises:
        KDNASError: If there is no such task.
    """

    name: str
    data: str | None = None
    own: OwnTask = field(default_factory=OwnTask)
    unlabelled: str | None = None
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    stage: StageSettings = field(default_factory=StageSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_task(self.name)

    @classmethod
    def of(cls, task: str | Mapping[str, Any]) -> SearchTask:
        """Return the task from its name, or from a mapping of fields.

        Raises:
            KDNASError: If it is malformed, or there is no such task.
        """
        try:
            return restore(cls, {"name": task} if isinstance(task, str) else task)
        except KDNASError:
            raise
        except ValueError as error:
            raise KDNASError(f"task {shown(task)} is malformed: {error}") from error

    def prepared(
        self, teacher: Teacher, *, cache_dir: str | os.PathLike[str] | None = None, progress: Progress = SILENT
    ) -> tuple[TaskData, TaskTeacher]:
        """Return the data of the task, and its teacher, fine-tuned once and kept.

        Args:
            teacher: The teacher of the search.
            cache_dir: Where the task's teacher is kept; None for the user's cache folder.
            progress: Told of the preparations.

        Raises:
            CorpusError: If the task cannot be read.
            KDNASError, FloatingPointError, DependencyError: See :func:`kdnas_env.tasks.teacher.task_teacher`.
        """
        progress.begin(f"preparing task {self.name}")
        data = load_task(self.name, self.data, self.own)
        settings = replace(self.teacher, finetuning=replace(self.teacher.finetuning, device=teacher.device.type))
        return data, task_teacher(teacher, data, settings, cache_dir=cache_dir, progress=progress)

    def text(self, workload: Workload, data: TaskData) -> Workload:
        """Return a workload with the text of the stage, in place of the corpus of the search.

        Texts that the task is validated or tested on are left out; of the embedded text they are already.

        Args:
            workload: The workload of the search.
            data: The task.

        Raises:
            CorpusError: If it cannot be read.
        """
        source = unlabelled_source(self.name, self.unlabelled)
        if source is None:
            return workload
        evaluated = {key for split in data.evaluation.values() for keys in text_keys(split) for key in keys}
        wanted, report = self.stage.samples + self.stage.heldout, workload.corpus.report
        corpus = load_corpus(
            source,
            workload.teacher.tokenizer,
            max_length=report.max_length,
            max_samples=wanted,
            min_samples=_LEAST_SAMPLES,
            proxy_fraction=1.0,
            heldout_fraction=self.stage.heldout / wanted,
            without=None if is_demo(source) else evaluated,
            seed=report.seed,
        )
        return replace(workload, corpus=corpus, train=corpus.train, heldout=corpus.heldout)


class TaskStage:
    """The short task stage that all students of a search take.

    A student is given a head over its mean-pooled states, the linear one that comes closest to the soft labels of the
    task's teacher. Both are then trained towards them, embeddings apart, and the head is solved once more, so that what
    is judged is what the states are worth. All students see the same texts in the same order.

    Args:
        workload: Teacher and text. What its corpus holds out is judged on, what mini-KD trains on is trained on; other
            texts of the corpus fill both up.
        spec: What the task is.
        teacher: The task's teacher, with the tokenizer of the corpus.
        settings: How long, and how.
        cache_dir: Where soft labels are kept.
        on_progress: Called with the texts that are labelled.

    Attributes:
        identity: What decides its results beside the workload, as plain data.

    Raises:
        KDNASError: If the corpus holds pairs and the task does not, or the other way round; or the teacher answers all
            texts alike.
    """

    def __init__(
        self,
        workload: Workload,
        spec: TaskSpec,
        teacher: TaskTeacher,
        settings: StageSettings,
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        on_progress: OnProgress = SILENT.advance,
    ) -> None:
        _check_columns(workload.corpus, spec)
        train, heldout = stage_samples(workload.corpus, settings)
        self._texts = replace(workload, train=train, heldout=heldout)
        self._in_tokens: dict[bytes, Workload] = {}
        self._kind, self._settings = spec.kind, settings
        self.identity = {
            **{"format_version": FORMAT_VERSION, "teacher": teacher.fingerprint, "kind": spec.kind},
            **{"stage": asdict(settings), "text": workload.corpus.fingerprint},
        }
        every = np.concatenate([train, heldout])
        soft = teacher.corpus_soft_labels(workload.corpus, every, cache_dir, on_progress=on_progress)
        self._soft = torch.from_numpy(soft.copy()).to(workload.device)
        self._places = np.full(len(workload.corpus), -1, dtype=np.int64)
        self._places[every] = np.arange(len(every))
        self._scale, self._centre = 1.0, 0.0
        if self._kind == REGRESSION:
            self._centre, self._scale = float(soft.mean()), float(soft.std()) or 1.0
        judged = self._labels(heldout)
        if departure(self._kind, judged, judged).reference <= 0:
            raise KDNASError(f"the teacher of {spec.name!r} answers all texts of the corpus alike; give other text")

    @cached_property
    def samples(self) -> tuple[int, int]:
        """How many texts are trained on, and judged on."""
        return len(self._texts.train), len(self._texts.heldout)

    def run(
        self,
        model: Any,
        config: StudentConfig,
        fidelity: Fidelity,
        *,
        precision: str = "float32",
        kept: NDArray[np.int64] | None = None,
    ) -> Departure:
        """Return how far a student is from the task's teacher after the stage.

        Args:
            model: The student as an encoder of transformers; it does not change.
            config: Its architecture.
            fidelity: Seed of the order of the texts; nothing else of it counts.
            precision: ``float32`` or ``bfloat16``.
            kept: Ids of the tokens of the student's vocabulary; None for all. The model has all rows in any case.

        Raises:
            FloatingPointError: If a loss is not finite.
            torch.OutOfMemoryError: If the device's memory is too small.
        """
        texts = self._texts_in(kept)
        encoder = PackedEncoder(
            copy.deepcopy(model).to(texts.device).requires_grad_(True),
            position_offset=student_position_offset(config, texts.teacher.architecture),
            vocabulary=texts.vocabulary,
        )
        student = _Student(encoder, texts, precision)
        head = self._solved_head(student)
        if self._settings.epochs:
            self._train(student, head, config.hidden_size, fidelity.seed)
            head = self._solved_head(student)
        plan = measuring_batches(texts.corpus, texts.heldout)
        with torch.no_grad():
            outputs = [self._outputs(head(student.pooled(texts.packed(batch)))) for batch in plan]
        return departure(self._kind, torch.cat(outputs), self._labels(np.concatenate(plan)))

    def _texts_in(self, kept: NDArray[np.int64] | None) -> Workload:
        """Return the texts in the tokens of a student; those of each smaller vocabulary are made once."""
        if kept is None:
            return self._texts
        name = kept.tobytes()
        if name not in self._in_tokens:
            self._in_tokens[name] = self._texts.in_tokens(kept)
        return self._in_tokens[name]

    def _labels(self, samples: NDArray[np.int64]) -> Tensor:
        return self._soft[torch.from_numpy(self._places[samples])]

    def _outputs(self, values: Tensor) -> Tensor:
        """Return logits, or numbers, of what a head returns."""
        return values[:, 0] * self._scale + self._centre if self._kind == REGRESSION else values

    def _loss(self, values: Tensor, soft_labels: Tensor) -> Tensor:
        return divergences(self._kind, self._outputs(values), soft_labels).mean() / self._scale**2

    def _solved_head(self, student: _Student) -> nn.Linear:
        """Return the linear map from pooled states with the least divergence from the teacher, which is convex."""
        plan = measuring_batches(student.texts.corpus, student.texts.train)
        with torch.no_grad():
            pooled = torch.cat([student.pooled(student.texts.packed(batch)) for batch in plan]).double()
        soft = self._labels(np.concatenate(plan)).double()
        mean, scale = pooled.mean(0), (pooled - pooled.mean(0)).square().mean().sqrt()
        standard = (pooled - mean) / scale
        outputs = 1 if soft.ndim == 1 else soft.shape[1]
        weight = pooled.new_zeros(pooled.shape[1], outputs, requires_grad=True)
        bias = pooled.new_zeros(outputs, requires_grad=True)
        penalty = self._settings.penalty / len(soft)
        solver = torch.optim.LBFGS([weight, bias], max_iter=_SOLVER_STEPS, line_search_fn="strong_wolfe")

        def penalised() -> Tensor:
            solver.zero_grad()
            loss = self._loss(standard @ weight + bias, soft) + penalty * weight.square().sum()
            torch.autograd.backward(loss)
            return loss

        solver.step(penalised)  # type: ignore[no-untyped-call]
        head = nn.Linear(len(weight), outputs, device="meta").to_empty(device=pooled.device)  # draws no weights
        with torch.no_grad():
            head.weight.copy_((weight / scale).T)
            head.bias.copy_(bias - mean @ (weight / scale))
        return head

    def _train(self, student: _Student, head: nn.Linear, width: int, seed: int) -> None:
        settings, texts = self._settings, student.texts
        rng = np.random.default_rng([seed, _ORDER])
        plan = [
            batch
            for _ in range(settings.epochs)
            for batch in training_batches(texts.corpus, texts.train, settings.batch_size, rng)
        ]
        peak = settings.learning_rate or default_learning_rate(width)
        trained = [*student.trained(), *head.parameters()]
        optimiser = torch.optim.AdamW(trained, lr=peak, weight_decay=0.01, fused=True)
        total = torch.zeros((), device=texts.device)
        for step, batch in enumerate(plan):
            for group in optimiser.param_groups:
                group["lr"] = peak * schedule(step, len(plan), settings.warmup_fraction)
            loss = self._loss(head(student.pooled(texts.packed(batch))), self._labels(batch))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            total += loss.detach()
        if not np.isfinite(float(total)):
            raise FloatingPointError("the loss of the task stage is not finite; lower its learning rate")


@dataclass(frozen=True, eq=False)
class _Student:
    encoder: PackedEncoder
    texts: Workload
    precision: str

    def pooled(self, batch: PackedBatch) -> Tensor:
        """Return the mean of the last states of each sequence, ``(sequences, width)``."""
        half = self.precision == "bfloat16"
        with torch.autocast(batch.input_ids.device.type, dtype=torch.bfloat16, enabled=half):
            states = batch.pad(self.encoder(batch)[-1]).float()
        return states.mean(1) if batch.mask is None else states.sum(1) / batch.mask.sum(1, keepdim=True)

    def trained(self) -> list[nn.Parameter]:
        """Return all parameters but those of the embeddings, which are kept as they are."""
        named = list(self.encoder.named_trainable())
        for name, parameter in named:
            parameter.requires_grad_("embeddings." not in name)
        return [parameter for _, parameter in named if parameter.requires_grad]


def open_stage(
    workload: Workload,
    task: SearchTask,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> TaskStage:
    """Return the stage of a task; :class:`SearchTask` and :class:`TaskStage` say what may go wrong."""
    enter_step(progress, TASK_TEACHER)
    data, teacher = task.prepared(workload.teacher, cache_dir=cache_dir, progress=progress)
    text = task.text(workload, data)
    count = sum(map(len, stage_samples(text.corpus, task.stage)))
    origin = unlabelled_source(task.name, task.unlabelled) or "the search's corpus"
    progress.begin(f"labelling {count:,} texts of {origin} with the teacher of {data.name}")
    return TaskStage(text, data.spec, teacher, task.stage, cache_dir, on_progress=progress.advance)


def stage_samples(corpus: Corpus, settings: StageSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the samples of a stage: to train on, and to judge on, each int64 and sorted.

    What mini-KD may train on is never judged on, and what it holds out is never trained on.
    """
    rng = np.random.default_rng([corpus.report.seed, _DRAW])
    others = rng.permutation(np.setdiff1d(corpus.train_full, corpus.train))
    judged = min(settings.heldout, max(len(corpus.heldout), int(_JUDGED_SHARE * len(corpus))))
    heldout = np.concatenate([rng.permutation(corpus.heldout), others])[:judged]
    left = np.setdiff1d(others, heldout, assume_unique=True)
    train = np.concatenate([rng.permutation(corpus.train), rng.permutation(left)])[: settings.samples]
    return np.sort(train), np.sort(heldout)


def _check_columns(corpus: Corpus, spec: TaskSpec) -> None:
    columns = 2 if corpus.report.pair_fraction else len(corpus.report.text_columns)
    if columns != len(spec.columns):
        raise KDNASError(
            f"the corpus has texts of {columns} columns, the task {spec.name!r} of {len(spec.columns)}, "
            f"{list(spec.columns)}; name as many with `corpus.text_columns`"
        )
