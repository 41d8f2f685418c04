"""The model card of a student: what it is and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdnas_env.architecture import count_parameters
from kdnas_env.distill.demo import CORPUS_TITLES, teacher_title
from kdnas_env.distill.student_folder import Lineage
from kdnas_env.distill.teacher import Teacher
from kdnas_env.envs.history import Record

_CARD = """---
library_name: transformers
tags:
- knowledge-distillation
- neural-architecture-search
- kdnas
---

# {student}

An encoder distilled from **{teacher}** on **{corpus}** by kdnas {version}: the best of {evaluations} students that a
knowledge-distillation neural-architecture search ({agent}) tried.

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModel.from_pretrained("path/to/this/folder", add_pooling_layer=False)  # none was distilled
```

| | Student | Teacher |
|---|---:|---:|
| layers | {layers} | {teacher_layers} |
| hidden size | {hidden} | {teacher_hidden} |
| attention heads | {heads} | {teacher_heads} |
| feed-forward size | {ffn} | {teacher_ffn} |
| activation | {activation} | {teacher_activation} |
| parameters | {parameters:,} | {teacher_parameters:,} |
| latency, {probe} | {latency:.2f} ms | {teacher_latency:.2f} ms |

## How it came to be

- **Data**: {train_samples:,} sentences of the training split, {heldout_samples:,} held out, at most {max_length} tokens
  each.
- **Recipe** `{recipe}`: {recipe_fields}
- **Effort**: {epochs} epoch(s), seed {seed}.
- **Loss**: unexplained variance of the teacher's hidden states on held-out text, after a linear projection (0 is a
  perfect imitation, 1 knows nothing): {curve} by epoch, the first before any step.
- **Reward**: {reward:.4f} = (1 - loss) * (latency ratio / {beta:.6g}) ** {alpha}.

## Limits

This is what a search distils to compare architectures: minutes of training on little text. Distil it for longer before
you use it, and check it on your task. It inherits its teacher's biases and licence terms.
"""


def model_card(record: Record, evaluator: Any, *, agent: str, recipe: str, reward: Any, evaluations: int) -> str:
    """Return the model card of a student: what it is and how it came to be.

    Args:
        record: The student's evaluation and reward.
        evaluator: The :class:`kdnas_env.evaluators.mini_kd.MiniKDEvaluator` that distilled it.
        agent: Name of the agent that found it.
        recipe: Name of the recipe.
        reward: The :class:`kdnas_env.reward.KDReward`.
        evaluations: Students that were tried.
    """
    evaluation, config = record.evaluation, record.evaluation.config
    workload, latency = evaluator.workload, evaluation.latency
    teacher, report = workload.teacher.architecture, workload.corpus.report
    assert latency is not None
    name = workload.teacher.name
    samples = len(workload.subset(evaluation.fidelity.data_fraction, evaluation.fidelity.seed))
    return _CARD.format(
        student=f"{teacher_title(name)}, {config}",
        teacher=name if name != "demo" else teacher_title(name),
        corpus=CORPUS_TITLES.get(report.source, report.source),
        version=evaluation.details["kdnas"],
        evaluations=evaluations,
        agent=agent,
        layers=config.num_hidden_layers,
        teacher_layers=teacher.num_hidden_layers,
        hidden=config.hidden_size,
        teacher_hidden=teacher.hidden_size,
        heads=config.num_attention_heads,
        teacher_heads=teacher.num_attention_heads,
        ffn=config.intermediate_size,
        teacher_ffn=teacher.intermediate_size,
        activation=config.hidden_act,
        teacher_activation=teacher.hidden_act,
        parameters=evaluation.parameters,
        teacher_parameters=sum(parameter.numel() for parameter in workload.teacher.model.parameters()),
        probe=f"{latency.runtime} on {latency.device}, {latency.threads} thread(s), {latency.sequence_length} tokens",
        latency=latency.median_ms,
        teacher_latency=latency.teacher_median_ms,
        train_samples=samples,
        heldout_samples=report.heldout_samples,
        max_length=report.max_length,
        recipe=recipe,
        recipe_fields=", ".join(f"{name} {value}" for name, value in evaluator.recipe.to_dict().items()),
        epochs=evaluation.fidelity.epochs,
        seed=evaluation.fidelity.seed,
        curve=", ".join(f"{loss:.4f}" for loss in evaluation.heldout_unexplained),
        reward=record.reward.reward,
        alpha=reward.alpha,
        beta=reward.beta,
    )


_DISTILLED_CARD = """---
library_name: transformers
tags:
- knowledge-distillation
- neural-architecture-search
- kdnas
---

# {student}

An encoder distilled from **{teacher}** on **{corpus}** by kdnas {version}. Its architecture was found by a
knowledge-distillation neural-architecture search.

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModel.from_pretrained("path/to/this/folder", add_pooling_layer=False)  # none was distilled
```

| | Student | Teacher |
|---|---:|---:|
| layers | {layers} | {teacher_layers} |
| hidden size | {hidden} | {teacher_hidden} |
| attention heads | {heads} | {teacher_heads} |
| feed-forward size | {ffn} | {teacher_ffn} |
| parameters | {parameters:,} | {teacher_parameters:,} |

## How it came to be

{stages}
- **Loss**: {loss:.4f} of the variance of the teacher's hidden states is unexplained on held-out text, after a linear
  projection, which lies beside the weights (`projection.safetensors`).
- **Recipe**: {recipe}

`kdnas.json` has all of it in detail.

## Limits

It is an encoder: fine-tune it on your task, and check it there. It inherits its teacher's biases and licence terms.
"""


def distilled_card(lineage: Lineage, teacher: Teacher, loss: float) -> str:
    """Return the model card of a student that was distilled for long.

    Args:
        lineage: Where it comes from.
        teacher: Its teacher.
        loss: Unexplained variance on held-out text.
    """
    student, shape = lineage.student, teacher.architecture
    source = lineage.corpus["source"]
    return _DISTILLED_CARD.format(
        student=f"{teacher_title(teacher.name)}, {student}",
        teacher=teacher.name if teacher.name != "demo" else teacher_title(teacher.name),
        corpus=CORPUS_TITLES.get(source, source),
        version=(lineage.versions or {}).get("kdnas", ""),
        layers=student.num_hidden_layers,
        teacher_layers=shape.num_hidden_layers,
        hidden=student.hidden_size,
        teacher_hidden=shape.hidden_size,
        heads=student.num_attention_heads,
        teacher_heads=shape.num_attention_heads,
        ffn=student.intermediate_size,
        teacher_ffn=shape.intermediate_size,
        parameters=count_parameters(student, shape),
        teacher_parameters=sum(parameter.numel() for parameter in teacher.model.parameters()),
        stages="\n".join(f"- **{stage['stage']}**: {_in_words(stage)}" for stage in lineage.stages),
        loss=loss,
        recipe=", ".join(f"{name} {value}" for name, value in lineage.recipe.items()),
    )


def _in_words(stage: Mapping[str, Any]) -> str:
    told = {name: value for name, value in stage.items() if name not in ("stage", "heldout_unexplained")}
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items() if value is not None)
    curve = stage.get("heldout_unexplained")
    return words + (f"; held-out loss from {curve[0]:.4f} to {min(curve):.4f}" if curve else "")
