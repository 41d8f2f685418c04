"""Submissions and datasets of a race, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from progress_log import ProgressLog
from small_tables import planted_table

from kdnas_env.errors import KDNASError
from kdnas_env.pipeline.bench.export import export_searches
from kdnas_env.pipeline.bench.race import RaceResults, race
from kdnas_env.pipeline.bench.submit import submit_searches
from kdnas_env.pipeline.bench.verify import verify_submission
from kdnas_env.tables.storage import write_table


@pytest.fixture
def raced(tmp_path: Path, blank_pictures: None) -> RaceResults:
    table = tmp_path / "small.npz"
    write_table(planted_table(), table)
    return race(["random"], str(table), budget=5, seeds=2, workers=1, repetitions=20, out=tmp_path / "race")


def test_searches_are_submitted_and_replayed(
    raced: RaceResults, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = submit_searches(raced, agent="random", to=tmp_path / "mine.parquet")
    assert (written.path, written.searches, written.evaluations) == (tmp_path / "mine.parquet", 2, 10)
    log = ProgressLog()
    verdict = verify_submission(written.path, progress=log)
    assert verdict.holds
    assert verdict.evaluations == 10
    assert log.begun == ["replaying the searches"]
    assert capfd.readouterr().out == ""
    with pytest.raises(KDNASError, match="agent 'lstm' is not in the race"):
        submit_searches(raced.path, agent="lstm", to=tmp_path / "other.parquet")


def test_searches_are_written_for_minari(raced: RaceResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    written = export_searches(raced, minari="kdnas/small-v0")
    assert (written.searches, written.evaluations) == (2, 10)
    assert written.path.is_relative_to(tmp_path / "datasets")
