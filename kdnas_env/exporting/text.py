"""Texts for comparing graphs with their model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdnas_env.distillation.text.corpus import Corpus, load_corpus
from kdnas_env.distillation.text.demo import CORPUS_TITLES
from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS
from kdnas_env.errors import ExportError, KDNASError
from kdnas_env.exporting.check import Batch, random_batch
from kdnas_env.exporting.record import recorded_task
from kdnas_env.exporting.source import Source
from kdnas_env.tasks.encoding import encode, pad
from kdnas_env.tasks.scores import task_metric
from kdnas_env.tasks.specs import REGRESSION, Split, TaskData, TaskSpec
from kdnas_env.tasks.splits import choosing_name, choosing_splits

SENTENCES = 256
"""Number of sentences for comparing the hidden states of encoders."""

UNLABELLED, LABELLED = 1024, 5000
"""Maximum number of texts for comparing decisions, without and with labels."""

_BATCH_SIZE = 32
_READING = ("config_name", "split", "text_columns", *LAYOUT_OPTIONS, "max_length", "seed")
"""Arguments of a corpus that determine its content."""


@dataclass(frozen=True, eq=False)
class Text:
    """Texts as batches of model inputs.

    Attributes:
        batches: Inputs of a model.
        origin: Their source, as text.
        note: Why they are not from the model's corpus or task; None if they are.
        labels: Their labels in the order of the batches, as in :class:`kdnas_env.tasks.specs.Split`; None without
            labels.
        spec: Task of the labels.
    """

    batches: tuple[Batch, ...]
    origin: str
    note: str | None = None
    labels: NDArray[Any] | None = None
    spec: TaskSpec | None = None

    @property
    def sentences(self) -> int:
        """Number of texts."""
        return sum(len(batch["input_ids"]) for batch in self.batches)


def sample_text(source: Source, samples: int = SENTENCES) -> Text:
    """Sample sentences of the corpus that a student was distilled on; random tokens if it cannot be read."""
    if source.lineage is None:
        return _random_tokens(source, samples, "the model names no corpus")
    corpus = dict(source.lineage.corpus)
    name = str(corpus.pop("source", ""))
    reading = {key: value for key, value in corpus.items() if key in _READING}
    if "max_length" in reading:  # A classifier's tokenizer may allow less than its corpus.
        reading["max_length"] = min(reading["max_length"], source.encoder.tokenizer.model_max_length)
    try:
        text = load_corpus(name, source.encoder.tokenizer, max_samples=samples, min_samples=1, **reading)
    except KDNASError as error:
        return _random_tokens(source, samples, f"its corpus cannot be read: {error}")
    return Text(_batches(text, source), CORPUS_TITLES.get(name, name))


@dataclass(frozen=True, eq=False)
class TaskText:
    """Texts for comparing the graphs of a classifier with the classifier.

    Attributes:
        scored: Texts of the scored splits.
        choosing: Texts for accepting or refusing an int8 graph, which are never scored. Without labels, the same texts
            as ``scored``.
    """

    scored: Text
    choosing: Text


def task_text(source: Source, task: TaskData | None = None) -> TaskText:
    """Return the texts of a classifier's task with labels, or unlabelled texts if they cannot be read.

    Args:
        source: The classifier.
        task: Its task; None to read the task in the classifier's record.

    Raises:
        ExportError: If the given task is of another kind or has other classes than the classifier.
    """
    if task is None and source.record is None:
        return _unlabelled(source)
    try:
        task = recorded_task(source.record) if task is None and source.record is not None else task
        assert task is not None
        task_metric(task.spec)
    except KDNASError as error:
        return _unlabelled(source, f"no score was measured: {error}")
    if task.spec.kind != source.kind or (task.spec.kind != REGRESSION and task.spec.class_names != source.labels):
        raise ExportError(
            f"the task {task.name!r} is {task.spec.kind} with the classes {list(task.spec.class_names)}; the model "
            f"{source.encoder.name!r} is {source.kind} with {list(source.labels)}"
        )
    splits = [task.evaluation[name] for name in task.spec.scored]
    columns = tuple([text for split in splits for text in split.texts[index]] for index in range(len(splits[0].texts)))
    scored = Split(columns, np.concatenate([split.labels for split in splits]))
    _, choosing = choosing_splits(task)
    return TaskText(
        _labelled(source, task, scored, " and ".join(task.spec.scored)),
        _labelled(source, task, choosing, choosing_name(task, choosing)),
    )


def _unlabelled(source: Source, note: str | None = None) -> TaskText:
    text = sample_text(source, UNLABELLED)
    notes = [words for words in (note, text.note) if words is not None]
    text = replace(text, note="; ".join(notes) or None)
    return TaskText(text, text)


def _labelled(source: Source, task: TaskData, split: Split, name: str) -> Text:
    if len(split) > LABELLED:
        split = split.subset(np.sort(np.random.default_rng(0).permutation(len(split))[:LABELLED]))
    tokenizer = source.encoder.tokenizer
    examples = encode(tokenizer, split, tokenizer.model_max_length)
    order = np.argsort([len(example["input_ids"]) for example in examples], kind="stable")
    batches = []
    for start in range(0, len(order), _BATCH_SIZE):
        batch = pad([examples[index] for index in order[start : start + _BATCH_SIZE]], tokenizer.pad_token_id)
        batches.append({name: batch[name].numpy() for name in source.input_names})
    return Text(tuple(batches), f"{name} of {task.name}", labels=split.labels[order], spec=task.spec)


def _batches(corpus: Corpus, source: Source) -> tuple[Batch, ...]:
    order = np.argsort(corpus.lengths, kind="stable")
    batches = []
    for start in range(0, len(order), _BATCH_SIZE):
        ids, mask, types = corpus.padded(order[start : start + _BATCH_SIZE], source.encoder.architecture.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        if types is not None:
            inputs["token_type_ids"] = types
        batches.append({name: inputs[name] for name in source.input_names})
    return tuple(batches)


def _random_tokens(source: Source, samples: int, reason: str) -> Text:
    generator = np.random.default_rng(0)
    shape = (_BATCH_SIZE, 32)
    batches = (
        random_batch(source.encoder.architecture, source.input_names, shape, generator)
        for _ in range(samples // _BATCH_SIZE)
    )
    return Text(tuple(batches), "random tokens", f"compared on random tokens: {reason}")
