"""Cuts the vocabulary of a model, because most parameters of a small student are its embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnas_env.distillation.text.demo import teacher_title
from kdnas_env.distillation.text.layout import LAYOUT_OPTIONS, TextLayout
from kdnas_env.distillation.text.sources import draw_texts
from kdnas_env.errors import CorpusError, KDNASError
from kdnas_env.exporting.folder import VOCABULARY, checked_target, written_whole
from kdnas_env.pipeline.options import SeedOption, SourceOptions, options_of, unconfigured, within
from kdnas_env.pipeline.work import Finished
from kdnas_env.support.atomic import write_json, write_text
from kdnas_env.support.checks import check_whole
from kdnas_env.support.progress import SILENT, Progress, checked

if TYPE_CHECKING:
    from kdnas_env.exporting.record import ClassifierRecord, EmbedderRecord
    from kdnas_env.exporting.source import Source

_FORMAT = 1
_BATCH = 1024
_HELDOUT = 0.1


@dataclass(frozen=True)
class VocabularyTextOptions(SourceOptions):
    """The text whose tokens are kept."""

    source: str = "demo:all"
    """Name of a hub dataset, folder or file, the text that students will read; demo:all: the embedded texts."""
    max_samples: int | None = None
    """Maximum number of rows, drawn at random."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return unconfigured(self.source)


@dataclass(frozen=True)
class VocabularyOptions(SeedOption):
    """Make a model with only the tokens of your text.

    Students of such a teacher are smaller. A finished student or classifier becomes smaller itself. Texts that contain
    only kept tokens give the same results as before.
    """

    teacher: str = "demo"
    """Name on the hub or folder of the teacher; or folder of a student or classifier."""
    size: int | None = None
    """Maximum number of tokens, most frequent first; by default all that occur."""
    corpus: VocabularyTextOptions = field(default_factory=VocabularyTextOptions)
    out: str | None = None
    """Folder of the new teacher; by default named after the teacher and its tokens, in the working folder."""

    def __post_init__(self) -> None:
        if self.size is not None:
            check_whole("size", self.size, of="tokens", at_least=1, advice="leave it out for all that occur")
        if self.corpus.max_samples is not None:
            check_whole("corpus.max_samples", self.corpus.max_samples, of="rows", at_least=2)

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return within("corpus", self.corpus.ineffective())


@dataclass(frozen=True)
class TextCost:
    """Effect of a smaller vocabulary on held-out text, which did not choose its tokens.

    Attributes:
        rows: Number of rows of text.
        covered: Share of the text's tokens that the vocabulary keeps.
        longer: Ratio of the numbers of tokens after and before the cut.
        unknown: Share of unknown tokens after the cut.
        unknown_before: Share of unknown tokens before the cut.
    """

    rows: int
    covered: float
    longer: float
    unknown: float
    unknown_before: float


