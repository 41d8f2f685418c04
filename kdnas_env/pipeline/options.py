"""Options that commands share, and the checks of options before a command runs.

The options of a command are the flags of the command line, the keyword arguments of its function, and the record of a
run: one dataclass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

import tyro

from kdnas_env.core.constraints import Constraints
from kdnas_env.core.reward import KDReward
from kdnas_env.distillation.text.layout import TextLayout
from kdnas_env.errors import KDNASError
from kdnas_env.searching.recorded import SHORT_FLAGS, RecordedOptions, renamed
from kdnas_env.searching.run_folder import CONFIG, is_model, recorded_options
from kdnas_env.support.atomic import expanded
from kdnas_env.support.shell import default_of
from kdnas_env.support.untrusted import restore
from kdnas_env.tasks.own import OwnTask, is_own
from kdnas_env.tasks.specs import EMBEDDING, GLUE_TASKS, NO_TEXT, TASKS, unlabelled_source

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True, kw_only=True)
class SeedOption:
    """Base of options with a seed."""

    seed: int = 0
    """Random seed."""


@dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """Base of options with a device."""

    device: str | None = None
    """Device of the models: cpu, cuda or cuda:1; by default a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class ThreadsOption:
    """Base of options with a number of training threads."""

    threads: int | None = None
    """Threads for training; by default all. Recorded, because the last digits of the results depend on it."""


@dataclass(frozen=True, kw_only=True)
class CacheOption:
    """Base of options with a cache folder."""

    cache_dir: str | None = None
    """Cache folder of the teacher's hidden states."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DeviceOption, ThreadsOption, CacheOption):
    """Base of the options of commands that train."""


@dataclass(frozen=True, kw_only=True)
class OutOption:
    """Base of options that name the run folder."""

    out: str | None = None
    """Run folder, created if it does not exist; by default a new one under runs."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(OutOption):
    """Base of the options of commands with their own run folder."""

    resume: str | None = None
    """Run folder to resume; all other settings are read from it."""


@dataclass(frozen=True)
class LimitOptions(Constraints):
    """Limits on students: at least 5 times the teacher's speed, unless another limit of speed is set."""

    speedup: float = 5.0
    """Minimum speed-up of a student over the teacher; 0 for no limit."""
    latency_ms: Annotated[float | None, tyro.conf.arg(aliases=[SHORT_FLAGS["limits.latency_ms"]])] = None
    """Maximum latency of a student, in milliseconds."""
    size_mb: Annotated[float | None, tyro.conf.arg(aliases=[SHORT_FLAGS["limits.size_mb"]])] = None
    """Maximum size of a student's exported ONNX file, in megabytes; see --format."""
    parameters: int | None = None
    """Maximum parameters of a student, embeddings included. --space.max-parameters limits the search space instead."""
    keep: float | None = None
    """Minimum quality of a student, as a share of the teacher's: 0.8 leaves 20 % of the variance unexplained. With a
    task, kdnas run judges the exported file: by its share of the score, or by Spearman's correlation."""
    format: Literal["float32", "int8"] = "float32"
    """Format of the exported file that --max-mb limits."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return {"format": "without `limits.size_mb`, the largest file"} if self.size_mb is None else {}


@dataclass(frozen=True)
class SourceOptions(TextLayout):
    """Where text comes from, and how its files are laid out."""

    source: str | None = None
    """Name of a hub dataset, folder or file."""
    config_name: str | None = None
    """Configuration of the dataset, if it has several."""
    split: str = "train"
    """Split of the dataset, or a part of it such as train[:10%]."""
    text_columns: tuple[str, ...] = ()
    """Text column, or two columns for sentence pairs; detected if not given. A nested field is a.b."""


@dataclass(frozen=True)
class CorpusOptions(SourceOptions):
    """Where the text comes from."""

    source: str = "demo"
    """Name of a hub dataset, folder or file (parquet, jsonl, json, csv, tsv, txt); demo: Rotten Tomatoes sentences."""
    max_length: int = 50
    """Maximum length in tokens; longer sentences are truncated."""
    max_samples: int | None = None
    """Maximum number of sentences, drawn at random."""
    proxy_fraction: float = 0.3
    """Share of the sentences that mini-KD uses."""
    heldout_fraction: float = 0.1
    """Share of the sentences held out to measure the loss."""
    without: str | None = None
    """File with texts to leave out, ignoring case, such as test texts; with a task and a text that is not embedded, by
    default the validation and test texts of the task."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return unconfigured(self.source)


