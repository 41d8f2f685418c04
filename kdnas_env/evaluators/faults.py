"""One fault for all: evaluations that fail for a reason that no student is to blame for."""

from __future__ import annotations

import re

from kdnas_env.core.architecture import StudentConfig
from kdnas_env.core.evaluation import Evaluation, Status
from kdnas_env.errors import RunError

ENOUGH = {Status.FAILED: 3, Status.OUT_OF_MEMORY: 8}
"""How many different students have to end so, for one reason, before it is taken for that of all. What memory a student
takes depends on its size, so that more of them are tried."""

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")


class FaultWatch:
    """Watches evaluations, and raises where the first of them all failed for one reason.

    Reasons are compared without their numbers. As soon as a student got anywhere, even if only to diverge or to be
    stopped, or failed for another reason, nothing is raised any more. Students that cannot be built, or
    were not distilled since they break a limit, do not count.
    """

    def __init__(self) -> None:
        self._failed: set[StudentConfig] = set()
        self._reason: tuple[Status, str] | None = None
        self._over = False

    def note(self, evaluation: Evaluation) -> None:
        """Take in an evaluation that was made now, not one that is remembered from before.

        Raises:
            RunError: If it failed as all before it did, and they are enough.
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
                f"all of the first {len(self._failed)} students ended alike ({status}): "
                f"{evaluation.error or 'no reason is given'}; so would the others, and no more are evaluated. Mend the "
                "cause and start anew, or go on: those that failed stay recorded as they ended"
            )
