"""What helps a student on its task: labels, soft labels, text without labels, temperature, pooling, hidden states.

    python benchmarks/task_recipes.py STUDENT --task rotten_tomatoes --json FILE

One distilled student learns an embedded task in several ways, from one fine-tuned teacher, per seed. Most ways are
those of ``kdnas distill --task`` with one thing changed; ``labels`` is fine-tuning, as ``kdnas score`` does it. The
table shows the divergence from the one teacher and the agreement with its decisions on texts that were not used to
learn the task, the accuracy on the test split, and the seconds (of seed 0 with the labelling of texts that are not in
the cache): means over seeds, and the mean difference from the first way over the same seeds, with a 95 % bootstrap
interval over seeds. Nothing is chosen on these. Scores that FILE has are not made again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from command import run_command
from kept_scores import keep_scores, kept_scores
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.errors import KDNASError
from kdnas_env.support.statistics import percentile_interval, resampled_means
from kdnas_env.tasks.classifier import Classifier
from kdnas_env.tasks.data import load_task, read_unlabelled
from kdnas_env.tasks.distilling import TaskDistillationSettings, Texts, distil_task, new_texts
from kdnas_env.tasks.divergence import departure
from kdnas_env.tasks.encoding import encode, pad, tokenizer_fingerprint
from kdnas_env.tasks.finetuning import FinetuneSettings, fit, predict
from kdnas_env.tasks.heads import NATIVE
from kdnas_env.tasks.specs import TEST, Split, TaskData
from kdnas_env.tasks.teacher import TaskTeacher, TeacherSettings, task_teacher

FIRST = "soft labels, text without labels, then labels"
START_SAMPLES = 256
"""Texts from which the map to the teacher's hidden states starts."""

COLUMNS = {
    "divergence": ("divergence", 1.0, ".4f"),
    "agreement": ("same decision, %", 100.0, ".2f"),
    "accuracy": ("test accuracy, %", 100.0, ".2f"),
    "seconds": ("seconds", 1.0, ".0f"),
}


@dataclass(frozen=True)
class Arguments:
    """Compare ways of learning a task.

    Attributes:
        student: Folder of a distilled student.
        json: File of the scores; those that it holds are kept.
        task: The task.
        ways: Ways to compare with the first one; all by default.
        seeds: Number of seeds, from 0 on.
        unlabelled_samples: Texts without labels, of which those of the task's splits are left out.
        heldout_samples: Texts that are not used to learn the task.
        epochs: Passes over labelled and unlabelled text.
        teacher_epochs: Passes over labelled text when the teacher is fine-tuned; the default of the task if None.
        max_length: Longest sequence in tokens.
    """

    student: Annotated[Path, tyro.conf.Positional]
    json: Path
    task: Literal["rotten_tomatoes", "imdb"] = "rotten_tomatoes"
    ways: tuple[str, ...] = ()
    seeds: int = 10
    unlabelled_samples: int = 10_000
    heldout_samples: int = 5_000
    epochs: int = 3
    teacher_epochs: int | None = None
    max_length: int = 128


@dataclass(frozen=True)
class Work:
    """A student, and what it learns from."""

    student: Any
    task: TaskData
    teachers: Callable[[int], TaskTeacher]
    unlabelled: Texts
    settings: TaskDistillationSettings


