"""Sentences per second of mini-KD, beside the naive loop that pads, keeps both heads and runs the teacher every step.

    python benchmarks/mini_kd.py --json FILE

Both train the same student on the same sentences with the same batch size and a projection learnt by gradient, in turns
in one process. Operations are counted by torch's FlopCounterMode on what our loop really executes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import tyro
from machine import machine_facts, matmul_peak
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Fidelity
from kdnas_env.distillation.student.building import student_pretrained_config
from kdnas_env.distillation.teacher.cache import open_cache
from kdnas_env.distillation.teacher.loading import load_teacher
from kdnas_env.distillation.text.corpus import load_corpus
from kdnas_env.distillation.training.mapping import map_layers
from kdnas_env.distillation.training.mini_kd import MiniKD
from kdnas_env.distillation.training.recipe import RECIPES, Recipe
from kdnas_env.distillation.training.workload import Workload, training_batches

STUDENTS = {
    "2 layers, 128 wide": StudentConfig(2, 4, 128, 512),
    "3 layers, 384 wide": StudentConfig(3, 6, 384, 1536),
}
BATCH = 32
RECIPE = Recipe(
    projection="gradient",
    share_projection=True,
    embeddings="random",
    layers="random",
    train_embeddings=True,
    batch_size=BATCH,
    max_grad_norm=None,
)


@dataclass(frozen=True)
class Options:
    """Measure mini-KD beside the naive loop."""

    json: str | None = None
    """File for the figures."""
    repeats: int = 5
    """Turns; the median counts."""
    batches: int = 24
    """Batches of ours in a turn (the naive loop runs one in eight of them)."""


def ours(workload: Workload, student: StudentConfig, recipe: Recipe, batches: int) -> Callable[[], int]:
    """Return a turn of our loop, which answers with the sentences it trained on."""
    kd = MiniKD(workload, student, recipe, Fidelity(epochs=1))
    optimiser = kd.optimiser(None)
    plan = training_batches(workload.corpus, kd.train, recipe.batch_size, np.random.default_rng(0))
    plan = [batch for batch in plan if len(batch) == recipe.batch_size][: batches * BATCH // recipe.batch_size]

    def turn() -> int:
        kd._train(plan, optimiser, 0, 10_000)
        return sum(map(len, plan))

    return turn


def naive(workload: Workload, student: StudentConfig, batches: int) -> Callable[[], int]:
    """Return a turn of the naive loop: padding to 50, masked-LM heads, the teacher run in every step."""
    from transformers import BertForMaskedLM

    teacher, corpus = workload.teacher, workload.corpus
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        taught = BertForMaskedLM(student_pretrained_config(student, teacher.architecture))
        teaching = BertForMaskedLM(teacher.model.config)
    teaching.bert.load_state_dict(teacher.model.state_dict(), strict=False)
    teaching.eval().requires_grad_(False)
    taught.train()
    pairs = map_layers("uniform+last", student.num_hidden_layers, teacher.architecture.num_hidden_layers)
    projection = torch.nn.Linear(student.hidden_size, 2 * teacher.architecture.hidden_size)
    optimiser = torch.optim.AdamW([*taught.parameters(), *projection.parameters()], lr=1e-3)
    plan = training_batches(corpus, workload.train, BATCH, np.random.default_rng(0))
    plan = [batch for batch in plan if len(batch) == BATCH][:batches]

    def turn() -> int:
        for samples in plan:
            unpadded, real, _ = corpus.padded(samples, teacher.architecture.pad_token_id)
            spare = 50 - unpadded.shape[1]
            ids = F.pad(torch.from_numpy(unpadded), (0, spare), value=teacher.architecture.pad_token_id)
            mask = F.pad(torch.from_numpy(real), (0, spare))
            with torch.no_grad():
                theirs = teaching(ids, attention_mask=mask, output_hidden_states=True).hidden_states
            own = taught(ids, attention_mask=mask, output_hidden_states=True).hidden_states
            loss = torch.stack(
                [
                    F.mse_loss(projection(own[pair.student]), torch.cat([theirs[layer] for layer in pair.teacher], -1))
                    for pair in pairs
                ]
            ).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        return sum(map(len, plan))

    return turn


def rate(turn: Callable[[], int]) -> float:
    """Return sentences per second of one turn."""
    began = time.perf_counter()
    sentences = turn()
    return sentences / (time.perf_counter() - began)


def measure(workload: Workload, student: StudentConfig, options: Options) -> dict[str, Any]:
    """Return the figures of one student."""
    loop = ours(workload, student, RECIPE, options.batches)
    small = ours(workload, student, replace(RECIPES["default"], max_grad_norm=None), options.batches)
    slow = naive(workload, student, max(1, options.batches // 8))
    loop(), small(), rate(slow)
    with FlopCounterMode(display=False) as counter:
        sentences = loop()
    operations = counter.get_total_flops() / sentences
    turns = [(rate(loop), rate(small), rate(slow), matmul_peak()) for _ in range(options.repeats)]
    fast, default, plain, peak = (statistics.median(column) for column in zip(*turns, strict=True))
    return {
        "sentences_per_second": fast,
        "sentences_per_second_default_recipe": default,
        "naive_sentences_per_second": plain,
        "speedup": statistics.median(turn[0] / turn[2] for turn in turns),
        "mflop_per_sentence": operations / 1e6,
        "matmul_peak_gflops": peak / 1e9,
        "share_of_peak": statistics.median(turn[0] * operations / turn[3] for turn in turns),
        "turns": turns,
    }


def main(options: Options) -> None:
    """Measure, print and write the figures."""
    console = Console()
    teacher = load_teacher("demo")
    corpus = load_corpus("demo", teacher.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(teacher, corpus, folder)
        before = psutil.Process().memory_info().rss
        workload = Workload(teacher, corpus, cache, corpus.train, corpus.heldout, torch.device("cpu"))
        # Before the naive loop, which would leave its own models in the figure.
        kd = MiniKD(workload, STUDENTS["3 layers, 384 wide"], RECIPES["default"], Fidelity(epochs=1, data_fraction=0.2))
        peak = max(result.peak_memory_bytes for result in kd.epochs())
        del kd
        figures = {name: measure(workload, student, options) for name, student in STUDENTS.items()}
        size = sum(file.stat().st_size for file in cache.directory.iterdir())
    table = Table(title="Mini-KD, sentences per second of training")
    for heading in ("student", "naive", "ours", "speed-up", "MFLOP/sentence", "matmul peak GFLOP/s", "share of peak"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['naive_sentences_per_second']:.1f}",
            f"{row['sentences_per_second']:.0f}",
            f"{row['speedup']:.1f}x",
            f"{row['mflop_per_sentence']:.0f}",
            f"{row['matmul_peak_gflops']:.0f}",
            f"{row['share_of_peak']:.2f}",
        )
    console.print(table)
    for name, row in figures.items():
        console.print(f"{name}: {row['sentences_per_second_default_recipe']:.0f} sentences/s with the default recipe")
    console.print(f"hidden-state cache {size / 2**20:.0f} MiB; the pages of it that were touched count as resident:")
    console.print(f"resident memory {before / 2**20:.0f} MiB before, at most {peak / 2**20:.0f} MiB while training")
    if options.json:
        report = {
            "machine": machine_facts(),
            "students": figures,
            "cache_bytes": size,
            "resident_bytes_before": before,
            "peak_resident_bytes": peak,
        }
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