@dataclass(frozen=True)
class TaskOptions(OwnTask):
    """The task of a student, and the layout of your own task."""

    PATHS: ClassVar[tuple[str, ...]] = tuple(
        f"task.{name}" for name in ("name", "data", "unlabelled", "validation_file", "test_file")
    )
    NO_PATHS: ClassVar[Collection[str]] = (*TASKS, EMBEDDING, NO_TEXT)

    name: str | None = None
    """rotten_tomatoes, imdb, a task of GLUE, or your own: a file (csv, tsv, jsonl, parquet), a folder with one file per
    split, or a dataset of the hub; or embedding: vectors like the teacher's. --task NAME is short for it."""
    data: str | None = None
    """Folder that holds GLUE, in the layout of the hub or the original one; by default the hub."""
    teachers: int = 1
    """Number of teachers that are fine-tuned on the task; their logits are averaged. With one teacher, a checkpoint
    with a head for these labels is used without fine-tuning."""
    teacher_rates: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Learning rates that are tried for the teacher, as multiples of the default; the best on held-out text is
    used. A single rate saves two of three fine-tunings."""
    teacher_epochs: int | None = None
    """Passes over the labelled text when the teacher is fine-tuned; by default 3, and 5 on mrpc and wnli."""
    unlabelled: str | None = None
    """Unlabelled text of the domain, which the teacher labels: a file, a folder or a dataset of the hub, or none; by
    default demo:all for the embedded tasks, the text of the student for embedding, and none for others."""
    unlabelled_samples: int = 30_000
    """Maximum number of these texts, drawn at random."""
    epochs: int | None = None
    """Passes over labelled and unlabelled text; by default 3, and 5 on mrpc and wnli."""
    max_length: int = 128
    """Maximum length in tokens; longer sequences are truncated."""
    dropout: float | None = None
    """Dropout of the student while it learns the task, except of attention weights; by default that of its
    configuration, usually 0.1."""
    seed: int | None = None
    """Seed of the teacher and of the draw of unlabelled text; by default that of the student. Set it, so that students
    of several seeds learn from one teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("teachers", "teacher_epochs", "unlabelled_samples", "epochs", "max_length", at_least=1)
        self.check_numbers("dropout", at_least=0, below=1)
        if self.seed is not None:
            self.check_numbers("seed", at_least=0)

    @property
    def own(self) -> OwnTask:
        """Layout of the task, if it is your own."""
        return OwnTask(**{field.name: getattr(self, field.name) for field in fields(OwnTask)})

    @property
    def has_labels(self) -> bool:
        """Whether there is a task, and it has labels."""
        return self.name not in (None, EMBEDDING)

    def seed_or(self, seed: int) -> int:
        """Return the seed of teacher and drawn text: its own, or that of the student."""
        return seed if self.seed is None else self.seed

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        if self.name is None:
            return {field.name: "without a task; name it with `task`" for field in fields(self) if field.name != "name"}
        why: dict[str, str] = {}
        if self.name not in GLUE_TASKS:
            why["data"] = f"on the task {self.name}, which is not a GLUE task"
        if not is_own(self.name):
            laid_out = f"on the task {self.name}, which is not one of your own"
            why |= {field.name: laid_out for field in fields(OwnTask)}
        if self.name == EMBEDDING:
            as_it_is = "on the task embedding: its teacher is the encoder without further training"
            why |= dict.fromkeys(("teachers", "teacher_rates", "teacher_epochs", "seed"), as_it_is)
            why["dropout"] = "on the task embedding, which is trained without it"
            if self.unlabelled is None:
                why["text_columns"] = "without `task.unlabelled`: the text is laid out as that of the student"
            else:
                del why["text_columns"]
        elif unlabelled_source(self.name, self.unlabelled) is None:
            why["unlabelled_samples"] = "without text that has no labels; name it with `task.unlabelled`"
        return why


@dataclass(frozen=True)
class SpaceOptions:
    """The search space."""

    file: str | None = None
    """YAML or JSON file with the choices of each dimension, or joint for the space of that name; by default derived."""
    families: tuple[str, ...] = ()
    """Student families (bert, albert, roberta) in one search space; by default the teacher's own."""
    max_parameters: int | None = None
    """Maximum parameters of a student in the space, embeddings included."""

    def ineffective(self) -> dict[str, str]:
        """Return the options that have no effect beside others, and why."""
        return {} if self.file is None else {"families": "beside `space.file`; list them in that file, under 'family'"}


@dataclass(frozen=True)
class TimedPassOptions:
    """The forward pass whose latency is measured, of student and teacher."""

    batch_size: int = 1
    """Sentences per pass."""
    sequence_length: int = 50
    """Tokens per sentence."""
    threads: int = 1
    """Threads of the runtime."""


@dataclass(frozen=True)
class LatencyOptions(TimedPassOptions):
    """How students and teacher are timed."""

    runtime: str = "torch"
    """torch, onnxruntime, onnxruntime-int8, or analytic (a model of a reference machine: equal runs, equal results)."""


