"""Detect systematic failures: evaluations that fail for a reason common to all students."""

from __future__ import annotations

import re

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Status
from kdnas_env.errors import RunError

ENOUGH = {Status.FAILED: 3, Status.OUT_OF_MEMORY: 8}
"""Number of different students that must fail with one status and reason before the failure counts as systematic.
Memory use depends on the student's size, so out-of-memory failures need more students."""

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")


class FaultWatch:
    """Watches evaluations, and raises an error if the first ones all fail for one reason.

    Reasons are compared without their numbers. Watching ends as soon as a student trains (even if it diverges or is
    stopped) or fails for another reason. Students that cannot be built, or that break a limit and are not distilled,
    do not count.
    """

    def __init__(self) -> None:
        self._failed: set[StudentConfig] = set()
        self._reason: tuple[Status, str] | None = None
        self._over = False

    def note(self, evaluation: Evaluation) -> None:
        """Record a new evaluation; do not pass evaluations replayed from a store.

        Raises:
            RunError: If enough evaluations failed, all for one reason.
        """
        status = evaluation.status
        if self._over or status in (Status.INVALID, Status.INFEASIBLE):
            return
        reason = (status, _NUMBERS.sub("#", evaluation.error))
        if status not in ENOUGH or self._reason not in (None, reason):
            self._over = True
            return
        self._reason = reason
        self._failed.add(evaluation.config)
        if len(self._failed) >= ENOUGH[status]:
            raise RunError(
                f"all of the first {len(self._failed)} students ended with status {status}: "
                f"{evaluation.error or 'no reason is given'}. The others would fail too, so the search stops. Fix the "
                "cause and start a new run, or resume this one, in which failed students stay recorded as failed"
            )
