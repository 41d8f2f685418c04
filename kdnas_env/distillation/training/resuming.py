"""Checkpoints of transformers' Trainer, from which a killed training resumes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import Trainer

from kdnas_env.errors import RunError, is_out_of_memory, one_line
from kdnas_env.support.progress import Progress
from kdnas_env.support.untrusted import parse_json

STATE = "trainer_state.json"


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose errors name an unreadable checkpoint."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    """Context for reading a checkpoint, in which PyTorch unpickles only tensors and numbers.

    Raises:
        RunError: If the checkpoint cannot be read.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise RunError(
            f"the checkpoint {checkpoint!r} cannot be read: {one_line(error)}; remove it to resume from the one before"
        ) from error


def write_failure(folder: Path, error: Exception) -> RunError | None:
    """Return a RunError for a training error that means that checkpoints cannot be written; None for other errors.

    Args:
        folder: Folder of the checkpoints.
        error: The error. PyTorch reports a full disk as a RuntimeError of its writer.
    """
    if not isinstance(error, OSError) and "PytorchStreamWriter" not in str(error):
        return None
    return RunError(
        f"checkpoints cannot be written to {str(folder)!r}: {one_line(error)}; free some space there, and resume"
    )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint, or None."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    checkpoints = sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))
    return checkpoints[-1] if checkpoints else None


def report_resumption(folder: Path, progress: Progress, part: str = "") -> None:
    """Report the step after which an interrupted training resumes, if there is one.

    Args:
        folder: Folder of the checkpoints.
        progress: Receives the message.
        part: Name of the training, if several follow each other.
    """
    done = []
    for path in folder.glob(f"checkpoint-*/{STATE}"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # half-written by a killed process
            state: Any = parse_json(path.read_text(encoding="utf-8"))
            done.append((int(state["global_step"]), int(state["max_steps"])))
    if done:
        step, steps = max(done)
        progress.say(f"resuming after step {step} of {steps}{part and f' ({part})'}")


def clear_checkpoints(folder: Path) -> None:
    """Remove checkpoints that a killed process left half-written."""
    for path in folder.glob("checkpoint-*"):
        try:
            parse_json((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
