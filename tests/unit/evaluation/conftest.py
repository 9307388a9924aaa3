"""What the tests of the evaluation room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemur.errors import SandboxError
from lemur.evaluation.benchmark import Setting
from lemur.evaluation.sandbox import Sandbox, open_sandbox


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Four requests at a time, 95 % intervals, and empty folders."""
    (tmp_path / "heldout").mkdir()
    (tmp_path / "work").mkdir()
    return Setting(heldout=tmp_path / "heldout", work=tmp_path / "work", concurrency=4, confidence=0.95)


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """The sandbox, where this machine has one."""
    try:
        return open_sandbox()
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