@dataclass(frozen=True, eq=False, repr=False)
class VocabularyCut(Finished):
    """A model with a smaller vocabulary.

    Attributes:
        path: Its folder, in hub layout: name it as ``teacher``.
        teacher: The original model.
        tokens: Number of its tokens.
        tokens_before: Number of tokens of the original.
        parameters: Number of its parameters.
        parameters_before: Number of parameters of the original.
        text: Effect on held-out text: a tenth of the text, which did not choose the tokens.
        role: Its kind: ``teacher``, ``classifier`` or ``embedding student``.
        score: Score of a classifier on its task; for an embedding student, Spearman's correlation of its similarities
            with its teacher's. None for other models, and if the task or the text cannot be read.
        score_before: Score of the original.
    """

    path: Path
    teacher: str
    tokens: int
    tokens_before: int
    parameters: int
    parameters_before: int
    text: TextCost
    role: str = "teacher"
    score: float | None = None
    score_before: float | None = None

    def about(self) -> dict[str, object]:
        """Return what its representation shows beside the folder."""
        return {"tokens": self.tokens, "tokens_before": self.tokens_before}

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``vocabulary.json``."""
        values = {name: value for name, value in vars(self).items() if name not in ("path", "text")}
        return {"format": _FORMAT, **values, "text": asdict(self.text)}


def vocabulary(
    teacher: str | VocabularyOptions | None = None, *, progress: Progress = SILENT, **settings: Any
) -> VocabularyCut:
    """Make a teacher, student or classifier with only the tokens of a text.

    Its hidden states do not change for texts that contain only kept tokens. Other words are split into the kept tokens.
    Use the folder as ``teacher`` of a search, distillation or run. A classifier or embedding student of kdnas is scored
    again, on the task or the text that its record names.

    Args:
        teacher: Name or folder of the teacher, ``demo`` by default; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`VocabularyOptions` by name, such as ``size=8000`` or ``corpus="texts.txt"``.

    Raises:
        KDNASError: For bad input. Then no file is left behind.
    """
    from kdnas_env.distillation.student.folder import write_lineage
    from kdnas_env.distillation.student.vocabulary_cut import write_cut_teacher
    from kdnas_env.distillation.teacher.loading import locate
    from kdnas_env.distillation.text.vocabulary import choose_tokens, count_tokens
    from kdnas_env.exporting.cards.vocabulary import cut_teacher_card, with_vocabulary
    from kdnas_env.exporting.source import load_source

    progress = checked(progress)
    if isinstance(settings.get("corpus"), str):
        settings["corpus"] = {"source": settings["corpus"]}
    options = options_of(VocabularyOptions, settings, teacher=teacher)
    progress.begin("reading the text")
    source = load_source(options.teacher)
    whole = source.encoder
    model = source.model if source.embedder is None else whole.model
    texts, heldout = _texts(options)
    before = _parameters(model)
    progress.begin("counting tokens")
    counts = count_tokens(whole.tokenizer, _batches(texts))
    kept = choose_tokens(whole.tokenizer, counts, options.size)
    held_before = count_tokens(whole.tokenizer, _batches(heldout))
    if not held_before.sum():
        raise CorpusError(f"corpus {options.corpus.source!r} has no text to measure on; give more text")
    out = options.out or f"{teacher_title(options.teacher)}-{len(kept)}-tokens"
    target = checked_target(out, None if options.teacher == "demo" else options.teacher, VOCABULARY)
    progress.begin("writing the teacher")
    tokens_before = len(whole.tokenizer)
    unknown = whole.tokenizer.unk_token_id
    with written_whole(target) as folder:
        cut = write_cut_teacher(whole, model, locate(options.teacher), kept, folder)
        if source.lineage is not None:
            stage = {"stage": "vocabulary", "tokens": len(kept), "text": options.corpus.source}
            write_lineage(replace(source.lineage, stages=(*source.lineage.stages, stage)), folder)
        record, why = _scored_again(source, options.teacher, folder, progress)
        held_after = count_tokens(cut.tokenizer, _batches(heldout))
        result = VocabularyCut(
            path=target,
            teacher=options.teacher,
            tokens=len(kept),
            tokens_before=tokens_before,
            parameters=_parameters(model),
            parameters_before=before,
            text=TextCost(
                rows=len(heldout),
                covered=float(held_before[kept].sum() / held_before.sum()),
                longer=float(held_after.sum() / held_before.sum()),
                unknown=_share(held_after, cut.tokenizer.unk_token_id),
                unknown_before=_share(held_before, unknown),
            ),
            role="teacher" if source.record is None and source.embedded is None else source.role,
            score=_score_of(record),
            score_before=_score_of(source.record or source.embedded),
        )
        if record is not None:
            record.write(folder)
            assert result.score is not None
            assert result.score_before is not None
            described = _card(record, model, folder)
            card = with_vocabulary(described, result.tokens, result.tokens_before, result.score, result.score_before)
        else:
            card = cut_teacher_card(result.teacher, result.tokens, result.tokens_before, why)
        write_text(folder / "README.md", card)
        write_json(folder / VOCABULARY, result.to_dict())
    return result


def _scored_again(
    source: Source, origin: str, folder: Path, progress: Progress
) -> tuple[ClassifierRecord | EmbedderRecord | None, str | None]:
    """Return the record of a model that was cut, with its new score; None if it has none, or why it has no score.

    Args:
        source: The model, whose encoder is cut.
        origin: Where it was before.
        folder: Where it is now.
        progress: Receives the progress.
    """
    if source.record is None and source.embedded is None:
        return None, None
    progress.begin(f"scoring the {source.role}")
    try:
        if source.record is not None:
            return _classifier_again(source, source.record, folder), None
        assert source.embedded is not None
        return _embedder_again(source.embedded, origin, folder), None
    except KDNASError as error:
        return None, str(error)


def _classifier_again(source: Source, record: ClassifierRecord, folder: Path) -> ClassifierRecord:
    from kdnas_env.distillation.teacher.loading import load_teacher
    from kdnas_env.exporting.record import recorded_task
    from kdnas_env.tasks.own_heads import score_own_head

    score = score_own_head(load_teacher(folder), recorded_task(record))
    parameters = source.model.num_parameters()
    return replace(record, score=replace(score, details=record.score.details), parameters=parameters)


def _embedder_again(record: EmbedderRecord, origin: str, folder: Path) -> EmbedderRecord:
    from kdnas_env.distillation.teacher.loading import load_teacher
    from kdnas_env.pipeline.score.vectors import Embedders
    from kdnas_env.tasks.rows import STUDENT
    from kdnas_env.tasks.vectors import embedding_teacher, open_embedder

    name = record.teacher["name"]
    taught = embedding_teacher(load_teacher(name), record.settings.max_length)
    if taught.fingerprint != record.teacher["fingerprint"]:
        raise KDNASError(f"teacher {name!r} is not what {origin!r} was distilled from")
    texts = Embedders([origin], [record], taught).texts(None, record.seed)
    score = Embedders([str(folder)], [record], taught).score(texts, record.seed, None)[STUDENT]
    return replace(record, score=score, parameters=_parameters(open_embedder(folder)))


def _score_of(record: ClassifierRecord | EmbedderRecord | None) -> float | None:
    """Return the main score of a record."""
    from kdnas_env.tasks.vector_scores import EmbeddingScore

    if record is None:
        return None
    return record.score.spearman[0] if isinstance(record.score, EmbeddingScore) else record.score.score


def _card(record: ClassifierRecord | EmbedderRecord, model: Any, folder: Path) -> str:
    from kdnas_env.distillation.student.folder import read_lineage
    from kdnas_env.exporting.cards.classifier import classifier_card
    from kdnas_env.exporting.cards.embedder import embedder_card
    from kdnas_env.exporting.record import ClassifierRecord
    from kdnas_env.tasks.vectors import open_embedder

    lineage = read_lineage(folder)
    if isinstance(record, ClassifierRecord):
        return classifier_card(record, model.config, lineage)
    return embedder_card(record, open_embedder(folder), lineage)


def _texts(options: VocabularyOptions) -> tuple[list[str], list[str]]:
    """Return the texts that choose the tokens, and the held-out texts."""
    corpus = options.corpus
    layout = TextLayout(**{name: getattr(corpus, name) for name in LAYOUT_OPTIONS})
    reading = {"config_name": corpus.config_name, "split": corpus.split, "layout": layout}
    columns = corpus.text_columns or None
    rows = draw_texts(corpus.source, corpus.max_samples, options.seed, text_columns=columns, **reading)
    texts = [" ".join(row) for row in rows]
    texts = [text for text in texts if text.strip()]
    held = max(1, round(_HELDOUT * len(texts)))
    if len(texts) < 2:
        raise CorpusError(f"corpus {corpus.source!r} has {len(texts)} rows of text; expected 2 or more")
    return texts[held:], texts[:held]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))


def _share(counts: Any, token: int | None) -> float:
    return 0.0 if token is None else float(counts[token] / counts.sum())


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
