"""The model card of a student: what it is and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kdnas_env.core.architecture import StudentConfig, count_parameters
from kdnas_env.distillation.student.folder import Lineage
from kdnas_env.distillation.student.usage import IN_A_FOLDER, imitated_width, torch_code, vectors_in_words
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.demo import CORPUS_TITLES, teacher_title
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.envs.history import Record

_CARD = """---
library_name: transformers
tags:
- knowledge-distillation
- neural-architecture-search
- kdnas
---

# {title}

An encoder distilled from **{teacher}** on **{corpus}** by kdnas {version}. {found}

## Usage

{vectors}

{code}
{table}

## How it came to be

{history}

## Limits

{limits} It inherits its teacher's biases and licence terms.
"""

_LOSS = (
    "unexplained variance of the teacher's hidden states on held-out text, after a linear projection (0 is a perfect\n"
)
_LOSS += "  imitation, 1 knows nothing)"


def model_card(
    record: Record,
    evaluator: Any,
    projection: Mapping[str, Tensor],
    *,
    agent: str,
    recipe: str,
    reward: Any,
    evaluations: int,
) -> str:
    """Return the model card of the student of a search.

    Args:
        record: The student's evaluation and reward.
        evaluator: The :class:`kdnas_env.evaluators.mini_kd.MiniKDEvaluator` that distilled it.
        projection: State of the objective that it was trained with.
        agent: Name of the agent that found it.
        recipe: Name of the recipe.
        reward: The :class:`kdnas_env.core.reward.KDReward`.
        evaluations: Students that were tried.
    """
    evaluation, workload = record.evaluation, evaluator.workload
    fidelity, latency, report = evaluation.fidelity, evaluation.latency, workload.corpus.report
    assert latency is not None
    samples = len(workload.subset(fidelity.data_fraction, fidelity.seed))
    timed = (
        f"latency, {latency.runtime} on {latency.device}, {latency.threads} thread(s), {latency.sequence_length} tokens"
    )
    curve = ", ".join(f"{loss:.4f}" for loss in evaluation.heldout_unexplained)
    return _card(
        evaluation.config,
        workload.teacher,
        report.source,
        evaluation.details["kdnas"],
        imitated_width(projection, evaluator.recipe.mapping),
        found=f"It is the best of {evaluations} students that a knowledge-distillation neural-architecture search "
        f"({agent}) tried.",
        rows=((timed, f"{latency.median_ms:.2f} ms", f"{latency.teacher_median_ms:.2f} ms"),),
        history=(
            f"**Data**: {samples:,} sentences of the training split, {len(workload.heldout):,} held out, at most "
            f"{report.max_length} tokens each.",
            f"**Recipe** `{recipe}`: {_listed(evaluator.recipe.to_dict())}",
            f"**Effort**: {fidelity.epochs} epoch(s), seed {fidelity.seed}.",
            f"**Loss**: {_LOSS}: {curve} by epoch, the first before any step.",
            f"**Reward**: {record.reward.reward:.4f} = (1 - loss) * (latency ratio / {reward.beta:.6g}) ** "
            f"{reward.alpha}.",
        ),
        limits="This is what a search distils to compare architectures: minutes of training on little text. Distil it "
        "for longer\nbefore you use it, and check it on your task.",
    )


def distilled_card(lineage: Lineage, teacher: Teacher, projection: Mapping[str, Tensor], loss: float) -> str:
    """Return the model card of a student that was distilled for long.

    Args:
        lineage: Where it comes from.
        teacher: Its teacher.
        projection: State of the objective that it was trained with.
        loss: Unexplained variance on held-out text.
    """
    return _card(
        lineage.student,
        teacher,
        lineage.corpus["source"],
        (lineage.versions or {}).get("kdnas", ""),
        imitated_width(projection, resolve_recipe(lineage.recipe).mapping),
        found="Its architecture was found by a knowledge-distillation\nneural-architecture search.",
        rows=(),
        history=(
            *(f"**{stage['stage']}**: {_in_words(stage)}" for stage in lineage.stages),
            f"**Loss**: {loss:.4f}, {_LOSS}.",
            f"**Recipe**: {_listed(lineage.recipe)}",
            "`kdnas.json` has all of it in detail.",
        ),
        limits="It is an encoder: fine-tune it on your task, and check it there.",
    )


def _card(
    student: StudentConfig,
    teacher: Teacher,
    corpus: str,
    version: str,
    imitated: int | None,
    *,
    found: str,
    rows: Sequence[tuple[str, str, str]],
    history: Sequence[str],
    limits: str,
) -> str:
    shape = teacher.architecture
    compared = (
        ("layers", student.num_hidden_layers, shape.num_hidden_layers),
        ("hidden size", student.hidden_size, shape.hidden_size),
        ("attention heads", student.num_attention_heads, shape.num_attention_heads),
        ("feed-forward size", student.intermediate_size, shape.intermediate_size),
        ("activation", student.hidden_act, shape.hidden_act),
        (
            "parameters",
            f"{count_parameters(student, shape):,}",
            f"{sum(parameter.numel() for parameter in teacher.model.parameters()):,}",
        ),
        *rows,
    )
    lines = ["| | Student | Teacher |", "|---|---:|---:|", *(f"| {a} | {b} | {c} |" for a, b, c in compared)]
    return _CARD.format(
        title=f"{teacher_title(teacher.name)}, {student}",
        teacher=teacher_title(teacher.name) if teacher.name == "demo" else teacher.name,
        corpus=CORPUS_TITLES.get(corpus, corpus),
        version=version,
        found=found,
        vectors=vectors_in_words(student.hidden_size, imitated),
        code=torch_code(IN_A_FOLDER, student.family, student.hidden_size, imitated),
        table="\n".join(lines),
        history="\n".join(f"- {line}" for line in history),
        limits=limits,
    )


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _in_words(stage: Mapping[str, Any]) -> str:
    told = {
        name.replace("_", " "): value
        for name, value in stage.items()
        if name not in ("stage", "heldout_unexplained") and value is not None
    }
    curve = stage.get("heldout_unexplained")
    return _listed(told) + (f"; held-out loss from {curve[0]:.4f} to {min(curve):.4f}" if curve else "")
