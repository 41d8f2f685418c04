"""Replay of the searches of a submission."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from kdnas_env.bench.leaderboard import Verdict, verify
from kdnas_env.pipeline.options import options_of
from kdnas_env.support.progress import SILENT, Progress, checked


@dataclass(frozen=True)
class VerifyOptions:
    """Replay every search of a submission against the tables that are installed here."""

    submission: Annotated[str, tyro.conf.Positional]
    """File of kdnas bench submit."""


def verify_submission(submission: str | os.PathLike[str] | VerifyOptions, *, progress: Progress = SILENT) -> Verdict:
    """Replay every search of a submission against the tables that are installed here.

    Args:
        submission: File of the submission; or all options.
        progress: Receives the progress.

    Raises:
        RunError: If the file cannot be read, or is no submission.
    """
    options, progress = options_of(VerifyOptions, {}, submission=submission), checked(progress)
    progress.begin("replaying the searches")
    return verify(options.submission, progress.advance)
