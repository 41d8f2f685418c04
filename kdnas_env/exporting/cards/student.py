"""Cards of students of a search and of a long distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdnas_env.core.architecture import StudentConfig, count_parameters
from kdnas_env.core.evaluation import Latency
from kdnas_env.distillation.student.folder import Lineage, imitated_width
from kdnas_env.distillation.teacher.loading import Teacher
from kdnas_env.distillation.text.demo import CORPUS_TITLES, teacher_title
from kdnas_env.distillation.training.recipe import resolve_recipe
from kdnas_env.envs.book import Record
from kdnas_env.exporting.cards.template import (
    IN_A_FOLDER,
    STUDENT_TAGS,
    bullets,
    fill,
    front_matter,
    in_words,
    stages,
    table,
    torch_code,
    vectors_in_words,
)


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
        agent: Name of the agent that proposed it.
        recipe: Name of the recipe.
        reward: The :class:`kdnas_env.core.reward.KDReward`.
        evaluations: Number of evaluated students.
    """
    evaluation, workload = record.evaluation, evaluator.workload
    fidelity, report = evaluation.fidelity, workload.corpus.report
    own = evaluator.recipe_of(evaluation.config)
    imitated = imitated_width(projection, own.mapping)
    return _student_card(
        "searched",
        evaluation.config,
        workload.teacher,
        report.source,
        imitated,
        latency=evaluation.latency,
        version=evaluation.details["kdnas"],
        evaluations=evaluations,
        agent=agent,
        samples=f"{len(workload.subset(fidelity.data_fraction, fidelity.seed)):,}",
        heldout=f"{len(workload.heldout):,}",
        max_length=report.max_length,
        recipe=recipe,
        recipe_fields=in_words(own.to_dict()),
        epochs=fidelity.epochs,
        seed=fidelity.seed,
        curve=", ".join(f"{loss:.4f}" for loss in evaluation.heldout_unexplained),
        reward=f"{record.reward.reward:.4f}",
        alpha=reward.alpha,
        beta=f"{reward.beta:.6g}",
    )


def distilled_card(lineage: Lineage, teacher: Teacher, projection: Mapping[str, Tensor], loss: float) -> str:
    """Return the model card of a student of a long distillation.

    Args:
        lineage: Origin of the student.
        teacher: Its teacher.
        projection: State of the objective that it was trained with.
        loss: Unexplained variance on held-out text.
    """
    return _student_card(
        "distilled",
        lineage.student,
        teacher,
        lineage.corpus["source"],
        imitated_width(projection, resolve_recipe(lineage.recipe).mapping),
        version=(lineage.versions or {}).get("kdnas", ""),
        stages=bullets(stages(lineage)),
        loss=f"{loss:.4f}",
        recipe=in_words(lineage.recipe),
    )


def _student_card(
    template: str,
    student: StudentConfig,
    teacher: Teacher,
    corpus: str,
    imitated: int | None,
    *,
    latency: Latency | None = None,
    **fields: object,
) -> str:
    shape = teacher.architecture
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act")
    words = ("layers", "hidden size", "attention heads", "feed-forward size", "activation")
    rows: list[tuple[object, ...]] = [
        (word, getattr(student, name), getattr(shape, name)) for word, name in zip(words, names, strict=True)
    ]
    own = sum(parameter.numel() for parameter in teacher.model.parameters())
    most = "parameters, at most" if student.vocabulary else "parameters"
    rows.append((most, f"{count_parameters(student, shape):,}", f"{own:,}"))
    if latency is not None:
        where = f"{latency.runtime} on {latency.device}, {latency.threads} thread(s), {latency.sequence_length} tokens"
        rows.append((f"latency, {where}", f"{latency.median_ms:.2f} ms", f"{latency.teacher_median_ms:.2f} ms"))
    code = torch_code(IN_A_FOLDER, student.family, student.hidden_size, imitated)
    return front_matter(STUDENT_TAGS) + fill(
        template,
        title=f"{teacher_title(teacher.name)}, {student}",
        teacher=teacher_title(teacher.name) if teacher.name == "demo" else teacher.name,
        corpus=CORPUS_TITLES.get(corpus, corpus),
        usage=f"{vectors_in_words(student.hidden_size, imitated)}\n\n{code}",
        shape=table(("", "Student", "Teacher"), rows, numbers=True),
        **fields,
    )
