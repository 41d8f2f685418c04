"""What a distilled student is worth on a task beside what else can be had for as little time.

    python benchmarks/task_rows.py --task rotten_tomatoes --json FILE --students FOLDER ...

Scores on the test split of an embedded task, by seed: TF-IDF with logistic regression, a static model made of the
teacher as Model2Vec makes one, the teacher with some of its layers (its first ones, or a spread of them), the
fine-tuned teacher, and students fine-tuned on the labels alone. What is chosen is chosen on the validation split.
Scores that FILE has are not made again. Speed-ups are those of eager PyTorch over the teacher, tokenising left out;
TF-IDF has none.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from command import run_command
from kept_scores import keep_scores, kept_scores
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from teacher_rows import StaticModel, first_layers, spread_layers, static_vectors
from torch import nn

from kdnas_env.distillation.teacher.loading import Teacher, load_teacher
from kdnas_env.latency import LatencyProbe
from kdnas_env.tasks.data import load_task
from kdnas_env.tasks.finetuning import FinetuneSettings, finetune
from kdnas_env.tasks.specs import TEST, VALIDATION, Split, TaskData
from kdnas_env.tasks.teacher import TeacherSettings, task_teacher

INVERSE_PENALTIES = tuple(10.0**power for power in range(-2, 4))


@dataclass(frozen=True)
class Arguments:
    """Score a task's rows.

    Attributes:
        json: File of the scores; those that it holds are kept.
        task: The task.
        students: Folders of students.
        seeds: Seeds of what is fine-tuned, from 0 on.
        layers: Layers of the teacher that are left.
        max_length: Longest sequence in tokens.
        max_samples: Train on at most so many samples; all of them by default.
    """

    json: Path
    task: Literal["rotten_tomatoes", "imdb"] = "rotten_tomatoes"
    students: tuple[Path, ...] = ()
    seeds: int = 10
    layers: int = 3
    max_length: int = 128
    max_samples: int | None = None


@dataclass(frozen=True)
class Work:
    """The task, its teacher, and how encoders are fine-tuned."""

    arguments: Arguments
    task: TaskData
    teacher: Teacher
    settings: FinetuneSettings


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: What it is.
        make: Returns accuracy, parameters, and the model to time, if any, for a seed.
        seeds: Seeds that it has; one where nothing is random.
    """

    name: str
    make: Callable[[int], tuple[float, int, Any]]
    seeds: int


def logistic(task: TaskData, features: Callable[[Split], Any]) -> tuple[float, int]:
    """Return accuracy on the test split, and number of weights, of the logistic regression best on validation."""
    train, labels = features(task.train), task.train.labels
    validation, test = task.evaluation[VALIDATION], task.evaluation[TEST]
    fits = [LogisticRegression(C=inverse, max_iter=1000).fit(train, labels) for inverse in INVERSE_PENALTIES]
    held_out = features(validation)
    best = max(fits, key=lambda fit: fit.score(held_out, validation.labels))
    return float(best.score(features(test), test.labels)), best.coef_.size + best.intercept_.size


