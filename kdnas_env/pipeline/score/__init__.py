"""Scores of students on tasks, beside their teacher."""

from __future__ import annotations

from typing import Any

from kdnas_env.pipeline.distill.result import Students, student_folders
from kdnas_env.pipeline.options import options_of
from kdnas_env.pipeline.score.options import ScoreOptions
from kdnas_env.pipeline.score.result import Scores
from kdnas_env.support.progress import SILENT, Progress, checked


def score(model: Students | ScoreOptions | None = None, *, progress: Progress = SILENT, **settings: Any) -> Scores:
    """Score a model on tasks beside its teacher, undistilled baselines, and the majority class.

    Every score is saved in a run folder as soon as it is measured. ``resume`` resumes an interrupted run.

    Args:
        model: Folder of a student (or of any encoder in hub layout), or a name on the hub; or the result of a search or
            a distillation, whose students are all scored; or all options.
        progress: Receives the progress.
        **settings: Options of :class:`ScoreOptions` by name, such as ``tasks=["rte"]``, ``seeds=1`` or
            ``resume="runs/..."``.

    Raises:
        KDNASError: For bad input.
        Interrupted: After Ctrl-C or SIGTERM.
    """
    from kdnas_env.pipeline.score.loop import score_models

    if not (model is None or isinstance(model, ScoreOptions)):
        model, *others = student_folders(model)
        if others:
            settings["models"] = [*others, *settings.get("models", ())]
    progress = checked(progress)
    options = options_of(ScoreOptions, settings, model=model)
    return score_models(options, progress)
