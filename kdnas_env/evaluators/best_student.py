"""Keep the best student of a search on disk, so that it is not distilled again at the end."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kdnas_env.core.constraints import ConstrainedReward
from kdnas_env.core.evaluation import Evaluation
from kdnas_env.errors import RunError

_NAME = ".best-"


class BestStudent:
    """The best student of each process of a search, in the folder of the search.

    Each worker process keeps the best of its own students. An interrupted search leaves them for its resumption.
    The best student of the search is one of them, unless a worker runs on a machine without the folder.

    Args:
        run: The folder of the search.
        reward: The reward that compares students.
    """

    def __init__(self, run: Path, reward: ConstrainedReward) -> None:
        self._run, self._reward = run, reward
        self._highest = -math.inf
        self._kept: Path | None = None

    def folder(self, evaluation: Evaluation) -> Path:
        """Return the folder for the student of an evaluation; it exists if that student was kept."""
        return self._run / f"{_NAME}{hashlib.sha256(evaluation.to_json().encode()).hexdigest()[:16]}"

    def offer(self, evaluation: Evaluation, save: Callable[[Path], None]) -> None:
        """Keep a student if its reward is the highest in this process so far.

        Args:
            evaluation: The student's evaluation.
            save: Writes the student into a folder, atomically.
        """
        reward = self._reward(evaluation).reward
        if reward <= self._highest or not self._run.is_dir():
            return
        folder = self.folder(evaluation)
        # A student that cannot be written is distilled again at the end, so the search continues.
        with suppress(RunError):
            save(folder)
            if self._kept is not None:
                shutil.rmtree(self._kept, ignore_errors=True)
            self._highest, self._kept = reward, folder

    def clear(self) -> None:
        """Delete all kept students, including those of other processes and incomplete folders."""
        for folder in self._run.glob(f"*{_NAME}*"):
            shutil.rmtree(folder, ignore_errors=True)
