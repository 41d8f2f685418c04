"""Sentences per second of full KD, with the teacher cached and in the loop, beside a plain Trainer loop.

    python benchmarks/full_kd.py --json FILE

All train the same student on the same text in batches of the same size on transformers' Trainer, in turns in one
process, and only training steps are timed. The plain loop is the one that is usually written: padded to the longest
length, the teacher run in every step, random weights, the default dropout, and a projection learnt by gradient on
padding too. Useful operations are the matrix products of student and projections on real tokens, forward and backward,
for all three; neither the teacher's nor attention's own (a few percent) are among them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import machine_facts, matmul_peak
from mini_kd import BATCH, STUDENTS, ours
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.building import build_student
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.training.full_kd import FullKDSettings, distil
from kdnas_env.distillation.training.kd_data import CorpusSamples
from kdnas_env.distillation.training.mapping import map_layers
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import full_recipe
from kdnas_env.distillation.training.training_text import prepare_text
from kdnas_env.distillation.training.workload import Workload
from kdnas_env.support.quiet import quiet_transformers
from kdnas_env.support.random_state import preserved_rng

LOOPS = {"cached": "teacher cached", "in_loop": "teacher in loop", "plain": "plain Trainer"}
MAX_LENGTH = 128
RECIPE = full_recipe("default", BATCH)


@dataclass(frozen=True)
class Options:
    """Measure full KD beside a plain Trainer loop."""

    json: str | None = None
    """File for the figures."""
    repeats: int = 3
    """Turns; the median counts."""
    samples: int = 384
    """Samples that are read; all that fill whole batches are trained on twice, and the second time counts."""
    plain_steps: int = 4
    """Steps of the plain loop that count."""
    plain_warmup: int = 2
    """Steps of the plain loop before those, 1 or more."""


class PlainModel(torch.nn.Module):
    """A student with random weights and one projection for all its layers.

    Attributes:
        pairs: Layers of the student and the teacher's that they learn.
    """

    def __init__(self, student: StudentConfig, workload: Workload) -> None:
        super().__init__()
        architecture = workload.teacher.architecture
        self.pairs = map_layers(RECIPE.mapping, student.num_hidden_layers, architecture.num_hidden_layers)
        self.student = build_student(student, architecture, seed=0)
        self.projection = torch.nn.Linear(student.hidden_size, 2 * architecture.hidden_size)

    def forward(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the projected hidden states, pair by pair."""
        states = self.student(**inputs, output_hidden_states=True).hidden_states
        return [self.projection(states[pair.student]) for pair in self.pairs]


