"""Text to measure quantisation on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdnas_env.distillation.text.corpus import Corpus, load_corpus
from kdnas_env.distillation.text.demo import CORPUS_TITLES
from kdnas_env.distillation.text.text_files import LAYOUT_OPTIONS
from kdnas_env.errors import KDNASError
from kdnas_env.exporting.check import Batch, random_batch
from kdnas_env.exporting.source import Source

SENTENCES, _BATCH_SIZE = 256, 32
_READING = ("config_name", "split", "text_columns", *LAYOUT_OPTIONS, "max_length", "seed")
"""Arguments of a corpus that say what is read."""


@dataclass(frozen=True, eq=False)
class Text:
    """Sentences.

    Attributes:
        batches: Inputs of an encoder.
        origin: Where they come from, in words.
        note: Why they are not of the corpus that the model was trained on, if they are not.
    """

    batches: tuple[Batch, ...]
    origin: str
    note: str | None = None

    @property
    def sentences(self) -> int:
        """Number of sentences."""
        return sum(len(batch["input_ids"]) for batch in self.batches)


def sample_text(source: Source) -> Text:
    """Draw sentences of the corpus that a student was distilled on; random tokens if it cannot be had."""
    if source.lineage is None:
        return _random_tokens(source, "the model names no corpus")
    corpus = dict(source.lineage.corpus)
    name = str(corpus.pop("source", ""))
    reading = {key: value for key, value in corpus.items() if key in _READING}
    try:
        text = load_corpus(name, source.encoder.tokenizer, max_samples=SENTENCES, min_samples=1, **reading)
    except KDNASError as error:
        return _random_tokens(source, f"its corpus cannot be read: {error}")
    return Text(_batches(text, source), CORPUS_TITLES.get(name, name))


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


def _random_tokens(source: Source, reason: str) -> Text:
    generator = np.random.default_rng(0)
    shape = (_BATCH_SIZE, 32)
    batches = (
        random_batch(source.encoder.architecture, source.input_names, shape, generator)
        for _ in range(SENTENCES // _BATCH_SIZE)
    )
    return Text(tuple(batches), "random tokens", f"int8 was measured on random tokens: {reason}")
