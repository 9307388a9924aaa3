"""One complete run for all tests of the report."""

from __future__ import annotations

import pytest
from report_run import complete_run

from lemur.receipt import Receipt


@pytest.fixture(scope="session")
def receipts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Receipt]:
    return complete_run(tmp_path_factory.mktemp("store"))
