"""Small GLUE folders in both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_tasks


@pytest.fixture(scope="session")
def hub_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tasks.write_hub_layout(tmp_path_factory.mktemp("hub-layout"))


@pytest.fixture(scope="session")
def original_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tasks.write_original_layout(tmp_path_factory.mktemp("original-layout"))