@dataclass(frozen=True)
class RewardOptions:
    """(1 - loss) * (latency / (beta * teacher's latency)) ** alpha."""

    alpha: float = KDReward.alpha
    """Exponent of the latency in the reward; 0 ignores the latency."""
    beta: float = KDReward.beta
    """Target latency as a share of the teacher's. As in the paper's formula, it multiplies all positive rewards by one
    constant and changes no choice; use alpha for that."""
    loss: str | None = None
    """heldout (unexplained variance), heldout_raw or train_raw; by default heldout, for recipe kd-nas train_raw."""
    quality: Literal["imitation", "task"] = "imitation"
    """Quality in the reward: imitation of the teacher's states, or the task (--task), measured after a short training
    on the soft labels of the task's teacher."""


IN_PLACE = "with `resume`; a run is resumed in its own folder"


def within(group: str, ineffective: Mapping[str, str]) -> dict[str, str]:
    """Return the ineffective options of a group under the names that the whole command has for them."""
    return {f"{group}.{name}": why for name, why in ineffective.items()}


def unconfigured(source: str | None) -> dict[str, str]:
    """Return the options without effect on a text that has no configurations: a file or an embedded corpus."""
    if source is None or not (source.partition(":")[0] == "demo" or os.path.isfile(expanded(source))):
        return {}
    return {"config_name": f"on {source!r}, which has no configurations"}


def task_field(kind: type[Any]) -> str | None:
    """Return the option that ``task`` is short for: the name of the task, or ``tasks``; None without tasks."""
    hints = get_type_hints(kind)
    return "tasks" if "tasks" in hints else "task.name" if hints.get("task") is TaskOptions else None


def earlier_options(options: Any) -> RecordedOptions | None:
    """Return the options that the resumed run was started with; None if the run is new.

    Raises:
        RunError: If that run cannot be read.
    """
    resume = getattr(options, "resume", None)
    if resume is not None:
        earlier: RecordedOptions = recorded_options(resume, type(options))
        return earlier
    folder: Path | None = getattr(options, "folder", None)
    if not isinstance(options, RecordedOptions) or folder is None or not (folder / CONFIG).exists() or is_model(folder):
        return None
    return recorded_options(folder, type(options)).placed_as(options)


def completed(make: Callable[[Any], OptionsT]) -> OptionsT:
    """Make the options of a command. If it resumes an earlier run, the options of that run are the defaults.

    Args:
        make: Makes the options, given their defaults, or None for those of the command.

    Raises:
        RunError: If the run to resume cannot be read, or was made with other settings.
        KDNASError: If an option is out of range, or has no effect.
    """
    options: Any = make(None)
    earlier = earlier_options(options)
    if earlier is not None:
        options = make(earlier)
        options.check_unchanged(earlier)
    check_effective(options, earlier)
    return options  # type: ignore[no-any-return]


def options_of(kind: type[OptionsT], settings: Mapping[str, Any], **first: Any) -> OptionsT:
    """Make the options of a command from the arguments of its function.

    Args:
        kind: The options.
        settings: Some of them, by name; groups as mappings or as dataclasses, tuples as lists too.
        **first: The first argument: one option more, None to leave it out; or all options.

    Raises:
        RunError, KDNASError: See :func:`completed`; also if a setting is unknown or of another type.
    """
    for name, value in first.items():
        required = next(field for field in fields(kind) if field.name == name)  # type: ignore[arg-type]
        if value is None and name not in settings and required.default is required.default_factory is MISSING:
            raise KDNASError(f"{name} is None; expected a folder, or the result of the call that made it")
    settings, short = renamed(kind, settings), task_field(kind)
    task = settings.get("task")
    if isinstance(task, str | os.PathLike) and short is not None:
        others = {name: value for name, value in settings.items() if name != "task"}
        settings = {**others, **({"task": {"name": task}} if short == "task.name" else {short: [task]})}
    for name, value in first.items():
        if isinstance(value, kind):
            return replace(value, **settings)  # type: ignore[type-var]
        settings = settings if value is None else {name: value, **settings}

    def make(defaults: Any) -> OptionsT:
        try:
            return restore(kind, _merged({} if defaults is None else asdict(defaults), settings))
        except KDNASError:
            raise
        except ValueError as error:
            raise KDNASError(str(error)) from error

    return completed(make)


def _merged(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with defaults for missing ones, also within groups."""
    merged = dict(defaults)
    for name, value in settings.items():
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        below = merged.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merged(below, value)
        merged[name] = value
    return merged


def check_effective(options: Any, earlier: RecordedOptions | None = None) -> None:
    """Refuse an option that was given and has no effect.

    Args:
        options: Options of a command. Their method ``ineffective`` names those without effect, and why.
        earlier: Options of the resumed run; those that equal the recorded ones were not given anew.

    Raises:
        KDNASError: Naming the option.
    """
    ineffective: dict[str, str] = getattr(options, "ineffective", dict)()
    for name, why in ineffective.items():
        value = attrgetter(name)(options)
        recorded = earlier is not None and name not in earlier.PLACES and value == attrgetter(name)(earlier)
        if value != default_of(type(options), name) and not recorded:
            raise KDNASError(f"`{name}` has no effect {why}")