class PlainTrainer(Trainer):  # type: ignore[misc]
    """Runs the teacher on every batch, and compares all positions."""

    teacher: torch.nn.Module

    def compute_loss(self, model: PlainModel, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        """Return the mean squared error, padding included."""
        with torch.no_grad():
            theirs = self.teacher(**inputs, output_hidden_states=True).hidden_states
        targets = [torch.cat([theirs[layer] for layer in pair.teacher], -1) for pair in model.pairs]
        errors = [F.mse_loss(own, target) for own, target in zip(model(**inputs), targets, strict=True)]
        return torch.stack(errors).mean()


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when steps end.

    Attributes:
        ends: Seconds of each step's end.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def rate(self, warmup: int) -> float:
        """Return sentences per second of the steps behind some first ones."""
        timed = self.ends[warmup - 1 :]
        return BATCH * (len(timed) - 1) / (timed[-1] - timed[0])


def full_kd_rate(workload: Workload, student: StudentConfig, *, teacher_in_loop: bool) -> float:
    """Return sentences per second of our second epoch; the student is evaluated before the first and after it only."""
    clock = Clock()
    kd = MiniKD(workload, student, RECIPE, Fidelity(0))
    samples = CorpusSamples(workload, workload.train, cached=not teacher_in_loop)
    settings = FullKDSettings(epochs=2, evaluations=1, patience=None)
    with tempfile.TemporaryDirectory() as folder:
        distil(kd, samples, settings, Path(folder), teacher_in_loop=teacher_in_loop, on_progress=clock.on_step_end)
    return clock.rate(len(samples) // BATCH)


def plain_rate(workload: Workload, student: StudentConfig, options: Options) -> float:
    """Return sentences per second of the plain loop."""
    clock, teacher = Clock(), workload.teacher
    corpus = CorpusSamples(workload, workload.train, cached=False)
    samples = [corpus[index] for index in range(len(corpus))]
    rows = [
        {"input_ids": sample.ids.tolist(), "token_type_ids": sample.segments.tolist()}
        for sample in samples
        if sample.segments is not None
    ]
    with tempfile.TemporaryDirectory() as folder, preserved_rng(), quiet_transformers():
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=options.plain_warmup + options.plain_steps,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            logging_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = PlainTrainer(
            PlainModel(student, workload),
            arguments,
            data_collator=DataCollatorWithPadding(teacher.tokenizer, padding="max_length", max_length=MAX_LENGTH),
            train_dataset=rows,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.teacher = teacher.model
        trainer.train()
    return clock.rate(options.plain_warmup)


def measure(workload: Workload, student: StudentConfig, options: Options) -> dict[str, Any]:
    """Return the figures of one student."""
    epoch = ours(workload, student, RECIPE, len(workload.train))
    with FlopCounterMode(display=False) as counter:
        sentences = epoch()
    operations = counter.get_total_flops() / sentences
    turns = [
        {
            "cached": full_kd_rate(workload, student, teacher_in_loop=False),
            "in_loop": full_kd_rate(workload, student, teacher_in_loop=True),
            "plain": plain_rate(workload, student, options),
            "peak": matmul_peak(),
        }
        for _ in range(options.repeats)
    ]
    loops = {
        name: {
            "sentences_per_second": statistics.median(turn[name] for turn in turns),
            "speedup": statistics.median(turn[name] / turn["plain"] for turn in turns),
            "share_of_peak": statistics.median(turn[name] * operations / turn["peak"] for turn in turns),
        }
        for name in LOOPS
    }
    return {
        "loops": loops,
        "mflop_per_sentence": operations / 1e6,
        "matmul_peak_gflops": statistics.median(turn["peak"] for turn in turns) / 1e9,
        "turns": turns,
    }


def text_workload(options: Options, folder: str) -> Workload:
    """Return the text and the teacher's states on it; as many samples as fill whole batches."""
    corpus = {"source": "demo:all", "max_length": MAX_LENGTH, "pair_fraction": 0.2, "max_samples": options.samples}
    text = prepare_text(load_teacher("demo"), corpus, batch_size=BATCH, mode="cache", cache_dir=folder)
    train = text.workload.train
    return replace(text.workload, train=train[: len(train) // BATCH * BATCH])


def main(options: Options) -> None:
    """Measure, print and write the figures."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        workload = text_workload(options, folder)
        figures = {name: measure(workload, student, options) for name, student in STUDENTS.items()}
    lengths = workload.corpus.lengths[workload.train]
    table = Table(title="Full KD, sentences per second of training")
    for heading in ("student", "loop", "sentences/s", "to plain", "of peak"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in figures.items():
        for loop, title in LOOPS.items():
            figure = row["loops"][loop]
            table.add_row(
                name,
                title,
                f"{figure['sentences_per_second']:.1f}",
                f"{figure['speedup']:.1f}x",
                f"{figure['share_of_peak']:.3f}",
            )
    console.print(table)
    for name, row in figures.items():
        work, peak = row["mflop_per_sentence"], row["matmul_peak_gflops"]
        console.print(f"{name}: {work:.0f} MFLOP/sentence are useful, matmul peak {peak:.0f} GFLOP/s")
    console.print(f"{len(lengths)} sentences of {lengths.mean():.1f} tokens; the plain loop pads them to {MAX_LENGTH}")
    if options.json:
        report = {
            "machine": machine_facts(),
            "students": figures,
            "sentences": len(lengths),
            "tokens_per_sentence": float(lengths.mean()),
        }
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
