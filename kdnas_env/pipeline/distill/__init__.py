"""The long distillation of the best students of a search."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from kdnas_env.pipeline.distill.options import DistillOptions
from kdnas_env.pipeline.distill.result import DistilledStudent, DistillRun
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.search.result import SearchRun
from kdnas_env.support.cpu_lock import pinned_threads
from kdnas_env.support.progress import SILENT, Progress, checked


def distill(
    run: SearchRun | DistilledStudent | str | os.PathLike[str] | DistillOptions,
    *,
    progress: Progress = SILENT,
    **settings: Any,
) -> DistillRun:
    """Run the long distillation of the best students of a search. The same call resumes an interrupted distillation.

    With a task, each student then learns it from the task's teacher, and its classifier is written beside it. If
    ``run`` is a student's folder, this student only learns the task.

    Args:
        run: The search, or its folder; with a task also a student, or its folder; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`DistillOptions` by name, such as ``task="my.csv"``, ``epochs=5`` or
            ``corpus={"max_length": 64}``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.distill.loop import distil_chosen, distil_task_alone

    first = run.path if isinstance(run, SearchRun) else run.folder if isinstance(run, DistilledStudent) else run
    progress = checked(progress)
    options = options_of(DistillOptions, settings, run=first)
    with nullcontext() if options.threads is None else pinned_threads(options.threads):
        return (distil_task_alone if options.of_student else distil_chosen)(options, progress)