class _Imitator(Classifier):
    """A classifier whose last hidden states, through a linear map, imitate those of its teacher.

    The map starts as the least-squares solution on some texts, and is trained.
    """

    def __init__(self, network: Any, task: TaskData, teacher: TaskTeacher, start: dict[str, Tensor]) -> None:
        super().__init__(network.eval(), task)
        # In a list, so that the teacher is no part of the model.
        self.encoders = [_encoder(teacher.members[0])]
        mask = start["attention_mask"].bool()
        with torch.no_grad():
            own, taught = (encoder(**start).last_hidden_state[mask] for encoder in (_encoder(network), *self.encoders))
        self.variance = float(taught.var(0).sum())
        padded = torch.cat([own, own.new_ones(len(own), 1)], 1)
        solution = torch.linalg.lstsq(padded, taught).solution
        self.projection = nn.Linear(own.shape[1], taught.shape[1])
        with torch.no_grad():
            self.projection.weight.copy_(solution[:-1].T)
            self.projection.bias.copy_(solution[-1])
        self.states: list[Tensor] = []
        _encoder(network).register_forward_hook(lambda _, __, output: self.states.append(output.last_hidden_state))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        soft_labels: Tensor | None = None,
    ) -> Any:
        self.states.clear()
        result = super().forward(input_ids, attention_mask, token_type_ids, labels, soft_labels)
        if isinstance(result, Tensor):
            return result
        mask = attention_mask.bool()
        with torch.no_grad():
            taught = self.encoders[0](input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[mask]
        missed = (self.projection(self.states[-1][mask]) - taught).square().sum(1).mean() / self.variance
        return {**result, "loss": result["loss"] + missed}


def _encoder(model: nn.Module) -> Any:
    """Return the encoder in a model, without its head."""
    whole = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    return whole.base_model


Way = Callable[[Work, int], Classifier]


def distilled(change: Callable[[Work], TaskDistillationSettings], *, unlabelled: bool = True, teachers: int = 1) -> Way:
    """Return a way of task distillation with changed settings."""

    def learn(work: Work, seed: int) -> Classifier:
        return distil_task(
            work.student.model,
            work.student.tokenizer,
            work.task,
            work.teachers(teachers),
            change(work),
            seed,
            unlabelled=work.unlabelled if unlabelled else (),
        ).model

    return learn


def labels_only(work: Work, seed: int) -> Classifier:
    """Fine-tune on labels."""
    return fit(work.student.model, work.student.tokenizer, work.task, work.settings.finetuning, seed).model


def _tuned(work: Work, **changes: Any) -> TaskDistillationSettings:
    return replace(work.settings, finetuning=replace(work.settings.finetuning, **changes))


def _imitating(work: Work) -> TaskDistillationSettings:
    """Return settings of a training whose loss has the unexplained variance of the teacher's hidden states, too.

    Raises:
        KDNASError: If the student has other tokens than its teacher.
    """
    teacher = work.teachers(1)
    if tokenizer_fingerprint(work.student.tokenizer) != tokenizer_fingerprint(teacher.tokenizer):
        raise KDNASError("the student has other tokens than its teacher, so their hidden states cannot be compared")

    class Imitating(FinetuneSettings):
        def classifier(self, encoder: nn.Module, task_data: TaskData, seed: int) -> Classifier:
            network = super().classifier(encoder, task_data, seed).network
            texts = tuple(column[:START_SAMPLES] for column in task_data.train.texts)
            examples = encode(teacher.tokenizer, Split(texts, task_data.train.labels[:START_SAMPLES]), self.max_length)
            return _Imitator(network, task_data, teacher, pad(examples, teacher.tokenizer.pad_token_id))

    return replace(work.settings, finetuning=Imitating(**asdict(work.settings.finetuning)))


WAYS: dict[str, Way] = {
    FIRST: distilled(lambda work: work.settings),
    "labels": labels_only,
    "soft labels": distilled(lambda work: replace(work.settings, label_epochs=0), unlabelled=False),
    "soft labels, then labels": distilled(lambda work: work.settings, unlabelled=False),
    "soft labels, text without labels": distilled(lambda work: replace(work.settings, label_epochs=0)),
    "temperature 2": distilled(lambda work: replace(work.settings, temperature=2.0)),
    "temperature 4": distilled(lambda work: replace(work.settings, temperature=4.0)),
    "linear head on the first token": distilled(lambda work: _tuned(work, pooling="cls")),
    "linear head on the mean": distilled(lambda work: _tuned(work, pooling="mean")),
    "no dropout": distilled(lambda work: replace(work.settings, dropout=0.0)),
    "dropout of attention weights": distilled(lambda work: replace(work.settings, attention_dropout=0.1)),
    "hidden states in the loss": distilled(_imitating),
    "three teachers": distilled(lambda work: work.settings, teachers=3),
}
"""Ways of learning a task; each changes one thing of the first."""


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If FILE cannot be written, or holds scores of other settings.
        KDNASError: If the student cannot be read, or a way is unknown.
    """
    ways = [FIRST, *(arguments.ways or [way for way in WAYS if way != FIRST])]
    unknown = sorted(set(ways) - set(WAYS))
    if unknown:
        raise KDNASError(f"unknown way {unknown[0]!r}; choose from {list(WAYS)}")
    student = load_teacher(arguments.student, role="student")
    fixed = {name: value for name, value in asdict(arguments).items() if name not in ("json", "ways", "seeds")}
    fixed["student"] = student.fingerprint
    scores: list[dict[str, Any]] = kept_scores(arguments.json, fixed, [])
    task, teacher = load_task(arguments.task), load_teacher("demo")
    tuning = FinetuneSettings(max_length=arguments.max_length, device="cpu")

    @functools.cache
    def taught(teachers: int) -> TaskTeacher:
        finetuning = replace(tuning, epochs=arguments.teacher_epochs)
        return task_teacher(teacher, task, TeacherSettings(teachers, (1.0,), finetuning))

    unlabelled, heldout = drawn_texts(task, arguments)
    settings = TaskDistillationSettings(finetuning=replace(tuning, epochs=arguments.epochs, pooling=NATIVE))
    work = Work(student, task, taught, unlabelled, settings)
    taught(1)  # before anything is timed
    for seed in range(arguments.seeds):
        for way in ways:
            if any((score["way"], score["seed"]) == (way, seed) for score in scores):
                continue
            began = time.perf_counter()
            model = WAYS[way](work, seed)
            seconds = time.perf_counter() - began
            scores.append({"way": way, "seed": seed, **judged(work, model, heldout), "seconds": seconds})
            keep_scores(arguments.json, fixed, scores)
            print(scores[-1], flush=True)
    Console().print(table(arguments.task, ways, scores))


def drawn_texts(task: TaskData, arguments: Arguments) -> tuple[Texts, Texts]:
    """Return texts without labels to learn from, and others to judge on, both drawn at random from all."""
    drawn = read_unlabelled("demo:all", task.spec, arguments.unlabelled_samples + arguments.heldout_samples)
    texts = new_texts(task, drawn)
    order = np.random.default_rng(0).permutation(len(texts[0]))  # the texts are in the order of their files
    judging, learning = order[: arguments.heldout_samples], order[arguments.heldout_samples :]

    def chosen(samples: Sequence[int]) -> Texts:
        return tuple([column[sample] for sample in samples] for column in texts)

    return chosen(learning.tolist()), chosen(judging.tolist())


def judged(work: Work, model: Classifier, heldout: Texts) -> dict[str, float]:
    """Return divergence and agreement on held-out texts, judged by the one teacher, and accuracy on the test split."""
    test, length = work.task.evaluation[TEST], work.settings.finetuning.max_length
    unseen = Split(tuple(heldout), np.zeros(len(heldout[0]), dtype=np.int64))
    tokenizer = work.student.tokenizer
    soft = torch.tensor(work.teachers(1).soft_labels(heldout))
    away = departure(work.task.spec.kind, torch.from_numpy(predict(model, tokenizer, unseen, length)), soft)
    decisions = work.task.spec.decide(predict(model, tokenizer, test, length))
    accuracy = float((decisions == test.labels).mean())
    return {"divergence": away.divergence, "agreement": away.agreement, "accuracy": accuracy}


def table(task: str, ways: list[str], scores: list[dict[str, Any]]) -> Table:
    """Return the table: means over seeds, and differences from the first way."""
    result = Table("", "seeds", *(header for header, _, _ in COLUMNS.values()), title=task)
    by_way = {way: {score["seed"]: score for score in scores if score["way"] == way} for way in ways}
    for way, by_seed in by_way.items():
        cells = []
        for column, (_, factor, form) in COLUMNS.items():
            mean = factor * float(np.mean([score[column] for score in by_seed.values()]))
            shared = sorted(set(by_seed) & set(by_way[FIRST]))
            apart = np.array([by_seed[seed][column] - by_way[FIRST][seed][column] for seed in shared]) * factor
            difference = ""
            if way != FIRST and len(apart) > 1:
                low, high = percentile_interval(resampled_means(apart, np.random.default_rng(0), 10_000))
                difference = f" ({apart.mean():+{form}}, {low:+{form}} to {high:+{form}})"
            cells.append(f"{mean:{form}}{difference}")
        result.add_row(way, str(len(by_seed)), *cells)
    return result


if __name__ == "__main__":
    run_command(main, Arguments, threads=1)
