"""The error types that kdnas raises for bad input, and functions that read the errors of libraries.

Every message of kdnas names the offending value, what was expected, and what to do.
"""


class KDNASError(ValueError):
    """Base class of all errors caused by the caller's input or environment.

    Attributes:
        stage: The stage of a run in which it was raised, if in one.
    """

    stage: str | None = None


class CorpusError(KDNASError):
    """A corpus could not be read, or holds too little usable text."""


class TaskDataError(CorpusError):
    """The labelled texts of a task of one's own could not be read, or are not what a task needs."""


class TeacherError(KDNASError):
    """A teacher could not be loaded, or is not a supported encoder."""


class SpaceError(KDNASError):
    """A search space or a student configuration is malformed."""


class CacheError(KDNASError):
    """The teacher's hidden states could not be written or read."""


class RunError(KDNASError):
    """A run folder cannot be created, written or resumed."""


class NoStudentError(RunError):
    """A search found no student to use: none could be distilled, or none keeps its limits."""


class DependencyError(KDNASError):
    """An optional dependency is missing; the message names the extra to install."""


class LatencyError(KDNASError):
    """A latency probe cannot be set up or run."""


class TableError(KDNASError):
    """A table of evaluations is damaged, of another version, or lacks a requested entry."""


class ExportError(KDNASError):
    """A model cannot be exported, its export differs from it, or the export cannot be written or pushed."""


def one_line(error: BaseException) -> str:
    """Return an exception's type and message on one line of at most about 400 characters."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:400]}" if message else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports that memory is exhausted."""
    import torch

    # PyTorch has no exception type for CPU memory.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