def tf_idf(work: Work, _: int) -> tuple[float, int, None]:
    """Score TF-IDF of words and pairs of words."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(work.task.train.texts[0])
    return (*logistic(work.task, lambda split: vectorizer.transform(split.texts[0])), None)


def static(work: Work, _: int) -> tuple[float, int, nn.Module]:
    """Score the static model."""
    vectors = static_vectors(work.teacher)
    model = StaticModel(vectors)

    def features(split: Split) -> NDArray[np.float32]:
        return model.encode(work.teacher.tokenizer, split.texts[0], work.arguments.max_length)

    accuracy, weights = logistic(work.task, features)
    return accuracy, vectors.size + weights, model


def finetuned(work: Work, encoder: nn.Module, tokenizer: Any, seed: int) -> tuple[float, int, nn.Module]:
    """Score an encoder that is fine-tuned on the labels."""
    score = finetune(encoder, tokenizer, work.task, work.settings, seed)
    return score.metrics[TEST]["accuracy"], _size(encoder), encoder


def taught(work: Work, seed: int) -> tuple[float, int, nn.Module]:
    """Score the teacher, whose fine-tuning is kept."""
    tuned = task_teacher(work.teacher, work.task, TeacherSettings(rates=(1.0,), finetuning=work.settings, seed=seed))
    test = work.task.evaluation[TEST]
    decisions = work.task.spec.decide(tuned.soft_labels(test.texts))
    return float((decisions == test.labels).mean()), _size(work.teacher.model), work.teacher.model


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def rows(work: Work) -> Iterator[Row]:
    """Yield the rows of the table, cheap ones first."""
    arguments, teacher = work.arguments, work.teacher
    yield Row("TF-IDF, logistic regression", lambda seed: tf_idf(work, seed), 1)
    yield Row("static model by Model2Vec's recipe (not its package)", lambda seed: static(work, seed), 1)
    for folder in arguments.students:
        student = load_teacher(folder, role="student")
        yield Row(
            f"student {folder}, labels alone",
            lambda seed, student=student: finetuned(work, student.model, student.tokenizer, seed),  # type: ignore[misc]
            arguments.seeds,
        )
    every = teacher.architecture.num_hidden_layers
    for which, drop in (("first", first_layers), ("spread", spread_layers)):
        shallow = drop(teacher, arguments.layers)
        yield Row(
            f"{arguments.layers} {which} of the teacher's {every} layers, labels alone",
            lambda seed, shallow=shallow: finetuned(work, shallow, teacher.tokenizer, seed),  # type: ignore[misc]
            arguments.seeds,
        )
    yield Row("teacher, fine-tuned", lambda seed: taught(work, seed), arguments.seeds)


def main(arguments: Arguments) -> None:
    """Run the benchmark.

    Raises:
        RunError: If FILE cannot be written, or holds scores of other settings.
        KDNASError: If a student or the teacher cannot be read.
    """
    fixed = {name: value for name, value in asdict(arguments).items() if name not in ("json", "students", "seeds")}
    scores: list[dict[str, Any]] = kept_scores(arguments.json, fixed, [])
    teacher = load_teacher("demo")
    task = load_task(arguments.task).limited(arguments.max_samples)
    work = Work(arguments, task, teacher, FinetuneSettings(max_length=arguments.max_length, device="cpu"))
    probe = LatencyProbe(teacher.model, teacher.architecture)
    named = []
    for row in rows(work):
        named.append(row.name)
        for seed in range(row.seeds):
            same = [score for score in scores if score["row"] == row.name]
            if any(score["seed"] == seed for score in same):
                continue
            accuracy, parameters, model = row.make(seed)
            if same or model is None:
                speedup = same[0]["speedup"] if same else None
            else:
                speedup = 1 / probe.measure(model, teacher.architecture.as_student()).ratio
            scores.append(
                {"row": row.name, "seed": seed, "accuracy": accuracy, "parameters": parameters, "speedup": speedup}
            )
            keep_scores(arguments.json, fixed, scores)
            print(f"{row.name}, seed {seed}: {accuracy:.4f}", flush=True)
    Console().print(table(arguments.task, named, scores))


def table(task: str, named: list[str], scores: list[dict[str, Any]]) -> Table:
    """Return the table: accuracies as mean and standard deviation over seeds."""
    result = Table("", "test accuracy", "seeds", "parameters", "speed-up in torch", title=task)
    for name in named:
        of_row = [score for score in scores if score["row"] == name]
        accuracies = [100 * score["accuracy"] for score in of_row]
        deviation = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        speedup = of_row[0]["speedup"]
        result.add_row(
            name,
            f"{statistics.mean(accuracies):.1f} %{deviation}",
            str(len(of_row)),
            f"{of_row[0]['parameters']:,}",
            "" if speedup is None else f"{speedup:.1f}x",
        )
    return result


if __name__ == "__main__":
    run_command(main, Arguments, threads=1)
