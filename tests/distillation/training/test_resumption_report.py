"""A stopped training reports the step after which it resumes."""

from __future__ import annotations

import json
from pathlib import Path

from progress_log import ProgressLog

from kdnas_env.distillation.training.resuming import STATE, report_resumption


def test_it_is_told_after_which_step_a_training_goes_on(tmp_path: Path) -> None:
    log = ProgressLog()
    report_resumption(tmp_path / "nothing", log)
    assert log.said == []
    for step in (70, 105):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / STATE).write_text(json.dumps({"global_step": step, "max_steps": 135}))
    report_resumption(tmp_path, log)
    (tmp_path / "checkpoint-105" / STATE).write_text('{"global_step": 1')  # half-written by a killed process
    report_resumption(tmp_path, log, "labels")
    assert log.said == ["resuming after step 105 of 135", "resuming after step 70 of 135 (labels)"]
