"""Fixtures every test can use: a real S3 server, and the benchmark data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_benchmarks() -> Path:
    """Folder with published benchmark data, which is never part of this repository."""
    named = os.environ.get("LEMUR_BENCHMARK_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "benchmarks"
    if not folder.is_dir():
        pytest.skip("published benchmark data is not here; name its folder in LEMUR_BENCHMARK_DATA")
    return folder
