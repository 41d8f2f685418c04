"""The run of all stages: search, distillation, scores and export in one run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.run.options import PipelineOptions
from kdnas_env.support.progress import SILENT, Progress, checked

if TYPE_CHECKING:
    from kdnas_env.pipeline.run.result import PipelineRun
    from kdnas_env.pipeline.run.stages import Report


def run(
    teacher: str | PipelineOptions | None = None,
    *,
    progress: Progress = SILENT,
    on_result: Report = lambda result: None,
    **settings: Any,
) -> PipelineRun:
    """Search, distill, score and export in one run folder; with a task, make a classifier or an embedding model.

    Finished work is not repeated. ``resume`` resumes an interrupted run (Ctrl-C, SIGTERM, SIGKILL) within the stage
    where it stopped.

    Args:
        teacher: Name or folder of the teacher, ``demo`` by default; or all options.
        progress: Receives the progress.
        on_result: Called with the result of each stage when the stage ends.
        **settings: Options of :class:`PipelineOptions` by name, such as ``search={"budget": 32}``, ``task="my.csv"``,
            ``task="embedding"``, ``limits={"speedup": 8, "size_mb": 10, "keep": 0.97}`` or ``resume``.

    Raises:
        KDNASError: For bad input; its ``stage`` is the one where it was raised. What earlier stages finished is kept.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.run.loop import run_stages

    progress = checked(progress)
    options = options_of(PipelineOptions, settings, teacher=teacher)
    return run_stages(options, progress, on_result)
